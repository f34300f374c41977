"""Every preset parses with its script's flags and builds its model; wrong flag files are refused by line."""
import importlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import M2T_eval
from models.config import (
    DecoderConfig,
    EvaluatorConfig,
    MaskTransformerConfig,
    ResidualTransformerConfig,
    Sampling,
    VQConfig,
    Writing,
)
from models.evaluator import Evaluator
from models.hub import CLIP_NAME
from models.lamp.features import LaMPConfig
from models.lamp.lamp import LaMP
from models.lamp.qformer import QFormerConfig
from models.text_to_motion import LengthEstimator
from models.transformers.mask_transformer import MaskTransformer
from models.transformers.residual import ResidualTransformer
from models.vq.model import build_tokenizer
from options.generate import parse_generate_options
from options.train import parse_vq_options
from tests.test_readme import PARSERS
from tests.toy import (
    ROOT,
    TINY_EVALUATOR,
    TINY_LAMP,
    TINY_LENGTH,
    TINY_M2T,
    TINY_T2M,
    TINY_VQ,
    make_bert,
    make_dataset,
    make_glove,
    make_llm,
    run_here,
)
from tests.toy_clip import make_clip
from utils.errors import InputError

STAGES = {"vq": "train_vq.py", "lamp": "train_lamp.py", "t2m": "train_t2m_transformer.py",
          "res": "train_res_transformer.py", "len": "train_len_estimator.py", "m2t": "train_m2t.py",
          "evaluator": "train_evaluator.py", "generate": "gen_t2m.py", "evaluate": "eval_t2m_trans_res.py",
          "retrieval": "eval_retrieval.py"}
PRESETS = ("paper", "released", "momask", "demo")
NEEDED = {"lamp": ["--vq_name", "vq"], "t2m": ["--vq_name", "vq"], "res": ["--vq_name", "vq"],
          "generate": ["--text_prompt", "a person walks"]}


def options(preset: str, stage: str, *more: str) -> dict[str, object]:
    arguments = [f"@{ROOT / 'configs' / preset / stage}.txt", "--name", "run", *NEEDED.get(stage, []), *more]
    return vars(PARSERS[STAGES[stage]](arguments))


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("stage", STAGES)
def test_a_preset_parses_and_builds_its_model(preset: str, stage: str) -> None:
    settings = options(preset, stage)
    with torch.device("meta"):  # full sizes without memory
        if stage == "vq":
            build_tokenizer(VQConfig.from_options(settings))
        elif stage == "lamp":
            sizes = QFormerConfig(encoder_width=settings["encoder_width"], dropout=settings["dropout"])
            LaMP(LaMPConfig(sizes, VQConfig(), settings["embed_dim"], settings["published_behaviour"]),
                 build_tokenizer(VQConfig()))
        elif stage == "t2m":
            MaskTransformer(MaskTransformerConfig.from_options(settings))
        elif stage == "res":
            ResidualTransformer(ResidualTransformerConfig.from_options(settings))
        elif stage == "len":
            LengthEstimator()
        elif stage == "evaluator":
            Evaluator(EvaluatorConfig.from_options(settings))
        elif stage == "m2t":
            DecoderConfig.from_options(settings)
            Writing().changed({"prompt": settings["prompt"], "num_beams": settings["num_beams"]})


def test_generation_presets_are_the_sampling_that_training_presets_write() -> None:
    for preset in PRESETS:
        asked = Sampling().changed(options(preset, "generate"))
        trained: dict[str, object] = {}
        for stage in ("t2m", "res", "len"):
            trained |= {key: value for key, value in options(preset, stage).items() if key in vars(Sampling())}
        assert Sampling().changed(trained) == asked, preset


def test_defaults_are_those_of_the_config() -> None:
    for stage, config in (("vq", VQConfig), ("t2m", MaskTransformerConfig), ("res", ResidualTransformerConfig),
                          ("m2t", DecoderConfig), ("evaluator", EvaluatorConfig)):
        settings = vars(PARSERS[STAGES[stage]](["--name", "run", *NEEDED.get(stage, [])]))
        assert config.from_options(settings) == config()
    lamp = options("paper", "lamp")
    usual = vars(PARSERS["train_lamp.py"](["--name", "run", "--vq_name", "vq"]))
    for key in ("encoder_width", "cross_attention_freq", "dropout", "attention_dropout"):
        assert usual[key] == getattr(QFormerConfig(), key) == lamp[key]
    assert usual["embed_dim"] == LaMPConfig().embed_dim == lamp["embed_dim"]


def test_flags_after_a_file_take_precedence_and_comments_do_not_count(tmp_path: Path) -> None:
    file = tmp_path / "my.txt"
    file.write_text("# of mine\n\n--lr 1e-3 # fast\n--milestones 10 20\n--name 'a # b'\n")
    opt = parse_vq_options([f"@{file}", "--lr", "2e-3"])
    assert (opt.lr, opt.milestones, opt.name) == (2e-3, [10, 20], "a # b")
    assert parse_generate_options(["--text_prompt", f"@{file}"]).text_prompt == f"@{file}"


