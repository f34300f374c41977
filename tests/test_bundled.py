"""The bundled captioning model and evaluator, on real clips."""
import json
from pathlib import Path

import numpy as np
import pytest

from data.dataset import dataset_spec
from data.motion_files import read_motion
from data.text import side_words
from data.text_motion import load_pairs
from evaluation.caption_scores import ngram_scores, side_scores
from evaluation.metrics import euclidean_distances, r_precision
from motion.features import joints_to_features
from motion.skeleton import T2M
from prepare.motion_features import FeatureJob, prepare_features
from storage.evaluation import LoadedEvaluator, load_captioner, load_evaluator
from tests.figures import raising
from tests.toy import OPENMOTION, needs

SHARD, SIDED = "joints_06.npz", 20  # with raised hands, waves and turns
SPEC = dataset_spec("t2m")


@needs(OPENMOTION)
def test_clips_are_captioned_with_the_correct_sides(tmp_path: Path) -> None:
    index = json.loads((OPENMOTION / "index.json").read_text())["clips"]
    clips = [clip for clip in index if clip["split"] == "test" and clip["shard"] == SHARD
             and any(side_words(one["text"]) for one in clip["captions"])][::2][:SIDED]
    joints = np.load(OPENMOTION / SHARD)["joints"]
    motions = []
    for clip in clips:
        np.save(tmp_path / "clip.npy", joints[clip["offset"]:clip["offset"] + min(196, clip["length"])])
        motions.append(read_motion(tmp_path / "clip.npy", SPEC))
    captions = [written[0] for written in load_captioner("m2t_demo", SPEC, "no_checkpoints").write(motions)]
    references = [[one["text"] for one in clip["captions"]] for clip in clips]
    sides = side_scores(captions, references)
    assert sides["sided"] >= 10
    assert sides["sides_right"] >= 85
    assert ngram_scores(captions, references)["bleu1"] > 35


CLIPS, BATCH, CHANCE = 160, 32, 3 / 32


@pytest.fixture(scope="module")
def evaluator() -> LoadedEvaluator:
    return load_evaluator("evaluator_demo", dataset_spec("t2m"), "checkpoints")


def export(root: Path) -> None:
    """Write joints and captions of test clips, sampled over the whole data set in random order."""
    clips = [clip for clip in json.loads((OPENMOTION / "index.json").read_text())["clips"] if clip["split"] == "test"]
    clips = [clips[row] for row in np.random.default_rng(0).permutation(len(clips))[:CLIPS]]
    for folder in ("joints", "texts"):
        (root / folder).mkdir()
    for shard in {clip["shard"] for clip in clips}:
        joints = np.load(OPENMOTION / shard)["joints"]
        for clip in (clip for clip in clips if clip["shard"] == shard):
            np.save(root / "joints" / f"{clip['id']}.npy", joints[clip["offset"]:clip["offset"] + clip["length"]])
            lines = [f"{one['text']}#{one['tokens']}#{one['start']}#{one['end']}\n" for one in clip["captions"]]
            (root / "texts" / f"{clip['id']}.txt").write_text("".join(lines))
    (root / "test.txt").write_text("".join(f"{clip['id']}\n" for clip in clips))


@needs(OPENMOTION)
def test_real_clips_are_found_by_their_captions_alone(evaluator: LoadedEvaluator, tmp_path: Path) -> None:
    export(tmp_path)
    prepare_features(FeatureJob(tmp_path, T2M, None, mirrored=False), quiet=True)
    pairs = load_pairs(dataset_spec("t2m", tmp_path), "test", whole_clips_only=True)
    assert len(pairs) == CLIPS
    texts, motions = evaluator.texts([pair.tokens[0] for pair in pairs]), evaluator.motions([p.features for p in pairs])
    assert r_precision(texts, motions, 3, BATCH)[2] >= 0.75
    rng = np.random.default_rng(1)
    shuffled = [r_precision(texts[rng.permutation(CLIPS)], motions, 3, BATCH)[2] for _ in range(20)]
    assert np.mean(shuffled) == pytest.approx(CHANCE, abs=0.03)


def test_sides_are_distinguished(evaluator: LoadedEvaluator) -> None:
    sides = ("left", "right")
    texts = evaluator.texts([f"a/DET person/NOUN raise/VERB the/DET {side}/ADJ hand/NOUN".split() for side in sides])
    motions = evaluator.motions([np.asarray(joints_to_features(raising(side, 80), T2M)) for side in sides])
    distances = euclidean_distances(texts, motions)
    assert distances.trace() < distances[::-1].trace()
