"""Clips of HumanML3D and openmotion from samples of their sources."""
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from data.text import parse_caption
from motion.bvh_fit import joints_to_bvh
from motion.features import canonical_positions
from motion.recording import normalised, resampled_pose
from motion.skeleton import T2M
from motion.source_rig import place_joints
from prepare.build_openmotion import INDEX, SOURCES, build_openmotion, joined, read_index
from prepare.humanml3d import Folders, main, make_joints, read_cuts
from tests import figures
from tests.sample_motion import turned
from tests.test_import_motion import body_model
from tests.toy import ACCLAIM_SAMPLES, BVH_SAMPLES, needs, run_here
from utils import InputError


@pytest.fixture
def sources(tmp_path: Path) -> Folders:
    """An AMASS recording of 10 s at 120 fps under two names, a HumanAct12 recording, and a body model."""
    (tmp_path / "models" / "male").mkdir(parents=True)
    np.savez(tmp_path / "models" / "male" / "model.npz", **body_model())
    poses = np.zeros((1200, 156))
    poses[:, 0] = np.pi / 2
    trans = np.linspace(0, 10, 1200)[:, None] * [[1.0, 2.0, 0.5]]
    for name in ("KIT/3/kick_poses", "HDM05/bk/walk_poses"):
        path = tmp_path / "amass" / f"{name}.npz"
        path.parent.mkdir(parents=True)
        np.savez(path, poses=poses, trans=trans, betas=np.zeros(16), gender="male", mocap_framerate=120.0)
    (tmp_path / "acted").mkdir()
    np.save(tmp_path / "acted" / "P01.npy", np.concatenate([figures.walking(60), np.zeros((60, 2, 3))], 1))
    (tmp_path / "index.csv").write_text(
        "source_path,start_frame,end_frame,new_name\n./pose_data/KIT/3/kick_poses.npy,20,80,000000.npy\n"
        "./pose_data/MPI_HDM05/bk/walk_poses.npy,20,80,000001.npy\n"
        "./pose_data/humanact12/humanact12/P01.npy,0,60,000002.npy\n./pose_data/CMU/01/x.npy,0,60,000003.npy\n")
    return Folders(tmp_path / "amass", tmp_path / "acted", tmp_path / "models")


def test_clips_are_cut_as_the_index_says(sources: Folders, tmp_path: Path) -> None:
    made = make_joints(read_cuts(tmp_path / "index.csv"), sources, tmp_path / "out", quiet=True)
    assert made.clips == ["000000", "000001", "000002"]
    assert "CMU/01/x.npz is missing" in made.refused["000003"]
    kick, walk, acted = (np.load(tmp_path / "out" / "joints" / f"{name}.npy") for name in made.clips)
    assert kick.shape == walk.shape == (60, 22, 3)
    step = kick[1, 0] - kick[0, 0]
    np.testing.assert_allclose(step / np.linalg.norm(step), np.array([-1, 0.5, 2]) / np.sqrt(5.25), atol=1e-4)
    np.testing.assert_allclose(walk[0, 0] - kick[0, 0], 60 * step, atol=1e-3)  # three seconds of HDM05 are removed
    assert (kick[:, 15, 1] > kick[:, 7, 1] + 1).all()
    np.testing.assert_array_equal(acted, figures.walking(60))


def test_a_second_call_resumes(sources: Folders, tmp_path: Path) -> None:
    cuts = read_cuts(tmp_path / "index.csv")
    make_joints(cuts[:1], sources, tmp_path / "out", quiet=True)
    before = (tmp_path / "out" / "joints" / "000000.npy").stat().st_mtime_ns
    assert make_joints(cuts, sources, tmp_path / "out", workers=2, quiet=True).clips == ["000000", "000001", "000002"]
    assert (tmp_path / "out" / "joints" / "000000.npy").stat().st_mtime_ns == before


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "source_path,start_frame,end_frame,new_name\nx.npy,a,1,b\n",
                                  "source_path,start_frame,end_frame,new_name\n../../x.npy,0,1,b\n", ""])
def test_an_index_that_is_none_is_reported(tmp_path: Path, text: str) -> None:
    (tmp_path / "index.csv").write_text(text)
    with pytest.raises(InputError, match="index.csv"):
        read_cuts(tmp_path / "index.csv")


def test_the_script_lists_what_was_not_made(sources: Folders, tmp_path: Path, capsys) -> None:
    run_here(main, tmp_path / "out", "--index", tmp_path / "index.csv", "--humanact12", sources.humanact12, "--quiet",
             "--workers", 1, cwd=tmp_path)
    told = capsys.readouterr().out
    assert "3 clips not extracted (1 of KIT, 1 of MPI_HDM05, 1 of CMU)" in told
    assert "1 clips written" in told
    assert len((tmp_path / "out" / "not_made.txt").read_text().splitlines()) == 3


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
