"""Architecture rules: imports run downwards, scripts are short, nothing is unfinished or specific to one machine."""
import re
from pathlib import Path

import pytest

from tests.house import (
    broken_directions,
    find_circle,
    imported_modules,
    module_graph,
    package_graph,
    read_house,
    unsafe_loads,
)

ROOT = Path(__file__).resolve().parent.parent
TEXT = {".py", ".md", ".toml", ".yml", ".yaml", ".txt", ".sh", ".html", ".js", ".mjs", ".css", ""}
LONGEST_SCRIPT = 150
# Split into pieces, so that this file does not match.
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:" + "|".join(["work", "home", "root", "Users"]) + r")/\w")
HALF_DONE = re.compile("|".join([r"\bTO" + r"DO\b", r"\bFIX" + r"ME\b", r"\bXX" + r"X\b", "NotImplemented" + "Error"]))


@pytest.fixture(scope="module")
def house() -> dict[str, str]:
    return read_house(ROOT)


def _own_files() -> list[Path]:
    skipped = {".git", ".venv", "dataset", "checkpoints", "log", "generation", "output", "pretrained",
               "node_modules"}
    return [path for path in sorted(ROOT.rglob("*"))
            if path.is_file() and path.suffix in TEXT and not skipped & set(path.relative_to(ROOT).parts)
            and not any(part.startswith(".") and part != ".ci" for part in path.relative_to(ROOT).parts)]


def test_imports_run_downwards_and_nothing_imports_a_script(house):
    assert broken_directions(house) == []


def test_modules_and_packages_have_no_circles(house):
    assert find_circle(module_graph(house)) is None
    assert find_circle(package_graph(house)) is None


def test_scripts_are_thin():
    lengths = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in ROOT.glob("*.py")}
    assert {name: length for name, length in lengths.items() if length >= LONGEST_SCRIPT} == {}


def test_checkpoints_are_read_with_weights_only(house):
    assert {module: lines for module, text in house.items() if (lines := unsafe_loads(text))} == {}


@pytest.mark.parametrize("pattern", [MACHINE_PATH, HALF_DONE], ids=["paths of one machine", "half-done work"])
def test_no_file_contains(pattern):
    found = [f"{path.relative_to(ROOT)}:{number}: {line.strip()}" for path in _own_files()
             for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1)
             if pattern.search(line)]
    assert found == []


@pytest.mark.parametrize(("module", "text", "broken"), [
    ("motion.rotations", "from utils.files import write_text", "motion.rotations imports utils.files"),
    ("motion.rotations", "def f():\n    import pandas.io", "motion.rotations imports the library pandas"),
    ("utils.files", "import motion.skeleton", "utils.files imports motion.skeleton"),
    ("models.vq.model", "from data import specs", "models.vq.model imports data.specs"),
    ("models.vq.model", "from evaluation.metrics import fid", "models.vq.model imports evaluation.metrics"),
    ("models.vq.model", "import options", "models.vq.model imports options"),
    ("data.specs", "from prepare.motions import export", "data.specs imports prepare.motions"),
    ("visualization.html", "import serving.rooms", "visualization.html imports serving.rooms"),
    ("training.trainer", "from train_vq import main", "training.trainer imports the script train_vq"),
    ("gen_t2m", "import train_vq", "gen_t2m imports the script train_vq"),
])
def test_a_broken_direction_is_found(module, text, broken):
    made_up = {"motion.skeleton": "import numpy", "utils.files": "import os", "data.specs": "", "train_vq": "",
               "evaluation.metrics": "", "options": "", "prepare.motions": "", "serving.rooms": ""}
    assert broken_directions(made_up) == []
    assert broken_directions(made_up | {module: text}) == [broken]


def test_a_circle_is_found():
    modules = {"data.a": "from data import b", "data.b": "import data.c", "data.c": "from .a import x"}
    assert find_circle(module_graph(modules)) == ["data.a", "data.b", "data.c", "data.a"]
    packages = {"data.a": "import training.b", "training.b": "", "training.c": "import evaluation.d",
                "evaluation.d": "import data.a"}
    assert find_circle(module_graph(packages)) is None
    assert find_circle(package_graph(packages)) == ["data", "training", "evaluation", "data"]


def test_imports_are_read_with_their_modules():
    sources = {"models.vq": "from .model import VQ\nfrom . import model", "models.vq.model": "import torch"}
    assert imported_modules("models.vq", sources) == {"models.vq.model"}
    assert imported_modules("models.vq.model", sources) == {"torch"}


def test_an_unsafe_load_is_found():
    assert unsafe_loads("torch.load(p)\ntorch.load(p, weights_only=True)\ntorch.load(p, weights_only=x)") == [1, 3]
