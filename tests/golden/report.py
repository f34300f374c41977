"""Report of a parity check, which compares computed values with the arrays of a fixture."""
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from motion.skeleton import SKELETONS, Skeleton

Values = Tensor | np.ndarray | np.generic | float | int | Sequence
Shaped = Mapping[str, Tensor | np.ndarray]

ROUNDING = 8  # additional tolerance in units in the last place of the largest stored value


class UnknownFixture(Exception):
    """Raised if no check matches the content of a fixture."""


class Report:
    """Outcome of checking one fixture.

    A check passes each computed value with the name of its array, and marks the arrays that it used as inputs.
    Differences are collected instead of raised, so one run reports all of them. Values whose array is missing in the
    fixture are not compared. A fixture fails if nothing is compared or if an array is never used.

    Attributes:
        arrays: arrays of the fixture by name.
        manifest: its manifest, or an empty dict.
        folder: its folder, or None for a fixture in memory.
        failures: one sentence per difference.
        worst: largest error of ``close`` relative to its tolerance.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], manifest: Mapping[str, Any] | None = None,
                 folder: Path | None = None) -> None:
        self.arrays = arrays
        self.manifest = manifest or {}
        self.folder = folder
        self.failures: list[str] = []
        self.worst = 0.0
        self._checked: set[str] = set()
        self._comparisons = 0

    def close(self, name: str, actual: Values, tolerance: float, relative: bool = False) -> None:
        """Compare ``actual`` with the array ``name``: same shape, and all differences within ``tolerance``.

        With ``relative``, the tolerance is a fraction of the largest magnitude in the array. Rounding errors are
        allowed too.
        """
        pair = self._pair(name, actual)
        if pair is None or pair[0].size == 0:
            return
        step = np.finfo(pair[0].dtype).eps if np.issubdtype(pair[0].dtype, np.floating) else 0.0
        expected, actual = (values.astype(np.float64) for values in pair)
        largest = float(np.abs(expected).max())
        tolerance = tolerance * (largest if relative else 1) + ROUNDING * float(step) * largest
        with np.errstate(invalid="ignore"):  # equal infinities are equal
            error = float(np.where(actual == expected, 0.0, np.abs(actual - expected)).max())
        if error > 0:
            self.worst = max(self.worst, error / tolerance if tolerance else np.inf)
        if not error <= tolerance:  # NaN fails too
            self.failures.append(f"{name}: off by {error:.3g}, tolerance {tolerance:.3g}")

    def exact(self, name: str, actual: Values) -> None:
        """Compare ``actual`` with the array ``name``: same shape and equal values."""
        pair = self._pair(name, actual)
        if pair is not None and (wrong := np.count_nonzero(pair[0] != pair[1])):
            self.failures.append(f"{name}: {wrong} of {pair[0].size} values differ")

    def part(self, name: str, values: Tensor, dim: int) -> Tensor:
        """Return the part of ``values`` along ``dim`` that the fixture stores: the first ones, or every n-th.

        If the size allows several parts, the one closest to the array is returned.
        """
        if name not in self.arrays or self.arrays[name].ndim != values.dim():
            return values
        size, kept = values.shape[dim], self.arrays[name].shape[dim]
        steps = [step for step in range(1, size + 1) if -(-size // step) == kept]
        parts = [values.narrow(dim, 0, min(kept, size))]
        parts += [values.index_select(dim, torch.arange(0, size, step, device=values.device)) for step in steps]
        parts = [part for part in parts if tuple(part.shape) == self.arrays[name].shape]
        expected = torch.as_tensor(self.arrays[name])
        return min(parts, key=lambda part: float((part - expected).abs().max()), default=values)

    def has(self, *names: str) -> bool:
        """Return whether the fixture has one of these arrays."""
        return any(name in self.arrays for name in names)

    def inputs(self, *names: str) -> None:
        """Mark arrays as inputs of the check."""
        self._checked.update(names)

    def tensors(self, *names: str) -> list[Tensor | None]:
        """Return inputs as tensors (float32, int64 or bool), or None if the fixture lacks the array."""
        self.inputs(*names)
        return [_to_tensor(self.arrays[name]) if name in self.arrays else None for name in names]

    def required(self, *names: str) -> list[Tensor]:
        """Return inputs as tensors. Raises ``ValueError`` if the fixture lacks one."""
        missing = [name for name in names if name not in self.arrays]
        if missing:
            raise ValueError(f"the fixture lacks the inputs {', '.join(missing)}")
        return self.tensors(*names)

    def equal(self, label: str, actual: Any, expected: Any) -> None:
        """Compare any other value."""
        self._comparisons += 1
        if actual != expected:
            self.failures.append(f"{label}: {actual!s:.80} instead of {expected!s:.80}")

    def parameters(self, state_dict: Shaped, ignore: Iterable[str] = ()) -> None:
        """Compare names and shapes of a state dict with the ``parameters`` of the manifest.

        Names that end with one of ``ignore`` (tied tensors, fixed tables) may be missing on either side.
        """
        if "parameters" not in self.manifest:
            self.failures.append("parameters: the manifest has none")
            return
        expected = {name: tuple(shape) for name, shape, *_ in self.manifest["parameters"]}
        actual = {name: tuple(tensor.shape) for name, tensor in state_dict.items()}
        for label, names in (("missing", expected.keys() - actual.keys()),
                             ("unknown to the manifest", actual.keys() - expected.keys())):
            odd = sorted(name for name in names if not name.endswith(tuple(ignore)))
            if odd:
                more = f" and {len(odd) - 3} more" if len(odd) > 3 else ""
                self.failures.append(f"parameters {label}: {', '.join(odd[:3])}{more}")
        for name in sorted(expected.keys() & actual.keys()):
            if actual[name] != expected[name]:
                self.failures.append(f"shape of {name}: {actual[name]} instead of {expected[name]}")

    def finish(self) -> None:
        """Report unused arrays, or that nothing was compared, as failures."""
        forgotten = sorted(self.arrays.keys() - self._checked)
        if forgotten:
            self.failures.append(f"nothing checks {', '.join(forgotten)}")
        if not self._comparisons and not self.failures:
            self.failures.append("nothing to compare with")

    def _pair(self, name: str, actual: Values) -> tuple[np.ndarray, np.ndarray] | None:
        """Return expected and actual values, or None if the fixture lacks the array or the shapes differ."""
        if name not in self.arrays:
            return None
        self._checked.add(name)
        self._comparisons += 1
        expected, actual = np.asarray(self.arrays[name]), _to_numpy(actual)
        if actual.shape != expected.shape:
            self.failures.append(f"{name}: shape {actual.shape} instead of {expected.shape}")
            return None
        return expected, actual


def _to_numpy(values: Values) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


def _to_tensor(array: np.ndarray) -> Tensor:
    tensor = torch.from_numpy(array)
    if tensor.is_floating_point():
        return tensor.float()
    return tensor if tensor.dtype == torch.bool else tensor.long()


def skeleton_of(joints_num: int) -> Skeleton:
    """Return the skeleton with this number of joints. Raises ``UnknownFixture`` if there is none."""
    for skeleton in SKELETONS.values():
        if len(skeleton) == joints_num:
            return skeleton
    raise UnknownFixture(f"no skeleton of {joints_num} joints")
