"""Files for game engines and robots: root bones, in-place motions, AMASS archives, and loops."""
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from data.dataset import dataset_spec
from motion import bvh_fit
from motion.bvh import chained, parse_bvh, read_bvh
from motion.skeleton import T2M
from prepare.motion_sources import read_amass
from tests.figures import walking
from visualization.outputs import Formats, write_motion

JOINTS = bvh_fit.rigid_joints(walking(60, turn=1.0), T2M)


def test_a_root_bone_carries_the_way_and_nothing_else_moves() -> None:
    made = parse_bvh(bvh_fit.with_root_bone(bvh_fit.joints_to_bvh(JOINTS, T2M, 20.0), JOINTS, T2M).text())
    assert made.names[:2] == (bvh_fit.ROOT_NAME, "Hips")
    np.testing.assert_allclose(bvh_fit.bvh_to_joints(made, T2M), JOINTS, atol=1e-5)
    np.testing.assert_allclose(made.values[:, :3], JOINTS[:, 0] * [1, 0, 1], atol=1e-5)  # on the ground
    assert np.abs(made.values[:, [6, 8]]).max() < 1e-6                                   # above the root


def read_back(arrays: dict[str, np.ndarray], rigid: bool = True) -> np.ndarray:
    """Compute joints (T, 22, 3), y up, of an archive, with constant or with varying bone lengths."""
    rest, parents = arrays["rest_joints"], [int(parent) for parent in arrays["parents"]]
    places = np.repeat((rest - rest[parents])[None], len(arrays["trans"]), 0) if rigid else arrays["offsets"].copy()
    places[:, 0] = rest[0] + arrays["trans"]
    turns = Rotation.from_rotvec(arrays["poses"][:, :66].reshape(-1, 3)).as_matrix().reshape(-1, 22, 3, 3)
    return chained(parents, places, turns)[0] @ bvh_fit.TO_Z_UP


def test_an_archive_follows_a_body_whose_bones_change_their_length() -> None:
    rng = np.random.default_rng(0)
    bones = JOINTS[:, 1:] - JOINTS[:, list(T2M.parents[1:])]
    bones = bones * (1 + 0.02 * rng.standard_normal((len(bones), 21, 1)))
    joints = JOINTS.copy()
    for chain in T2M.chains:
        for parent, joint in zip(chain, chain[1:], strict=False):
            joints[:, joint] = joints[:, parent] + bones[:, joint - 1]
    bvh = bvh_fit.joints_to_bvh(joints, T2M, 20.0)
    arrays = bvh_fit.amass_arrays(bvh, joints, T2M)
    made = read_back(arrays)
    np.testing.assert_allclose(made, bvh_fit.bvh_to_joints(bvh, T2M), atol=1e-6)  # as in the .bvh
    np.testing.assert_allclose(read_back(arrays, rigid=False), joints, atol=1e-6)
    away = np.linalg.norm(made - joints, axis=-1)
    np.testing.assert_allclose(arrays["fit_error"], [away.mean(), away.max()], atol=1e-6)
    assert 0 < away.mean() < 0.01


def test_files_are_written_without_travel(tmp_path: Path) -> None:
    formats = Formats(video=False, in_place=True, root_bone=True, npz=True, glb=True)
    motion = write_motion(tmp_path, 0, 0, JOINTS, "a person walks", dataset_spec("t2m"), formats)
    joints = np.load(tmp_path / motion.plain_files[0])
    np.testing.assert_allclose(joints[:, 0, [0, 2]], 0, atol=1e-6)
    np.testing.assert_allclose(joints, bvh_fit.in_place(np.float32(JOINTS)), atol=1e-6)
    bvh = read_bvh(next(tmp_path.rglob("*_len60.bvh")))
    np.testing.assert_allclose(bvh.values[:, :3], JOINTS[:, 0] * [1, 0, 1], atol=1e-5)  # travel is in the root bone
    amass = read_amass(next(tmp_path.rglob("*_len60.npz")))
    assert amass.fps == 20
    assert np.abs(amass.trans[:, :2]).max() < 1e-5
    assert next(tmp_path.rglob("*_len60.glb")).stat().st_size > 1000


def test_a_loop_goes_on_before_its_start_and_after_its_end() -> None:
    period = walking(41)[:40]
    longer = bvh_fit.unrolled(period, T2M, 10)
    assert len(longer) == 60
    np.testing.assert_array_equal(longer[10:50], period)
    np.testing.assert_array_equal(bvh_fit.on_cycle(period, T2M, 10, lambda joints: joints), period)
    roots = np.diff(longer[:, 0, [0, 2]], axis=0)
    assert np.linalg.norm(roots[[9, 49]], axis=-1).max() < 2 * np.linalg.norm(roots, axis=-1).mean()
