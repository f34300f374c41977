"""Parity checks of motion work for both skeletons, with any optional arrays."""
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from evaluation import metrics
from motion import rotation
from motion.bvh_fit import T2M_RIG, bvh_to_joints, joints_to_bvh
from motion.features import (
    biased_std,
    features_to_joints,
    features_to_joints_from_rotations,
    mean_std,
    process,
    root_motion,
)
from motion.foot import lock_feet_published
from motion.skeleton import KIT, T2M, Skeleton, mirror, pose_offsets
from tests.golden.report import Report
from tests.golden.runner import check_arrays
from tests.sample_motion import sample_motion

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Sample:
    """A fixture in memory."""

    inputs: Arrays
    outputs: Arrays


def failures(arrays: Mapping[str, np.ndarray], folder: Path | None = None) -> list[str]:
    """Failures of a check, run in this process."""
    report = Report(arrays, folder=folder)
    check_arrays(report)
    report.finish()
    return report.failures


def recovered(features: torch.Tensor, skeleton: Skeleton, offsets: np.ndarray) -> Arrays:
    root = root_motion(features)
    return {"root_quat": root.quat.numpy(), "root_pos": root.position.numpy(),
            "recovered": features_to_joints(features, skeleton).numpy(),
            "recovered_from_rotations": features_to_joints_from_rotations(features, skeleton, offsets).numpy()}


def processed(skeleton: Skeleton) -> Sample:
    """A clip through every stage; for KIT in millimetres, with the bones of another clip."""
    raw = 1.3 * sample_motion(skeleton, frames=20)
    offsets = pose_offsets(sample_motion(skeleton)[0], skeleton)
    stages = process(raw, skeleton, offsets, published_yaw=True)
    inputs = {"raw": raw, **({} if skeleton is T2M else {"target_offsets": offsets})}
    outputs = {"uniform": stages.uniform.numpy(), "global_positions": stages.positions.numpy(),
               "local_positions": stages.local_positions.numpy(), "vecs": stages.features.numpy(),
               **recovered(stages.features, skeleton, offsets)}
    return Sample(inputs, outputs)


def stored(skeleton: Skeleton) -> Sample:
    """A clip of a data set with its facts."""
    clip = processed(skeleton).outputs
    features = torch.from_numpy(clip["vecs"])
    offsets = pose_offsets(clip["recovered"][0], skeleton)
    std = mean_std([clip["vecs"]])[1]
    return Sample({"vecs": clip["vecs"], "mean": clip["vecs"].mean(0), "std": std},
                  {"joints": clip["recovered"], "target_offsets": offsets, "std_feat_bias_5": biased_std(std, 5),
                   **recovered(features, skeleton, offsets)})


def random_features(skeleton: Skeleton) -> Sample:
    """Random features that are not a motion."""
    features = torch.randn(9, 12 * len(skeleton) - 1, generator=torch.Generator().manual_seed(0)) / 10
    made = recovered(features, skeleton, np.zeros((len(skeleton), 3), np.float32))
    return Sample({"random_vecs": features.numpy()},
                  {f"random_{name}": made[name] for name in ("root_quat", "root_pos", "recovered")})


def conversion() -> Sample:
    """A clip on the bones of the published BVH files."""
    joints = sample_motion(T2M, frames=12)
    plain, plain_ik = (bvh_to_joints(replace(joints_to_bvh(source, T2M, 20), offsets=T2M_RIG.rest), T2M)
                       for source in (joints, lock_feet_published(joints, T2M)))
    plain_ik += (joints - plain_ik)[:, :1]  # published fits stay where the joints are
    return Sample({"joints": joints},
                  {"foot_locked": lock_feet_published(joints, T2M), "plain": plain, "plain_ik": plain_ik})


def mirrored() -> Sample:
    joints = sample_motion(KIT, frames=3)
    return Sample({"joints": joints}, {"mirrored": mirror(joints, KIT)})


def rotations() -> Sample:
    generator = torch.Generator().manual_seed(0)
    v0, v1, v = torch.randn(3, 5, 3, generator=generator)
    qa, qb = torch.nn.functional.normalize(torch.randn(2, 5, 4, generator=generator), dim=-1)
    cont6d = torch.randn(5, 6, generator=generator)
    path = torch.nn.functional.normalize(torch.randn(6, 2, 4, generator=generator), dim=-1)
    outputs = {
        "qbetween": rotation.quat_between(v0, v1), "qmul": rotation.quat_multiply(qa, qb),
        "qinv": rotation.quat_conjugate(qa), "qrot": rotation.quat_rotate(qa, v),
        "q_to_matrix": rotation.quat_to_matrix(qa), "q_to_cont6d": rotation.quat_to_cont6d(qa),
        "cont6d_to_matrix": rotation.cont6d_to_matrix(cont6d), "cont6d_to_quat": rotation.cont6d_to_quat(cont6d),
        "matrix_to_quat": rotation.matrix_to_quat(rotation.quat_to_matrix(qa)),
        "qfix": rotation.quat_continuous(path), "qeuler_deg_zxy": rotation.quat_to_euler(qa, "zxy"),
        "lerp": torch.stack([rotation.lerp(v0, v1, weight) for weight in (0.25, 0.5)])}
    inputs = {"v0": v0, "v1": v1, "v": v, "qa": qa, "qb": qb, "cont6d": cont6d, "qfix_in": path}
    return Sample(*({name: tensor.numpy() for name, tensor in part.items()} for part in (inputs, outputs)))


