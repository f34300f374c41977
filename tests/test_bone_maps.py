"""The bone maps in ``assets/`` match both skeletons."""
import json

import pytest

from motion.bvh_fit import T2M_RIG
from tests.toy import ROOT

PREFIXES = {"mapping.json": "mixamorig:", "mapping6.json": "mixamorig6:"}
MAPS = pytest.mark.parametrize("name", PREFIXES)


@MAPS
def test_bones_are_ours_and_those_of_mixamo(name: str) -> None:
    bones = json.loads((ROOT / "assets" / name).read_text())["bones"]
    sources = [bone["SourceBoneName"] for bone in bones]
    assert set(sources) == set(T2M_RIG.names) - {"LeftToe", "RightToe", "LeftHand", "RightHand"}
    assert len(sources) == len(set(sources))
    assert [bone["DestinationBoneName"] for bone in bones] == [PREFIXES[name] + source for source in sources]
    assert [bone["SourceBoneName"] for bone in bones if bone["set_bone_position"]] == ["Hips"]
