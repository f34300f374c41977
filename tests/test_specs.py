"""Data sets and skeletons are defined by one table row each."""
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.dataset import DATASETS, DatasetSpec, dataset_spec
from motion.bvh import parse_bvh
from motion.bvh_fit import bvh_to_joints, joints_to_bvh
from motion.features import joints_to_features
from motion.skeleton import T2M
from options.train import parse_vq_options
from tests.figures import walking
from utils import InputError

# The T2M body without hands.
STUMPS = replace(
    T2M, name="stumps", joint_names=T2M.joint_names[:20], raw_offsets=T2M.raw_offsets[:20], target_lengths=None,
    chains=(*T2M.chains[:3], (9, 14, 17, 19), (9, 13, 16, 18)), mirror_pairs=T2M.mirror_pairs[:-1])


def test_widths_follow_from_the_skeleton() -> None:
    assert [(spec.joints_num, spec.dim_pose) for spec in DATASETS.values()] == [(22, 263), (21, 251)]
    with pytest.raises(InputError, match="known data sets are t2m, kit"):
        dataset_spec("stumps")


def test_a_new_row_is_enough_for_flags_features_and_bvh(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = DatasetSpec("stumps", Path("dataset/stumps"), STUMPS, fps=30.0, metres=1.0, min_length=40)
    monkeypatch.setitem(DATASETS, "stumps", spec)
    opt = parse_vq_options(["--name", "a", "--dataset_name", "stumps"])
    skeleton = dataset_spec(opt.dataset_name).skeleton
    joints = walking()[:, :20]
    assert joints_to_features(joints, skeleton).shape == (len(joints) - 1, spec.dim_pose)
    bvh = parse_bvh(joints_to_bvh(joints, skeleton, spec.fps).text())
    assert set(bvh.names) >= {"pelvis", "left_elbow", "head"}
    np.testing.assert_allclose(bvh_to_joints(bvh, skeleton), joints, atol=1e-4)
