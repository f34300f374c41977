"""Import of motion capture folders, HumanML3D and openmotion. Unusable files are listed with a reason."""
import json
import os
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import prepare.import_motion
from data.dataset import dataset_spec
from motion.bvh_fit import joints_to_bvh
from motion.features import canonical_positions
from motion.recording import joined, normalised, resampled_pose, steady_runs
from motion.skeleton import T2M
from motion.source_rig import place_joints
from prepare.build_openmotion import build_openmotion, read_index
from prepare.checking import check_data
from prepare.humanml3d import Folders, main, make_joints, read_cuts
from prepare.importing import LONGEST, Imported, ImportJob, import_motion, read_sources
from prepare.motion_features import FeatureJob, prepare_features
from prepare.motion_sources import Reader, Recording, read_mapping
from tests import figures
from tests.sample_motion import turned, with_up
from tests.toy import ACCLAIM_SAMPLES, BVH_SAMPLES, needs, refusal, run_here
from utils import InputError

WALK = figures.walking(60)


def bvh_text(joints: np.ndarray = WALK) -> str:
    return joints_to_bvh(joints, T2M, 20).text()


def imported(source: Path, **given: object) -> Imported:
    return import_motion(ImportJob(source, source.parent / "out", **given), quiet=True)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "sub").mkdir(parents=True)
    (folder / "walk.bvh").write_text(bvh_text())
    np.save(folder / "sub" / "wave.npy", figures.waving("right", 60))
    return folder


def clip(source: Path, name: str) -> np.ndarray:
    return np.load(source.parent / "out" / "joints" / f"{name}.npy")


def test_clips_are_in_metres_on_the_floor_and_face_z(source: Path) -> None:
    (source / "large.bvh").write_text(bvh_text(100 * (WALK + [3, 1, 2])))
    result = imported(source)
    assert [entry.id for entry in result.clips] == ["large", "sub_wave", "walk"]
    assert read_sources(source.parent / "out") == result.clips
    for name in ("walk", "large"):
        np.testing.assert_allclose(clip(source, name), normalised(WALK), atol=1e-3)
        assert clip(source, name)[..., 1].min() == pytest.approx(0, abs=1e-6)
    assert {entry.file: entry.unit for entry in result.clips} == {
        "walk.bvh": "m", "large.bvh": "cm", "sub/wave.npy": "m"}


def test_long_recordings_become_even_windows(source: Path) -> None:
    np.save(source / "long.npy", figures.walking(390, turn=6.0))
    result = imported(source, overlap=20)
    spans = [(entry.start, entry.end) for entry in result.clips if entry.file == "long.npy"]
    assert len(spans) == 3 and (spans[0][0], spans[-1][1]) == (0, 19.5)
    assert all(later[0] <= earlier[1] - 1 for earlier, later in zip(spans, spans[1:], strict=False))
    assert [len(clip(source, f"long_{number:03d}")) for number in range(3)] == [LONGEST] * 3


def test_flips_are_cut_out() -> None:
    joints = figures.walking(150).copy()
    joints[70, 5:] += 3
    assert steady_runs(joints, 41) == [(0, 69), (72, 150)]
    assert steady_runs(figures.walking(150), 41) == [(0, 150)]


def test_t_poses_at_the_ends_are_left_out_and_reported(source: Path) -> None:
    high, low = np.full(30, np.pi / 2), np.full(60, 0.1)
    angle = np.concatenate([high, np.linspace(high[0], low[0], 20), low, np.linspace(low[0], high[0], 20), high])
    np.save(source / "t.npy", figures.figure(160, arms=(angle, angle)))
    result = imported(source)
    assert 3.0 < result.cut["t.npy"] < 4.2
    assert len(clip(source, "t")) == pytest.approx(160 - 20 * result.cut["t.npy"], abs=1)
    imported(source, reader=Reader(keep_t_pose=True))
    assert len(clip(source, "t")) == 160


