"""Blender reads the generated files, and ``prepare/retarget_blender.py`` transfers them to Mixamo characters."""
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from data.dataset import dataset_spec
from motion.bvh_fit import T2M_RIG
from tests.figures import walking
from tests.sample_motion import angles
from tests.toy import ROOT
from visualization.outputs import Formats, Made, write_motion

BLENDER = shutil.which("blender")
FRAMES, FPS = 40, 20
JOINTS = walking(FRAMES, turn=1.0)

pytestmark = pytest.mark.skipif(BLENDER is None, reason="there is no Blender: apt-get install blender python3-numpy")


def in_blender(script: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    # In a virtual environment, Debian's Blender would import its packages.
    environment = os.environ | {"PATH": os.defpath}
    environment.pop("VIRTUAL_ENV", None)
    return subprocess.run([BLENDER, "-b", "--factory-startup", "-P", str(ROOT / script), "--", *map(str, arguments)],
                          capture_output=True, text=True, timeout=300, env=environment)


def retarget(motion: Path, character: Path, out: Path) -> subprocess.CompletedProcess[str]:
    return in_blender("prepare/retarget_blender.py", "--motion", motion, "--character", character, "--out", out)


def seen(path: Path) -> dict[str, np.ndarray]:
    """Return a file as loaded by Blender: lowest points of the mesh, frames (T,), fps, and joints (T, 3) by name."""
    with np.load(f"{path}.npz") as file:
        names = [name.split(":")[-1].replace("ToeBase", "Toe") for name in file["names"].tolist()]
        return dict(file) | dict(zip(names, file["joints"].swapaxes(0, 1), strict=True))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the files of a motion, characters, retargeted characters, and what Blender reads from them."""
    folder = tmp_path_factory.mktemp("blender")
    motion = write_motion(folder, Made(0, 0, "a person walks", JOINTS), dataset_spec("t2m"),
                          Formats(video=False, glb=True))
    for path in map(Path, motion.plain_files):
        (folder / path).rename(folder / f"walk{path.suffix}")
    built = in_blender("tests/in_blender.py", "build", folder)
    if "No module named 'numpy'" in built.stdout + built.stderr:
        pytest.skip("this Blender has no NumPy: apt-get install python3-numpy")
    assert (folder / "robot.blend").is_file(), built.stdout + built.stderr
    for character, out in (("t_pose.fbx", "t.fbx"), ("a_pose.blend", "a.glb")):
        done = retarget(folder / "walk.bvh", folder / character, folder / out)
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"{FRAMES} frames at {FPS} fps" in done.stdout
    told = in_blender("tests/in_blender.py", "look", *(folder / name for name in (
        "walk.bvh", "walk.glb", "t.fbx", "a.glb")))
    assert (folder / "a.glb.npz").is_file(), told.stdout + told.stderr
    return folder


@pytest.fixture(params=["t.fbx", "a.glb"])
def character(request: pytest.FixtureRequest, folder: Path) -> dict[str, np.ndarray]:
    return seen(folder / request.param)


@pytest.mark.parametrize(("name", "first"), [("walk.bvh", 1), ("walk.glb", 0)])
def test_blender_sees_the_joints_frames_and_rate_of_our_files(folder: Path, name: str, first: int) -> None:
    found = seen(folder / name)
    assert found["fps"] == pytest.approx(FPS)
    assert found["frames"].tolist() == list(range(first, first + FRAMES))
    joints = np.stack([found[bone] for bone in T2M_RIG.names], 1)  # (T, J, 3), z up
    ours = np.load(folder / "walk.npy")[:, list(T2M_RIG.order)]
    assert np.abs(joints[..., [0, 2, 1]] * [1, 1, -1] - ours).max() < 1e-3


@pytest.mark.parametrize("side", ["Left", "Right"])
@pytest.mark.parametrize(("start", "end", "most"), [
    ("Arm", "ForeArm", 0.1), ("ForeArm", "Hand", 0.1), ("UpLeg", "Leg", 6), ("Leg", "Foot", 6)])
def test_limbs_follow_the_motion(folder: Path, character: dict, side: str, start: str, end: str, most: float) -> None:
    ours, theirs = (file[side + end] - file[side + start] for file in (seen(folder / "walk.bvh"), character))
    assert angles(ours, theirs).max() < most


@pytest.mark.parametrize("name", ["walk.glb", "t.fbx", "a.glb"])
def test_soles_are_on_the_floor(folder: Path, name: str) -> None:
    lowest = seen(folder / name)["lowest"]
    assert np.abs(np.median(lowest)) < 0.02
    assert lowest.min() > -0.03


@pytest.mark.parametrize(("character", "out", "complaint"), [
    ("robot.blend", "x.fbx", "robot.blend is not a Mixamo character: there is no bone mixamorig:Hips, only base"),
    ("t_pose.fbx", "x.obj", "x.obj must be one of .fbx, .glb, .blend")])
def test_what_cannot_be_done_is_reported_in_one_line(folder: Path, character: str, out: str, complaint: str) -> None:
    done = retarget(folder / "walk.bvh", folder / character, folder / out)
    assert done.returncode == 2
    assert "Traceback" not in done.stdout + done.stderr
    assert not (folder / out).exists()
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert re.search(complaint, line)
