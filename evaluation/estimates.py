"""A number that was measured several times: its mean, how sure it is, and how often it was none."""
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

WIDTH = 1.96  # standard deviations of the mean on either side hold 95 %


@dataclass(frozen=True)
class Estimate:
    """Mean over the repeats that gave a finite number, with its 95 % interval."""

    mean: float             # NaN where no repeat gave a number
    interval: float | None  # half its width, 1.96 sd / sqrt(repeats) as in published tables; None without a second one
    repeats: int            # that gave a finite number
    not_finite: int = 0     # repeats that did not; they are in neither mean nor interval

    @classmethod
    def of(cls, values: Sequence[float]) -> "Estimate":
        """The estimate of one value a repeat."""
        given = np.asarray(values, np.float64)
        good = given[np.isfinite(given)]
        interval = WIDTH * float(good.std()) / len(good) ** 0.5 if len(good) > 1 else None
        return cls(float(good.mean()) if len(good) else float("nan"), interval, len(good), len(given) - len(good))

    def __str__(self) -> str:
        if not self.repeats:
            return "not finite"
        text = f"{self.mean:.4g}" + (f" ±{self.interval:.2g}" if self.interval is not None else "")
        return f"{text} ({self.not_finite} not finite)" if self.not_finite else text

    def plain(self) -> dict[str, float | int | None]:
        """The same for JSON, which has no NaN: None stands for it."""
        return {"mean": self.mean if self.repeats else None, "interval": self.interval, "repeats": self.repeats,
                "not_finite": self.not_finite}


def estimates(draws: Sequence[dict[str, float]]) -> dict[str, Estimate]:
    """Estimates by name of numbers by name, one dictionary a repeat."""
    return {key: Estimate.of([draw[key] for draw in draws]) for key in draws[0]} if draws else {}
