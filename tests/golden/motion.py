"""Parity checks of skeletons, rotations, features and their statistics."""
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from motion.features import (
    Processed,
    biased_std,
    feature_groups,
    features_to_joints,
    features_to_joints_from_rotations,
    mean_std,
    process,
    root_motion,
)
from motion.rotation import (
    cont6d_to_matrix,
    cont6d_to_quat,
    lerp,
    matrix_to_quat,
    quat_between,
    quat_conjugate,
    quat_continuous,
    quat_multiply,
    quat_rotate,
    quat_to_cont6d,
    quat_to_euler,
    quat_to_matrix,
)
from motion.skeleton import SKELETONS, Skeleton, mirror, pose_offsets
from tests.golden.report import Report

Arrays = dict[str, np.ndarray]

_TOLERANCE = {"t2m": 1e-4, "kit": 0.05}  # of lengths, in the unit of the skeleton
_RATIO = 1e-4                            # of angles, rotations and contacts
_CONTACT_MARGIN = 5e-4                   # share of the threshold within which a squared step may fall on either side
_BIAS = "std_feat_bias_"


def check_processing(arrays: Arrays, report: Report) -> None:
    """Raw joints through every stage, and back from the features."""
    skeleton = _skeleton(arrays["raw"].shape[1])
    report.inputs("raw")
    computed = process(arrays["raw"], skeleton, arrays.get("target_offsets"), published_yaw=True)
    for name, stage in (("uniform", computed.uniform), ("global_positions", computed.positions),
                        ("local_positions", computed.local_positions)):
        if name in arrays:
            report.close(name, stage, _TOLERANCE[skeleton.name])
    _check_features(computed, skeleton, arrays, report)
    if "target_offsets" in arrays:
        report.inputs("target_offsets")
    _check_recovery("", skeleton, arrays, report)
    if "random_vecs" in arrays:
        report.inputs("random_vecs")
        _check_recovery("random_", skeleton, arrays, report)


