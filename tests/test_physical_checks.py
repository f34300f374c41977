import numpy as np
import pytest

from benchmarks.physical_checks import CHECKS, SIDES
from motion.skeleton import T2M, mirror
from tests import figures

# motion -> all checks that pass
MOTIONS = {
    "stand": (figures.standing(), {"stands_still", "keeps_direction", "stays_in_place"}),
    "walk": (figures.walking(), {"goes_forward", "walks_forward", "keeps_direction"}),
    "run": (figures.walking(speed=2.5), {"goes_forward", "goes_briskly", "runs", "keeps_direction"}),
    "walk backwards": (figures.walking(speed=-0.8), {"walks_backwards", "keeps_direction"}),
    "turn left": (figures.walking(turn=np.pi / 2), {"goes_forward", "walks_forward", "turns_left"}),
    "turn right": (figures.walking(turn=-np.pi / 2), {"goes_forward", "walks_forward", "turns_right"}),
    "raise left": (figures.raising("left"),
                   {"raises_left_hand", "left_hand_overhead", "keeps_direction", "stays_in_place"}),
    "raise right": (figures.raising("right"),
                    {"raises_right_hand", "right_hand_overhead", "keeps_direction", "stays_in_place"}),
    "raise right to the side": (figures.raising("right", top=1.7),
                                {"raises_right_hand", "keeps_direction", "stays_in_place"}),
    "raise both": (figures.raising("both"),
                   {"raises_both_hands", "both_hands_overhead", "spreads_arms", "keeps_direction", "stays_in_place"}),
    "wave right": (figures.waving("right"), {"raises_right_hand", "right_hand_overhead", "waves_right_hand",
                                             "keeps_direction", "stays_in_place"}),
    "wave both": (figures.waving("both"), {"raises_both_hands", "both_hands_overhead", "waves_both_hands",
                                           "spreads_arms", "keeps_direction", "stays_in_place"}),
    "bow": (figures.bowing(), {"bows", "keeps_direction", "stays_in_place"}),
    "sit": (figures.sitting(), {"sits", "sits_down", "keeps_direction", "stays_in_place"}),
    "squat": (figures.squatting(), {"squats", "gets_up", "keeps_direction", "stays_in_place"}),
    "kick left": (figures.kicking("left"), {"kicks", "kicks_left", "keeps_direction", "stays_in_place"}),
    "kick right": (figures.kicking("right"), {"kicks", "kicks_right", "keeps_direction", "stays_in_place"}),
    "jump": (figures.jumping(), {"jumps", "jumps_up", "keeps_direction", "stays_in_place"}),
}


def said_yes(joints: np.ndarray) -> set[str]:
    return {name for name, check in CHECKS.items() if check(joints)}


def turned(joints: np.ndarray, angle: float) -> np.ndarray:
    """The motion moved and rotated by ``angle`` radians to the left."""
    sin, cos = np.sin(angle), np.cos(angle)
    x, y, z = np.moveaxis(joints, -1, 0)
    return np.stack([x * cos + z * sin + 3, y, z * cos - x * sin - 2], -1)


@pytest.mark.parametrize("name", MOTIONS)
def test_every_motion_passes_its_own_checks_and_no_others(name: str) -> None:
    joints, expected = MOTIONS[name]
    assert said_yes(joints) == expected


@pytest.mark.parametrize("name", MOTIONS)
def test_a_mirrored_motion_gets_the_mirrored_answers(name: str) -> None:
    joints, expected = MOTIONS[name]
    swap = {"left": "right", "right": "left"}
    swapped = {"_".join(swap.get(word, word) for word in check.split("_")) for check in expected}
    mirrored = mirror(joints, T2M)
    assert said_yes(mirrored) == swapped
    for side in SIDES.values():
        assert side.measure(mirrored) == pytest.approx(-side.measure(joints), abs=1e-4)
