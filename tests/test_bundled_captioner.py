"""The bundled captioning model names the correct sides for real clips."""
import json
from pathlib import Path

import numpy as np
import pytest

from data.dataset import dataset_spec
from data.motion_files import read_motion
from data.text import side_words
from evaluation.caption_scores import ngram_scores, side_scores
from storage.evaluation import LoadedCaptioner, load_captioner
from tests.figures import walking
from tests.toy import OPENMOTION, needs

SHARD, CLIPS = "joints_06.npz", 20  # with raised hands, waves and turns
SPEC = dataset_spec("t2m")


@pytest.fixture(scope="module")
def captioner() -> LoadedCaptioner:
    return load_captioner("m2t_demo", SPEC, "no_checkpoints")


def told(captioner: LoadedCaptioner, tmp_path: Path, joints: list[np.ndarray]) -> list[str]:
    clips = []
    for number, one in enumerate(joints):
        np.save(tmp_path / f"{number}.npy", one[:196])
        clips.append(read_motion(tmp_path / f"{number}.npy", SPEC))
    return [captions[0] for captions in captioner.write(clips)]


def test_it_is_small_and_stands_on_the_bundled_lamp(captioner: LoadedCaptioner) -> None:
    files = [path for path in captioner.source.folder.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".safetensors", ".txt"}
    assert sum(path.stat().st_size for path in files) <= 15e6
    assert captioner.lamp.source.folder == captioner.source.folder.with_name("lamp_demo")


def test_a_drawn_walk_is_captioned_as_a_walk(captioner: LoadedCaptioner, tmp_path: Path) -> None:
    caption, = told(captioner, tmp_path, [walking(100, 1.0)])
    assert any(word in caption for word in ("walk", "step", "stroll", "forward"))


@needs(OPENMOTION)
def test_clips_are_captioned_with_the_correct_sides(captioner: LoadedCaptioner, tmp_path: Path) -> None:
    index = json.loads((OPENMOTION / "index.json").read_text())["clips"]
    clips = [clip for clip in index if clip["split"] == "test" and clip["shard"] == SHARD
             and any(side_words(one["text"]) for one in clip["captions"])][::2][:CLIPS]
    joints = np.load(OPENMOTION / SHARD)["joints"]
    captions = told(captioner, tmp_path, [joints[clip["offset"]:clip["offset"] + clip["length"]] for clip in clips])
    references = [[one["text"] for one in clip["captions"]] for clip in clips]
    sides = side_scores(captions, references)
    assert sides["sided"] >= 10
    assert sides["sides_right"] >= 85
    assert ngram_scores(captions, references)["bleu1"] > 35
