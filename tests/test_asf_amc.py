"""ASF/AMC files are read like BVH files."""
from pathlib import Path

import numpy as np
import pytest

from motion.asf_amc import find_asf, read_amc
from motion.bvh import parse_bvh
from motion.recording import UNITS, normalised
from motion.skeleton import T2M
from prepare.importing import ImportJob, import_motion
from prepare.motion_sources import Reader
from tests.acclaim import amc_text, asf_text, motion, world
from tests.toy import ACCLAIM_SAMPLES, needs

WALK = motion(30)
LONG = motion(300)  # long enough for a clip


@pytest.fixture
def trial(tmp_path: Path) -> Path:
    """A motion file in a folder with its skeleton file."""
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "01.asf").write_text(asf_text())
    (folder / "01_02.amc").write_text(amc_text(WALK))
    return folder / "01_02.amc"


def expected(ends: dict[str, np.ndarray]) -> np.ndarray:
    """Return the 22 joints (T, 22, 3) for the end points of the bones."""
    joints = {"pelvis": ends["root"], "spine1": ends["lowerback"], "spine2": ends["upperback"],
              "spine3": (ends["upperback"] + ends["thorax"]) / 2, "neck": ends["lowerneck"],
              "head": (ends["upperneck"] + ends["head"]) / 2}
    for side in ("left", "right"):
        for joint, bone in (("hip", "hipjoint"), ("knee", "femur"), ("ankle", "tibia"), ("foot", "foot"),
                            ("shoulder", "clavicle"), ("elbow", "humerus"), ("wrist", "radius")):
            joints[f"{side}_{joint}"] = ends[f"{side[0]}{bone}"]
        joints[f"{side}_collar"] = 0.6 * ends["thorax"] + 0.4 * ends[f"{side[0]}clavicle"]
    return np.stack([joints[name] for name in T2M.joint_names], 1)


def test_joints_are_the_ends_of_bones(trial: Path) -> None:
    bvh = read_amc(trial)
    assert (bvh.names[0], bvh.parents[0], bvh.frame_time, len(bvh.values)) == ("root", -1, 1 / 120, 30)
    assert all(parent < joint for joint, parent in enumerate(bvh.parents))
    ends = world(WALK)
    starts = dict(zip(bvh.names, np.moveaxis(bvh.joints(), 1, 0), strict=True))
    for end, start in (("lfemur", "ltibia"), ("rradius", "rwrist"), ("thorax", "lowerneck"), ("lhipjoint", "lfemur")):
        np.testing.assert_allclose(starts[start], ends[end], atol=1e-4)
    tips = {bvh.names[joint]: tip for joint, tip in bvh.tips().items()}
    np.testing.assert_allclose(tips["rtoes"], ends["rtoes"], atol=1e-4)
    np.testing.assert_allclose(parse_bvh(bvh.text()).joints(), bvh.joints(), atol=1e-4)


def test_a_trial_is_imported_at_20_frames_a_second_in_metres(trial: Path) -> None:
    trial.write_text(amc_text(LONG))
    (clip,) = import_motion(ImportJob(trial.parent, trial.parent.parent / "out"), quiet=True).clips
    assert (clip.rig, clip.unit, clip.up, clip.end) == ("CMU ASF/AMC", "cmu", "y", 2.5)
    joints = np.load(trial.parent.parent / "out" / "joints" / "01_02.npy")
    np.testing.assert_allclose(joints, normalised(UNITS["cmu"] * expected(world(LONG))[::6]), atol=1e-4)


def variants() -> dict[str, tuple[str, str]]:
    """Return skeleton and motion files that store the same motion in different ways."""
    amc, asf = amc_text(WALK), asf_text()
    radians = {name: np.concatenate([values[:, :3], np.radians(values[:, 3:])], 1) if name == "root" else
               np.radians(values) for name, values in WALK.items()}
    still = {name: values for name, values in WALK.items() if name not in ("head", "lowerneck", "lwrist")}
    return {
        "first frame 135": (asf, amc_text(WALK, first=135)),
        "other order of bones": (asf, amc_text(dict(reversed(WALK.items())))),
        "Windows, with blank lines": (asf.replace("\n", "\r\n"), "\ufeff" + amc.replace("\n", "\r\n\r\n")),
        "comments": (asf.replace("  end\n", "  end # of a bone\n"), amc.replace("\n2\n", "\n# next\n2\n")),
        "motion in radians": (asf, amc_text(radians, header=":RADIANS\n")),
        "both in radians, the motion does not state it": (asf_text(radians=True), amc_text(radians, header="")),
        "bones that do not move left out": (asf, amc_text(still)),
    }


