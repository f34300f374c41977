"""Prompt checks of motions made elsewhere."""
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import prompt_checks
from benchmarks.physical_checks import SIDES
from benchmarks.physical_measures import HIPS, SHOULDERS
from motion.skeleton import T2M
from tests import figures
from tests.toy import run_here

PAIR = [{"text": f"raise the {side} hand", "group": "raise", "checks": [f"raises_{side}_hand"], "pair": "raise",
         "measure": "hand", "side": side} for side in ("left", "right")]


@pytest.mark.parametrize(("sideways", "forward", "side"), [(1, 0.5, "left"), (-1, 0.5, "right"), (0.5, 1, "neither")])
def test_the_side_of_a_side_step_does_not_depend_on_turns(sideways: float, forward: float, side: str) -> None:
    frames = 40
    heading = np.linspace(0, np.pi / 2, frames)
    steps = (sideways * np.stack([np.cos(heading), -np.sin(heading)], -1)
             + forward * np.stack([np.sin(heading), np.cos(heading)], -1)) / frames
    joints = np.zeros((frames, len(T2M), 3), np.float32)
    joints[:, :, [0, 2]] = steps.cumsum(0)[:, None]
    for left, right in (HIPS, SHOULDERS):
        joints[:, left, ::2] += 0.1 * np.stack([np.cos(heading), -np.sin(heading)], -1)
        joints[:, right, ::2] -= 0.1 * np.stack([np.cos(heading), -np.sin(heading)], -1)
    assert SIDES["sidestep"].shown(joints) == side


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
