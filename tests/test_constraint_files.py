"""Constraint files: valid content, and errors that name the position."""
import json
import math
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import edit_t2m
import gen_t2m
from data.constraints import FileConstraints, read_constraints
from data.dataset import dataset_spec
from data.directions import read_track
from data.placed_constraints import Stretch, place_constraints
from models.control.constraints import Heading, JointTarget, Pose, RootPath
from options.generate import flag_entries, parse_edit_options, parse_generate_options
from tests.figures import walking
from tests.toy import ROOT, refusal
from utils import InputError

SPEC = dataset_spec("t2m")
JOINTS = torch.from_numpy(walking(80)).float()
WHOLE = Stretch(0, 80, 20.0)
WAYPOINT = {"kind": "waypoint", "point": [1, 2], "time": 3}
WRIST = {"kind": "joint", "joint": "left_wrist", "position": [0, 1, 0]}


def read(folder: Path, content: object, prompts: int = 1) -> FileConstraints:
    path = folder / "c.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_constraints(path, SPEC, prompts)


def placed(folder: Path, *entries: dict, stretch: Stretch = WHOLE) -> list:
    return place_constraints(read(folder, list(entries)).whole, stretch, JOINTS, SPEC)


@pytest.mark.parametrize(("content", "place"), [
    ("[{", ":1:3: not JSON"), ("3", ": expected a list of constraints"), ("[3]", "[0]: expected an object"),
    ([{"kind": "fly"}], '[0].kind: "fly" is not one of path, waypoint'),
    ([WAYPOINT | {"pionts": 1}], "[0].pionts: unknown; a waypoint has point"),
    ([{"kind": "waypoint", "time": 1}], "[0]: a waypoint needs point"),
    ([{"kind": "waypoint", "point": [0, 1]}], "[0]: a waypoint needs a time or a frame"),
    ([WAYPOINT, WAYPOINT | {"point": [0]}], "[1].point: expected a list of 2, not 1"),
    ([WAYPOINT | {"point": [0, "1"]}], "[0].point[1]: expected a number, not a text"),
    ([WAYPOINT | {"point": [0, True]}], "[0].point[1]: expected a number, not true or false"),
    ('[{"kind": "waypoint", "point": [NaN, 1], "time": 1}]', "[0].point[0]: nan is not a finite number"),
    ('[{"kind": "waypoint", "point": [1e999, 1], "time": 1}]', "[0].point[0]: inf is not a finite number"),
    ([WAYPOINT | {"time": -1}], "[0].time: -1 is below 0"),
    ([WAYPOINT | {"time": [2, 1]}], "[0].time: starts at 2.0 but ends earlier, at 1.0"),
    ([WAYPOINT | {"frame": 3}], "[0]: give one of time and frame"),
    ([{"kind": "heading", "degrees": 1, "frame": 1.5}], "[0].frame: frames are whole numbers, not 1.5"),
    ([WRIST | {"joint": "left_tail"}], '[0].joint: "left_tail" is not one of pelvis'),
    ([{"kind": "pose", "time": 1, "joints": [[0, 0, 0]]}], "[0].joints: expected a list of 22, not 1"),
    ([{"kind": "pose", "time": 1, "file": "gone.npy"}], "[0].file: "),
    ({"1": []}, ": prompt 1: prompts are numbered from 0 to 0"),
    ({"walk": []}, ": prompt walk: prompts are numbered"),
    ('{"0": [], "0": []}', "'0' is given twice"),
])
def test_what_is_wrong_is_named_with_its_place(tmp_path: Path, content: object, place: str) -> None:
    with pytest.raises(InputError, match=re.escape(place)):
        read(tmp_path, content)


@pytest.mark.parametrize(("entry", "place"), [
    (WAYPOINT | {"time": 4.5}, "[0].time: 4.5 is outside a motion of 4 s"),
    ({"kind": "heading", "degrees": 0, "frame": [3, 80]}, "[0].frame: 80 is outside a motion of 80 frames"),
    ({"kind": "path", "points": [[0, 1]], "times": [1, 2]}, "[0].times: 2 times for 1 points"),
    ({"kind": "path", "points": [[0, 1], [1, 1]], "times": [2, 1]}, "[0].times[1]: 1.0 is not after 2.0"),
    ({"kind": "joint", "joint": "head"}, "[0]: a joint needs position"),
    (WRIST | {"position": [None, None, None]}, "[0]: all axes are null"),
    ({"kind": "joint", "joint": "head", "positions": [[0, 1, 0]], "frames": [1, 2]}, "[0].positions: 1 positions for"),
    ({"kind": "pose", "time": 1}, "[0]: a pose needs either joints or a file"),
])
def test_what_does_not_fit_a_motion_is_named_with_its_place(tmp_path: Path, entry: dict, place: str) -> None:
    with pytest.raises(InputError, match=re.escape(place)):
        placed(tmp_path, entry)


