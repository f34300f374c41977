"""Search: nearest vectors, and galleries that stay in sync with their files."""
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from data.motion_files import MotionPart, motion_files, parts_of, prompt_of, read_clip, read_clips
from data.specs import dataset_spec
from evaluation.search import encode_motions, nearest, open_gallery
from storage.load_lamp import LoadedLaMP, load_lamp
from tests.acclaim import amc_text, asf_text, motion
from tests.figures import walking
from tests.toy_models import make_models
from utils.errors import InputError
from visualization.outputs import Formats, write_motion

SPEC = dataset_spec("t2m")


@pytest.fixture(scope="module")
def lamp(tmp_path_factory: pytest.TempPathFactory) -> LoadedLaMP:
    return load_lamp("lamp", SPEC, make_models(tmp_path_factory.mktemp("models")))


@pytest.fixture
def gallery(tmp_path: Path) -> Path:
    folder = tmp_path / "motions"
    (folder / "more").mkdir(parents=True)
    for name, speed, frames in (("slow", 0.3, 60), ("fast", 1.5, 60), ("more/long", 1.0, 300)):
        np.save(folder / f"{name}.npy", walking(frames, speed))
    return folder


def unit(*rows: list[float]) -> np.ndarray:
    vectors = np.float32(rows)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_the_nearest_come_first_and_ties_in_their_order() -> None:
    vectors = unit([1, 0], [0, 1], [1, 1], [0, 1], [-1, 0])
    assert [hit.row for hit in nearest(vectors[1], vectors, 4)] == [1, 3, 2, 0]
    assert [hit.score for hit in nearest(vectors[1], vectors, 3)] == pytest.approx([1, 1, 2**-0.5])
    assert len(nearest(vectors[0], vectors, 99)) == 5


def test_it_finds_what_a_full_sort_finds() -> None:
    generator = np.random.default_rng(0)
    vectors = unit(*generator.normal(size=(500, 8)))
    groups = generator.integers(100, size=500)
    query = vectors[7]
    order = np.argsort(-(vectors @ query))
    assert [hit.row for hit in nearest(query, vectors, 10)] == order[:10].tolist()
    best = list(dict.fromkeys(groups[order].tolist()))
    assert [int(groups[hit.row]) for hit in nearest(query, vectors, 10, groups)] == best[:10]


def test_of_several_queries_the_nearest_counts() -> None:
    vectors = unit([1, 0, 0], [0, 1, 0], [0, 0, 1])
    assert {hit.row for hit in nearest(vectors[:2], vectors, 2)} == {0, 1}


def test_long_motions_fall_into_like_parts() -> None:
    parts = parts_of([np.zeros((frames, 1)) for frames in (4, 196, 197, 500)])
    assert parts[:4] == [MotionPart(0, 0, 4), MotionPart(1, 0, 196), MotionPart(2, 0, 98), MotionPart(2, 98, 197)]
    assert [part.end - part.start for part in parts[4:]] == [167, 166, 167]
    assert (parts[4].start, parts[-1].end) == (0, 500)


def test_a_gallery_has_every_part_of_every_motion(gallery: Path, lamp: LoadedLaMP) -> None:
    found = open_gallery(gallery, lamp, SPEC, quiet=True)
    assert [path.relative_to(gallery).as_posix() for path in found.files] == ["fast.npy", "more/long.npy", "slow.npy"]
    assert [part.motion for part in found.parts] == [0, 1, 1, 2]
    np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=1), 1, atol=1e-5)
    for number, path in enumerate(found.files):
        alone = encode_motions([path], lamp, SPEC)
        rows = [row for row, part in enumerate(found.parts) if part.motion == number]
        np.testing.assert_allclose(found.vectors[rows], alone.vectors, atol=1e-5)


