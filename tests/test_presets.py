"""Every preset trains, generates and evaluates at toy size, in one chain of all its files."""
import importlib
import json
import shutil
from pathlib import Path

import pytest

from evaluation.protocol import Evaluation
from models.config import BASE_SAMPLING, LENGTH_SAMPLING, RESIDUAL_SAMPLING
from storage.checkpoint import read_options
from tests import toy
from tests.test_commands import PRESETS, STAGES, options
from tests.toy_clip import make_clip
from tests.toy_models import make_evaluator

CLIP = Path("checkpoints", "clip-vit-base-patch32")
SIZES = {"vq": toy.TINY_VQ, "lamp": toy.TINY_LAMP, "t2m": toy.TINY_T2M, "res": toy.TINY_T2M, "len": toy.TINY_LENGTH,
         "m2t": toy.TINY_M2T, "evaluator": toy.TINY_EVALUATOR}
QUICK = ("--warm_up_iter", 0, "--total_iter", 1, "--quiet")


@pytest.fixture(scope="module")
def inputs(toy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with toy data, an evaluator and the language models."""
    home = shutil.copytree(toy_folder, tmp_path_factory.mktemp("presets"), dirs_exist_ok=True)
    walk = {"family": "walk", "contents": [["walk", ""]], "stretches": []}  # for --bank
    (home / "data" / "contents.json").write_text(json.dumps({"0000": walk}))
    make_clip(home / CLIP, 512)
    make_evaluator(home / "checkpoints" / "t2m" / "judge")
    return home


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_trains_generates_and_evaluates(preset: str, inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def named(stage: str) -> str:
        return f"{preset}_{stage}"

    def run(stage: str, *flags: object) -> None:
        script = importlib.import_module(STAGES[stage].removesuffix(".py"))
        toy.run_here(script.main, f"@{toy.ROOT / 'configs' / preset / stage}.txt", *flags, "--gpu_id", -1, "--quiet",
                     cwd=inputs)

    def train(stage: str, *flags: object, without: str = "") -> None:
        sizes = [part for pair in zip(SIZES[stage][:-1:2], SIZES[stage][1::2], strict=True) if pair[0] != without
                 for part in pair]
        run(stage, *sizes, *QUICK, "--data_root", "data", "--name", named(stage), *flags)

    def settings(stage: str) -> dict[str, object]:
        return read_options(inputs / "checkpoints" / "t2m" / named(stage) / "opt.txt")

    layered = options(preset, "vq")["num_quantizers"] > 1
    tokenizer, lamp, fid = ("--vq_name", named("vq")), ("--lamp_name", named("lamp")), ("--evaluator", "judge")
    train("evaluator", "--glove", "glove")
    train("vq", *fid, without="--num_quantizers")
    train("lamp", *tokenizer, "--bert", "bert", "--max_text_len", 16)
    train("t2m", *tokenizer, *lamp, *fid)
    tokens = set((inputs / "data" / "cache").glob("tokens-train*"))
    assert len(tokens) == (preset == "demo")  # the others encode every crop anew
    if layered:
        train("res", *tokenizer, *lamp, *fid)
    train("len", *lamp)
    train("m2t", *tokenizer, *lamp, "--llm", "llm", "--llm-precision", "fp32")

    residual = ("--res_name", named("res") if layered else "none")
    run("generate", "--name", named("t2m"), *residual, "--len_name", named("len"), "--time_steps", 2, "--ext", preset,
        "--text_prompt", "a person walks", "--no_video", "--no_bvh", "--no_html")
    rounds, modality = [], Evaluation._modality
    monkeypatch.setattr(Evaluation, "_modality", lambda *given: rounds.append(given) or modality(*given))
    run("evaluate", "--name", named("t2m"), *residual, "--data_root", "data", "--evaluator",
        f"judge,lamp:{named('lamp')}", "--time_steps", 2, "--repeat_times", 2, "--mm_texts", 1)
    run("retrieval", "--name", named("lamp"), "--data_root", "data", "--repeat_times", 2)
    assert list((inputs / "generation" / preset).rglob("*.npy"))
    for stage, names in (("t2m", BASE_SAMPLING), ("res", RESIDUAL_SAMPLING), ("len", LENGTH_SAMPLING)):
        if layered or stage != "res":
            assert {name: settings(stage)[name] for name in names} == {
                name: options(preset, stage)[name] for name in names}
    report = json.loads((inputs / "checkpoints" / "t2m" / named("t2m") / "eval" / "evaluation.json").read_text())
    assert len(rounds) == (1 if preset == "demo" else 2)  # MoMask's protocol has new motions in every repeat
    rows = ["base layer", "base + residual"][:1 + layered]
    assert list(report["results"])[2:] == rows  # after real motion and the tokenizer
    assert all({"fid", "lamp_mm_dist"} <= report["results"][row].keys() for row in rows)
