"""The processor: its name, and how many of its cores this process may use."""
import os
import platform
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Cores that this process may use: those it is bound to, or fewer where its container has a CPU quota."""
    bound = bound_cores()
    quota = cpu_quota()
    return bound if quota is None else max(1, min(bound, int(quota)))


def bound_cores() -> int:
    """Cores that this process may be scheduled on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor() -> str:
    """Name of the processor."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text(errors="replace").splitlines() if facts.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def cpu_quota(root: Path = _CGROUPS, membership: Path = Path("/proc/self/cgroup")) -> float | None:
    """Cores that the control groups of this process grant it, the least of all levels; None without a limit.

    Reads version 2 (``cpu.max``) and version 1 (``cpu.cfs_quota_us``) of Linux control groups.
    """
    limits = [_limit(folder) for folder in _groups(root, membership)]
    return min((limit for limit in limits if limit is not None), default=None)


def _groups(root: Path, membership: Path) -> list[Path]:
    """Folders of the process's CPU control groups and those above them, as seen from inside a container too."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:  # no Linux
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
