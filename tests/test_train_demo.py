"""The recipe of the bundled models: all its commands are valid."""
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_readme import PARSERS
from tests.toy import ROOT

# Replaces Python: records its arguments and creates the files that the recipe expects.
STAND_IN = """#!{python}
import json, pathlib, sys
with open("calls", "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
if "--name" in sys.argv:
    pathlib.Path("checkpoints/t2m", sys.argv[sys.argv.index("--name") + 1], "model").mkdir(parents=True, exist_ok=True)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "prepare").mkdir()
    shutil.copy(ROOT / "prepare" / "train_demo.sh", folder / "prepare")
    shutil.copytree(ROOT / "configs", folder / "configs")
    (folder / "python").write_text(STAND_IN.format(python=sys.executable))
    (folder / "python").chmod(0o755)
    return folder


def run(folder: Path) -> list[list[str]]:
    """Arguments of the commands in the recipe."""
    (folder / "calls").unlink(missing_ok=True)
    subprocess.run(["bash", "prepare/train_demo.sh", "DATA", "BERT"], cwd=folder, check=True,
                   env={**os.environ, "PYTHON": str(folder / "python")})
    return [json.loads(line) for line in (folder / "calls").read_text().splitlines()]


def test_the_recipe_trains_every_bundled_model_with_flags_that_its_script_takes(
        folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = run(folder)
    monkeypatch.chdir(folder)  # a run that starts from another looks for it while its flags are read
    trained = {opt.name for script, *flags in calls if script in PARSERS and (opt := PARSERS[script](flags))}
    packed, *names = calls[-1]
    assert packed == "prepare/bundle_model.py"
    assert set(names) <= trained
    assert {path.name for path in (ROOT / "pretrained" / "t2m").iterdir()} <= set(names)
