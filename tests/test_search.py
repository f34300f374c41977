"""Motion search: nearest neighbours, and galleries that follow changes of their files."""
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from data.dataset import dataset_spec
from data.motion_files import MotionPart, motion_files, parts_of, prompt_of, read_clips
from evaluation.search import encode_motions, nearest, open_gallery
from storage.generation import LoadedLaMP, load_lamp
from tests.figures import walking
from utils import InputError

SPEC = dataset_spec("t2m")


@pytest.fixture(scope="module")
def lamp(toy_models: Path) -> LoadedLaMP:
    return load_lamp("lamp", SPEC, toy_models)


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


def test_the_nearest_are_those_of_a_full_sort_and_long_motions_fall_into_like_parts() -> None:
    generator = np.random.default_rng(0)
    vectors = unit(*generator.normal(size=(500, 8)))
    groups = generator.integers(100, size=500)
    query = vectors[7]
    order = np.argsort(-(vectors @ query))
    assert [hit.row for hit in nearest(query, vectors, 10)] == order[:10].tolist()
    best = list(dict.fromkeys(groups[order].tolist()))
    assert [int(groups[hit.row]) for hit in nearest(query, vectors, 10, groups)] == best[:10]

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


def test_only_files_that_changed_are_encoded_again(gallery: Path, lamp: LoadedLaMP, capsys) -> None:
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


def test_another_model_or_a_damaged_cache_encodes_all(gallery: Path, lamp: LoadedLaMP, tmp_path: Path, capsys) -> None:
    cache = tmp_path / "kept.pt"
    open_gallery(gallery, lamp, SPEC, cache)
    cache.write_bytes(cache.read_bytes()[:100])
    capsys.readouterr()
    open_gallery(gallery, lamp, SPEC, cache)
    assert capsys.readouterr().out.startswith("3 of 3")
    content = torch.load(lamp.source.file, weights_only=True)
    content["motion_qformer"]["motion_proj.bias"] += 1
    shutil.copytree(lamp.source.folder.parents[1], tmp_path / "checkpoints")
    torch.save(content, tmp_path / "checkpoints" / "t2m" / "lamp" / "model" / "latest.tar")
    open_gallery(gallery, load_lamp("lamp", SPEC, tmp_path / "checkpoints"), SPEC, cache)
    assert capsys.readouterr().out.startswith("3 of 3")


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


def test_files_without_motion_are_left_out_and_reported(gallery: Path, lamp: LoadedLaMP, capsys) -> None:
    for name, joints in (("nan", walking(40) * np.nan), ("short", walking(3))):
        np.save(gallery / f"{name}.npy", joints)
    files = motion_files(gallery)
    assert [path.stem for path in read_clips(files, SPEC)] == ["fast", "long", "slow"]
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"skipped {gallery / 'nan.npy'}: frame 0: x of pelvis is not finite (nan)"
    assert second == f"skipped {gallery / 'short.npy'}: 3 frames are too few; at least 4 are needed"
    with pytest.raises(InputError, match="nan.npy: frame 0"):
        read_clips([gallery / "nan.npy", gallery / "short.npy"], SPEC)
    assert len(open_gallery(gallery, lamp, SPEC).files) == 3
    assert "skipped 2 files" in capsys.readouterr().out
    for path in files:
        np.save(path, np.zeros(3))
    with pytest.raises(InputError, match="contains no readable motion"):
        open_gallery(gallery, lamp, SPEC)
