"""The shell session of docs/own_data.md, from BVH files to a motion."""
import importlib
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from prepare.importing import read_sources
from tests.toy import ROOT, TINY_LAMP, TINY_LENGTH, TINY_M2T, TINY_T2M, TINY_VQ, make_bert, run_here

SAMPLES = ROOT.parent / "shared" / "data" / "bvh_samples"
GUIDE = ROOT / "docs" / "own_data.md"
PROMPTS = ("a person walks forward", "a person waves with the right hand", "a person raises the left hand",
           "someone runs", "a person bows", "a person walks and turns left", "someone raises both hands",
           "an old person walks", "a person kicks")
TAKES = 4


def session() -> list[list[str]]:
    """Commands of the guide's first shell block."""
    block = re.search(r"```bash\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    return [shlex.split(line)[1:] for line in block[1].splitlines() if line.startswith("python ")]


def run(script: str, *flags: object, cwd: Path) -> None:
    main = importlib.import_module(script.removesuffix(".py").replace("/", ".")).main
    run_here(main, *flags, cwd=cwd)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty BVH files with captions: samples if available, and exports of our generator."""
    home = tmp_path_factory.mktemp("own")
    (home / "prompts.txt").write_text("".join(f"{prompt}#64\n" for prompt in PROMPTS))
    run("gen_t2m.py", "--gpu_id", -1, "--ext", "made", "--text_path", "prompts.txt", "--repeat_times", TAKES,
        "--time_steps", 4, "--no_video", "--quiet", cwd=home)
    captures = home / "captures"
    captures.mkdir()
    lines = ["file,start,end,text"]
    for path in sorted((home / "generation" / "made").rglob("*.bvh")):
        if not path.stem.endswith("_ik"):
            (captures / "made").mkdir(exist_ok=True)
            (captures / "made" / path.name).write_bytes(path.read_bytes())
            lines.append(f"made/{path.name},,,{PROMPTS[int(path.parent.name)]}")
    for path in sorted(SAMPLES.glob("*.bvh")) if SAMPLES.is_dir() else ():
        (captures / path.name).write_bytes(path.read_bytes())
        lines.append(f"{path.name},,,a person moves about")
    (home / "captions.csv").write_text("\n".join(lines) + "\n")
    return home


def test_the_session_of_the_guide_ends_in_a_motion_and_a_caption(home: Path, capsys) -> None:
    smaller = {"train_vq.py": TINY_VQ, "train_lamp.py": (*TINY_LAMP, "--bert", make_bert(home / "bert")),
               "train_t2m_transformer.py": TINY_T2M, "train_res_transformer.py": TINY_T2M,
               "train_len_estimator.py": TINY_LENGTH, "train_m2t.py": TINY_M2T,
               "gen_t2m.py": ("--no_video", "--time_steps", 3, "--quiet"), "gen_m2t.py": ("--quiet",)}
    prepared = {"prepare/import_motion.py": "clips of a Mixamo/LAFAN1 rig in m, y up",
                "prepare/motion_features.py": "rows of features written", "prepare/check_data.py": "are sound"}
    done = set()
    for script, *flags in session():
        if script in smaller:
            flags += [*smaller[script], "--gpu_id", -1]
        elif script in prepared:
            flags += ["--quiet", "--workers", 1]
        run(script, *flags, cwd=home)
        assert prepared.get(script, "") in capsys.readouterr().out
        done.add(script)
    assert smaller.keys() | prepared.keys() < done
    root = home / "dataset" / "mine"
    files = {clip.file for clip in read_sources(root)}
    assert len([name for name in files if name.startswith("made/")]) == len(PROMPTS) * TAKES
    assert len(files) >= 40 or not SAMPLES.is_dir()
    assert (root / "contact_sheets" / "made.png").stat().st_size > 10000
    (joints,) = (path for path in (home / "generation" / "mine").rglob("*.npy") if not path.stem.endswith("_ik"))
    assert np.isfinite(np.load(joints)).all()
    (captions,) = home.rglob("captions.json")
    assert json.loads(captions.read_text())