def check_stored_clip(arrays: Arrays, report: Report) -> None:
    """Features of a processed clip back to its joints; facts about the data set that come with them."""
    skeleton = _skeleton((arrays["vecs"].shape[-1] + 1) // 12)
    report.inputs("vecs")
    _check_recovery("", skeleton, arrays, report)
    if "joints" in arrays:
        report.close("joints", features_to_joints(_tensor(arrays["vecs"]), skeleton), _TOLERANCE[skeleton.name] / 10)
    if "target_offsets" in arrays:
        report.close("target_offsets", pose_offsets(arrays["recovered"][0], skeleton), _TOLERANCE[skeleton.name])
        if skeleton.target_offsets is not None:
            report.close("target_offsets", skeleton.target_offsets, _TOLERANCE[skeleton.name] / 100)
    if "mean" in arrays:
        report.equal("mean is as wide as the features", arrays["mean"].shape, arrays["vecs"].shape[-1:])
        report.inputs("mean")
    if "std" in arrays:
        report.close("std", _grouped(arrays["std"], len(skeleton)), 1e-6)


def check_random_features(arrays: Arrays, report: Report) -> None:
    """Features of no particular motion back to joints."""
    report.inputs("random_vecs")
    _check_recovery("random_", _skeleton((arrays["random_vecs"].shape[-1] + 1) // 12), arrays, report)


def check_reprocessing(arrays: Arrays, report: Report) -> None:
    """Joints of a processed clip through the processing once more."""
    skeleton = _skeleton(arrays["joints"].shape[1])
    report.inputs("joints")
    computed = process(arrays["joints"], skeleton, arrays.get("target_offsets"), published_yaw=True)
    if "target_offsets" in arrays:
        report.inputs("target_offsets")
    _check_features(computed, skeleton, arrays, report)


def check_mirror(arrays: Arrays, report: Report) -> None:
    """Left and right exchanged."""
    report.inputs("joints")
    report.exact("mirrored", mirror(arrays["joints"], _skeleton(arrays["joints"].shape[-2])))


def check_statistics(arrays: Arrays, report: Report) -> None:
    """Mean and grouped deviation over the features of the processing fixtures in the same folder."""
    clips = list(_features_beside(report.folder, arrays["mean"].shape[-1]))
    report.equal("there are features beside the statistics", bool(clips), True)
    if clips:
        mean, std = mean_std(clips)
        report.close("mean", mean, 1e-6)
        report.close("std", std, 1e-6)
    for name in arrays:
        if name.startswith(_BIAS):
            report.close(name, biased_std(arrays["std"], float(name.removeprefix(_BIAS))), 1e-6)


def check_rotations(arrays: Arrays, report: Report) -> None:
    """Every rotation function whose values are there."""
    given = {name: _tensor(array) for name, array in arrays.items()}
    report.inputs(*(name for name in ("v0", "v1", "qa", "qb", "v", "cont6d", "qfix_in") if name in given))
    checks: dict[str, Callable[[], Tensor]] = {
        "qbetween": lambda: quat_between(given["v0"], given["v1"]),
        "lerp": lambda: torch.stack([lerp(given["v0"], given["v1"], weight) for weight in (0.25, 0.5)]),
        "qmul": lambda: quat_multiply(given["qa"], given["qb"]),
        "qinv": lambda: quat_conjugate(given["qa"]),
        "qrot": lambda: quat_rotate(given["qa"], given["v"]),
        "q_to_matrix": lambda: quat_to_matrix(given["qa"]),
        "q_to_cont6d": lambda: quat_to_cont6d(given["qa"]),
        "cont6d_to_matrix": lambda: cont6d_to_matrix(given["cont6d"]),
        "cont6d_to_quat": lambda: cont6d_to_quat(given["cont6d"]),
        "matrix_to_quat": lambda: matrix_to_quat(quat_to_matrix(given["qa"])),
        "qfix": lambda: quat_continuous(given["qfix_in"]),
    }
    for name, compute in checks.items():
        if name in given:
            report.close(name, compute(), 1e-5)
    for name in given:
        if name.startswith("qeuler_deg_"):
            report.close(name, quat_to_euler(given["qa"], name.removeprefix("qeuler_deg_")), 1e-3)


def _check_features(computed: Processed, skeleton: Skeleton, arrays: Arrays, report: Report) -> None:
    expected = _tensor(arrays["vecs"])
    features = computed.features.clone()
    if features.shape == expected.shape:
        groups = feature_groups(len(skeleton))
        steps = computed.positions[:, list(skeleton.feet)].diff(dim=0).square().sum(-1)
        tied = (steps / skeleton.contact_threshold - 1).abs() < _CONTACT_MARGIN
        features[:, groups.contacts] = torch.where(tied, expected[:, groups.contacts], features[:, groups.contacts])
        for name in ("yaw_speed", "rotations", "contacts"):
            group = getattr(groups, name)
            error = (features[:, group] - expected[:, group]).abs().max().item()
            report.equal(f"vecs: {name} within {_RATIO} (off by {error:.3g})", error <= _RATIO, True)
    report.close("vecs", features, _TOLERANCE[skeleton.name])


def _check_recovery(prefix: str, skeleton: Skeleton, arrays: Arrays, report: Report) -> None:
    features = _tensor(arrays[f"{prefix}vecs"])
    root = root_motion(features)
    tolerance = _TOLERANCE[skeleton.name] / 10 if not prefix else 1e-4
    for name, compute, limit in (
        ("root_quat", lambda: root.quat, 1e-5),
        ("root_pos", lambda: root.position, tolerance),
        ("recovered", lambda: features_to_joints(features, skeleton), tolerance),
        ("recovered_from_rotations", lambda: features_to_joints_from_rotations(
            features, skeleton, arrays.get("target_offsets")), _TOLERANCE[skeleton.name]),
    ):
        if f"{prefix}{name}" in arrays:
            report.close(f"{prefix}{name}", compute(), limit)


def _skeleton(joints_num: int) -> Skeleton:
    return next(skeleton for skeleton in SKELETONS.values() if len(skeleton) == joints_num)


def _tensor(array: np.ndarray) -> Tensor:
    return torch.as_tensor(array, dtype=torch.float32)


def _grouped(std: np.ndarray, joints_num: int) -> np.ndarray:
    grouped = std.astype(np.float64)
    for group in feature_groups(joints_num):
        grouped[group] = grouped[group].mean()
    return grouped


def _features_beside(folder: Path | None, dim: int) -> Iterator[np.ndarray]:
    for path in sorted(folder.glob("*.npz")) if folder else ():
        with np.load(path) as stored:
            if {"raw", "vecs"} <= set(stored) and stored["vecs"].shape[-1] == dim:
                yield stored["vecs"]


MOTION = [
    (frozenset({"raw", "vecs"}), check_processing),
    (frozenset({"raw", "vecs", "recovered"}), check_processing),
    (frozenset({"raw", "vecs", "recovered", "joints"}), check_processing),
    (frozenset({"vecs", "recovered"}), check_stored_clip),
    (frozenset({"vecs", "recovered", "joints"}), check_stored_clip),
    (frozenset({"random_vecs"}), check_random_features),
    (frozenset({"joints", "vecs"}), check_reprocessing),
    (frozenset({"joints", "mirrored"}), check_mirror),
    (frozenset({"mean", "std"}), check_statistics),
    (frozenset({"qbetween"}), check_rotations),
]
