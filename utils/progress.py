"""Progress of long computations: their loops report steps, and a caller may listen."""
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Listener = Callable[[str, int, int], None]  # name of a loop, finished steps, all steps

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


def report_step(loop: str, done: int, total: int) -> None:
    """Report a finished step of a loop. A listener may raise an exception, which stops the computation."""
    listener = _listener.get()
    if listener is not None:
        listener(loop, done, total)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Context in which ``listener`` receives the steps of this thread."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
