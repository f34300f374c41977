"""The 22 joints are found in foreign skeletons, by bone names or a mapping."""
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from motion.bvh import Bvh, read_bvh
from motion.bvh_fit import T2M_RIG, joints_to_bvh
from motion.recording import guess_unit, guess_up, metres_per_unit, resampled, t_pose_ends, to_y_up
from motion.skeleton import T2M, mirror
from motion.source_rig import place_joints
from tests import figures
from tests.rigs import inserted, renamed, without

SAMPLES = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "bvh_samples"
JOINT = {name: number for number, name in enumerate(T2M.joint_names)}
WAVE = joints_to_bvh(figures.waving("left", 60), T2M, 20)


def placed(bvh: Bvh) -> np.ndarray:
    return place_joints(bvh).posed(bvh, bvh.local_positions(), bvh.local_rotations())


def test_spine_joints_that_a_rig_has_not_are_placed_on_the_bone() -> None:
    pose = replace(WAVE, values=np.zeros((5, WAVE.values.shape[1])))
    two, one = without(pose, "Spine1"), without(without(pose, "Spine1"), "Spine")
    none = without(one, "Spine2")
    for bvh, kept in ((two, ("spine1", "spine3")), (one, ("spine3",)), (none, ())):
        joints = placed(bvh)
        for name in (*kept, "pelvis", "neck", "left_wrist", "right_foot"):
            np.testing.assert_allclose(joints[:, JOINT[name]], placed(pose)[:, JOINT[name]], atol=1e-6)
        spine = joints[0, [JOINT[name] for name in ("pelvis", "spine1", "spine2", "spine3", "neck")]]
        along = (spine - spine[0]) @ (spine[-1] - spine[0])
        assert (np.diff(along) > 0).all()


def test_a_rig_with_more_spine_bones_gives_first_middle_and_last() -> None:
    extra = inserted(WAVE, "Spine3", "Neck")
    weights = place_joints(extra).weights
    named = [extra.names[int(np.argmax(weights[JOINT[name]]))] for name in ("spine1", "spine2", "spine3")]
    assert named == ["Spine", "Spine2", "Spine3"]


def test_a_mapping_names_bones_weights_and_tips() -> None:
    strange = renamed(WAVE, {name: f"bone{number}" for number, name in enumerate(WAVE.names)})
    with pytest.raises(ValueError, match="unknown joints"):
        place_joints(strange)
    mapping = {T2M.joint_names[joint]: f"bone{number}" for number, joint in enumerate(T2M_RIG.order)}
    place = place_joints(strange, mapping)
    assert place.rig == "mapping"
    between = place_joints(strange, mapping | {"head": {mapping["neck"]: 0.25, mapping["head"]: 0.75}})
    np.testing.assert_allclose(between.weights[JOINT["head"]],
                               0.25 * place.weights[JOINT["neck"]] + 0.75 * place.weights[JOINT["head"]])
    assert place_joints(WAVE, mapping).rig == "Mixamo/LAFAN1"
    with pytest.raises(ValueError, match="bone99 for head is not in the file"):
        place_joints(strange, mapping | {"head": "bone99"})
    with pytest.raises(ValueError, match="left_ankle .* does not hang in left_knee"):
        place_joints(strange, mapping | {"left_ankle": mapping["right_ankle"]})


