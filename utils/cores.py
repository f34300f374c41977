"""How much of the machine a process may use."""
import os


def usable_cores() -> int:
    """Cores that this process may run on, which a container or a scheduler may make fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
