import numpy as np
import pytest

from benchmarks.physical_checks import CHECKS, SIDES
from benchmarks.physical_measures import (
    count_swings,
    displacement,
    heading,
    jump_rises,
    mean_speed,
    measures,
    travel,
    turn_angle,
    wave_swings,
)
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
# checks that pass for none of the motions above, but for these
ACTIONS = {
    "circles_left": figures.walking(160, 1.0, 2 * np.pi), "circles_right": figures.walking(160, 1.0, -2 * np.pi),
    "turns_around": figures.walking(turn=np.pi), "steps_right": figures.stepping_aside("right"),
    "goes_slowly": figures.walking(speed=0.8), "climbs": figures.climbing(), "descends": figures.climbing(rise=-0.6),
    "raises_left_then_right": figures.raising_in_turn("left"),
    "raises_right_then_left": figures.raising_in_turn("right"),
    "punches": figures.punching("left"), "punches_left": figures.punching("left"), "boxes": figures.punching("right"),
    "punches_right": figures.punching("right"), "throws": figures.throwing(), "sweeps": figures.sweeping(),
    "wipes": figures.wiping("left"), "drinks": figures.drinking("right"), "jumps_forward": figures.jumping_forward(),
    "hops_on_left_foot": figures.hopping("left"), "hops_on_right_foot": figures.hopping("right"),
    "balances_on_left_leg": figures.balancing("left"), "balances_on_right_leg": figures.balancing("right"),
    "does_jumping_jacks": figures.jumping_jacks(), "turns_upside_down": figures.wheeling(),
}
SHOWN = {"turn left": ("turn", "left"), "turn right": ("turn", "right"), "raise left": ("hand", "left"),
         "wave right": ("hand", "right"), "raise both": ("hand", "neither"), "kick left": ("foot", "left"),
         "kick right": ("foot", "right"), "walk": ("turn", "neither")}
SIDED = {"fist": figures.punching("left"), "hop": figures.hopping("left"), "stand": figures.balancing("left"),
         "order": figures.raising_in_turn("left"), "travel": figures.stepping_aside("left")}


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
@pytest.mark.parametrize("angle", [1.0, 3.1, -2.0])
def test_answers_do_not_depend_on_place_and_first_heading(name: str, angle: float) -> None:
    joints, expected = MOTIONS[name]
    assert said_yes(turned(joints, angle)) == expected


@pytest.mark.parametrize("name", MOTIONS)
def test_a_mirrored_motion_gets_the_mirrored_answers(name: str) -> None:
    joints, expected = MOTIONS[name]
    swap = {"left": "right", "right": "left"}
    swapped = {"_".join(swap.get(word, word) for word in check.split("_")) for check in expected}
    mirrored = mirror(joints, T2M)
    assert said_yes(mirrored) == swapped
    for side in SIDES.values():
        assert side.measure(mirrored) == pytest.approx(-side.measure(joints), abs=1e-4)


@pytest.mark.parametrize("name", ACTIONS)
def test_an_action_passes_its_check_and_other_motions_do_not(name: str) -> None:
    assert CHECKS[name](ACTIONS[name])
    assert not any(name in expected for _, expected in MOTIONS.values())
    opposite = "_".join({"left": "right", "right": "left"}.get(word, word) for word in name.split("_"))
    assert CHECKS[opposite](mirror(ACTIONS[name], T2M))
    assert opposite == name or not CHECKS[opposite](ACTIONS[name])


def test_picking_up_and_sitting_down_start_upright() -> None:
    assert CHECKS["picks_up"](figures.picking_up()) and CHECKS["gets_up"](figures.getting_up())
    assert not CHECKS["picks_up"](figures.getting_up()) and not CHECKS["sits_down"](figures.getting_up())


@pytest.mark.parametrize("name", SHOWN)
def test_the_shown_side_is_the_side_that_moved(name: str) -> None:
    measure, side = SHOWN[name]
    assert SIDES[measure].shown(MOTIONS[name][0]) == side


@pytest.mark.parametrize("measure", SIDED)
def test_an_action_shows_its_side(measure: str) -> None:
    assert SIDES[measure].shown(SIDED[measure]) == "left"
    assert SIDES[measure].shown(mirror(SIDED[measure], T2M)) == "right"
    assert SIDES[measure].shown(figures.standing()) == "neither"


def test_stepping_aside_is_distinguished_from_turning() -> None:
    path = np.stack([np.linspace(0, 2, 60), np.linspace(0, 3, 60)], -1)
    aside = figures.figure(60, path=path)
    assert CHECKS["walks_left"](aside) and not CHECKS["walks_right"](aside)
    assert not CHECKS["walks_left"](figures.figure(60, path=path, yaw=np.linspace(0, 1.5, 60)))


def test_walking_off_after_turning_round_is_not_walking_backwards() -> None:
    away = figures.walking(facing=np.pi)
    moonwalk = away.copy()
    moonwalk[..., [0, 2]] = figures.walking(speed=-1.2)[..., [0, 2]]
    assert travel(away)[0] > 0 > travel(moonwalk)[0]
    assert not CHECKS["walks_backwards"](away) and CHECKS["walks_backwards"](moonwalk)


def test_numbers_are_in_metres_degrees_and_seconds() -> None:
    circle = figures.walking(frames=201, speed=1.5, turn=2 * np.pi)
    assert turn_angle(circle) == pytest.approx(360, abs=5)  # the ends are averaged over a quarter of a second
    assert travel(circle)[0] == pytest.approx(15, rel=0.01)
    assert np.hypot(*displacement(circle)) < 0.2
    assert mean_speed(circle) == pytest.approx(1.5, rel=0.01)
    assert heading(figures.walking(facing=1.0)) == pytest.approx(1.0, abs=1e-5)
    assert max(jump_rises(figures.jumping(height=0.3))) == pytest.approx(0.3, abs=0.02)
    found = measures(figures.walking(speed=1.0, frames=61))
    assert found["forward"] == pytest.approx(3, abs=0.05) and found["seconds"] == pytest.approx(3.05)


@pytest.mark.parametrize("waves", [2, 3, 5])
def test_waves_are_counted_by_their_turning_points(waves: int) -> None:
    left, right = wave_swings(figures.waving("right", waves=waves))
    assert left == 0
    assert abs(right - 2 * waves) <= 1


@pytest.mark.parametrize(("values", "turns"), [
    ([], 0), ([1.0], 0), ([0, 1, 2, 3], 0), ([0, 1, 0], 1), ([1, 0, 1], 1), ([0, 1, 0, 1, 0], 3),
    ([0, 0.1, 0, 0.1, 0], 0), ([0, 1, 0.9, 2, 1.9, 0], 1),
])
def test_small_movements_are_no_swings(values: list[float], turns: int) -> None:
    assert count_swings(np.array(values), 0.5) == turns