def test_bones_that_are_named_twice_or_cannot_turn_are_refused() -> None:
    with pytest.raises(ValueError, match="2 bones are named"):
        place_joints(renamed(WAVE, {"Spine": "Neck"}))
    np.testing.assert_allclose(placed(renamed(WAVE, {"Spine": "Hips"})), placed(WAVE))  # where both legs meet
    stiff = list(WAVE.channels)
    stiff[WAVE.names.index("LeftArm")] = ()
    with pytest.raises(ValueError, match="LeftArm has no rotation channels"):
        place_joints(replace(WAVE, channels=tuple(stiff)))
    with pytest.raises(ValueError, match="position channels"):
        place_joints(replace(WAVE, channels=(WAVE.channels[0][3:], *WAVE.channels[1:])))


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="the BVH samples are not here")
@pytest.mark.parametrize("path", sorted(SAMPLES.glob("*.bvh")), ids=lambda path: path.stem)
def test_sample_files_give_their_reference_joints(path: Path) -> None:
    bvh, reference = read_bvh(path), np.load(path.with_suffix(".npz"))
    placement = place_joints(bvh)
    first, end = t_pose_ends(placed(bvh), bvh.frame_time)
    assert (first, end) == (reference["first_frame"], len(bvh.values))
    joints = resampled(bvh, placement, first, end)
    assert (guess_unit(joints), guess_up(joints)) == ("cm", "y")
    np.testing.assert_allclose(0.01 * joints, reference["joints22_20fps"], atol=1e-5)


def test_resampling_keeps_bones_and_passes_through_the_frames_of_the_file() -> None:
    bvh = replace(WAVE, frame_time=1 / 30)
    placement = place_joints(bvh)
    joints, native = resampled(bvh, placement, 0, 60), placed(bvh)
    assert len(joints) == int(59 / 30 * 20) + 1
    np.testing.assert_allclose(joints[::2], native[::3], atol=1e-9)
    lengths = np.linalg.norm(joints[:, JOINT["left_wrist"]] - joints[:, JOINT["left_elbow"]], axis=-1)
    assert np.ptp(lengths) < 1e-6


@pytest.mark.parametrize("up", ["y", "z", "x", "-y", "-z", "-x"])
def test_axes_are_found_and_turned_without_mirroring(up: str) -> None:
    joints = figures.walking(40)
    stored = {"y": lambda x, y, z: (x, y, z), "z": lambda x, y, z: (x, -z, y), "x": lambda x, y, z: (y, -x, z),
              "-y": lambda x, y, z: (x, -y, -z), "-z": lambda x, y, z: (x, z, -y),
              "-x": lambda x, y, z: (-y, x, z)}[up](*np.moveaxis(joints, -1, 0))
    stored = np.stack(stored, -1)
    assert guess_up(stored) == up
    np.testing.assert_allclose(to_y_up(stored, up), joints)
    assert guess_up(mirror(stored, T2M)) in (up, up.strip("-"), f"-{up}")


@pytest.mark.parametrize(("factor", "unit"), [(1, "m"), (100, "cm"), (1000, "mm"), (39.37, "inch"), (17.717, "cmu"),
                                              (11, "cmu"), (25.8, "cmu"), (26.4, "inch")])
def test_units_are_found_by_the_length_of_legs(factor: float, unit: str) -> None:
    assert guess_unit(factor * figures.walking(40)) == unit


def test_legs_of_no_person_have_no_unit_but_the_advice_to_give_one_that_fits() -> None:
    giant = 7 * figures.walking(40)
    with pytest.raises(ValueError, match=r"legs 5\.7\d+ units long are not human .* \(--unit\), about 0\.14$"):
        guess_unit(giant)
    assert metres_per_unit(giant, 0.14) == ("units of 0.14 m", 0.14)


@pytest.mark.parametrize(("unit", "reason"), [
    ("inch", r"14\.5\d units long are 0\.3\d+ m in inch, .*likely cmu \(0\.82 m\)"),
    ("cm", r"0\.145 m in cm.*likely cmu"), (1, r"14\.5 m in m.*likely cmu"),
    (0.03, r"in units of 0\.03 m.*likely cmu")])
def test_a_unit_that_makes_dwarfs_or_giants_is_refused_with_the_likely_one(unit: str | float, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        metres_per_unit(17.717 * figures.walking(40), unit)


def test_a_number_of_metres_is_named_where_it_has_a_name() -> None:
    walk = figures.walking(40)
    assert metres_per_unit(17.717 * walk, 0.0564444) == ("cmu", 0.0564444)
    assert metres_per_unit(100 * walk, 0.01) == ("cm", 0.01)
