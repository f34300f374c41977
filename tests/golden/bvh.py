"""Parity checks of BVH files and foot locking."""
from itertools import combinations
from pathlib import Path

import numpy as np

from motion.bvh import parse_bvh, read_bvh
from motion.bvh_fit import bvh_to_joints, joints_to_bvh, rig_of
from motion.foot import lock_feet_published
from motion.skeleton import T2M, Skeleton
from tests.golden.report import Report, skeleton_of

FPS = 20
RETURN_TOLERANCE = 1e-3  # m, maximum mean error of a rigid body after writing and reading a file
RIGID = 1e-4             # m, maximum std of the distances inside a rigid body
FILE_TOLERANCE = 1e-5    # m; published files are rounded to a millionth


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(np.asarray(a, np.float64) - b, axis=-1).mean())


def _through_file(joints: np.ndarray, skeleton: Skeleton) -> np.ndarray:
    return bvh_to_joints(parse_bvh(joints_to_bvh(joints, skeleton, FPS).text()), skeleton)


def _bone_lengths(joints: np.ndarray, skeleton: Skeleton) -> np.ndarray:
    """Return bone lengths (T, J - 1) in the order of the BVH file."""
    rig = rig_of(skeleton)
    bones = joints[:, list(rig.order)] - joints[:, [rig.order[parent] for parent in rig.parents]]
    return np.linalg.norm(bones, axis=-1)[:, 1:]


def _rigid_distances(joints: np.ndarray, skeleton: Skeleton) -> np.ndarray:
    """Return bone lengths and the distances between siblings, as (T, n)."""
    parents = skeleton.parents
    pairs = [(a, b) for a, b in combinations(range(1, len(parents)), 2) if parents[a] == parents[b]]
    first, second = zip(*pairs, strict=True)
    apart = np.linalg.norm(joints[:, first] - joints[:, second], axis=-1)
    return np.concatenate([_bone_lengths(joints, skeleton), apart], 1)


def check_conversion(report: Report) -> None:
    """Check that foot locking equals the published one, and that our BVH fit is closer than the published fit."""
    arrays = report.arrays
    report.required("joints")
    report.inputs("plain", "plain_ik")
    joints = arrays["joints"]
    skeleton = skeleton_of(joints.shape[1])
    locked = lock_feet_published(joints, skeleton)
    report.close("foot_locked", locked, FILE_TOLERANCE)
    if _rigid_distances(joints, skeleton).std(0).max() < RIGID:
        returned = _distance(_through_file(joints, skeleton), joints)
        report.equal("joints come back through our file", returned < RETURN_TOLERANCE, True)
    for name, source in (("plain", joints), ("plain_ik", locked)):
        if name in arrays:
            moved = np.abs(arrays[name][:, 0] - joints[:, 0]).max()
            report.equal(f"{name} has its root where the joints have it", bool(moved < FILE_TOLERANCE), True)
            _check_published_fit(name, source, arrays[name], skeleton, report)


def _check_published_fit(name: str, source: np.ndarray, fitted: np.ndarray, skeleton: Skeleton,
                         report: Report) -> None:
    rest = np.linalg.norm(rig_of(skeleton).rest, axis=-1)[1:]
    stretch = np.abs(_bone_lengths(fitted, skeleton) - rest).max()
    report.equal(f"{name} has the bones of our T-pose", bool(stretch < FILE_TOLERANCE), True)
    report.equal(f"{name} comes back through our file", _distance(_through_file(fitted, skeleton), fitted) < 1e-5, True)
    ours = _distance(_through_file(source, skeleton), source)
    report.equal(f"our fit is nearer to its source than {name}", ours < _distance(fitted, source), True)


def check_bvh(path: Path, joints_path: Path | None, report: Report) -> None:
    """Check that stored joints are the forward kinematics of a BVH, and that writing and reading preserves it."""
    bvh = read_bvh(path)
    again = parse_bvh(bvh.text())
    for label in ("names", "parents", "channels"):
        report.equal(f"{label} written and read again", getattr(again, label), getattr(bvh, label))
    same = np.allclose(again.values, bvh.values, atol=1e-6) and np.allclose(again.offsets, bvh.offsets, atol=1e-6)
    report.equal("numbers written and read again are the same", same, True)
    if joints_path is not None:
        ours = bvh_to_joints(bvh, T2M) if set(rig_of(T2M).names) <= set(bvh.names) else bvh.joints()
        report.close("joints", ours, FILE_TOLERANCE)