@pytest.mark.parametrize("stated", ["50", "0"])
def test_a_frame_rate_replaces_frame_times_that_are_none(source: Path, stated: str) -> None:
    (source / "rate.bvh").write_text(bvh_text().replace("Frame Time: 0.050000", f"Frame Time: {stated}"))
    refused = imported(source).refused
    assert re.search(rf"line \d+: .*{stated}.* s", refused["rate.bvh"])
    assert not imported(source, reader=Reader(fps=20.0)).refused
    np.testing.assert_array_equal(clip(source, "rate"), clip(source, "walk"))
    slow = imported(source, reader=Reader(fps=10.0))
    assert {entry.id: entry.end for entry in slow.clips} == {"rate": 5.95, "walk": 5.95, "sub_wave": 5.95}


def test_legs_are_measured_in_the_given_unit(source: Path) -> None:
    (source / "walk.bvh").write_text(bvh_text(WALK / 0.0564444))
    assert {entry.unit for entry in imported(source).clips if entry.id == "walk"} == {"cmu"}
    np.testing.assert_allclose(clip(source, "walk"), normalised(WALK), atol=1e-3)
    assert imported(source, unit=0.06).clips[-1].unit == "units of 0.06 m"
    assert "likely cmu" in imported(source, unit="m").refused["walk.bvh"]


