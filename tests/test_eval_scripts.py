"""Evaluation scripts on toy data with untrained models, and checkpoint selection in training."""
import json
import math
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import eval_retrieval
import eval_t2m_trans_res
import eval_t2m_vq
import train_res_transformer
import train_t2m_transformer
import train_vq
from data.dataset import dataset_spec
from data.text_motion import load_pairs
from evaluation.generation import find_evaluators
from storage.checkpoint import find_source, load_checkpoint, read_options
from storage.evaluation import find_evaluator
from tests.toy import TINY_T2M, TINY_VQ, make_bert, make_dataset
from tests.toy_models import make_captioner, make_evaluator, make_models
from utils import InputError

CPU = ("--gpu_id", "-1", "--data_root", "data", "--quiet")
FAST = ("--repeat_times", "2", "--mm_texts", "2", "--time_steps", "2", "--name", "t2m")


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("originals")
    make_dataset(folder / "data")
    make_models(folder / "checkpoints")
    make_evaluator(folder / "checkpoints" / "t2m" / "judge")
    make_bert(folder / "bert")
    return folder


@pytest.fixture
def run(originals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Function that runs a script's ``main`` with arguments, in a folder with data and models."""
    for name in ("data", "checkpoints", "bert"):
        shutil.copytree(originals / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("storage.checkpoint.PRETRAINED", tmp_path / "nothing")  # ignore bundled models

    def call(main: Callable[[], None], *arguments: object) -> None:
        monkeypatch.setattr(sys, "argv", ["script.py", *CPU, *map(str, arguments)])
        main()

    return call


def report(name: str, ext: str = "evaluation") -> dict:
    folder = Path("checkpoints/t2m") / name / "eval"
    assert (folder / f"{ext}.log").is_file()
    return json.loads((folder / f"{ext}.json").read_text())


def test_text_to_motion_is_evaluated_with_and_without_residual(run: Callable[..., None]) -> None:
    run(eval_t2m_trans_res.main, *FAST, "--evaluator", "judge", "--res_name", "res", "--ext", "both")
    both = report("t2m", "both")
    assert list(both["results"]) == ["real motion", "tokenizer", "base layer", "base + residual"]
    assert {"fid_halves", "mm_dist", "skating", "penetration", "jerk", "bone_drift", "not_finite"} <= set(
        both["results"]["real motion"])
    for row in ("base layer", "base + residual"):
        numbers = both["results"][row]
        assert numbers["fid"]["repeats"] == 2 and numbers["fid"]["interval"] is not None
        assert numbers["multimodality"]["mean"] > 0 and numbers["not_finite"] == 0
    settings = both["settings"]
    assert settings["seconds_per_sentence"]["latest"] > 0 and "torch" in settings["hardware"]
    assert (settings["cond_scale"], settings["time_steps"], settings["evaluator"]) == (
        4.0, 2, "checkpoints/t2m/judge/model/latest.tar")
    assert any(note.startswith("omitted: R-precision needs 32 clips, but there are 7") for note in both["notes"])
    run(eval_t2m_trans_res.main, *FAST, "--evaluator", "judge", "--res_name", "none", "--ext", "base")
    base = report("t2m", "base")
    assert list(base["results"]) == ["real motion", "tokenizer", "base layer"]
    assert base["results"]["base layer"] == both["results"]["base layer"]  # same base tokens


def test_lamp_beside_the_default_evaluator(run: Callable[..., None]) -> None:
    assert run
    shutil.copytree("checkpoints/t2m/judge", "checkpoints/t2m/evaluator_demo")
    judge, space = find_evaluators("lamp:lamp", dataset_spec("t2m"), "checkpoints")
    assert judge.source.folder.name == "evaluator_demo" and space.lamp.source.folder.name == "lamp"
    pairs = load_pairs(dataset_spec("t2m", "data"), "test", quiet=True)
    clips, captions = [pair.features[:40] for pair in pairs], [pair.captions[0] for pair in pairs]
    motions, texts = space.motions(clips), space.texts(captions)
    assert motions.shape == texts.shape == (len(pairs), 4)
    one = torch.from_numpy(space.lamp.normalisation.apply(clips[0]))[None]
    expected = space.lamp.motion_features(one, torch.tensor([40]))
    np.testing.assert_allclose(motions[0], expected[0], atol=1e-5)
    np.testing.assert_allclose(texts[1], space.lamp.text_features([captions[1]])[0], atol=1e-5)
    assert space.motions([]).shape == (0, 4)
    for wrong in ("lamp:", "a,b", "lamp:a,lamp:b", "judge,"):
        with pytest.raises(InputError, match="expected NAME, lamp:NAME"):
            find_evaluators(wrong, dataset_spec("t2m"), "checkpoints")


def test_captions_of_motions_are_scored_against_prompts_with_real_motion(run: Callable[..., None]) -> None:
    make_captioner(Path("checkpoints"))
    run(eval_t2m_trans_res.main, *FAST, "--repeat_times", 1, "--mm_texts", 0, "--evaluator", "judge", "--res_name",
        "res", "--lamp_bertscore", "--m2t_name", "m2t", "--bert_score_model", "bert", "--bert_score_layer", 1)
    read = report("t2m")
    told = {row: numbers["lamp_bertscore"]["mean"] for row, numbers in read["results"].items()
            if "lamp_bertscore" in numbers}
    assert told.keys() == {"real motion", "base layer", "base + residual"}
    assert all(0 < score < 100 for score in told.values())
    assert read["settings"]["bert_score"].startswith("bert, layer 1, not rescaled")
    assert read["settings"]["m2t"].endswith("m2t/model/latest.tar")
    assert read["notes"][-1].startswith("lamp_bertscore: BERTScore between the caption")


def test_a_tokenizer_is_evaluated_with_and_without_an_evaluator(run: Callable[..., None]) -> None:
    run(eval_t2m_vq.main, "--name", "vq", "--evaluator", "judge")
    rows = report("vq")["results"]
    assert list(rows) == ["real motion", "all layers", "base layer alone"]
    assert rows["all layers"]["fid"]["repeats"] == 1  # no interval, as motions do not vary
    assert rows["all layers"]["mm_dist"]["repeats"] == 20 and rows["all layers"]["mpjpe"] > 0
    run(eval_t2m_vq.main, "--name", "vq")
    read = report("vq")
    assert read["results"]["all layers"]["mpjpe"] == rows["all layers"]["mpjpe"]
    assert "fid" not in read["results"]["all layers"] and read["notes"][0].startswith("without an evaluator")


def test_without_an_evaluator_text_to_motion_cannot_be_evaluated(run: Callable[..., None], capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(eval_t2m_trans_res.main, *FAST)
    assert "no evaluator for t2m; train one with train_evaluator.py" in capsys.readouterr().err


@pytest.mark.parametrize("sentences", ["lamp", "bert"])
def test_retrieval_has_its_protocols_both_ways(run: Callable[..., None], sentences: str) -> None:
    run(eval_retrieval.main, "--name", "lamp", "--sentences", sentences, "--repeat_times", 3)
    read = report("lamp")
    assert list(read["results"]) == ["all", "threshold", "sides"]  # with seven clips
    names = [f"{way}_{name}" for way in ("t2m", "m2t") for name in ("R1", "R2", "R3", "R5", "R10", "MedR")]
    for protocol in ("all", "threshold"):
        assert list(read["results"][protocol]) == names
    assert read["results"]["threshold"]["t2m_R1"]["mean"] >= read["results"]["all"]["t2m_R1"]["mean"]
    assert read["settings"]["seconds_per_sentence"] > 0 and read["settings"]["sentences"] == sentences


def test_the_evaluator_of_a_run_is_the_named_the_published_or_none(run: Callable[..., None]) -> None:
    assert run
    spec = dataset_spec("t2m")
    assert find_evaluator("judge", spec, "checkpoints").source.folder.name == "judge"
    assert find_evaluator(None, spec, "checkpoints") is None
    shutil.copytree("checkpoints/t2m/judge", "checkpoints/t2m/evaluator_demo")
    assert find_evaluator(None, spec, "checkpoints").source.folder.name == "evaluator_demo"
    shutil.copytree("checkpoints/t2m/judge", "checkpoints/t2m/text_mot_match")
    assert find_evaluator(None, spec, "checkpoints").source.folder.name == "text_mot_match"
    assert find_evaluator("none", spec, "checkpoints") is None
    shutil.rmtree("checkpoints/t2m/text_mot_match/meta")
    with pytest.raises(InputError, match="mean.npy.*choose another evaluator with --evaluator NAME"):
        find_evaluator(None, spec, "checkpoints")


def test_training_keeps_the_checkpoint_of_the_lowest_fid_and_reports_it(run: Callable[..., None], capsys) -> None:
    run(train_vq.main, "--name", "new", *TINY_VQ, "--evaluator", "judge", "--fid_clips", 5)
    for main, name in ((train_t2m_transformer.main, "newer"), (train_res_transformer.main, "upper")):
        run(main, "--name", name, "--vq_name", "new", "--lamp_name", "lamp", *TINY_T2M, "--evaluator", "judge")
    out = capsys.readouterr().out
    assert "chosen by fid of 5 of 7 validation clips by judge: checkpoints/t2m/judge/model/latest.tar" in out
    assert len(re.findall(r"chosen by fid of (\d+) of \1 validation clips by judge", out)) == 2
    assert "biased upwards" in out
    assert out.count("best so far, kept: net_best_fid (fid ") >= 3
    for name in ("new", "newer", "upper"):
        assert find_source(name, "t2m", "checkpoints").file.stem == "net_best_fid"
        chosen_by = read_options(f"checkpoints/t2m/{name}/opt.txt")["chosen_by"]
        assert re.fullmatch(r"fid of \d+ of \d+ validation clips by judge", chosen_by)
        best = load_checkpoint(Path("checkpoints/t2m") / name / "model" / "latest.tar")["best"]
        assert math.isfinite(best["net_best_fid"])
