"""Commands: presets, flag files, help, and what the README and docs/ show."""
import argparse
import importlib
import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from data.dataset import dataset_spec
from data.text_motion import load_pairs
from models import config as kinds
from models.config import LaMPConfig, QFormerConfig, Sampling, VQConfig
from models.evaluator import Evaluator
from models.lamp.lamp import LaMP
from models.text_to_motion import LengthEstimator
from models.transformers.mask_transformer import MaskTransformer
from models.transformers.residual import ResidualTransformer
from models.vq.model import build_tokenizer
from motion.bvh_fit import joints_to_bvh
from motion.skeleton import T2M
from options.base import plain_name
from options.generate import parse_generate_options
from options.train import parse_vq_options
from tests import toy
from tests.toy import ROOT, clips, run_here
from tests.toy_published import make_published
from utils import InputError


def parser_of(script: Path) -> Callable[[list[str]], argparse.Namespace]:
    """Return the function by which a script parses its command line."""
    module, name = re.search(r"^from (options\.\w+) import .*?(parse_\w+)", script.read_text(), re.MULTILINE).groups()
    return getattr(importlib.import_module(module), name)


PARSERS = {script.name: parser_of(script) for script in ROOT.glob("*.py")}
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(*pages: Path) -> list[str]:
    """Return the Python commands in the shell blocks of pages, in order."""
    blocks = re.findall(r"```bash\n(.*?)```", "\n".join(page.read_text() for page in pages), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return list(dict.fromkeys(line for line in lines if line.startswith("python ")))


@pytest.mark.parametrize("command", commands(*PAGES))
def test_a_command_of_the_readme_has_a_script_that_takes_its_flags(command: str) -> None:
    _, script, *arguments = shlex.split(command)
    assert (ROOT / script).is_file()
    if script in PARSERS:
        PARSERS[script](arguments)
    else:
        assert script.startswith(("prepare/", "benchmarks/"))


def test_the_readme_shows_every_stage() -> None:
    shown = {shlex.split(command)[1] for command in commands(PAGES[0])}
    assert PARSERS.keys() <= shown


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_links_to_exist(page: Path) -> None:
    for path in re.findall(r"\]\((?!http|#)([^)#]+)[^)]*\)|src=\"(?!http)([^\"]+)\"", page.read_text()):
        assert (page.parent / "".join(path)).exists(), path


QUICK = ("--time_steps", 2, "--no_video", "--quiet")
TOY_FLAGS = {
    "gen_t2m.py": QUICK, "edit_t2m.py": QUICK, "gen_m2t.py": ("--quiet",), "search_motion.py": (),
    "train_vq.py": toy.TINY_VQ, "train_lamp.py": (*toy.TINY_LAMP, "--bert", "bert"),
    "train_t2m_transformer.py": toy.TINY_T2M, "train_res_transformer.py": toy.TINY_T2M,
    "train_len_estimator.py": toy.TINY_LENGTH, "train_evaluator.py": toy.TINY_EVALUATOR, "train_m2t.py": toy.TINY_M2T,
    "eval_t2m_vq.py": ("--repeat_times", 1, "--quiet"), "M2T_eval.py": ("--quiet",),
    "eval_t2m_trans_res.py": ("--repeat_times", 1, "--mm_texts", 1, "--quiet"),
    "eval_retrieval.py": ("--repeat_times", 1, "--quiet"),
}


def test_the_commands_of_the_readme_run_at_toy_size(tmp_path: Path) -> None:
    toy.make_dataset(tmp_path / "dataset" / "HumanML3D")
    toy.make_bert(tmp_path / "bert")
    toy.make_glove(tmp_path / "glove")
    make_published(tmp_path / "checkpoints")
    (tmp_path / "checkpoints" / "t2m" / "t2m").rename(tmp_path / "checkpoints" / "t2m" / "lamp_t2m")  # as downloaded
    (tmp_path / "assets").symlink_to(ROOT / "assets")
    for command in commands(PAGES[0]):
        _, script, *flags = shlex.split(command)
        if script == "prepare/import_motion.py":
            shutil.copytree(tmp_path / "generation" / "exp1" / "animation", tmp_path / "captures")
            flags += ["--quiet"]
        elif script == "app.py":  # runs until stopped
            continue
        else:
            flags += [*TOY_FLAGS[script], "--gpu_id", -1]
        if "--path" in flags or "--constraints" in flags or "--loop" in flags:
            flags += ["--control_steps", 2]
        main = importlib.import_module(script.removesuffix(".py").replace("/", ".")).main
        toy.run_here(main, *flags, cwd=tmp_path)
    for ext in ("exp1", "exp2", "exp3", "exp4", "edit"):
        motions = [np.load(path) for path in (tmp_path / "generation" / ext).rglob("*.npy")]
        assert {motion.shape[1:] for motion in motions} == {(22, 3)}, ext
        assert {len(motion) for motion in motions} == {120} or ext == "exp4", ext  # has sampled lengths
    assert json.loads((tmp_path / "generation" / "motion2text" / "captions.json").read_text())
    assert json.loads((tmp_path / "generation" / "search" / "search.json").read_text())["found"]
    assert list((tmp_path / "dataset" / "mine" / "joints").iterdir())
    for name in ("vq_name", "mtrans_name", "lamp_name", "m2t_name"):
        (report,) = (tmp_path / "checkpoints" / "t2m" / name / "eval").glob("*.json")
        assert json.loads(report.read_text())["results"]
    assert shlex.split(commands(PAGES[0])[-1])[3] == "lamp_t2m"
    assert list((tmp_path / "generation" / "text2motion").rglob("*.npy"))


def test_the_session_of_the_guide_makes_a_data_set_of_bvh_files_and_a_table_of_captions(tmp_path: Path, capsys) -> None:
    (tmp_path / "captures").mkdir()
    lines = ["file,start,end,text"]
    for name, (caption, joints) in clips().items():
        if "still" not in caption:  # the check would report it
            (tmp_path / "captures" / f"c{name}.bvh").write_text(joints_to_bvh(100 * joints, T2M, 20).text())
            lines.append(f"c{name}.bvh,,,{caption}")
    (tmp_path / "captions.csv").write_text("\n".join(lines) + "\n")
    told = {"prepare/import_motion.py": "18 clips of a Mixamo/LAFAN1 rig in cm, y up",
            "prepare/motion_features.py": "rows of features written", "prepare/check_data.py": "are valid"}
    scripts, block = [], re.search(r"```bash\n(.*?)```", (ROOT / "docs" / "own_data.md").read_text(), re.DOTALL)
    for script, *flags in (shlex.split(line)[1:] for line in block[1].splitlines() if line.startswith("python ")):
        if not script.startswith("prepare/"):  # training and generation: see above
            continue
        main = importlib.import_module(script.removesuffix(".py").replace("/", ".")).main
        quiet = ("--quiet", "--workers", 1) if script in told else ()
        run_here(main, *flags, *quiet, cwd=tmp_path)
        assert told.get(script, "") in capsys.readouterr().out
        scripts.append(script)
    assert told.keys() < set(scripts)
    assert len(load_pairs(dataset_spec("t2m", tmp_path / "dataset" / "mine"), "train")) > 20


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


def lamp(given: dict[str, object]) -> LaMP:
    sizes = {key: given[key] for key in ("encoder_width", "cross_attention_freq", "dropout", "attention_dropout")}
    config = LaMPConfig(QFormerConfig(**sizes), VQConfig(), given["embed_dim"], given["published_behaviour"])
    return LaMP(config, build_tokenizer(VQConfig()))


BUILDS = {"vq": lambda given: build_tokenizer(VQConfig.from_options(given)), "lamp": lamp,
          "t2m": lambda given: MaskTransformer(kinds.MaskTransformerConfig.from_options(given)),
          "res": lambda given: ResidualTransformer(kinds.ResidualTransformerConfig.from_options(given)),
          "evaluator": lambda given: Evaluator(kinds.EvaluatorConfig.from_options(given)),
          "len": lambda _: LengthEstimator(), "m2t": kinds.DecoderConfig.from_options}


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("stage", STAGES)
def test_a_preset_parses_and_builds_its_model(preset: str, stage: str) -> None:
    settings = options(preset, stage)
    with torch.device("meta"):  # full sizes without memory
        BUILDS.get(stage, dict)(settings)


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
    for stage in ("vq", "t2m", "res"):  # FID is biased on few clips
        assert vars(PARSERS[STAGES[stage]](["--name", "run", *NEEDED.get(stage, [])]))["fid_clips"] is None
    assert PARSERS["M2T_eval.py"]([]).references == "verbatim"
    assert PARSERS["eval_retrieval.py"]([]).similarity == "mean"


def test_flags_after_a_file_take_precedence_and_comments_do_not_count(tmp_path: Path) -> None:
    file = tmp_path / "my.txt"
    file.write_text("# of mine\n\n--lr 1e-3 # fast\n--milestones 10 20\n--name 'a # b'\n")
    opt = parse_vq_options([f"@{file}", "--lr", "2e-3"])
    assert (opt.lr, opt.milestones, opt.name) == (2e-3, [10, 20], "a # b")
    assert parse_generate_options(["--text_prompt", f"@{file}"]).text_prompt == f"@{file}"


@pytest.mark.parametrize(("line", "message"), [
    ("--no_such_flag 3", "my.txt:2: this script has no flag --no_such_flag"),
    ("lr 3", "my.txt:2: expected '--flag value', not 'lr 3'")])
def test_wrong_lines_of_a_flag_file_are_named(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "my.txt").write_text(f"--name a\n{line}\n")
    with pytest.raises(InputError, match=re.escape(message)):
        parse_vq_options([f"@{tmp_path / 'my.txt'}"])


@pytest.mark.parametrize(("script", "flag", "code", "start"), [
    *((script, "--help", 0, "usage:") for script in PARSERS), ("train_vq.py", "--no_such_flag", 2, "error:")])
def test_a_script_answers_without_torch(script: str, flag: str, code: int, start: str, tmp_path: Path) -> None:
    done = toy.run_script(script, flag, cwd=tmp_path, check=False, options=toy.WITHOUT_TORCH)
    assert done.returncode == code and (done.stdout + done.stderr).startswith(start)


def test_results_stay_in_the_output_folder() -> None:
    assert plain_name("run 1.b") == "run 1.b"
    for name in ("../x", "a/b", "a\\b", "..", ".", ""):
        with pytest.raises(argparse.ArgumentTypeError, match="plain name"):
            plain_name(name)
