"""Commands and links in the README and docs/ work."""
import re
import shlex
from pathlib import Path

import pytest

from options.evaluate import (
    parse_app_options,
    parse_generation_evaluation,
    parse_retrieval_evaluation,
    parse_search_options,
    parse_tokenizer_evaluation,
)
from options.generate import parse_edit_options, parse_generate_options
from options.m2t import parse_caption_options, parse_m2t_evaluation, parse_m2t_options
from options.train import (
    parse_evaluator_options,
    parse_lamp_options,
    parse_length_options,
    parse_res_options,
    parse_t2m_options,
    parse_vq_options,
)
from tests.toy import ROOT
from utils.errors import InputError

PARSERS = {
    "train_vq.py": parse_vq_options, "train_lamp.py": parse_lamp_options,
    "train_t2m_transformer.py": parse_t2m_options, "train_res_transformer.py": parse_res_options,
    "train_len_estimator.py": parse_length_options, "train_evaluator.py": parse_evaluator_options,
    "gen_t2m.py": parse_generate_options, "edit_t2m.py": parse_edit_options,
    "eval_t2m_vq.py": parse_tokenizer_evaluation,
    "eval_t2m_trans_res.py": parse_generation_evaluation, "eval_retrieval.py": parse_retrieval_evaluation,
    "train_m2t.py": parse_m2t_options, "M2T_eval.py": parse_m2t_evaluation, "gen_m2t.py": parse_caption_options,
    "search_motion.py": parse_search_options, "app.py": parse_app_options,
}


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands() -> list[str]:
    text = "\n".join(page.read_text() for page in PAGES)
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return sorted({line for line in lines if line.startswith("python ")})


@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_readme_has_a_script_that_takes_its_flags(command: str) -> None:
    _, script, *arguments = shlex.split(command)
    assert (ROOT / script).is_file()
    if script in PARSERS:
        PARSERS[script](arguments)
    else:
        assert script.startswith(("prepare/", "benchmarks/"))


def test_the_readme_shows_every_stage() -> None:
    shown = {shlex.split(command)[1] for command in commands()}
    assert PARSERS.keys() <= shown


def test_a_flag_that_does_not_exist_is_reported_in_one_line() -> None:
    with pytest.raises(InputError, match="--no_such_flag"):
        parse_vq_options(["--name", "a", "--no_such_flag"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_links_to_exist(page: Path) -> None:
    for path in re.findall(r"\]\((?!http|#)([^)#]+)[^)]*\)|src=\"(?!http)([^\"]+)\"", page.read_text()):
        assert (page.parent / "".join(path)).exists(), path
