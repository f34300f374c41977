"""Parity checks of skeletons, rotations and features."""
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

import motion.features
from motion import rotation
from motion.bvh import principal_euler
from motion.features import biased_std, feature_groups, features_to_joints, joints_of, process, root_motion
from motion.skeleton import Skeleton, mirror, pose_offsets
from tests.golden.report import Report, skeleton_of
from tests.golden.statistics import biases, grouped

_METRES, _MILLIMETRES = 1e-4, 0.05  # tolerance of lengths
_TALL = 20               # root height from which values are in millimetres
_RATIO = 1e-4            # tolerance of angles, rotations and contacts
_CONTACT_MARGIN = 5e-4   # relative distance from the threshold within which contacts may differ
_EULER = "qeuler_deg_"   # prefix of the axis order
_RANDOM = "random_"      # prefix of arrays for random features


def check_clip(report: Report) -> None:
    """Check the arrays of a clip: raw joints, processing stages, features and recovered joints."""
    arrays = report.arrays
    source, features = _source(arrays), None
    if source is not None:
        features = _check_processing(source, report)
    if "vecs" in arrays:
        report.inputs("vecs")
        features = _tensor(arrays["vecs"])
    if features is not None:
        _check_recovery("", features, report)
        _check_data_set_facts(features, report)
    if f"{_RANDOM}vecs" in arrays:
        report.inputs(f"{_RANDOM}vecs")
        _check_recovery(_RANDOM, _tensor(arrays[f"{_RANDOM}vecs"]), report)


def _source(arrays: Mapping[str, np.ndarray]) -> str | None:
    """Return the name of the array that processing starts from. Processing a processed clip again does not change it.

    Joints with one row more than the features are the input of processing; with as many rows, they are its output.
    """
    if "raw" not in arrays and len(arrays.get("joints", ())) == len(arrays.get("vecs", ())) + 1:
        return "joints"
    return next((name for name in ("raw", "uniform", "global_positions") if name in arrays), None)


def _check_processing(source: str, report: Report) -> Tensor:
    """Check every processing stage. Returns the features."""
    arrays = report.arrays
    skeleton = skeleton_of(arrays[source].shape[1])
    report.inputs(source, "target_offsets")
    computed = process(arrays[source], skeleton, _target_offsets(report, skeleton), published_yaw=True)
    tolerance = _length_tolerance(computed.features)
    for name, stage in (("uniform", computed.uniform), ("global_positions", computed.positions),
                        ("local_positions", computed.local_positions)):
        report.close(name, stage, tolerance)
    if "vecs" in arrays:
        _check_features(computed, skeleton, _tensor(arrays["vecs"]), tolerance, report)
    return computed.features


def _target_offsets(report: Report, skeleton: Skeleton) -> np.ndarray | None:
    """Return the bones that a clip was retargeted to: the fixture's, the skeleton's, or those of a retargeted pose."""
    if "target_offsets" in report.arrays:
        return report.arrays["target_offsets"]
    if skeleton.target_offsets is not None:
        return skeleton.target_offsets
    moved = next((name for name in ("uniform", "global_positions", "local_positions", "recovered",
                              "recovered_from_rotations", "joints")
                  if name in report.arrays), None)
    if moved is not None:
        return pose_offsets(report.arrays[moved][0], skeleton)
    features = report.arrays.get("vecs")
    return None if features is None else pose_offsets(features_to_joints(_tensor(features[:1]), skeleton)[0], skeleton)


def _check_features(computed: motion.features.Processed, skeleton: Skeleton, expected: Tensor, tolerance: float,
                    report: Report) -> None:
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
    report.close("vecs", features, tolerance)


