"""User-input errors, CPU limits and the OpenMP thread policy.

By default, OpenMP threads spin while they wait for each other. If another program occupies one of the cores, the thread
on that core is suspended, and in every small operation the other threads spin for a whole time slice. Letting them
sleep avoids this, and costs a few per cent on an idle machine. Importing this package sets the policy, so it must be
imported before torch.
"""
import functools
import os
import platform
import sys
from collections.abc import Callable, MutableMapping
from pathlib import Path


class InputError(Exception):
    """Invalid user input. The message names the path, line or value and, if possible, a remedy."""


def script(main: Callable[[], None]) -> Callable[[], None]:
    """Decorate a script's ``main``: print an ``InputError`` as one line on stderr and exit with status 2."""

    @functools.wraps(main)
    def wrapped() -> None:
        try:
            main()
        except InputError as error:
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            sys.exit(2)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            sys.exit(130)

    return wrapped


_CGROUPS = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Return the number of cores this process may use, limited by CPU affinity and container quota."""
    bound = bound_cores()
    quota = cpu_quota()
    return bound if quota is None else max(1, min(bound, int(quota)))


def bound_cores() -> int:
    """Return the number of cores in the CPU affinity of this process, or of all cores if the system has no affinity."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor() -> str:
    """Return the model name of the CPU."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text(errors="replace").splitlines() if facts.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def cpu_quota(root: Path = _CGROUPS, membership: Path = Path("/proc/self/cgroup")) -> float | None:
    """Return the smallest CPU quota, in cores, of this process's Linux control groups, or None if there is no limit.

    Supports control groups version 2 (``cpu.max``) and version 1 (``cpu.cfs_quota_us``).
    """
    limits = [_limit(folder) for folder in _groups(root, membership)]
    return min((limit for limit in limits if limit is not None), default=None)


def _groups(root: Path, membership: Path) -> list[Path]:
    """Return the folders of this process's CPU control groups and their parents, or an empty list."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:  # not Linux
        return []
    folders = {root, root / "cpu"}
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers or "cpu" in controllers.split(","):
            top = root / "cpu" if controllers else root
            folder = top / path.strip("/")
            folders |= {folder, *(parent for parent in folder.parents if parent.is_relative_to(top))}
    return list(folders)


def _limit(folder: Path) -> float | None:
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return float(quota) / float(period) if quota != "max" and float(quota) > 0 else None
    except (OSError, ValueError):
        return None


POLICY = "OMP_WAIT_POLICY"  # read by all OpenMP implementations; values set by the user take precedence
WAITING = {
    "GOMP_SPINCOUNT": "1000",  # GNU OpenMP, used by the Linux wheels: a few microseconds
    "KMP_BLOCKTIME": "0",      # Intel's and LLVM's OpenMP, milliseconds
}


def set_thread_policy(environment: MutableMapping[str, str] = os.environ) -> None:
    """Make waiting OpenMP threads sleep after a few microseconds, and limit the number of threads to the CPU quota.

    Sets environment variables that OpenMP reads once, when torch is imported. Variables set by the user are kept.
    """
    if POLICY not in environment:
        for name, value in WAITING.items():
            environment.setdefault(name, value)
    if usable_cores() < bound_cores():
        environment.setdefault("OMP_NUM_THREADS", str(usable_cores()))


set_thread_policy()
