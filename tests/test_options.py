"""Presets, flag files, help, and invalid flags."""
import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from models import config as kinds
from models.config import Sampling, VQConfig
from models.evaluator import Evaluator
from models.lamp.features import LaMPConfig
from models.lamp.lamp import LaMP
from models.lamp.qformer import QFormerConfig
from models.text_to_motion import LengthEstimator
from models.transformers.mask_transformer import MaskTransformer
from models.transformers.residual import ResidualTransformer
from models.vq.model import build_tokenizer
from options.base import plain_name
from options.generate import parse_generate_options
from options.train import parse_vq_options
from tests.test_readme import PARSERS
from tests.toy import ROOT
from utils import InputError

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
            MaskTransformer(kinds.MaskTransformerConfig.from_options(settings))
        elif stage == "res":
            ResidualTransformer(kinds.ResidualTransformerConfig.from_options(settings))
        elif stage == "len":
            LengthEstimator()
        elif stage == "evaluator":
            Evaluator(kinds.EvaluatorConfig.from_options(settings))
        elif stage == "m2t":
            kinds.DecoderConfig.from_options(settings)
            kinds.Writing().changed({"prompt": settings["prompt"], "num_beams": settings["num_beams"]})


def test_generation_presets_are_the_sampling_that_training_presets_write() -> None:
    for preset in PRESETS:
        asked = Sampling().changed(options(preset, "generate"))
        trained: dict[str, object] = {}
        for stage in ("t2m", "res", "len"):
            trained |= {key: value for key, value in options(preset, stage).items() if key in vars(Sampling())}
        assert Sampling().changed(trained) == asked, preset


def test_defaults_are_those_of_the_config() -> None:
    for stage, config in (("vq", VQConfig), ("t2m", kinds.MaskTransformerConfig), ("m2t", kinds.DecoderConfig),
                          ("res", kinds.ResidualTransformerConfig), ("evaluator", kinds.EvaluatorConfig)):
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


SCRIPTS = sorted(path.name for path in ROOT.glob("*.py"))
RUN = """
import contextlib, io, json, runpy, sys
sys.modules["torch"] = None  # importing it raises
for name in sys.argv[2:]:
    for flag in ("--help", "--no_such_flag"):
        sys.argv = [name, flag]
        told = io.StringIO()
        try:
            with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
                runpy.run_path(name, run_name="__main__")
        except SystemExit as end:
            print(json.dumps([name, flag, end.code, told.getvalue().split(":")[0]]))
"""


def test_every_script_answers_without_torch() -> None:
    done = subprocess.run([sys.executable, "-c", RUN, "", *SCRIPTS], cwd=ROOT, capture_output=True, text=True)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert answers == [[name, flag, *answer] for name in SCRIPTS
                       for flag, answer in (("--help", (0, "usage")), ("--no_such_flag", (2, "error")))], done.stderr


def test_results_stay_in_the_output_folder() -> None:
    assert plain_name("run 1.b") == "run 1.b"
    for name in ("../x", "a/b", "a\\b", "..", ".", ""):
        with pytest.raises(argparse.ArgumentTypeError, match="plain name"):
            plain_name(name)