def damaged(folder: Path) -> dict[str, str]:
    """Write unusable files. Returns a part of the expected reason for each."""
    good = bvh_text()
    lines = good.splitlines()
    texts = {
        "truncated.bvh": (good[:len(good) // 2], "rows|values"),
        "walk.c3d": ("", "the file contains markers, not joints; solve .* export BVH"),
        "frames_lie.bvh": (good.replace("Frames: 60", "Frames: 2000000000"), "2000000000 frames"),
        "nan.bvh": ("\n".join([*lines[:-1], "nan " + lines[-1].split(" ", 1)[1]]), "not finite"),
        "unknown_joints.bvh": (good.replace("Left", "Sinister"), "unknown joints"),
        "short.bvh": (bvh_text(WALK[:20]), "steady motion"),
        "mirrored.bvh": (bvh_text(WALK * [-1, 1, 1]), "swapped"),
        "wrong_axis.bvh": (bvh_text(with_up(WALK, "z")), "seems to be up"),
        "collides_name.bvh": (good, "have the same id"),
    }
    for name, (text, _) in texts.items():
        (folder / name).write_text(text)
    (folder / "collides name.bvh").write_text(good)  # imported first
    arrays = {
        "flat.npy": (np.zeros((60, 66)), "shape"),
        "bones_change.npy": (WALK * np.linspace(0.5, 1.5, 60)[:, None, None], "bone lengths vary"),
    }
    for name, (array, _) in arrays.items():
        np.save(folder / name, array)
    np.savez(folder / "no_amass.npz", joints=WALK)
    np.savez(folder / "no_model.npz", poses=np.zeros((60, 156)), trans=np.zeros((60, 3)), mocap_framerate=60.0)
    with (folder / "two_gigabytes.npy").open("wb") as file:
        file.truncate(2 << 30)  # a sparse file
    with zipfile.ZipFile(folder / "slip.npz", "w") as archive:
        archive.writestr("../../poses.npy", b"")
    os.symlink(folder, folder / "circle")
    return {name: reason for name, (_, reason) in {**texts, **arrays}.items()} | {
        "no_amass.npz": "not an AMASS", "no_model.npz": "body model", "two_gigabytes.npy": r"2\.0 GB",
        "slip.npz": "points outside", "circle": "links to folders"}


def test_every_damaged_file_is_named_with_its_reason_and_the_good_ones_are_imported(source: Path) -> None:
    reasons = damaged(source)
    (source / "ходьба ü.bvh").write_text("\ufeff" + bvh_text().replace("\n", "\r\n"))  # as some editors leave it
    result = imported(source)
    assert result.refused.keys() == reasons.keys()
    listed = (source.parent / "out" / "not_imported.txt").read_text().splitlines()
    for line, (name, reason) in zip(listed, sorted(reasons.items()), strict=True):
        assert line.startswith(f"{name}: ")
        assert re.search(reason, line), line
    assert {entry.id for entry in result.clips} == {"walk", "sub_wave", "collides_name", "ходьба_ü"}


def test_clips_that_would_be_taken_for_mirrored_twins_are_refused(source: Path) -> None:
    (source / "Mwalk.bvh").write_text(bvh_text())
    assert list(imported(source).refused) == ["walk.bvh"]


def body_model() -> dict[str, np.ndarray]:
    """Return a body model with one vertex per joint: the 22 joints of the figure, then fingers."""
    rest = figures.standing(1)[0] - figures.standing(1)[0, 0]
    template = np.concatenate([rest, np.repeat(rest[20:], 15, 0)]).astype(np.float64)
    parents = np.array([*T2M.parents, *[20] * 15, *[21] * 15])
    shapes = np.zeros((52, 3, 2))
    shapes[..., 0] = template
    return {"v_template": template, "shapedirs": shapes, "J_regressor": np.eye(52),
            "kintree_table": np.stack([parents, np.arange(52)])}


def test_amass_archives_become_clips_with_the_users_body_model(source: Path, tmp_path: Path) -> None:
    (tmp_path / "models" / "neutral").mkdir(parents=True)
    np.savez(tmp_path / "models" / "neutral" / "model.npz", **body_model())
    frames = 241
    poses = np.zeros((frames, 156))
    poses[:, 0] = np.pi / 2                      # from y up to z up
    poses[:, 3 * 16] = np.linspace(0, 1, frames)  # the left shoulder turns
    trans = np.zeros((frames, 3))
    trans[:, 0] = np.linspace(0, 2, frames)
    np.savez(source / "amass.npz", poses=poses, trans=trans, betas=np.array([0.1, 0.0, 0.0]), gender="female",
             mocap_framerate=120.0)
    result = imported(source, reader=Reader(body_models=tmp_path / "models"))
    entry = next(entry for entry in result.clips if entry.id == "amass")
    assert (entry.rig, entry.up, entry.unit) == ("AMASS", "z", "m")
    joints = clip(source, "amass")
    assert joints.shape == (41, 22, 3)
    leg = np.linalg.norm(joints[0, 4] - joints[0, 1])
    assert leg == pytest.approx(1.1 * np.linalg.norm(figures.standing(1)[0, 4] - figures.standing(1)[0, 1]), abs=1e-4)
    np.testing.assert_allclose(joints[-1, 0] - joints[0, 0], [2, 0, 0], atol=1e-5)


def test_arrays_with_other_joints_are_read_with_a_mapping(source: Path, tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(22)
    np.save(source / "other.npy", np.concatenate([np.zeros((60, 1, 3)), WALK[:, order]], 1))
    mapping = {name: int(np.flatnonzero(order == joint)[0]) + 1 for joint, name in enumerate(T2M.joint_names)}
    (tmp_path / "rig.json").write_text(json.dumps(mapping))
    result = imported(source, reader=Reader(read_mapping(tmp_path / "rig.json")))
    assert "other" in {entry.id for entry in result.clips}
    np.testing.assert_allclose(clip(source, "other"), normalised(WALK), atol=1e-5)


@pytest.mark.parametrize(("text", "reason"), [
    ("{", "not JSON"), ('{"tail": "x"}', "tail is not one of"), ("{}", "lacks pelvis"),
    ('{"pelvis": {"a": 0.5}}', "sum to 0.5"), ('{"pelvis": []}', "neither")])
def test_an_invalid_mapping_is_reported(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "rig.json").write_text(text)
    with pytest.raises(InputError, match=reason):
        read_mapping(tmp_path / "rig.json")


def test_a_mapping_begun_for_an_unknown_rig_is_filled_in_and_used(source: Path, tmp_path: Path) -> None:
    text = bvh_text().replace("LeftLeg", "Knie.li").replace("RightForeArm", "Ellbogen.re")
    for name in ("own.bvh", "sub/own 2.bvh"):
        (source / name).write_text(text)
    refused = imported(source).refused
    begun = tmp_path / "out" / "mappings" / "own.json"
    assert refused.keys() == {"own.bvh", "sub/own 2.bvh"}
    for reason in refused.values():
        assert re.search(r"closest rig is Mixamo/LAFAN1, but there is no LeftLeg, RightForeArm; .*mapping", reason)
        assert reason.endswith(f"draft in {begun}")
    with pytest.raises(InputError, match="the bones of left_knee, right_elbow are empty"):
        read_mapping(begun)
    mapping = json.loads(begun.read_text())
    assert "Knie.li" in mapping["_bones"]
    begun.write_text(json.dumps(mapping | {"left_knee": "Knie.li", "right_elbow": "Ellbogen.re"}))
    imported(source)  # does not overwrite the draft
    assert {"own", "sub_own_2"} <= {entry.id for entry in imported(source, reader=Reader(read_mapping(begun))).clips}
    np.testing.assert_allclose(clip(source, "own"), normalised(WALK), atol=1e-3)


def test_folders_without_motion_are_reported(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a folder"):
        imported(tmp_path / "nowhere")
    (tmp_path / "source").mkdir()
    with pytest.raises(InputError, match="no motion file"):
        imported(tmp_path / "source")
    (tmp_path / "source" / "a.bvh").write_text("x")
    with pytest.raises(InputError, match="none of the 1 motion files.*a.bvh: line 1: expected HIERARCHY"):
        imported(tmp_path / "source")


def test_the_script_reports_what_it_found_and_draws_contact_sheets(source: Path, tmp_path: Path, capsys) -> None:
    (source / "bad.bvh").write_text("x")
    (source / "walk_ik.bvh").write_text(bvh_text())
    run_here(prepare.import_motion.main, source, tmp_path / "out", "--quiet", "--workers", 1, cwd=tmp_path)
    told = capsys.readouterr().out
    assert "2 clips of a Mixamo/LAFAN1 rig in m, y up" in told
    assert "1 files are foot-locked copies of other files, such as walk_ik.bvh" in told
    assert "not imported: bad.bvh: line 1: expected HIERARCHY" in told
    assert f"3 clips, 0.1 minutes, written to {tmp_path / 'out' / 'joints'}" in told
    assert {path.name for path in (tmp_path / "out" / "contact_sheets").iterdir()} == {"all.png", "sub.png"}


@pytest.mark.parametrize("flags", [("--window", "20"), ("--unit", "ell"), ("--mapping", "nowhere.json")])
def test_bad_flags_are_refused(source: Path, tmp_path: Path, flags) -> None:
    assert flags[1] in refusal(prepare.import_motion.main, source, tmp_path / "out", *flags, cwd=tmp_path)


class Breaking(Reader):
    def read(self, path: Path) -> Recording:
        if path.stem == "ends":
            os._exit(1)
        if path.stem == "odd":
            raise KeyError("left_hip")
        return super().read(path)


def test_a_file_that_ends_its_process_costs_no_other(source: Path) -> None:
    for name in ("ends", "odd"):
        np.save(source / f"{name}.npy", WALK)
    result = import_motion(ImportJob(source, source.parent / "out", Breaking()), 2, quiet=True)
    assert len(result.clips) == 2
    assert "crashed the process" in result.refused["ends.npy"]
    assert result.refused["odd.npy"] == "KeyError: 'left_hip'"


def clips_everywhere(root: Path) -> set[str]:
    files = [path for folder in ("joints", "new_joints", "new_joint_vecs", "texts")
             for path in (root / folder).iterdir()]
    lists = [name for split in ("train", "val", "test") for name in (root / f"{split}.txt").read_text().split()]
    return {path.stem for path in files} | set(lists) | {clip.id for clip in read_sources(root)}


@pytest.fixture
def data_set(tmp_path: Path) -> Path:
    """Three clips of a long recording and two short ones, with captions, splits, features and mirrored twins."""
    source, root = tmp_path / "source", tmp_path / "data"
    source.mkdir()
    np.save(source / "long.npy", figures.walking(150, turn=3.0))
    for name in ("a", "b"):
        np.save(source / f"{name}.npy", figures.waving("left" if name == "a" else "right", 60))
    import_motion(ImportJob(source, root, window=50), quiet=True)
    (root / "texts").mkdir()
    for clip in read_sources(root):
        (root / "texts" / f"{clip.id}.txt").write_text("a person moves#a/DET person/NOUN move/VERB#0.0#0.0\n")
    for split, names in (("train", "long_000 long_001 long_002"), ("val", "a_000 a_001"), ("test", "b_000 b_001")):
        (root / f"{split}.txt").write_text("".join(f"{name}\n" for name in names.split()))
    prepare_features(FeatureJob(root, T2M, None, mirrored=True), quiet=True)
    assert {"long_002", "Mlong_002"} <= clips_everywhere(root)
    return root


def test_fewer_clips_leave_no_file_and_no_split_entry_of_those_that_are_gone(data_set: Path) -> None:
    result = import_motion(ImportJob(data_set.parent / "source", data_set, window=80), quiet=True)
    assert sorted(result.removed) == ["a_000", "a_001", "b_000", "b_001", "long_002"]
    left = clips_everywhere(data_set)
    assert left == {"a", "b", "long_000", "long_001", "Mlong_000", "Mlong_001"}  # twins are still in the splits
    prepare_features(FeatureJob(data_set, T2M, None, mirrored=True), quiet=True)
    found = {fault.kind for fault in check_data(dataset_spec("t2m", data_set)).faults}
    assert not found & {"twin without original", "split without file", "joints do not fit", "copy in another split"}


def test_importing_again_changes_nothing_and_a_refused_file_keeps_its_earlier_clips(data_set: Path) -> None:
    before = {path: path.read_bytes() for path in data_set.rglob("*") if path.is_file()}
    assert import_motion(ImportJob(data_set.parent / "source", data_set, window=50), quiet=True).removed == []
    assert {path: path.read_bytes() for path in data_set.rglob("*") if path.is_file()} == before

    source = data_set.parent / "source"
    np.save(source / "long.npy", 0 * WALK)
    result = import_motion(ImportJob(source, data_set, window=50), quiet=True)
    assert list(result.refused) == ["long.npy"]
    assert result.kept == 3
    assert "long_002" in clips_everywhere(data_set)


@pytest.fixture
def sources(tmp_path: Path) -> Folders:
    """An AMASS recording of 10 s at 120 fps under two names, a HumanAct12 recording, and a body model."""
    (tmp_path / "models" / "male").mkdir(parents=True)
    np.savez(tmp_path / "models" / "male" / "model.npz", **body_model())
    poses = np.zeros((1200, 156))
    poses[:, 0] = np.pi / 2
    trans = np.linspace(0, 10, 1200)[:, None] * [[1.0, 2.0, 0.5]]
    for name in ("KIT/3/kick_poses", "HDM05/bk/walk_poses"):
        path = tmp_path / "amass" / f"{name}.npz"
        path.parent.mkdir(parents=True)
        np.savez(path, poses=poses, trans=trans, betas=np.zeros(16), gender="male", mocap_framerate=120.0)
    (tmp_path / "acted").mkdir()
    np.save(tmp_path / "acted" / "P01.npy", np.concatenate([figures.walking(60), np.zeros((60, 2, 3))], 1))
    (tmp_path / "index.csv").write_text(
        "source_path,start_frame,end_frame,new_name\n./pose_data/KIT/3/kick_poses.npy,20,80,000000.npy\n"
        "./pose_data/MPI_HDM05/bk/walk_poses.npy,20,80,000001.npy\n"
        "./pose_data/humanact12/humanact12/P01.npy,0,60,000002.npy\n./pose_data/CMU/01/x.npy,0,60,000003.npy\n")
    return Folders(tmp_path / "amass", tmp_path / "acted", tmp_path / "models")


def test_clips_are_cut_as_the_index_says_and_a_second_call_resumes(sources: Folders, tmp_path: Path) -> None:
    cuts = read_cuts(tmp_path / "index.csv")
    make_joints(cuts[:1], sources, tmp_path / "out", quiet=True)
    before = (tmp_path / "out" / "joints" / "000000.npy").stat().st_mtime_ns
    assert make_joints(cuts, sources, tmp_path / "out", workers=2, quiet=True).clips == ["000000", "000001", "000002"]
    assert (tmp_path / "out" / "joints" / "000000.npy").stat().st_mtime_ns == before

    made = make_joints(read_cuts(tmp_path / "index.csv"), sources, tmp_path / "out", quiet=True)
    assert made.clips == ["000000", "000001", "000002"]
    assert "CMU/01/x.npz is missing" in made.refused["000003"]
    kick, walk, acted = (np.load(tmp_path / "out" / "joints" / f"{name}.npy") for name in made.clips)
    assert kick.shape == walk.shape == (60, 22, 3)
    step = kick[1, 0] - kick[0, 0]
    np.testing.assert_allclose(step / np.linalg.norm(step), np.array([-1, 0.5, 2]) / np.sqrt(5.25), atol=1e-4)
    np.testing.assert_allclose(walk[0, 0] - kick[0, 0], 60 * step, atol=1e-3)  # three seconds of HDM05 are removed
    assert (kick[:, 15, 1] > kick[:, 7, 1] + 1).all()
    np.testing.assert_array_equal(acted, figures.walking(60))


def test_the_script_lists_what_was_not_made(sources: Folders, tmp_path: Path, capsys) -> None:
    run_here(main, tmp_path / "out", "--index", tmp_path / "index.csv", "--humanact12", sources.humanact12, "--quiet",
             "--workers", 1, cwd=tmp_path)
    told = capsys.readouterr().out
    assert "3 clips not extracted (1 of KIT, 1 of MPI_HDM05, 1 of CMU)" in told
    assert "1 clips written" in told
    assert len((tmp_path / "out" / "not_made.txt").read_text().splitlines()) == 3
    (tmp_path / "index.csv").write_text("a,b\n1,2\n")
    assert "index.csv:2" in refusal(main, tmp_path / "out", "--index", tmp_path / "index.csv", cwd=tmp_path)


@needs(BVH_SAMPLES)
def test_sample_recordings_give_the_clips_of_the_set(tmp_path: Path) -> None:
    built = build_openmotion([BVH_SAMPLES], tmp_path, quiet=True)
    assert built.refused == {}
    assert built.clips == ["000092", "002178", "002517", "002997"]
    index = {clip.id: clip for clip in read_index()}
    for name in built.clips:
        joints = np.load(tmp_path / "joints" / f"{name}.npy")
        reference = np.load(BVH_SAMPLES / f"{index[name].recording}.npz")["joints22_20fps"]
        np.testing.assert_allclose(joints, normalised(reference), atol=1e-4)
        assert len((tmp_path / "texts" / f"{name}.txt").read_text().splitlines()) == len(index[name].captions)
    assert (tmp_path / "all.txt").read_text().split() == built.clips
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "joints").iterdir()}
    build_openmotion([BVH_SAMPLES], tmp_path, quiet=True)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "joints").iterdir()}