def test_only_files_that_changed_are_encoded_again(gallery: Path, lamp: LoadedLaMP,
                                                   capsys: pytest.CaptureFixture[str]) -> None:
    def encoded() -> str:
        open_gallery(gallery, lamp, SPEC)
        return capsys.readouterr().out

    assert encoded().startswith("3 of 3 motions encoded")
    assert gallery.with_name("motions.gallery.pt").is_file()
    assert encoded() == ""
    before = open_gallery(gallery, lamp, SPEC).vectors
    np.save(gallery / "slow.npy", walking(60, -1.0))
    assert encoded().startswith("1 of 3")
    after = open_gallery(gallery, lamp, SPEC).vectors
    assert np.array_equal(before[:3], after[:3])
    assert not np.allclose(before[3], after[3], atol=1e-6)
    os.remove(gallery / "fast.npy")
    assert encoded().startswith("0 of 2")
    np.save(gallery / "new.npy", walking(50, 0.5))
    assert encoded().startswith("1 of 3")


def test_files_that_come_out_of_the_cache_have_the_vectors_they_had(gallery: Path, lamp: LoadedLaMP) -> None:
    np.save(gallery / "Mean.npy", np.zeros(263))
    made, kept = (open_gallery(gallery, lamp, SPEC) for _ in range(2))
    assert (kept.files, kept.parts) == (made.files, made.parts)
    assert np.array_equal(kept.vectors, made.vectors)


def test_another_model_or_a_damaged_cache_encodes_all(gallery: Path, lamp: LoadedLaMP, tmp_path: Path,
                                                      capsys: pytest.CaptureFixture[str]) -> None:
    cache = tmp_path / "kept.pt"
    open_gallery(gallery, lamp, SPEC, cache)
    cache.write_bytes(cache.read_bytes()[:100])
    capsys.readouterr()
    open_gallery(gallery, lamp, SPEC, cache)
    assert capsys.readouterr().out.startswith("3 of 3")
    content = torch.load(lamp.source.file, weights_only=True)
    content["motion_qformer"]["motion_proj.bias"] += 1
    other = tmp_path / "checkpoints" / "t2m"
    other.parent.mkdir()
    os.symlink(lamp.source.folder.parent, other)
    torch.save(content, lamp.source.folder / "model" / "other.pt")
    open_gallery(gallery, load_lamp("lamp", SPEC, other.parent, which="other"), SPEC, cache)
    assert capsys.readouterr().out.startswith("3 of 3")


def test_files_without_motion_are_left_out_and_reported(gallery: Path, lamp: LoadedLaMP,
                                                    capsys: pytest.CaptureFixture[str]) -> None:
    np.save(gallery / "Mean.npy", np.zeros(263))
    assert len(open_gallery(gallery, lamp, SPEC).files) == 3
    assert "left out 1 files" in capsys.readouterr().out
    for path in motion_files(gallery):
        np.save(path, np.zeros(3))
    with pytest.raises(InputError, match="contains no readable motion"):
        open_gallery(gallery, lamp, SPEC)


def test_motions_are_found_in_folders_and_must_be_long_enough(gallery: Path, tmp_path: Path) -> None:
    assert motion_files(gallery / "slow.npy") == [gallery / "slow.npy"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="contains no motion"):
        motion_files(tmp_path / "empty")
    with pytest.raises(InputError, match="missing"):
        motion_files(tmp_path / "nowhere")
    np.save(tmp_path / "short.npy", walking(3, 1.0))
    with pytest.raises(InputError, match="3 frames are too few"):
        read_clip(tmp_path / "short.npy", SPEC)