@pytest.mark.parametrize(("line", "message"), [
    ("--no_such_flag 3", "my.txt:2: this script has no flag --no_such_flag"),
    ("lr 3", "my.txt:2: expected '--flag value', not 'lr 3'"),
    ("--name 'a", "my.txt:2: No closing quotation")])
def test_wrong_lines_of_a_flag_file_are_named(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "my.txt").write_text(f"--name a\n{line}\n")
    with pytest.raises(InputError, match=re.escape(message)):
        parse_vq_options([f"@{tmp_path / 'my.txt'}"])
    with pytest.raises(InputError, match="cannot read flag file .*absent.txt"):
        parse_vq_options([f"@{tmp_path / 'absent.txt'}"])


def small(flags: tuple[str, ...], *without: str) -> list[str]:
    """Tiny overrides with one step, except those of ``without``, which the preset decides."""
    pairs = [pair for pair in zip(flags[::2], flags[1::2], strict=False) if pair[0] not in without]
    return [*(part for pair in pairs for part in pair), "--quiet", "--total_iter", "1"]


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_trains_generates_and_evaluates_at_toy_size(preset: str, tmp_path: Path) -> None:
    make_dataset(tmp_path / "data")
    make_bert(tmp_path / "bert")
    make_glove(tmp_path / "glove")
    make_llm(tmp_path / "llm")
    make_clip(tmp_path / "checkpoints" / Path(CLIP_NAME).name)

    def run(stage: str, *arguments: object, data: Sequence[str] = ("--data_root", "data")) -> None:
        script = importlib.import_module(STAGES[stage].removesuffix(".py"))
        lines = (ROOT / "configs" / preset / f"{stage}.txt").read_text().splitlines()
        flags = tmp_path / f"{stage}.txt"  # toy clips are not described by a contents.json, which --bank reads
        flags.write_text("\n".join(line for line in lines if not re.match(r"--bank\b", line)) + "\n")
        run_here(script.main, f"@{flags}", *data, "--gpu_id", "-1", *arguments, cwd=tmp_path)

    layered = options(preset, "vq")["num_quantizers"] > 1
    lamp = ["--lamp_name", "lamp"]
    run("vq", "--name", "vq", *small(TINY_VQ, "--num_quantizers"), "--evaluator", "none")
    run("lamp", "--name", "lamp", "--vq_name", "vq", *small(TINY_LAMP), "--bert", "bert", "--max_text_len", "16")
    transformer = ["--vq_name", "vq", *lamp, *small(TINY_T2M), "--evaluator", "none"]
    run("t2m", "--name", "t2m", *transformer)
    if layered:
        run("res", "--name", "res", *transformer)
    run("len", "--name", "len", *lamp, *small(TINY_LENGTH))
    run("evaluator", "--name", "judge", *small(TINY_EVALUATOR, "--negatives"), "--glove", "glove", "--negatives", "1")
    run("m2t", "--name", "m2t", "--vq_name", "vq", *lamp, *small(TINY_M2T), "--llm", "llm")

    models = ["--name", "t2m", "--res_name", "res" if layered else "none", "--time_steps", "2", "--quiet"]
    run("evaluate", *models, "--evaluator", "judge", "--repeat_times", "2", "--mm_texts", "1")
    report = read_report(tmp_path, "t2m")
    assert report["settings"]["protocol"] == ("fast" if preset == "demo" else "momask")
    assert list(report["results"])[2:] == ["base layer", "base + residual"][:1 + layered]
    assert all(row["fid"]["repeats"] for name, row in report["results"].items() if name != "real motion")

    run("generate", *models, "--len_name", "len", "--text_prompt", "a person walks", "--no_video", "--no_bvh",
        "--no_html", data=())
    motions = [np.load(file) for file in (tmp_path / "generation").rglob("*.npy")]
    assert len(motions) == 2  # with and without foot IK
    assert all(motion.shape[1:] == (22, 3) and np.isfinite(motion).all() for motion in motions)

    run("retrieval", "--name", "lamp", "--repeat_times", "2", "--quiet")
    report = read_report(tmp_path, "lamp")
    assert report["settings"]["similarity"] == options(preset, "retrieval")["similarity"]
    assert 0 <= report["results"]["all"]["t2m_R1"]["mean"] <= 100

    run_here(M2T_eval.main, "--resume-trans", "m2t", "--data_root", "data", "--gpu_id", "-1", "--quiet", cwd=tmp_path)
    assert read_report(tmp_path, "m2t", "M2T")["results"].keys() >= {"m2t", "nearest training motion"}
    written = json.loads((tmp_path / "output" / "M2T" / "captions.json").read_text())
    assert not any(one["m2t"].startswith("a man is") for one in written)  # published scores exclude the prompt


def read_report(home: Path, name: str, evaluation: str = "evaluation") -> dict[str, Any]:
    """The report of an evaluation."""
    return json.loads((home / "checkpoints" / "t2m" / name / "eval" / f"{evaluation}.json").read_text())
