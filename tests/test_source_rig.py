"""The 22 joints are found in other skeletons, by bone names or a mapping."""
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from motion.body import find_stance
from motion.bvh import read_bvh
from motion.bvh_fit import T2M_RIG, joints_to_bvh
from motion.recording import guess_unit, resampled, t_pose_ends
from motion.skeleton import T2M
from motion.source_rig import place_joints
from tests import figures
from tests.rigs import placed, renamed, without
from tests.toy import BVH_SAMPLES, needs

JOINT = {name: number for number, name in enumerate(T2M.joint_names)}
WAVE = joints_to_bvh(figures.waving("left", 60), T2M, 20)


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
    with pytest.raises(ValueError, match="left_ankle .* is not below left_knee"):
        place_joints(strange, mapping | {"left_ankle": mapping["right_ankle"]})


def test_bones_that_are_named_twice_or_cannot_turn_are_refused() -> None:
    with pytest.raises(ValueError, match="2 bones are named"):
        place_joints(renamed(WAVE, {"Spine": "Neck"}))
    np.testing.assert_allclose(placed(renamed(WAVE, {"Spine": "Hips"})), placed(WAVE))
    stiff = list(WAVE.channels)
    stiff[WAVE.names.index("LeftArm")] = ()
    with pytest.raises(ValueError, match="LeftArm has no rotation channels"):
        place_joints(replace(WAVE, channels=tuple(stiff)))
    with pytest.raises(ValueError, match="position channels"):
        place_joints(replace(WAVE, channels=(WAVE.channels[0][3:], *WAVE.channels[1:])))


@needs(BVH_SAMPLES)
@pytest.mark.parametrize("path", sorted(BVH_SAMPLES.glob("*.bvh")), ids=lambda path: path.stem)
def test_sample_files_give_their_reference_joints(path: Path) -> None:
    bvh, reference = read_bvh(path), np.load(path.with_suffix(".npz"))
    placement = place_joints(bvh)
    first, end = t_pose_ends(placed(bvh), bvh.frame_time)
    assert (first, end) == (reference["first_frame"], len(bvh.values))
    joints = resampled(bvh, placement, first, end)
    assert (guess_unit(joints), find_stance(joints).up) == ("cm", "y")
    np.testing.assert_allclose(0.01 * joints, reference["joints22_20fps"], atol=1e-5)


@pytest.mark.parametrize(("factor", "unit"), [(1, "m"), (100, "cm"), (1000, "mm"), (39.37, "inch"), (17.717, "cmu"),
                                              (11, "cmu"), (25.8, "cmu"), (26.4, "inch")])
def test_units_are_found_by_the_length_of_legs(factor: float, unit: str) -> None:
    assert guess_unit(factor * figures.walking(40)) == unit
