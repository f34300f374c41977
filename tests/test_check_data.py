"""Data set checks find each kind of fault, and no fault in a valid data set."""
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.interpolate import interp1d

from data.dataset import dataset_spec
from data.text import read_captions
from motion.features import joints_to_features
from motion.skeleton import T2M
from prepare.add_captions import tag_by_list
from prepare.check_data import KINDS, fix_data, main
from prepare.checking import check_data
from prepare.importing import ImportJob, import_motion
from prepare.motion_features import FeatureJob, prepare_features
from tests.figures import walking
from tests.sample_motion import with_value
from tests.toy import clips, refusal, run_here

FLAGS = ("--workers", 1, "--quiet")


def moving() -> dict[str, tuple[str, np.ndarray]]:
    """Return the toy clips without those that stand still, which the check reports."""
    return {name: clip for name, clip in clips().items() if "still" not in clip[0]}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A valid data set of eighteen clips with captions, splits, mirrored twins and features."""
    source, root = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("data")
    names = []
    for name, (caption, joints) in moving().items():
        np.save(source / f"c{name}.npy", joints)
        (root / "texts").mkdir(exist_ok=True)
        (root / "texts" / f"c{name}.txt").write_text(f"{caption}#{tag_by_list(caption)}#0.0#0.0\n"
                                                     f"{caption}#{tag_by_list(caption)}#0.5#3.0\n")
        names.append(f"c{name}")
    import_motion(ImportJob(source, root), quiet=True)
    for part, chosen in (("val", names[:4]), ("test", names[4:8]), ("train", names[8:])):
        (root / f"{part}.txt").write_text("".join(f"{name}\n" for name in chosen))
    prepare_features(FeatureJob(root, T2M, None, mirrored=True), quiet=True)
    return root


@pytest.fixture
def root(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "data"))


def change(path: str, edit: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    return lambda root: np.save(root / path, edit(np.load(root / path)))


def write(path: str, text: str) -> Callable[[Path], None]:
    return lambda root: (root / path).write_text(text)


def append(path: str, text: str) -> Callable[[Path], None]:
    return lambda root: (root / path).write_text((root / path).read_text() + text)


def replace_clip(root: Path, joints: np.ndarray, name: str = "c0050", collars: object = None) -> None:
    """Write the features of other joints for a clip. ``collars`` (22, 3) sets the directions of its collar bones."""
    if collars is not None:
        joints = joints.copy()
        for joint, beyond in ((13, (16, 18, 20)), (14, (17, 19, 21))):
            moved = joints[:, 9] + 0.14 * np.array(collars[joint]) - joints[:, joint]
            joints[:, [joint, *beyond]] += moved[:, None]
    np.save(root / "new_joint_vecs" / f"{name}.npy", joints_to_features(joints, T2M))
    for folder in ("joints", "new_joints"):
        (root / folder / f"{name}.npy").unlink()


def slow_down(root: Path) -> None:
    """Replace all motions by ones recorded at 120 fps but stored as 20 fps."""
    for path in (root / "joints").iterdir():
        joints = np.load(path)
        np.save(path, interp1d(np.arange(len(joints)), joints, axis=0)(np.arange(80) / 6))
    (root / "sources.jsonl").unlink()
    for path in (root / "texts").iterdir():
        path.write_text(path.read_text().splitlines()[0])
    prepare_features(FeatureJob(root, T2M, None, mirrored=False), quiet=True)


FEATURES = "new_joint_vecs/c0050.npy"
COLUMNS = slice(4, 67)
FAULTS = {
    "NaN": (change(FEATURES, lambda x: with_value(x, (7, 9), np.nan)), "not finite"),
    "no file of numbers": (write(FEATURES, "x"), "unreadable features"),
    "wrong dimension": (change(FEATURES, lambda x: x[:, :251]), "wrong dimension"),
    "too short": (lambda root: replace_clip(root, np.load(root / "joints/c0050.npy")[:30]), "too short"),
    "too long": (lambda root: replace_clip(root, np.tile(np.load(root / "joints/c0080.npy"), (3, 1, 1))), "too long"),
    "slow motion": (slow_down, "wrong frame rate"),
    "other rate than the source": (lambda root: replace_clip(root, np.load(root / "joints/c0050.npy")[:50]),
                                   "wrong frame rate"),
    "under the floor": (change(FEATURES, lambda x: x - 0.2 * (np.arange(263) % 3 == 2) * (np.arange(263) < 67)
                               - 0.2 * (np.arange(263) == 3)), "under the floor"),
    "bones change": (change(FEATURES, lambda x: np.concatenate(
        [x[:, :4], x[:, COLUMNS] * np.linspace(0.8, 1.2, len(x))[:, None], x[:, 67:]], 1)), "bones change length"),
    "swapped sides": (lambda root: replace_clip(root, np.load(root / "joints/c0050.npy")[:, list(T2M.mirror_order)]),
                      "sides swapped"),
    "other axis up": (lambda root: replace_clip(root, np.load(root / "joints/c0050.npy")[..., [0, 2, 1]] * [1, 1, -1]),
                      "lies throughout"),
    "collars in world axes": (lambda root: replace_clip(root, walking(80, turn=2.0), collars=T2M.raw_offsets),
                              "bones do not turn"),
    "twin of a former clip": (lambda root: shutil.copy(root / FEATURES, root / "new_joint_vecs/Mc0050_001.npy"),
                              "twin without original"),
    "frozen": (lambda root: replace_clip(root, np.repeat(np.load(root / "joints/c0050.npy")[:1], 72, 0)),
               "does not move"),
    "joints of another clip": (change("new_joints/c0050.npy", lambda x: x[::-1]), "joints do not fit"),
    "no captions": (lambda root: (root / "texts/c0050.txt").unlink(), "no captions"),
    "caption with #": (write("texts/c0050.txt", "step #1#step/NOUN#0.0#0.0\n"), "caption with #"),
    "caption of one field": (write("texts/c0050.txt", "a person walks\n"), "caption unreadable"),
    "caption without words": (write("texts/c0050.txt", " ##0.0#0.0\n"), "caption empty"),
    "no tokens": (write("texts/c0050.txt", "a person walks##0.0#0.0\n"), "caption without tokens"),
    "times beyond the clip": (write("texts/c0050.txt", "he walks#he/PRON walk/VERB#1.0#9.0\n"), "caption times"),
    "no train split": (lambda root: (root / "train.txt").unlink(), "split missing"),
    "id without file": (append("train.txt", "nobody\n"), "split without file"),
    "file in no split": (lambda root: (root / "train.txt").write_text("c0040\nMc0040\n"), "in no split"),
    "id in two splits": (append("test.txt", "c0050\n"), "in two splits"),
    "id twice": (append("train.txt", "c0050\n"), "twice in a split"),
    "twin elsewhere": (lambda root: [append("test.txt", "Mc0050\n")(root), (root / "train.txt").write_text(
        (root / "train.txt").read_text().replace("Mc0050\n", ""))], "twin in another split"),
    "copy elsewhere": (lambda root: [shutil.copy(root / "new_joint_vecs/c0000.npy", root / "new_joint_vecs/copy.npy"),
                                     shutil.copy(root / "texts/c0000.txt", root / "texts/copy.txt"),
                                     append("train.txt", "copy\n")(root)], "copy in another split"),
    "no mean": (lambda root: (root / "Mean.npy").unlink(), "statistics"),
}


SAFE = ["NaN", "swapped sides", "no captions", "no tokens", "times beyond the clip", "id without file",
        "id in two splits", "id twice", "twin elsewhere", "copy elsewhere", "no mean"]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found_and_mended_if_that_is_safe(root: Path, fault: str) -> None:
    spec, (plant, kind) = dataset_spec("t2m", root), FAULTS[fault]
    plant(root)
    checked = check_data(spec)
    assert kind in KINDS
    assert kind in {found.kind for found in checked.faults}
    if fault in SAFE:
        assert fix_data(spec, checked, tag_by_list)
        left = {found.kind for found in check_data(spec).faults}
        assert left <= {"not finite", "sides swapped", "in no split"}  # damaged motions are only removed from splits
        assert kind not in left or "c0050" not in (root / "train.txt").read_text().split()


def test_mended_captions_say_what_they_said(root: Path) -> None:
    spec = dataset_spec("t2m", root)
    (root / "texts" / "c0050.txt").write_text(
        "step #1 now#step/NOUN#0.0#0.0\na person walks##1.0#9.0\nno fields\n ##0.0#0.0\n")
    fix_data(spec, check_data(spec), tag_by_list)
    lines = (root / "texts" / "c0050.txt").read_text().splitlines()
    assert lines[0] == "step 1 now#step/NOUN#0.0#0.0"
    assert lines[1].startswith("a person walks#a/DET person/NOUN walk/VERB#1.0#3.")
    assert len(lines) == 3
    assert len(read_captions(root / "texts" / "c0051.txt")) == 2


def test_the_script_exits_1_with_a_table_and_0_once_it_is_mended(root: Path, capsys) -> None:
    run_here(main, root, *FLAGS, cwd=root)
    assert "36 clips" in capsys.readouterr().out
    FAULTS["id without file"][0](root)
    FAULTS["no mean"][0](root)
    with pytest.raises(SystemExit, match="1"):
        run_here(main, root, *FLAGS, cwd=root)
    told = capsys.readouterr().out.splitlines()
    assert told[0].split()[:5] == ["split", "without", "file", "1", "nobody:"]
    assert told[1].split()[:3] == ["statistics", "1", "Mean.npy:"]
    assert told[2] == f"2 faults in 36 clips of {root}"
    run_here(main, root, "--fix", *FLAGS, cwd=root)
    assert "fixed: train.txt: 1 ids removed" in capsys.readouterr().out
    assert "nowhere" in refusal(main, root / "nowhere", cwd=root)
