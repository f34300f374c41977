"""Prompt checks of motions made elsewhere."""
import json
from pathlib import Path

import numpy as np

from benchmarks import prompt_checks
from tests import figures
from tests.toy import run_here

PAIR = [{"text": f"raise the {side} hand", "group": "raise", "checks": [f"raises_{side}_hand"], "pair": "raise",
         "measure": "hand", "side": side} for side in ("left", "right")]


def test_the_script_judges_motions_made_elsewhere(tmp_path: Path, capsys) -> None:
    (tmp_path / "prompts.json").write_text(json.dumps(PAIR))
    for index, side in enumerate(("left", "right")):
        np.save(prompt_checks.joints_path(tmp_path, index, 0), figures.raising(side))
    run_here(prompt_checks.main, "--prompts", "prompts.json", "--joints", tmp_path, "--seeds", 1, "--out", "out.json",
             "--strips", "strips", cwd=tmp_path)
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "overall: 2 of    2  100.0 % passed, 1 of 1 left/right pairs distinguished"
    assert json.loads((tmp_path / "out.json").read_text())["overall"]["passed"] == 2
    assert sorted(path.name for path in (tmp_path / "strips").iterdir()) == ["00.png", "01.png"]
