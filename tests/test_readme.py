"""Commands and links in the README and in docs/ work."""
import importlib
import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from options import evaluate, generate, train
from tests import toy
from tests.toy import ROOT
from tests.toy_published import MOMASK, make_published
from utils import InputError

PARSERS = {
    "train_vq.py": train.parse_vq_options, "train_lamp.py": train.parse_lamp_options,
    "train_t2m_transformer.py": train.parse_t2m_options, "train_res_transformer.py": train.parse_res_options,
    "train_len_estimator.py": train.parse_length_options, "train_evaluator.py": train.parse_evaluator_options,
    "gen_t2m.py": generate.parse_generate_options, "edit_t2m.py": generate.parse_edit_options,
    "eval_t2m_vq.py": evaluate.parse_tokenizer_evaluation,
    "eval_t2m_trans_res.py": evaluate.parse_generation_evaluation,
    "eval_retrieval.py": evaluate.parse_retrieval_evaluation, "train_m2t.py": train.parse_m2t_options,
    "M2T_eval.py": evaluate.parse_m2t_evaluation, "gen_m2t.py": evaluate.parse_caption_options,
    "search_motion.py": evaluate.parse_search_options, "app.py": evaluate.parse_app_options,
}
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


def test_a_flag_that_does_not_exist_is_reported_in_one_line() -> None:
    with pytest.raises(InputError, match="--no_such_flag"):
        train.parse_vq_options(["--name", "a", "--no_such_flag"])


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
    released = shlex.split(commands(PAGES[0])[-1])
    assert released[3] == MOMASK
    assert list((tmp_path / "generation" / "text2motion").rglob("*.npy"))