def measures() -> Sample:
    """Metrics with other numbers of pairs, repeats and dimensions."""
    rng = np.random.default_rng(0)
    a, b, text, motion = rng.normal(size=(4, 120, 6))
    mm, pose = rng.normal(size=(3, 12, 6)), rng.normal(size=(2, 5, 4, 3))
    first, second = metrics.draw_pairs(120, 100, np.random.RandomState(3))
    mm_first, mm_second = metrics.draw_pairs(12, 4, np.random.RandomState(4))
    tables = [metrics.euclidean_distances(text[start:start + 40], motion[start:start + 40]) for start in (0, 40, 80)]
    hits = [metrics.hits_at_k(table, 3) for table in tables]
    inputs = {"a": a, "b": b, "text": text, "motion": motion, "div_seed": np.array(3), "mm": mm,
              "mm_seed": np.array(4), "mm_first": mm_first, "dist_first": tables[0],
              "pose_gt": pose[0], "pose_pred": pose[1]}
    outputs = {
        "mu_a": a.mean(0), "cov_b": np.cov(b.T), "fid": np.array(metrics.fid(a, b)), "top3_bool_first": hits[0],
        "top3_counts": np.stack([one.sum(0) for one in hits]), "r_precision": np.concatenate(hits).mean(0),
        "matching_trace": np.array([np.trace(table) for table in tables]), "div_first": first, "div_second": second,
        "matching_score": np.linalg.norm(text - motion, axis=1).mean(),
        "diversity": np.linalg.norm(a[first] - a[second], axis=1).mean(), "mm_second": mm_second,
        "multimodality": np.linalg.norm(mm[:, mm_first] - mm[:, mm_second], axis=-1).mean(),
        "mpjpe": metrics.mpjpe(pose[1], pose[0])}
    return Sample(inputs, {name: np.asarray(array) for name, array in outputs.items()})


SAMPLES: dict[str, Callable[[], Sample]] = {
    "processed t2m": lambda: processed(T2M), "processed kit": lambda: processed(KIT),
    "stored t2m": lambda: stored(T2M), "stored kit": lambda: stored(KIT),
    "random t2m": lambda: random_features(T2M), "random kit": lambda: random_features(KIT),
    "conversion": conversion, "mirrored": mirrored, "rotations": rotations, "measures": measures,
}


@cache
def sample(kind: str) -> Sample:
    return SAMPLES[kind]()


@pytest.mark.parametrize("kind", SAMPLES)
def test_every_output_is_optional(kind):
    one = sample(kind)
    assert failures(one.inputs | one.outputs) == []
    for name in one.outputs:
        assert failures(one.inputs | {name: one.outputs[name]}) == [], f"{name} alone"
        others = {other: array for other, array in one.outputs.items() if other != name}
        assert not others or failures(one.inputs | others) == [], f"all but {name}"


@pytest.mark.parametrize("kind", SAMPLES)
def test_every_output_counts(kind):
    one = sample(kind)
    for name, array in one.outputs.items():
        other = array * 1.01 if np.issubdtype(array.dtype, np.floating) else array ^ 1
        assert failures(one.inputs | one.outputs | {name: other.astype(array.dtype)}), name


@pytest.mark.parametrize("skeleton", [T2M, KIT], ids=lambda skeleton: skeleton.name)
def test_a_clip_with_one_row_more_than_its_features_is_what_these_were_made_of(skeleton):
    joints = sample_motion(skeleton, frames=20)
    offsets = pose_offsets(joints[0], skeleton)
    features = process(joints, skeleton, offsets, published_yaw=True).features.numpy()
    assert failures({"joints": joints, "vecs": features}) == []
    assert failures({"joints": joints, "vecs": features * np.float32(1.01)})
    assert failures({"joints": joints[:-1], "vecs": features}), "these joints are not recovered from the features"


def test_bones_of_kit_are_found_from_any_retargeted_clip():
    one = sample("processed kit")
    for name in ("uniform", "global_positions", "vecs", "recovered"):
        assert failures({"raw": one.inputs["raw"], name: one.outputs[name]}) == [], name


# Statistics of the clips in the same folder

def statistics_beside(folder: Path, clips: list[Arrays], chosen: slice) -> Arrays:
    for number, clip in enumerate(clips):
        np.savez(folder / f"{number}.npz", **clip)
    features = [process(clip["raw"], T2M, published_yaw=True).features.numpy() for clip in clips[chosen]]
    mean, std = mean_std(features)
    return {"mean": mean, "std": std, "std_feat_bias_2.5": biased_std(std, 2.5)}


def clips_of(count: int, with_features: bool) -> list[Arrays]:
    clips = []
    for seed in range(count):
        raw = sample_motion(T2M, frames=12 + seed, seed=seed)
        features = process(raw, T2M, published_yaw=True).features.numpy()
        clips.append({"raw": raw, **({"vecs": features} if with_features else {})})
    return clips


@pytest.mark.parametrize("with_features", [True, False])
@pytest.mark.parametrize("chosen", [slice(None), slice(1, 3), slice(0, 1)])
def test_statistics_are_those_of_some_clips_of_the_folder(tmp_path, chosen, with_features):
    given = statistics_beside(tmp_path, clips_of(4, with_features), chosen)
    np.savez(tmp_path / "other.npz", **sample("processed kit").outputs)
    assert failures(given, tmp_path) == []
    for name, array in given.items():
        assert failures({name: array}, tmp_path) == [], f"{name} alone"
        assert failures(given | {name: array * 1.01}, tmp_path), name


def test_statistics_without_their_clips_fail_with_the_reason(tmp_path):
    given = statistics_beside(tmp_path, clips_of(1, True), slice(None))
    empty = tmp_path / "empty"
    empty.mkdir()
    assert failures(given, empty) == ["statistics: no clip with features of width 263 in the folder to take them over"]
