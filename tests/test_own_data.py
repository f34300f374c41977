"""The shell session in docs/own_data.md prepares a user's data."""
import importlib
import re
import shlex
from pathlib import Path

import numpy as np

from data.dataset import dataset_spec
from data.text_motion import load_pairs
from motion.bvh_fit import joints_to_bvh
from motion.skeleton import T2M
from tests.toy import ROOT, clips, run_here


def session() -> list[list[str]]:
    """Return the commands in the first shell block of the guide."""
    block = re.search(r"```bash\n(.*?)```", (ROOT / "docs" / "own_data.md").read_text(), re.DOTALL)
    return [shlex.split(line)[1:] for line in block[1].splitlines() if line.startswith("python ")]


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
    scripts = []
    for script, *flags in session():
        if not script.startswith("prepare/"):  # training and generation: test_readme.py
            continue
        main = importlib.import_module(script.removesuffix(".py").replace("/", ".")).main
        quiet = ("--quiet", "--workers", 1) if script in told else ()
        run_here(main, *flags, *quiet, cwd=tmp_path)
        assert told.get(script, "") in capsys.readouterr().out
        scripts.append(script)
    assert told.keys() < set(scripts)
    spec = dataset_spec("t2m", tmp_path / "dataset" / "mine")
    assert len(load_pairs(spec, "train")) > 20
    assert np.isfinite(np.load(spec.root / "Mean.npy")).all()
