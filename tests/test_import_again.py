"""An import survives all bad files, and importing again removes everything of clips that no longer exist."""
import os
from pathlib import Path

import numpy as np
import pytest

from data.specs import dataset_spec
from motion.bvh_fit import joints_to_bvh
from motion.skeleton import T2M
from prepare.checking import check_data
from prepare.importing import ImportJob, import_motion, read_sources
from prepare.motion_features import FeatureJob, prepare_features
from prepare.motion_sources import Reader, Recording
from tests import figures

WALK = figures.walking(60)
BVH = joints_to_bvh(WALK, T2M, 20).text()


class Breaking(Reader):
    """A reader that fails on some files."""

    def read(self, path: Path) -> Recording:
        if path.stem == "ends":
            os._exit(1)
        if path.stem == "odd":
            raise KeyError("left_hip")
        return super().read(path)


def good_files(folder: Path, count: int) -> list[str]:
    for number in range(count):
        joints = figures.walking(42, 0.8 + 0.01 * number, facing=0.1 * number)
        if number % 7:
            np.save(folder / f"good_{number:02d}.npy", joints)
        else:
            (folder / f"good_{number:02d}.bvh").write_text(joints_to_bvh(joints, T2M, 20).text())
    return [f"good_{number:02d}" for number in range(count)]


@pytest.mark.parametrize("workers", [1, 2])
def test_an_unforeseen_error_in_a_file_costs_no_other(tmp_path: Path, workers: int) -> None:
    good_files(tmp_path, 3)
    np.save(tmp_path / "odd.npy", WALK)
    job = ImportJob(tmp_path, tmp_path / "out", Breaking())
    result = import_motion(job, workers, quiet=True)
    assert len(result.clips) == 3
    assert result.refused == {"odd.npy": "KeyError: 'left_hip'"}


def test_a_file_that_ends_its_process_costs_no_other(tmp_path: Path) -> None:
    good_files(tmp_path, 4)
    for name in ("ends", "odd"):
        np.save(tmp_path / f"{name}.npy", WALK)
    result = import_motion(ImportJob(tmp_path, tmp_path / "out", Breaking()), 2, quiet=True)
    assert len(result.clips) == 4
    assert "crashed the process" in result.refused["ends.npy"]
    assert "KeyError" in result.refused["odd.npy"]


def test_names_too_long_for_a_file_are_shortened_and_stay_different(tmp_path: Path) -> None:
    folder = tmp_path / "source" / ("a" * 120) / ("ü" * 60)
    folder.mkdir(parents=True)
    for name in ("one", "two"):
        np.save(folder / f"{name}.npy", WALK)
    job = ImportJob(tmp_path / "source", tmp_path / "out")
    first, second = (clip.id for clip in import_motion(job, quiet=True).clips)
    assert first != second
    assert all(len(name.encode()) <= 200 for name in (first, second))
    assert [clip.id for clip in import_motion(job, quiet=True).clips] == [first, second]


def clips_everywhere(root: Path) -> set[str]:
    """Ids in any file of a data set."""
    files = [path for folder in ("joints", "new_joints", "new_joint_vecs", "texts")
             for path in (root / folder).iterdir()]
    lists = [name for split in ("train", "val", "test") for name in (root / f"{split}.txt").read_text().split()]
    return {path.stem for path in files} | set(lists) | {clip.id for clip in read_sources(root)}


@pytest.fixture
def imported(tmp_path: Path) -> Path:
    """A long recording in three clips and two short ones, imported, captioned, split, with features and twins."""
    source, root = tmp_path / "source", tmp_path / "data"
    source.mkdir()
    np.save(source / "long.npy", figures.walking(150, turn=3.0))
    for name in ("a", "b"):
        np.save(source / f"{name}.npy", figures.waving("left" if name == "a" else "right", 60))
    import_motion(ImportJob(source, root, window=50), quiet=True)
    (root / "texts").mkdir()
    for clip in read_sources(root):
        (root / "texts" / f"{clip.id}.txt").write_text("a person moves#a/DET person/NOUN move/VERB#0.0#0.0\n")
    for split, names in (("train", "long_000 long_001 long_002"), ("val", "a_000 a_001"), ("test", "b_000 b_001")):
        (root / f"{split}.txt").write_text("".join(f"{name}\n" for name in names.split()))
    prepare_features(FeatureJob(root, T2M, None, mirrored=True), quiet=True)
    assert {"long_002", "Mlong_002"} <= clips_everywhere(root)
    return root


def test_fewer_clips_leave_no_file_and_no_split_entry_of_those_that_are_gone(imported: Path) -> None:
    result = import_motion(ImportJob(imported.parent / "source", imported, window=80), quiet=True)
    assert sorted(result.removed) == ["a_000", "a_001", "b_000", "b_001", "long_002"]
    left = clips_everywhere(imported)
    assert left == {"a", "b", "long_000", "long_001", "Mlong_000", "Mlong_001"}  # these twins are in the split lists
    prepare_features(FeatureJob(imported, T2M, None, mirrored=True), quiet=True)
    found = {fault.kind for fault in check_data(dataset_spec("t2m", imported)).faults}
    assert not found & {"twin without original", "split without file", "joints do not fit", "copy in another split"}


def test_importing_the_same_again_changes_nothing(imported: Path) -> None:
    before = {path: path.read_bytes() for path in imported.rglob("*") if path.is_file()}
    assert import_motion(ImportJob(imported.parent / "source", imported, window=50), quiet=True).removed == []
    assert {path: path.read_bytes() for path in imported.rglob("*") if path.is_file()} == before


def test_a_file_that_is_refused_now_keeps_its_earlier_clips(imported: Path) -> None:
    source = imported.parent / "source"
    np.save(source / "long.npy", 0 * WALK)
    result = import_motion(ImportJob(source, imported, window=50), quiet=True)
    assert list(result.refused) == ["long.npy"]
    assert result.kept == 3
    assert "long_002" in clips_everywhere(imported)
