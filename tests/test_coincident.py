"""Joints that coincide with their parents rotate with the body, in features and in BVH files."""
import numpy as np
import pytest
import torch

from motion.bvh_fit import bvh_to_joints, joints_to_bvh
from motion.rotation import bone_directions
from motion.skeleton import T2M
from tests.figures import figure
from tests.sample_motion import sample_motion, turned

CASES = {
    "collars": ("left_collar", "right_collar"),
    "one collar": ("left_collar",),
    "neck": ("neck",),
    "neck and collars": ("neck", "left_collar", "right_collar"),
    "head": ("head",),
    "spine": ("spine1", "spine2"),
    "whole spine": ("spine1", "spine2", "spine3"),
    "shoulders": ("left_shoulder", "right_shoulder"),
    "hips": ("left_hip", "right_hip"),
    "toes": ("left_foot", "right_foot"),
}


def with_coinciding(joints: np.ndarray, case: str) -> np.ndarray:
    """Move the joints of a case, with their descendants, onto their parents."""
    moved = joints.copy()
    for joint in map(T2M.joint_names.index, CASES[case]):
        bone = moved[:, joint] - moved[:, T2M.parents[joint]]
        for other in range(len(T2M)):
            above = other
            while above > 0 and above != joint:
                above = T2M.parents[above]
            if above == joint:
                moved[:, other] -= bone
        moved[:, joint] = moved[:, T2M.parents[joint]]
    return moved


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("noise", [0.0, 1e-6])
def test_bones_of_no_length_turn_with_the_body(case: str, noise: float) -> None:
    joints = np.float64(with_coinciding(sample_motion(T2M, sway=0.2), case))
    joints += noise * np.random.default_rng(0).standard_normal(joints.shape)
    angle = np.linspace(0, 4, len(joints))[:, None]
    directions = bone_directions(torch.from_numpy(joints), T2M)
    of_turned = bone_directions(torch.from_numpy(turned(joints, angle)), T2M).numpy()
    np.testing.assert_allclose(of_turned, turned(directions.numpy(), angle), atol=1e-4 if noise else 1e-9)
    np.testing.assert_allclose(np.linalg.norm(of_turned[:, 1:], axis=-1), 1)


@pytest.mark.parametrize("case", CASES)
def test_bvh_files_of_such_bodies_keep_joints_and_turn_smoothly(case: str) -> None:
    yaw, lean = np.linspace(0, 3, 60), 0.4 * np.sin(np.linspace(0, 6, 60))
    joints = with_coinciding(figure(60, yaw=yaw, pitch=lean, thighs=(lean, -lean)), case)
    bvh = joints_to_bvh(joints, T2M, 20)
    np.testing.assert_allclose(bvh_to_joints(bvh, T2M), joints, atol=1e-4)
    cosine = (np.einsum("tjkl,tjkl->tj", bvh.local_rotations()[1:], bvh.local_rotations()[:-1]) - 1) / 2
    assert cosine.min() > np.cos(0.2)
