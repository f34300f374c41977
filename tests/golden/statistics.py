"""Parity checks of feature statistics."""
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from motion.features import biased_std, feature_groups, joints_of, joints_to_features, mean_std
from tests.golden.report import Report, skeleton_of

BIAS = "std_feat_bias_"

_MOST_CLIPS = 10    # number of clips whose subsets are all tried
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
    exact = not any(any(clip is other for other in computed) for clip in chosen)
    expected = _statistics(chosen, given)
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


def _nearest(clips: Sequence[np.ndarray], given: Mapping[str, np.ndarray]) -> Sequence[np.ndarray]:
    """Return the subset of clips with statistics closest to the given ones.

    All subsets of the first ``_MOST_CLIPS`` clips are tried, and all clips together.
    """
    def error(chosen: Sequence[np.ndarray]) -> float:
        return max(np.abs(values - given[name]).max() for name, values in _statistics(chosen, given).items())

    few = clips[:_MOST_CLIPS]
    return min([clips, *(chosen for count in range(1, len(few) + 1) for chosen in combinations(few, count))], key=error)


def _statistics(clips: Sequence[np.ndarray], given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Compute the statistics of clips under the given names."""
    mean, std = mean_std(clips)
    found = {"mean": mean, "std": std} | {name: biased_std(std, bias) for name, bias in biases(given)}
    return {name: found[name] for name in given}
