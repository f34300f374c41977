"""Constraints: their files, their errors, and motions optimised to meet them."""
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

import edit_t2m
import gen_t2m
from data.constraints import FileConstraints, read_constraints
from data.dataset import dataset_spec
from data.directions import directed_motions, read_track
from data.placed_constraints import Stretch, place_constraints
from data.text import read_prompts
from models.control.constraints import Contacts, GroundHeight, Heading, JointTarget, Pose, RootPath, remaining
from models.control.decoding import Bones, Decoding, seam_gaps
from models.control.director import Direction, Director, total_scores
from models.control.optimise import ControlSettings, Directed, optimise, optimised_latents, support
from models.control.settle import offset_joints
from models.motion_edit import MotionEditor
from models.text_to_motion import Sample, Sampling, TextToMotion
from motion.features import feature_groups, features_to_joints, joints_to_features
from motion.skeleton import T2M
from options.generate import flag_entries, parse_edit_options, parse_generate_options
from storage.generation import load_text_to_motion
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


def placed(folder: Path, *entries: dict) -> list:
    return place_constraints(read(folder, list(entries)).whole, WHOLE, JOINTS, SPEC)


@pytest.mark.parametrize(("content", "place"), [
    ("[{", ":1:3: not JSON"), ("3", ": expected a list of constraints"), ("[3]", "[0]: expected an object"),
    ([{"kind": "fly"}], '[0].kind: "fly" is not one of path, waypoint'),
    ([WAYPOINT | {"pionts": 1}], "[0].pionts: unknown; a waypoint has point"),
    ([{"kind": "waypoint", "point": [0, 1]}], "[0]: a waypoint needs a time or a frame"),
    ([WAYPOINT, WAYPOINT | {"point": [0]}], "[1].point: expected a list of 2, not 1"),
    ('[{"kind": "waypoint", "point": [NaN, 1], "time": 1}]', "[0].point[0]: nan is not a finite number"),
    ([WAYPOINT | {"time": [2, 1]}], "[0].time: starts at 2.0 but ends earlier, at 1.0"),
    ([WRIST | {"joint": "left_tail"}], '[0].joint: "left_tail" is not one of pelvis'),
    ([{"kind": "pose", "time": 1, "file": "gone.npy"}], "[0].file: "),
    ({"1": []}, ": prompt 1: prompts are numbered from 0 to 0"),
    ([{"kind": "heading", "degrees": 0, "frame": [3, 80]}], "[0].frame: 80 is outside a motion of 80 frames"),
    ([{"kind": "path", "points": [[0, 1]], "times": [1, 2]}], "[0].times: 2 times for 1 points"),
    ([{"kind": "path", "points": [[0, 1], [1, 1]], "times": [2, 1]}], "[0].times[1]: 1.0 is not after 2.0"),
    ([WRIST | {"position": [None, None, None]}], "[0]: all axes are null"),
    ([{"kind": "pose", "time": 1}], "[0]: a pose needs either joints or a file"),
])
def test_what_is_wrong_is_named_with_its_place(tmp_path: Path, content: object, place: str) -> None:
    with pytest.raises(InputError, match=re.escape(place)):
        place_constraints(read(tmp_path, content).whole, WHOLE, JOINTS, SPEC)


def test_constraints_of_a_file_become_targets(tmp_path: Path) -> None:
    path, facing = placed(tmp_path, {"kind": "path", "points": [[0, 2], [2, 2]]})
    assert isinstance(path, RootPath) and isinstance(facing, Heading)
    places = path.points.double().numpy()
    np.testing.assert_allclose(places[[0, -1]], [[0, 0], [2, 2]], atol=1e-6)
    assert np.linalg.norm(places - [0, 2], axis=-1).min() < 0.1
    assert np.linalg.norm(np.diff(places, axis=0), axis=-1).max() < 0.2  # no jumps are required

    np.save(tmp_path / "pose.npy", JOINTS.numpy())
    wrist, pose = placed(tmp_path, WRIST | {"position": [None, 1.5, None], "time": 1},
                         {"kind": "pose", "file": "pose.npy", "file_frame": 7, "time": 2})
    assert isinstance(wrist, JointTarget) and isinstance(pose, Pose)
    assert wrist.places.isnan().tolist() == [[True, False, True]]
    torch.testing.assert_close(pose.poses[0], JOINTS[7])


