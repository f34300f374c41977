"""The body mesh of the figure, its fit to a motion, and its pose in Python and in the browser."""
from pathlib import Path

import numpy as np

from motion.foot import lock_feet
from motion.skeleton import T2M
from tests.browser import needs_chromium, open_browser, show
from tests.figures import walking
from visualization.body import REST, SOLES, TOES, Fitted, fit, offsets_of, stances, world_turns
from visualization.html import PageMotion

WALK = lock_feet(walking(60, 1.0), T2M, 20.0)


def posed(joints: np.ndarray) -> tuple[Fitted, np.ndarray, np.ndarray]:
    """Return the fitted body, its vertices (T, V, 3), and the joint rotations."""
    offsets, stance = offsets_of(joints), stances(joints)
    fitted, turns = fit(offsets, stance), world_turns(joints, offsets, stance)
    return fitted, fitted.posed(joints, *fitted.moves(joints, turns))[0], turns


def test_no_toe_is_below_the_floor_and_standing_soles_are_on_it() -> None:
    fitted, places, _ = posed(WALK)
    soles = fitted.body.zones == SOLES
    soles &= fitted.body.places[:, 1] < 0.5  # without the whites of the eyes
    lowest = places[:, soles, 1].min(1)
    assert lowest.min() >= min(0, WALK[:, [10, 11], 1].min()) - 1e-6
    assert np.median(lowest) < 0.005


def test_turns_point_every_bone_along_its_joints_and_bend_toes_alone() -> None:
    offsets, stance = offsets_of(WALK), stances(WALK)
    turns = world_turns(WALK, offsets, stance)
    assert np.allclose(turns @ turns.mT, np.eye(3), atol=1e-9)
    for joint, parent in enumerate(T2M.parents):
        if parent in (-1, 0, 9):
            continue
        bone, moved = WALK[:, joint] - WALK[:, parent], turns[:, parent] @ offsets[joint]
        cosine = (bone * moved).sum(-1) / np.linalg.norm(bone, axis=-1) / np.linalg.norm(moved, axis=-1)
        assert cosine.min() > 1 - 1e-9
    raised = WALK + [0, 0.5, 0]
    in_air = world_turns(raised, offsets, stance)
    for ankle, toe in TOES.items():
        assert np.allclose(in_air[:, toe], in_air[:, ankle])


def test_knees_bend_forward_about_their_axis() -> None:
    joints = np.zeros((1, 22, 3))
    for joint, parent in enumerate(T2M.parents):
        if parent >= 0:
            joints[0, joint] = joints[0, parent] + REST[joint]
    joints[:, [7, 10]] += [-0.2, 0.25, -0.25]  # the left shin is bent backwards and inwards
    turns = world_turns(joints, offsets_of(joints), np.full((2, 2), 0.02))
    axis = np.cross(joints[0, 4] - joints[0, 1], joints[0, 7] - joints[0, 4])
    assert np.dot(turns[0, 1] @ [1, 0, 0], axis) > 0.99 * np.linalg.norm(axis)


@needs_chromium
def test_the_browser_poses_the_same_mesh(tmp_path: Path) -> None:
    _, places, _ = posed(WALK)
    with open_browser(300, 300, reduced_motion="reduce") as (page, faults):
        show(page, tmp_path / "a.html", PageMotion("a", "walks", WALK, WALK))
        for frame in (0, 31):
            page.evaluate(f"viewer.seek({frame})")
            shown = page.evaluate("[...viewer.stage.cast[0].figure.mesh.geometry.attributes.position.array]")
            assert np.abs(np.reshape(shown, (-1, 3)) - places[frame]).max() < 0.004
        colours = "[...viewer.stage.cast[0].figure.mesh.geometry.attributes.color.array]"
        tinted = page.evaluate(colours)
        page.locator("#sides").click()
        assert page.evaluate(colours) != tinted
        assert page.locator("#locked").get_attribute("aria-pressed") == "true"
        assert faults == []