def test_of_twins_the_motion_as_made_is_taken_and_its_prompt_is_known(tmp_path: Path) -> None:
    for name in ("a.npy", "a_ik.npy", "more/b_ik.npy", "_ik.npy", "a_ik.bvh"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    taken = [path.relative_to(tmp_path).as_posix() for path in motion_files(tmp_path)]
    assert taken == ["_ik.npy", "a.npy", "a_ik.bvh", "more/b_ik.npy"]
    assert motion_files(tmp_path / "a_ik.npy") == [tmp_path / "a_ik.npy"]
    (tmp_path / "a.txt").write_text("a person walks\n")
    assert prompt_of(tmp_path / "a.npy") == prompt_of(tmp_path / "a_ik.npy") == "a person walks"
    assert prompt_of(tmp_path / "_ik.npy") is None


def test_what_is_written_tells_what_it_was_made_from(tmp_path: Path) -> None:
    made = write_motion(tmp_path, 2, 0, walking(40), "a person walks", SPEC, Formats(video=False, bvh=False))
    assert [prompt_of(path) for path in motion_files(tmp_path)] == ["a person walks"]
    assert prompt_of(tmp_path / made.locked_files[0]) == "a person walks"


def test_a_cache_that_cannot_be_written_names_the_flag_before_anything_is_encoded(
        gallery: Path, lamp: LoadedLaMP, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr("evaluation.search.read_clip", None)
    with pytest.raises(InputError, match=r"cannot write .*file/x.pt.*; --cache names another file"):
        open_gallery(gallery, lamp, SPEC, tmp_path / "file" / "x.pt")


def test_motions_of_a_gallery_are_turned_upright_and_encoded_again_for_another_axis(
        gallery: Path, lamp: LoadedLaMP, capsys: pytest.CaptureFixture[str]) -> None:
    upright = open_gallery(gallery, lamp, SPEC)
    for path in motion_files(gallery):
        if path.suffix == ".npy" and np.load(path).ndim == 3:
            x, y, z = np.moveaxis(np.load(path), -1, 0)
            np.save(path, np.stack([x, -z, y], -1))
    capsys.readouterr()
    assert np.allclose(open_gallery(gallery, lamp, SPEC).vectors, upright.vectors, atol=1e-4)
    assert "z is up; turned so that y is" in capsys.readouterr().out
    open_gallery(gallery, lamp, SPEC, up="z")
    assert capsys.readouterr().out.startswith("3 of 3")


def test_an_amc_whose_skeleton_is_added_later_enters_the_gallery(
        gallery: Path, lamp: LoadedLaMP, capsys: pytest.CaptureFixture[str]) -> None:
    (gallery / "01_01.amc").write_text(amc_text(motion(120)))
    assert len(open_gallery(gallery, lamp, SPEC).files) == 3
    assert "put 01.asf next to it" in capsys.readouterr().out
    (gallery / "01.asf").write_text(asf_text())
    assert gallery / "01_01.amc" in open_gallery(gallery, lamp, SPEC).files
    assert "1 of 4 motions encoded" in capsys.readouterr().out


def test_files_of_markers_in_a_folder_are_named_with_the_reason(
        tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.c3d").touch()
    with pytest.raises(InputError, match="a.c3d: a file of markers, which are not joints"):
        read_clips(motion_files(tmp_path), SPEC)
    np.save(tmp_path / "b.npy", walking(40))
    assert [path.stem for path in read_clips(motion_files(tmp_path), SPEC)] == ["b"]
    assert capsys.readouterr().out.startswith(f"skipped {tmp_path / 'a.c3d'}: a file of markers")


def test_bad_files_among_others_are_skipped_with_a_line_each(
        tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, joints in (("a", walking(40)), ("nan", walking(40) * np.nan), ("short", walking(3)), ("z", walking(40))):
        np.save(tmp_path / f"{name}.npy", joints)
    files = motion_files(tmp_path)
    assert [path.stem for path in read_clips(files, SPEC)] == ["a", "z"]
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"skipped {tmp_path / 'nan.npy'}: frame 0: x of pelvis is not finite (nan)"
    assert second == f"skipped {tmp_path / 'short.npy'}: 3 frames are too few; at least 4 are needed"
    with pytest.raises(InputError, match="nan.npy: frame 0"):
        read_clips(files[1:3], SPEC)