@pytest.mark.parametrize("kind", variants())
def test_files_may_be_written_in_other_ways(trial: Path, kind: str) -> None:
    plain = Reader().read(trial).joints
    asf, amc = variants()[kind]
    trial.with_name("01.asf").write_text(asf, newline="")
    trial.write_text(amc, newline="")
    np.testing.assert_allclose(Reader().read(trial).joints, plain, atol=1e-3)


def damaged() -> dict[str, tuple[str, str, str]]:
    """Return a skeleton file, a motion file and the expected reason for each kind of damage."""
    asf, amc = asf_text(), amc_text(WALK)
    first = "ltibia " + amc.split("ltibia ")[1].split("\n")[0]
    return {
        "unknown bone": (asf, amc.replace("ltibia", "tail"), r"01_02.*line \d+: tail is not a bone of 01.asf"),
        "too many values": (asf, amc.replace(first, first + " 1 2"), r"line \d+: expected 1 finite numbers"),
        "a word": (asf, amc.replace(first, "ltibia much"), r"line \d+: not a number: 'much'"),
        "missing in a frame": (asf, amc.replace("\n" + first, "", 1), r"ltibia is (missing|in 29)"),
        "lost frames": (asf, amc.replace("\n7\n", "\n9\n"), r"line \d+: frame 9 follows frame 6"),
        "no frames": (asf, ":DEGREES\n", "no frames"),
        "binary": (asf, "\udcff\udcfe", "not a text file"),
        "strange freedom": (asf.replace("dof rx\n", "dof l\n"), amc, r"01.asf, line \d+: degrees of freedom l"),
        "bad direction": (asf.replace("direction 0.342", "direction x"), amc, r"01.asf, line \d+: .*not a number"),
        "a bone nowhere": (asf.replace("lfemur ltibia\n", "lfemur\n"), amc, "ltibia is not in the hierarchy"),
        "axis order": (asf.replace("20  XYZ", "20  XXZ"), amc, "XXZ is not an order of axes"),
    }


@pytest.mark.parametrize("kind", damaged())
def test_what_is_wrong_is_named_with_file_and_line(trial: Path, kind: str) -> None:
    asf, amc, reason = damaged()[kind]
    trial.with_name("01.asf").write_text(asf)
    trial.write_text(amc, errors="surrogateescape")
    with pytest.raises(ValueError, match=reason):
        Reader().read(trial)


def test_the_skeleton_is_the_subjects_in_the_same_folder_or_the_one_above(tmp_path: Path) -> None:
    (tmp_path / "trials").mkdir()
    trial = tmp_path / "trials" / "01_02.amc"
    with pytest.raises(ValueError, match="no skeleton file found: put 01.asf next to it"):
        find_asf(trial)
    for path in ("1.asf", "011.asf", "trials/02.asf"):
        (tmp_path / path).write_text("")
    with pytest.raises(ValueError, match="no skeleton file found"):
        find_asf(trial)
    for path in ("01.ASF", "trials/01.asf", "trials/01_02.asf"):
        (tmp_path / path).write_text("")
        assert find_asf(trial) == tmp_path / path
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "body.asf").write_text("")
    assert find_asf(tmp_path / "one" / "walk.amc") == tmp_path / "one" / "body.asf"


@needs(ACCLAIM_SAMPLES)
@pytest.mark.parametrize("path", sorted(ACCLAIM_SAMPLES.glob("*.amc")), ids=lambda path: path.stem)
def test_cmu_trials_give_their_reference_joints(path: Path) -> None:
    recording = Reader(keep_t_pose=True).read(path)
    reference = np.load(ACCLAIM_SAMPLES / "joints_20fps.npz")[path.stem]
    np.testing.assert_allclose(recording.joints * recording.unit, reference, atol=1e-5)