def _check_recovery(prefix: str, features: Tensor, report: Report) -> None:
    """Check the joints recovered from features."""
    skeleton = skeleton_of(joints_of(features.shape[-1]))
    lengths = _length_tolerance(features)
    exact = f"{prefix}vecs" in report.arrays and not prefix  # otherwise features are computed or random
    near = lengths / 10 if exact else lengths
    root = root_motion(features)
    joints = features_to_joints(features, skeleton)
    report.close(f"{prefix}root_quat", root.quat, near if exact else _RATIO)
    report.close(f"{prefix}root_pos", root.position, near)
    report.close(f"{prefix}recovered", joints, near)
    if not prefix and len(report.arrays.get("joints", ())) == len(features):
        report.close("joints", joints, near)
    if report.has(f"{prefix}recovered_from_rotations"):
        offsets = _target_offsets(report, skeleton)
        rotated = motion.features.features_to_joints_from_rotations(features, skeleton, offsets)
        report.close(f"{prefix}recovered_from_rotations", rotated, lengths)


def _check_data_set_facts(features: Tensor, report: Report) -> None:
    """Check the reference body and the statistics of a data set."""
    arrays, skeleton = report.arrays, skeleton_of(joints_of(features.shape[-1]))
    if "raw" not in arrays:
        body = pose_offsets(features_to_joints(features[:1], skeleton)[0], skeleton)
        report.close("target_offsets", body, _length_tolerance(features))
    if "mean" in arrays:
        report.equal("mean is as wide as the features", arrays["mean"].shape, tuple(features.shape[-1:]))
        report.inputs("mean")
    if "std" in arrays:
        report.close("std", grouped(arrays["std"]), 1e-6)
        for name, bias in biases(arrays):
            report.close(name, biased_std(arrays["std"], bias), 1e-6)


def check_mirror(report: Report) -> None:
    source = "joints" if "joints" in report.arrays else "raw"
    report.required(source)
    joints = report.arrays[source]
    report.exact("mirrored", mirror(joints, skeleton_of(joints.shape[-2])))


def check_rotations(report: Report) -> None:
    """Check every rotation function whose values are in the fixture."""
    inputs = ("v0", "v1", "qa", "qb", "v", "cont6d", "qfix_in")
    given = dict(zip(inputs, report.tensors(*inputs), strict=True))
    checks: dict[str, Callable[[], Tensor]] = {
        "qbetween": lambda: rotation.quat_between(given["v0"], given["v1"]),
        "lerp": lambda: torch.stack([rotation.lerp(given["v0"], given["v1"], weight) for weight in (0.25, 0.5)]),
        "qmul": lambda: rotation.quat_multiply(given["qa"], given["qb"]),
        "qinv": lambda: rotation.quat_conjugate(given["qa"]),
        "qrot": lambda: rotation.quat_rotate(given["qa"], given["v"]),
        "q_to_matrix": lambda: rotation.quat_to_matrix(given["qa"]),
        "q_to_cont6d": lambda: rotation.quat_to_cont6d(given["qa"]),
        "cont6d_to_matrix": lambda: rotation.cont6d_to_matrix(given["cont6d"]),
        "cont6d_to_quat": lambda: rotation.matrix_to_quat(rotation.cont6d_to_matrix(given["cont6d"])),
        "matrix_to_quat": lambda: rotation.matrix_to_quat(rotation.quat_to_matrix(given["qa"])),
        "qfix": lambda: rotation.quat_continuous(given["qfix_in"]),
    }
    for name in report.arrays:
        if name in checks:
            report.close(name, checks[name](), 1e-5)
        elif name.startswith(_EULER):
            matrix = rotation.quat_to_matrix(given["qa"].double()).numpy()
            report.close(name, principal_euler(matrix, name.removeprefix(_EULER)), 1e-3)


def _length_tolerance(features: Tensor) -> float:
    """Return the tolerance of lengths in the unit of the features."""
    height = features[..., feature_groups(joints_of(features.shape[-1])).root_height].max()
    return _MILLIMETRES if height > _TALL else _METRES


def _tensor(array: np.ndarray) -> Tensor:
    return torch.as_tensor(array, dtype=torch.float32)