def test_flags_give_paths_and_ends_and_those_that_make_no_sense_are_refused() -> None:
    opt = parse_generate_options(["--text_prompt", "a", "--path", "0,1", "-1.5,2", "--end", "-1,2,-90"])
    path, point, heading = (place_constraints([entry], WHOLE, JOINTS, SPEC) for entry in flag_entries(opt))
    assert path[0].points[-1].tolist() == [-1.5, 2]
    assert point[0].frames.tolist() == heading[0].frames.tolist() == [79]
    assert heading[0].angles.item() == pytest.approx(-math.pi / 2)

    for flags in (["--path", "nan,1"], ["--end", "1,2"], ["--loop", "--path", "1,2"], ["--upper_body_path", "x"],
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
    (gen_t2m, ["--text_prompt", "walks"], "c.json[0].time: 99 is outside a motion of 9.8 s"),  # the longest there is
    (gen_t2m, ["--text_path", "p.txt", "--timeline"], "c.json[0].time: 99 is outside a motion of 5 s"),
    (gen_t2m, ["--text_prompt", "walks", "--seconds", "20"], "c.json[0].time: 99 is outside a motion of 20 s"),
    (edit_t2m, ["--source_motion", "m.npy", "--mask_edit_section", "8,12", "--text_prompt", "bows"],
     "c.json[0].time: 99 is outside a motion of 2.4 s"),
])
def test_wrong_constraints_end_a_script_first(script: ModuleType, flags: list[str], line: str, tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text('[{"kind": "waypoint", "point": [0, 1], "time": 99}]')
    (tmp_path / "p.txt").write_text("walks#40\nbows#60\n")
    np.save(tmp_path / "m.npy", walking(41))
    assert f"error: {line}\n" == refusal(script.main, "--gpu_id", "-1", *flags, "--constraints", "c.json",
                                         "--name", "no_such_model", cwd=tmp_path)


QUICK, SAMPLING = ControlSettings(steps=30), Sampling(time_steps=2)
TEXT, FRAMES = "a person walks", 40


@pytest.fixture(scope="module")
def pipeline(toy_models: Path) -> TextToMotion:
    return load_text_to_motion("t2m", None, dataset_spec("t2m"), toy_models, res_name="none")[0]


@pytest.fixture(scope="module")
def director(pipeline: TextToMotion) -> Director:
    return Director(pipeline, MotionEditor(pipeline, 49), 20.0, SAMPLING, QUICK)


def at(*frames: int) -> torch.Tensor:
    return torch.tensor(frames)


def test_errors_are_the_distances_that_they_name() -> None:
    joints = torch.from_numpy(walking(12)).double()
    place = joints[4, 0] + torch.tensor([0.3, 5.0, 0.4])
    assert RootPath(at(4), place[None, [0, 2]]).error(joints, T2M).item() == pytest.approx(0.5)
    assert RootPath(at(4), place[None, [0, 2]], 0.2).error(joints, T2M).item() == pytest.approx(0.3)
    free = torch.tensor([[math.nan, place[1], math.nan]]).double()
    assert JointTarget(at(4), 0, free).error(joints, T2M).item() == pytest.approx(5.0)
    [left] = remaining([Heading(at(4), torch.tensor([math.pi / 2]).double())], joints, T2M)
    assert left.unit == "degrees"
    assert left.mean == pytest.approx(90, abs=15)  # it walks along +z and sways
    assert str(left).endswith(f": mean error {left.mean:.1f} degrees, largest {left.largest:.1f}")
    elsewhere = joints[4:5] + torch.tensor([3.0, 0, 0])
    assert Pose(at(4), elsewhere).error(joints, T2M).item() > 1
    assert Pose(at(4), elsewhere, in_body=True).error(joints, T2M).item() == pytest.approx(0, abs=1e-5)
    feet = joints[4:6, list(T2M.feet)]
    assert GroundHeight(at(4), -0.3).error(joints, T2M).item() == pytest.approx(feet[0, :, 1].min().item() + 0.3)
    slides = feet.diff(dim=0)[0][:, [0, 2]].norm(dim=-1)
    assert Contacts(at(4), torch.ones(1, 4)).error(joints, T2M).item() == pytest.approx(slides.mean().item())


def test_places_and_poses_are_met_and_the_error_left_is_reported(pipeline: TextToMotion) -> None:
    [tokens] = pipeline.tokens([Sample(TEXT, 1, FRAMES)], SAMPLING)
    start = pipeline.decode(tokens)
    goal = torch.from_numpy(start[-1, 0, [0, 2]] + np.float32([0.2, 0.1]))
    made = optimise(pipeline, tokens, [RootPath(at(FRAMES - 1), goal[None])], QUICK)
    assert made.joints.shape == start.shape
    assert np.linalg.norm(made.joints[-1, 0, [0, 2]] - goal.numpy()) < 0.01
    assert made.remaining[0].mean < 0.01
    seen = features_to_joints(torch.from_numpy(made.features), T2M).numpy()
    np.testing.assert_allclose(seen, made.joints, atol=1e-4)  # features and joints describe the same motion

    [plain], wrist, rotations = pipeline.features_of([tokens]), 20, feature_groups(22).rotations
    start = Decoding(pipeline, tokens).first
    for away, kept in ((0.05, True), (0.2, False)):
        place = start[20:21, wrist] + torch.tensor([0, away, 0])
        made = optimise(pipeline, tokens, [JointTarget(at(20), wrist, place)], QUICK)
        assert made.remaining[0].largest < 0.04
        assert np.allclose(made.features[:, rotations], plain[:, rotations], atol=1e-4) == kept

    pose = torch.from_numpy(pipeline.decode(tokens)[10:11]) + 0.02
    made = optimise(pipeline, tokens, [Pose(at(20), pose)], replace(QUICK, steps=150))
    np.testing.assert_allclose(made.joints[20], pose[0].numpy(), atol=1e-4)


@pytest.mark.parametrize("points", [[[50.0, 0.0]], [[1.0, 0.0], [-1.0, 0.0]]], ids=["far away", "two places at once"])
def test_what_cannot_be_met_still_gives_a_motion_and_its_error(pipeline: TextToMotion, points: list) -> None:
    [tokens] = pipeline.tokens([Sample(TEXT, 1, FRAMES)], SAMPLING)
    wanted = [RootPath(at(FRAMES - 1), torch.tensor([point])) for point in points]
    made = optimise(pipeline, tokens, wanted, QUICK)
    assert np.isfinite(made.joints).all()
    assert max(left.mean for left in made.remaining) > 0.5
    assert np.linalg.norm(np.diff(made.joints[:, 0], axis=0), axis=-1).max() < 1  # no jumps


def test_a_source_stays_as_it_is_where_constraints_do_not_reach(pipeline: TextToMotion) -> None:
    source = joints_to_features(walking(41), T2M).numpy()
    start = pipeline.joints(source)
    wanted = [JointTarget(at(36), 20, torch.from_numpy(start[36, 20] + np.float32([0, 0.1, 0]))[None])]
    kept = optimise(pipeline, pipeline.encode(source), [], replace(QUICK, steps=0), source)
    np.testing.assert_allclose(kept.joints, start, atol=1e-5)
    moved = optimise(pipeline, pipeline.encode(source), wanted, QUICK, source)
    assert moved.remaining[0].mean < 0.05
    assert np.abs(moved.joints[:5] - start[:5]).max() < np.abs(moved.joints[36] - start[36]).max()


def test_a_foot_is_lifted_while_the_other_one_stands(pipeline: TextToMotion) -> None:
    [tokens] = pipeline.tokens([Sample(TEXT, 1, FRAMES)], SAMPLING)
    decoding, foot = Decoding(pipeline, tokens), T2M.left_feet[1]
    start = decoding.first
    wanted = JointTarget(at(*range(20, 25)), foot, start[20:25, foot] + torch.tensor([0, 0.3, 0]))

    def lifted(weight: float) -> float:
        latents = optimised_latents(decoding, [wanted], replace(QUICK, ground=weight))
        joints = decoding.joints(decoding.features(latents)).detach()
        return float((support(joints, T2M) - support(start, T2M)).clamp_min(0).mean())

    assert lifted(30.0) < 0.7 * lifted(0.0)


def test_offsets_meet_targets_smoothly_and_leave_the_rest_of_the_body() -> None:
    joints = torch.from_numpy(walking(60)).float()[:1].expand(60, -1, -1).clone()  # stands still
    bones, foot, frames = Bones(joints, T2M), T2M.left_feet[1], at(*range(28, 33))
    place = joints[frames, foot] + torch.tensor([0, 0.3, 0])
    made = offset_joints(joints, [JointTarget(frames, foot, place)], bones, T2M)
    assert (made[frames, foot] - place).norm(dim=-1).max() < 0.01
    assert (support(made, T2M) - support(joints, T2M)).max() < 0.02  # it stands on the other foot
    assert (made - joints)[:12].abs().max() < 0.01
    assert made.diff(n=3, dim=0)[:, foot].norm(dim=-1).max() < 0.05
    torch.testing.assert_close(bones.fitted(made), made)
    away = offset_joints(joints, [JointTarget(frames, foot, place + 50)], bones, T2M)
    torch.testing.assert_close(away, joints)


def direction(director: Director, **settings: object) -> Direction:
    return Direction(TEXT, lambda seed: director.pipeline.tokens([Sample(TEXT, seed, FRAMES)], SAMPLING)[0], **settings)


def test_without_constraints_nothing_changes(director: Director) -> None:
    plain = director.pipeline.generate([Sample(TEXT, 3, FRAMES)], SAMPLING)[0]
    np.testing.assert_array_equal(director.make(direction(director), 3).joints, plain)


def test_a_prompt_with_constraints_is_the_same_in_a_file(pipeline: TextToMotion, tmp_path: Path) -> None:
    def made(prompts: str, constraints: dict) -> np.ndarray:
        (tmp_path / "p.txt").write_text(prompts)
        (tmp_path / "c.json").write_text(json.dumps(constraints))
        opt = parse_generate_options(["--text_path", str(tmp_path / "p.txt"), "--constraints",
                                      str(tmp_path / "c.json"), "--control_steps", "5", "--seed", "4"])
        motions = directed_motions(pipeline, read_prompts(opt.text_path), None, dataset_spec("t2m"), opt, ())
        return [motion.joints for _, motion in motions][-1]

    there, elsewhere = ({"kind": "waypoint", "point": [x, 0.3], "time": 1} for x in (0.2, -0.2))
    alone = made("walks#40\n", {"0": [there]})
    np.testing.assert_array_equal(made("bows#60\nwalks#40\n", {"0": [elsewhere], "1": [there]}), alone)
    assert not np.array_equal(made("walks#40\n", {"0": [elsewhere]}), alone)


def test_a_sample_that_stays_far_away_is_replaced(director: Director, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def optimised(_: TextToMotion, tokens: torch.Tensor, *__: object) -> Directed:
        tried.append(tokens)
        error = (0.5, 0.3)[len(tried) - 1]
        return Directed(np.full((FRAMES, 22, 3), error, np.float32), np.zeros((FRAMES, 263), np.float32), (),
                        (SimpleNamespace(largest=error, unit="m"),))

    monkeypatch.setattr("models.control.director.optimise", optimised)
    place = RootPath(at(FRAMES - 1), torch.tensor([[4.0, 4.0]]))
    made = director.make(direction(director, place=lambda _: [place]), 3)
    assert len(tried) == 2 and not torch.equal(*tried)
    assert made.largest == 0.3 and made.joints.max() == np.float32(0.3)


def test_a_loop_closes_and_an_upper_body_comes_from_the_other_prompt(director: Director) -> None:
    made = director.make(direction(director, loop=True), 4)
    assert made.seam == seam_gaps(made.joints, T2M)
    assert max(made.seam.position, made.seam.velocity) < 1.2
    open_end = director.make(direction(director), 4).joints
    assert seam_gaps(open_end, T2M).position > made.seam.position

    def upper(seed: int) -> torch.Tensor:
        return director.pipeline.tokens([Sample("a person waves", seed, FRAMES)], SAMPLING)[0]

    plain, both = director.make(direction(director), 2), director.make(direction(director, upper=upper), 2)
    assert both.joints.shape == plain.joints.shape
    assert not np.allclose(both.joints, plain.joints)


def test_samples_are_ranked_by_text_match_faults_and_errors(director: Director) -> None:
    best, again = (director.make(direction(director, best_of=3), 2).joints for _ in range(2))
    np.testing.assert_array_equal(best, again)
    match, faults, errors = np.array([0.5, 0.5, 0.9]), np.ones((3, 4)), np.zeros(3)
    assert total_scores(match, faults, errors).argmax() == 2
    assert total_scores(match, faults, np.array([0.0, 0.0, 5.0])).argmin() == 2
    faults[1] = 9
    assert total_scores(np.ones(3), faults, errors).argmin() == 1