def test_a_path_goes_through_its_points_from_the_start(tmp_path: Path) -> None:
    path, facing = placed(tmp_path, {"kind": "path", "points": [[0, 2], [2, 2]]})
    assert isinstance(path, RootPath) and isinstance(facing, Heading)
    places = path.points.double().numpy()
    np.testing.assert_allclose(places[[0, -1]], [[0, 0], [2, 2]], atol=1e-6)
    assert np.linalg.norm(places - [0, 2], axis=-1).min() < 0.1
    assert np.linalg.norm(np.diff(places, axis=0), axis=-1).max() < 0.2  # no jumps are required


def test_free_axes_and_poses_of_files_are_read(tmp_path: Path) -> None:
    np.save(tmp_path / "pose.npy", JOINTS.numpy())
    wrist, pose = placed(tmp_path, WRIST | {"position": [None, 1.5, None], "time": 1},
                         {"kind": "pose", "file": "pose.npy", "file_frame": 7, "time": 2})
    assert isinstance(wrist, JointTarget) and isinstance(pose, Pose)
    assert wrist.places.isnan().tolist() == [[True, False, True]]
    torch.testing.assert_close(pose.poses[0], JOINTS[7])


def test_flags_give_paths_and_ends() -> None:
    opt = parse_generate_options(["--text_prompt", "a", "--path", "0,1", "-1.5,2", "--end", "-1,2,-90"])
    path, point, heading = (place_constraints([entry], WHOLE, JOINTS, SPEC) for entry in flag_entries(opt))
    assert path[0].points[-1].tolist() == [-1.5, 2]
    assert point[0].frames.tolist() == heading[0].frames.tolist() == [79]
    assert heading[0].angles.item() == pytest.approx(-math.pi / 2)


def test_flags_that_make_no_sense_are_refused() -> None:
    for flags in (["--path", "1"], ["--path", "nan,1"], ["--end", "1,2"], ["--loop", "--path", "1,2"],
                  ["--upper_body_path", "x"], ["--negative_prompt", "..."], ["--best_of", "0"],
                  ["--npz", "--dataset_name", "kit"]):
        with pytest.raises(InputError, match=flags[0]):
            parse_generate_options(["--text_prompt", "a person walks", *flags])
    assert parse_edit_options(["--source_motion", "a.npy", "--path", "0,1"]).path == [(0.0, 1.0)]
    with pytest.raises(InputError, match="--mask_edit_section and --text_prompt, or constraints"):
        parse_edit_options(["--source_motion", "a.npy"])


def test_a_track_keeps_the_prompts_body_on_request(tmp_path: Path) -> None:
    track = tmp_path / "track.txt"
    track.write_text("-#20\n# a comment\na person waves#20\n")
    assert read_track(track, [("walks", 8), ("bows", 6)], 4) == [
        ("walks", 5), ("a person waves", 5), ("bows", 4)]
    track.write_text("a person waves#100\n")
    with pytest.raises(InputError, match="track.txt:1: the track is longer than the timeline of 56 frames"):
        read_track(track, [("walks", 8), ("bows", 6)], 4)


def test_the_examples_are_constraints_of_a_six_second_motion() -> None:
    joints = torch.from_numpy(walking(120)).float()
    for path in sorted((ROOT / "assets" / "constraints").glob("*.json")):
        found = read_constraints(path, SPEC, 2)
        for entries in (found.whole, *found.by_prompt):
            place_constraints(entries, Stretch(0, 120, 20.0), joints, SPEC)


@pytest.mark.parametrize(("script", "flags", "line"), [
    (gen_t2m, ["--text_prompt", "walks", "--motion_length", "40"], "c.json[0].time: 99 is outside a motion of 2 s"),
    (gen_t2m, ["--text_prompt", "walks"], "c.json[0].time: 99 is outside a motion of 9.8 s"),  # the longest there is
    (gen_t2m, ["--text_path", "p.txt", "--timeline"], "c.json[0].time: 99 is outside a motion of 5 s"),
    (gen_t2m, ["--text_prompt", "walks", "--seconds", "20"], "c.json[0].time: 99 is outside a motion of 20 s"),
    (edit_t2m, ["--source_motion", "m.npy"], "c.json[0].time: 99 is outside a motion of 2 s"),
    (edit_t2m, ["--source_motion", "m.npy", "--mask_edit_section", "8,12", "--text_prompt", "bows"],
     "c.json[0].time: 99 is outside a motion of 2.4 s"),
])
def test_wrong_constraints_end_a_script_with_one_line_before_any_model_is_loaded(
        script: ModuleType, flags: list[str], line: str, tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text('[{"kind": "waypoint", "point": [0, 1], "time": 99}]')
    (tmp_path / "p.txt").write_text("walks#40\nbows#60\n")
    np.save(tmp_path / "m.npy", walking(41))
    assert f"error: {line}\n" == refusal(script.main, "--gpu_id", "-1", *flags, "--constraints", "c.json",
                                         "--name", "no_such_model", cwd=tmp_path)
