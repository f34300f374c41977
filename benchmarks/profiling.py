"""Profile a job: time by kind of operator, and the rate of its matrix products."""
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

# Substrings of the names of ATen operators; the first matching kind counts.
KINDS = {
    "products": ("addmm", "aten::mm", "bmm", "convolution", "linear"),
    "attention": ("attention",),
    "copies": ("copy", "cat", "clone", "index", "gather", "scatter", "stack", "fill", "zero", "repeat", "embedding",
               "take", "select", "pad", "upsample"),
    "draws": ("rand", "normal_", "uniform", "bernoulli", "dropout", "topk", "sort", "exponential", "multinomial",
              "searchsorted"),
    "elementwise": ("norm", "gelu", "relu", "softmax", "aten::mul", "div", "sub", "exp", "log", "where", "erf", "max",
                    "min", "smooth", "nll", "sqrt", "clamp", "threshold", "addcmul", "addcdiv", "lerp", "pow"),
    "sums": ("aten::add", "aten::sum", "aten::mean", "accumulategrad"),
}
OTHER = "other"  # shapes, memory and wrappers


@dataclass(frozen=True)
class Profile:
    """Time of a job by kind of operator, with one thread."""

    seconds: float            # processor time without the profiler
    shares: dict[str, float]  # by kind, of the time inside operators; they add up to 1
    flops: float              # of the matrix products, without those of attention

    @property
    def rate(self) -> float:
        """GFLOP/s of the matrix products while they ran."""
        busy = self.seconds * self.shares["products"]
        return self.flops / busy / 1e9 if busy else 0.0


def kind_of(operator: str) -> str:
    """The kind in ``KINDS`` that an operator's name belongs to."""
    name = operator.lower()
    return next((kind for kind, parts in KINDS.items() if any(part in name for part in parts)), OTHER)


def profile_job(job: Callable[[], object]) -> Profile:
    """Run a job three times with one thread: to count operations, to time it, and to profile it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with FlopCounterMode(display=False) as counter:
            job()
        start = time.process_time()
        job()
        seconds = time.process_time() - start
        with profile(activities=[ProfilerActivity.CPU], acc_events=True) as recorded:
            job()
    finally:
        torch.set_num_threads(before)
    taken = dict.fromkeys([*KINDS, OTHER], 0.0)
    for event in recorded.key_averages():
        taken[kind_of(event.key)] += event.self_cpu_time_total
    total = sum(taken.values())
    return Profile(seconds, {kind: spent / total for kind, spent in taken.items()}, counter.get_total_flops())


def profile_table(jobs: Mapping[str, Callable[[], object]], matmul_rate: float) -> str:
    """One line per job: processor seconds, shares by kind, and the rate of its products relative to ``matmul_rate``."""
    width = max(map(len, jobs), default=0)
    kinds = "  ".join([*KINDS, OTHER])
    lines = ["processor seconds with 1 thread, and shares of the time inside operators",
             f"{'':{width}}  seconds  {kinds}  GFLOP of products, GFLOP/s, share of the machine's {matmul_rate:.0f}"]
    for name, job in jobs.items():
        found = profile_job(job)
        shares = "  ".join(f"{100 * share:{len(kind) - 1}.1f}%" for kind, share in found.shares.items())
        lines.append(f"{name:{width}}  {found.seconds:7.2f}  {shares}  {found.flops / 1e9:9.1f}  {found.rate:5.0f}  "
                     f"{found.rate / matmul_rate:4.2f}")
    return "\n".join(lines)
