"""The thread policy of OpenMP, which torch's operations on the CPU run on.

By default the threads of a parallel region spin while they wait for each other. When another program holds a core, a
thread that is waited for does not run, and every small operation costs its neighbours a time slice: a hundred times
slower together than alone. Threads that sleep instead cost a few per cent on an idle machine.
"""
import os
from collections.abc import MutableMapping

from utils.cores import bound_cores, usable_cores

POLICY = "OMP_WAIT_POLICY"  # of all implementations; where the user sets it, it decides
WAITING = {
    "GOMP_SPINCOUNT": "0",  # GNU OpenMP, of the wheels for Linux
    "KMP_BLOCKTIME": "0",   # Intel's and LLVM's OpenMP, milliseconds
}


def set_thread_policy(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let waiting threads sleep, and start no more threads than a container's CPU quota has cores.

    OpenMP reads its variables once, when torch is loaded, so this must run before. Variables that the user has set
    stay as they are.
    """
    if POLICY not in environment:
        for name, value in WAITING.items():
            environment.setdefault(name, value)
    if usable_cores() < bound_cores():
        environment.setdefault("OMP_NUM_THREADS", str(usable_cores()))
