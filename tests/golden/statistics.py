"""Parity checks of feature statistics."""
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path

import numpy as np

from motion.features import ColumnStatistics, biased_std, feature_groups, joints_of, joints_to_features, mean_std
from tests.golden.kinds import skeleton_of
from tests.golden.report import Report

BIAS = "std_feat_bias_"

_MOST_CLIPS = 12    # number of clips whose subsets are all tried
_EXACT = 1e-6       # tolerance where the statistics are float64
_ROUNDED = 1e-5     # tolerance where they are float32, relative to values above 1
_COMPUTED = 1e-4    # tolerance where features are computed from joints


def biases(arrays: Iterable[str]) -> Iterator[tuple[str, float]]:
    """Yield the names of arrays of biased stds, with their bias."""
    for name in arrays:
        if name.startswith(BIAS):
            yield name, float(name.removeprefix(BIAS).replace("_", "."))


def grouped(std: np.ndarray) -> np.ndarray:
    """Average a std (d,) within each feature group, which does not change a valid one."""
    averaged = np.array(std, np.float64)
    for group in feature_groups(joints_of(len(averaged))):
        averaged[group] = averaged[group].mean()
    return averaged


def check_statistics(report: Report) -> None:
    """Check mean, grouped std and biased stds of clips whose fixtures are in the same folder.

    The fixture does not say which clips were used, so the subset with the closest statistics is.
    """
    arrays = report.arrays
    given = {name: array for name, array in arrays.items() if name in ("mean", "std") or name.startswith(BIAS)}
    dim = len(next(iter(given.values())))
    stored, computed = _features_beside(report.folder, dim)
    clips = [clip for clip in stored + computed if np.isfinite(clip).all()]
    if not clips:
        report.failures.append(f"statistics: no clip with features of width {dim} in the folder to take them over")
        report.inputs(*given)
        return
    chosen = _nearest(clips, given)
    mean, std = mean_std([clips[index] for index in chosen])
    exact = not any(any(clips[index] is clip for clip in computed) for index in chosen)
    expected = {"mean": mean, "std": std} | {name: biased_std(std, bias) for name, bias in biases(given)}
    for name, array in given.items():
        report.close(name, expected[name], _tolerance(array, exact))
    if "std" in given:
        for name, bias in biases(given):
            report.close(name, biased_std(given["std"], bias), _tolerance(given[name]))


def _tolerance(array: np.ndarray, exact: bool = True) -> float:
    if exact and array.dtype == np.float64:
        return _EXACT
    return (_ROUNDED if exact else _COMPUTED) * max(1.0, float(np.abs(array).max()))


def _features_beside(folder: Path | None, dim: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return features (T, d) of width ``dim`` in a folder's fixtures: stored ones, and those computed from joints."""
    stored, computed = [], []
    for path in sorted(folder.glob("*.npz")) if folder else ():
        with np.load(path) as arrays:
            if "vecs" in arrays and arrays["vecs"].shape[-1] == dim:
                stored.append(arrays["vecs"])
            elif "vecs" not in arrays and "raw" in arrays and arrays["raw"].shape[1] == joints_of(dim):
                skeleton, offsets = skeleton_of(joints_of(dim)), arrays.get("target_offsets")
                computed.append(joints_to_features(arrays["raw"], skeleton, offsets, published_yaw=True).numpy())
    return stored, computed


def _nearest(clips: Sequence[np.ndarray], given: Mapping[str, np.ndarray]) -> list[int]:
    """Return the subset of clips with statistics closest to the given ones.

    All subsets of the first ``_MOST_CLIPS`` clips are tried, and all clips together.
    """
    few = min(len(clips), _MOST_CLIPS)
    choices = np.array([choice for choice in product((0.0, 1.0), repeat=few) if any(choice)])
    choices = np.pad(choices, ((0, 0), (0, len(clips) - few)))
    choices = np.concatenate([choices, np.ones((1, len(clips)))])
    mean, std = _statistics_of(choices, [ColumnStatistics.of(clip) for clip in clips])
    errors = [np.abs((mean if name == "mean" else std * _factors(name, array)) - array).max(1)
              for name, array in given.items()]
    return np.flatnonzero(choices[np.max(errors, axis=0).argmin()]).tolist()


def _statistics_of(choices: np.ndarray, parts: Sequence[ColumnStatistics]) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and grouped std (s, d) of every selection in ``choices`` (s, n), with values 0 or 1, of n parts."""
    counts = np.array([part.count for part in parts])[:, None]
    means, squares = np.stack([part.mean for part in parts]), np.stack([part.squares for part in parts])
    centre = means.mean(0)  # keeps the difference of squares below precise
    total = choices @ counts
    shift = choices @ (counts * (means - centre)) / total
    std = np.sqrt(np.maximum(choices @ (squares + counts * (means - centre)**2) / total - shift**2, 0))
    for group in feature_groups(joints_of(std.shape[1])):
        std[:, group] = std[:, group].mean(1, keepdims=True)
    return centre + shift, std


def _factors(name: str, array: np.ndarray) -> np.ndarray:
    """Return the factor of each column of the std in the array of this name."""
    return biased_std(np.ones(len(array)), dict(biases([name]))[name]) if name.startswith(BIAS) else np.ones(len(array))
