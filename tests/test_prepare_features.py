"""Features of a folder of joints: written files, refused clips and mirrored twins."""
from pathlib import Path

import numpy as np
import pytest

from data.text import mirror_text
from motion.features import joints_to_features
from motion.skeleton import T2M, mirror, pose_offsets
from prepare.motion_features import FeatureJob, Prepared, main, prepare_features, reference_offsets
from tests import figures
from tests.sample_motion import sample_motion, with_up
from tests.toy import refusal, run_here


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three clips with captions and splits."""
    (tmp_path / "joints").mkdir()
    (tmp_path / "texts").mkdir()
    for seed in range(3):
        np.save(tmp_path / "joints" / f"00{seed}.npy", sample_motion(T2M, frames=20 + seed, seed=seed))
        (tmp_path / "texts" / f"00{seed}.txt").write_text("Left foot, then right.#left/ADJ foot/NOUN#0.0#0.0\n")
    (tmp_path / "train.txt").write_text("000\n002\n")
    (tmp_path / "test.txt").write_text("001\n")
    return tmp_path


def _prepare(root: Path, workers: int = 1, mirrored: bool = False) -> Prepared:
    return prepare_features(FeatureJob(root, T2M, None, mirrored), workers, quiet=True)


def _contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_each_clip_gets_features_and_the_joints_they_stand_for(root: Path):
    prepared = _prepare(root)
    assert prepared.clips == ["000", "001", "002"]
    assert prepared.rows == 19 + 20 + 21
    for seed, name in enumerate(prepared.clips):
        features = np.load(root / "new_joint_vecs" / f"{name}.npy")
        np.testing.assert_array_equal(features, joints_to_features(sample_motion(T2M, 20 + seed, seed), T2M))
        assert features.dtype == np.float32
        joints = np.load(root / "new_joints" / f"{name}.npy")
        assert joints.shape == (19 + seed, 22, 3)
        np.testing.assert_allclose(pose_offsets(joints[3], T2M), T2M.target_offsets, atol=1e-5)


def test_files_do_not_depend_on_the_number_of_workers(root: Path):
    _prepare(root, workers=1, mirrored=True)
    alone = _contents(root)
    _prepare(root, workers=2, mirrored=True)
    assert _contents(root) == alone


def test_unusable_clips_are_refused_with_a_reason_and_the_others_prepared(root: Path):
    joints = sample_motion(T2M)
    _prepare(root)
    bad = {"000": np.full_like(joints, np.nan), "b": joints[:1], "c": joints[:, :21], "d": np.zeros_like(joints),
           "f": joints.astype(str)}
    for name, array in bad.items():
        np.save(root / "joints" / f"{name}.npy", array)
    (root / "joints" / "g.npy").write_bytes(b"")
    prepared = _prepare(root, mirrored=True)
    reasons = {"000": "not finite", "b": "at least", "c": "(60, 21, 3)", "d": "legs", "f": "real numbers",
               "g": "readable"}
    assert prepared.refused.keys() == reasons.keys()
    table = (root / "refused.txt").read_text().splitlines()
    for line, (name, reason) in zip(table, reasons.items(), strict=True):
        assert line.split()[0] == name
        assert reason in line
    assert sorted(path.stem for path in (root / "new_joint_vecs").iterdir()) == ["001", "002", "M001", "M002"]
    assert not (root / "new_joints" / "000.npy").exists()
    assert (root / "train.txt").read_text().split() == ["000", "002", "M002"]


def test_mirroring_adds_a_twin_of_every_clip_to_joints_features_texts_and_splits(root: Path):
    prepared = _prepare(root, mirrored=True)
    assert sorted(prepared.clips) == ["000", "001", "002", "M000", "M001", "M002"]
    twin = np.load(root / "joints" / "M001.npy")
    np.testing.assert_array_equal(twin, mirror(np.load(root / "joints" / "001.npy"), T2M))
    np.testing.assert_array_equal(np.load(root / "new_joint_vecs" / "M001.npy"), joints_to_features(twin, T2M))
    assert (root / "texts" / "M001.txt").read_text() == "Right foot, then left.#right/ADJ foot/NOUN#0.0#0.0\n"
    assert (root / "train.txt").read_text().split() == ["000", "002", "M000", "M002"]
    assert (root / "test.txt").read_text().split() == ["001", "M001"]


@pytest.mark.parametrize(("text", "mirrored"), [
    ("a person raises the left hand.", "a person raises the right hand."),
    ("LEFT then Right", "RIGHT then Left"),
    ("turns clockwise/ADV", "turns counterclockwise/ADV"),
    ("Counterclockwise and counter-clockwise, anticlockwise", "Clockwise and clockwise, clockwise"),
    ("upright, bright and copyright", "upright, bright and copyright"),
    ("no strength left in the left arm#no/DET strength/NOUN left/VERB", "no strength left in the right arm#no/DET "
     "strength/NOUN left/VERB"),
    ("right, by a right angle#right/ADV by/ADP a/DET right/ADJ angle/NOUN",
     "left, by a right angle#left/ADV by/ADP a/DET right/ADJ angle/NOUN"),
    ("left-handed, right/ADJ#0.0#1.5", "right-handed, left/ADJ#0.0#1.5"),
])
def test_mirrored_captions_change_sides(text: str, mirrored: str):
    assert mirror_text(text) == mirrored


def test_the_script_reports_what_it_wrote_and_what_it_refused(root: Path, capsys):
    (root / "joints" / "short.npy").write_bytes((root / "joints" / "000.npy").read_bytes()[:200])
    run_here(main, root, "--workers", 1, "--quiet", cwd=root)
    told = capsys.readouterr()
    assert "short  not a readable .npy file" in told.out
    assert f"3 clips, 60 rows of features written to {root / 'new_joint_vecs'}" in told.out
    assert told.err == ""


def test_bad_input_is_refused(root: Path):
    for flags in ((root / "nowhere",), (root, "--workers", "0"), (root, "--reference", root / "train.txt")):
        assert str(flags[-1]) in refusal(main, *flags, cwd=root)


def clips_with(root: Path, **joints: np.ndarray) -> None:
    (root / "joints").mkdir()
    for name, array in joints.items():
        np.save(root / "joints" / f"{name}.npy", array)


def test_clips_in_other_axes_are_turned_and_mirrored_ones_refused(tmp_path: Path) -> None:
    walk = figures.walking(60)
    clips_with(tmp_path, a=walk, b=with_up(walk, "z"), c=walk * [-1, 1, 1])
    result = prepare_features(FeatureJob(tmp_path, T2M, None, mirrored=True), workers=2, quiet=True)
    assert sorted(result.clips) == ["Ma", "Mb", "a", "b"]
    assert result.remarks == {"b": "z is up; rotated so that y is up"}
    for name in ("", "M"):
        a, b = (np.load(tmp_path / "new_joint_vecs" / f"{name}{clip}.npy") for clip in "ab")
        np.testing.assert_allclose(b, a, atol=1e-5)
    assert "swapped" in result.refused["c"]


def test_clips_can_be_moved_to_the_bones_of_another_clip(root: Path):
    lengths = np.linspace(0.1, 0.5, 22, dtype=np.float32)
    np.save(root / "body.npy", sample_motion(T2M, lengths=lengths))
    offsets = reference_offsets(root / "body.npy", T2M)
    prepare_features(FeatureJob(root, T2M, offsets, mirrored=False), quiet=True)
    joints = np.load(root / "new_joints" / "000.npy")
    np.testing.assert_allclose(np.linalg.norm(pose_offsets(joints[0], T2M), axis=-1)[1:], lengths[1:], atol=1e-5)
