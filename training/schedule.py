"""Learning-rate schedules as factors of the base rate, pure functions of the step."""
import math
from collections.abc import Callable, Sequence


def warmup_milestones(warm_up_iter: int, milestones: Sequence[int], gamma: float,
                      after_warmup: bool = True) -> Callable[[int], float]:
    """Linear warm-up ``(it + 1) / (warm_up_iter + 1)``, then x ``gamma`` at each milestone.

    Milestones count from the end of the warm-up (tokenizers) or, with ``after_warmup`` False, from the first step
    (transformers), as the published runs do.
    """
    offset = warm_up_iter if after_warmup else 0

    def factor(step: int) -> float:
        if step < warm_up_iter:
            return (step + 1) / (warm_up_iter + 1)
        return gamma ** sum(step - offset >= milestone for milestone in milestones)

    return factor


def warmup_cosine(warm_up_iter: int, total_iter: int, floor: float = 0.1) -> Callable[[int], float]:
    """Linear warm-up from 1 %, then a half cosine down to ``floor`` at ``total_iter``."""

    def factor(step: int) -> float:
        if step < warm_up_iter:
            return 0.01 + 0.99 * step / warm_up_iter
        progress = min(1.0, (step - warm_up_iter) / max(1, total_iter - warm_up_iter))
        return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2

    return factor
