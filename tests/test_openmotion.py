"""The openmotion index, and clips built from recordings."""
import json
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from data.text import parse_caption
from motion.bvh_fit import joints_to_bvh
from motion.features import canonical_positions
from motion.recording import normalised, resampled_pose
from motion.skeleton import T2M
from motion.source_rig import place_joints
from prepare.build_openmotion import INDEX, SOURCES, build_openmotion, joined, read_index
from tests import figures
from tests.sample_motion import turned
from tests.toy import ACCLAIM_SAMPLES, BVH_SAMPLES, needs


def test_the_index_is_small_and_says_what_every_clip_needs() -> None:
    clips = read_index()
    assert INDEX.stat().st_size < 1_500_000
    assert len(clips) == len({clip.id for clip in clips}) == 4162
    assert Counter(clip.split for clip in clips) == {"train": 3449, "val": 176, "test": 537}
    assert Counter(clip.source for clip in clips).keys() == SOURCES.keys()
    for clip in clips:
        assert 41 <= clip.frames[1] - clip.frames[0] <= 199
        assert all(parse_caption(line, clip.id).tokens for line in clip.captions)
        assert len(clip.joined) == len(clip.recording.split("+")) - 1 or len(clip.joined) == 2


@needs(BVH_SAMPLES)
def test_sample_recordings_give_the_clips_of_the_set(tmp_path: Path) -> None:
    built = build_openmotion([BVH_SAMPLES], tmp_path, quiet=True)
    assert built.refused == {}
    assert built.clips == ["000092", "002178", "002517", "002997"]
    index = {clip.id: clip for clip in read_index()}
    for name in built.clips:
        joints = np.load(tmp_path / "joints" / f"{name}.npy")
        reference = np.load(BVH_SAMPLES / f"{index[name].recording}.npz")["joints22_20fps"]
        np.testing.assert_allclose(joints, normalised(reference), atol=1e-4)
        assert len((tmp_path / "texts" / f"{name}.txt").read_text().splitlines()) == len(index[name].captions)
    listed = (tmp_path / "all.txt").read_text().split()
    assert listed == built.clips
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "joints").iterdir()}
    build_openmotion([BVH_SAMPLES], tmp_path, quiet=True)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "joints").iterdir()}


@needs(ACCLAIM_SAMPLES)
def test_clips_of_asf_amc_files_have_the_joints_that_were_measured(tmp_path: Path) -> None:
    built = build_openmotion([ACCLAIM_SAMPLES], tmp_path, quiet=True)
    assert built.refused == {}
    assert built.clips == ["100025", "100295", "100299"]
    with np.load(ACCLAIM_SAMPLES / "joints_20fps.npz") as trials:
        for name, trial in (("100295", "16_01"), ("100299", "16_05")):
            joints = np.load(tmp_path / "joints" / f"{name}.npy")
            np.testing.assert_allclose(joints, normalised(trials[trial][:len(joints)]), atol=5e-3)
    contents = json.loads((tmp_path / "contents.json").read_text())
    assert contents["100295"] == {"family": "jump-up", "contents": [["jump-up", ""]], "stretches": []}
    assert contents.keys() == {"100025", "100295", "100299", "M100025", "M100295", "M100299"}


def test_joined_recordings_go_on_where_the_first_one_ended() -> None:
    first, second = figures.walking(50, turn=1.0), turned(figures.waving("left", 60), 2.0) + [5, 0, 5]
    bvhs = [joints_to_bvh(part, T2M, 20) for part in (first, second)]
    placement = place_joints(bvhs[0])
    poses = [resampled_pose(bvh, 0, len(bvh.values)) for bvh in bvhs]
    joints = joined(bvhs[0], placement, *poses, 7)
    assert joints.shape == (50 + 7 + 60, 22, 3)
    np.testing.assert_allclose(joints[:50], first, atol=1e-3)
    expected = canonical_positions(torch.from_numpy(second).float(), T2M).numpy()
    got = canonical_positions(torch.from_numpy(joints[57:]).float(), T2M).numpy()
    np.testing.assert_allclose(got, expected, atol=5e-3)
    np.testing.assert_allclose(joints[57, 0, [0, 2]], joints[49, 0, [0, 2]], atol=1e-6)
    steps = np.linalg.norm(np.diff(joints[48:59], axis=0), axis=-1).max(1)
    assert steps.max() < 0.35
    across = joints[:, 1] - joints[:, 2] + joints[:, 16] - joints[:, 17]
    angle = np.degrees(np.arctan2(-across[:, 2], across[:, 0]))
    assert abs(angle[57] - angle[49]) < 0.5