@needs(ACCLAIM_SAMPLES)
def test_clips_of_asf_amc_files_have_the_joints_that_were_measured(tmp_path: Path) -> None:
    built = build_openmotion([ACCLAIM_SAMPLES], tmp_path, quiet=True)
    assert built.refused == {}
    assert built.clips == ["100025", "100295", "100299"]
    with np.load(ACCLAIM_SAMPLES / "joints_20fps.npz") as trials:
        for name, trial in (("100295", "16_01"), ("100299", "16_05")):
            joints = np.load(tmp_path / "joints" / f"{name}.npy")
            np.testing.assert_allclose(joints, normalised(trials[trial][:len(joints)]), atol=5e-3)
    contents = json.loads((tmp_path / "contents.json").read_text())
    assert contents["100295"] == {"family": "jump-up", "contents": [["jump-up", ""]], "stretches": []}
    assert contents.keys() == {"100025", "100295", "100299", "M100025", "M100295", "M100299"}


def test_joined_recordings_go_on_where_the_first_one_ended() -> None:
    first, second = figures.walking(50, turn=1.0), turned(figures.waving("left", 60), 2.0) + [5, 0, 5]
    bvhs = [joints_to_bvh(part, T2M, 20) for part in (first, second)]
    placement = place_joints(bvhs[0])
    poses = [resampled_pose(bvh, 0, len(bvh.values)) for bvh in bvhs]
    joints = joined(bvhs[0], placement, *poses, 7)
    assert joints.shape == (50 + 7 + 60, 22, 3)
    np.testing.assert_allclose(joints[:50], first, atol=1e-3)
    expected = canonical_positions(torch.from_numpy(second).float(), T2M).numpy()
    got = canonical_positions(torch.from_numpy(joints[57:]).float(), T2M).numpy()
    np.testing.assert_allclose(got, expected, atol=5e-3)
    assert np.linalg.norm(np.diff(joints[48:59], axis=0), axis=-1).max() < 0.35
