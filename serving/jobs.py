"""Job queue: runs one job at a time, limits jobs per visitor, reports progress, and supports cancellation."""
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from utils import InputError
from utils.runtime import listening

T = TypeVar("T")
Report = Callable[[str, int, int], None]  # name of the loop, number of finished steps, total number of steps
MINUTE = 60.0


class Cancelled(InputError):
    """Raised in a job that was cancelled, or whose visitor has left."""


@dataclass(frozen=True)
class Visitor:
    """Sender of a request. ``key`` identifies a browser, for limits; ``session`` identifies one of its tabs."""

    key: str
    session: str


@dataclass(eq=False)
class Job:
    """A job in the queue."""

    visitor: Visitor
    cancelled: threading.Event = field(default_factory=threading.Event)

    def check(self) -> None:
        """Raise ``Cancelled`` if the job has been cancelled."""
        if self.cancelled.is_set():
            raise Cancelled("cancelled")


class RateLimit:
    """Rate limit of at most ``most`` events per key within ``seconds``."""

    def __init__(self, most: int, seconds: float = MINUTE, clock: Callable[[], float] = time.monotonic) -> None:
        self.most, self.seconds, self.clock = most, seconds, clock
        self.times: dict[str, deque[float]] = defaultdict(deque)

    def wait(self, key: str) -> float:
        """Count an event and return 0, or return the seconds until the next one is allowed."""
        now = self.clock()
        for other in [other for other, times in self.times.items() if times and times[-1] <= now - self.seconds]:
            del self.times[other]
        times = self.times[key]
        while times and times[0] <= now - self.seconds:
            times.popleft()
        if len(times) >= self.most:
            return times[0] + self.seconds - now
        times.append(now)
        return 0.0


class Jobs:
    """Queue that runs one job at a time, because there is only one copy of the models.

    Args:
        most: maximum number of waiting and running jobs.
        per_visitor: maximum number of jobs of one visitor in the queue.
        per_minute: maximum number of jobs that a visitor may submit per minute.
    """

    def __init__(self, most: int = 17, per_visitor: int = 2, per_minute: int = 60,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self.most, self.per_visitor = most, per_visitor
        self.rate = RateLimit(per_minute, clock=clock)
        self.line: list[Job] = []  # the first one runs
        self.changed = threading.Condition()

    def run(self, visitor: Visitor, work: Callable[[], T], report: Report = lambda *_: None) -> T:
        """Wait for earlier jobs, run ``work`` in this thread, and return its result.

        ``report`` receives the number of earlier jobs, then the steps reported by ``utils.runtime.report_step``. Raises
        ``InputError`` if the queue is full or the visitor exceeds a limit, and ``Cancelled`` if the job is cancelled.
        """
        job = self._enter(visitor)

        def listen(*step: str | int) -> None:
            job.check()
            report(*step)

        try:
            with self.changed:
                while self.line[0] is not job:
                    job.check()
                    report("waiting for other motions", 0, self.line.index(job))
                    self.changed.wait()
            job.check()
            with listening(listen):
                return work()
        finally:
            with self.changed:
                self.line.remove(job)
                self.changed.notify_all()

    def _enter(self, visitor: Visitor) -> Job:
        with self.changed:
            if sum(job.visitor.key == visitor.key for job in self.line) >= self.per_visitor:
                raise InputError("one of your requests is running and another one is waiting; wait for them, or cancel")
            if len(self.line) >= self.most:
                raise InputError(f"{len(self.line)} requests are waiting already; try again in a minute")
            if seconds := self.rate.wait(visitor.key):
                raise InputError(f"at most {self.rate.most} requests a minute; try again in {seconds:.0f} s")
            job = Job(visitor)
            self.line.append(job)
            return job

    def count(self, session: str) -> int:
        """Return the number of queued jobs of a session."""
        return sum(job.visitor.session == session for job in self.line)

    def cancel(self, session: str) -> None:
        """Cancel the jobs of a session."""
        with self.changed:
            for job in self.line:
                if job.visitor.session == session:
                    job.cancelled.set()
            self.changed.notify_all()
