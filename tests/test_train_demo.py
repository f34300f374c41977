"""The recipe of the bundled models: all its commands are valid."""
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_presets import STAGES
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


def test_the_recipe_trains_nothing_twice(folder: Path) -> None:
    run(folder)
    assert not [script for script, *_ in run(folder) if script in PARSERS]


def test_settings_of_the_recipe_are_those_of_the_presets(folder: Path) -> None:
    """Besides names, places and steps, only the parts of the tokenizer's training have flags in the script."""
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    general = {"--name", "--data_root", "--gpu_id", "--mixed_precision", "--total_iter", "--max_epoch", "--vq_name",
               "--lamp_name", "--bert", "--glove", "--evaluator"}
    parts = {"--milestones", "--loss_joint", "--loss_jerk", "--sample_codebook_temp", "--decoder_only",
             "--quantize_dropout_prob"}
    presets = {script: f"@configs/demo/{stage}.txt" for stage, script in STAGES.items()}
    trained = [(script, flags) for script, *flags in run(folder) if script in PARSERS]
    assert len({script for script, _ in trained}) == 7
    for script, flags in trained:
        assert presets[script] in flags
        named = {flag for flag in flags if flag.startswith("--")}
        assert named - general <= (parts if script == "train_vq.py" else set()), script
