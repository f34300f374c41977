"""Derive contents of openmotion clips, as used by the language bank, from labels and measurements.

``assets/language/contents.json`` maps labels (with style and side where needed) to contents. Contents that labels do
not determine are measured on the joints: circles, turns, quiet standing, sitting down and getting up, kicks by side,
squats, picking up, stairs up and down.
"""
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.ndimage import uniform_filter1d

from data.language import OTHER_SIDE
from motion.bvh_fit import headings
from motion.foot import stretches
from motion.recording import FPS
from motion.skeleton import T2M

STYLES = ("angry", "chicken", "drunk", "in-the-dark", "aeroplane", "karate-chop", "t-pose")
CYCLIC = {"boxing", "jumping-jacks", "direct-traffic", "wash-window", "cartwheel", "arm-circles", "sweep-floor",
          "jump-up", "jump-forward", "squat", "torso-twist", "bend-stretch", "dance-pop-moves", "ballet-leap",
          "hop-left-foot", "hop-right-foot", "karate-kata", "karate-lunge-punch", "karate-knife-hand-block", "bow"}
KICKS = {"kick", "kick-front", "kick-side", "kick-roundhouse", "kick-front-right", "soccer-kick"}
PELVIS, HEAD = T2M.joint_names.index("pelvis"), T2M.joint_names.index("head")
ANKLES, SHOULDERS, WRISTS = ([T2M.joint_names.index(f"{side}_{name}") for side in ("left", "right")]
                             for name in ("ankle", "shoulder", "wrist"))
MIN_ROWS = 40          # range of lengths of a stretch used for training
MAX_ROWS = 190


@dataclass
class ClipContents:
    """Contents of a clip and of ranges of its rows, each with a side ("left", "right" or "")."""

    family: str                                           # label without style; used for balanced sampling
    contents: list[tuple[str, str]] = field(default_factory=list)
    stretches: list[tuple[str, str, int, int]] = field(default_factory=list)  # content, side, first row, end row

    def mirrored(self) -> "ClipContents":
        """Return the contents of the mirrored twin."""
        return ClipContents(re.sub("left|right", lambda found: OTHER_SIDE[found.group()], self.family),
                            [(content, OTHER_SIDE[side]) for content, side in self.contents],
                            [(content, OTHER_SIDE[side], first, end) for content, side, first, end in self.stretches])


def family(label: str) -> str:
    """Remove the part suffix and the style from a content label."""
    label = label.removesuffix("-part")
    for style in STYLES:
        label = label.removesuffix(f"-{style}")
    return label


def clip_contents(label: str, style: str, joined: list[str], joints: np.ndarray,
                  content_map: Mapping[str, Any]) -> ClipContents:
    """Determine the contents of a clip.

    Args:
        label: content label in the index.
        style: style in the index.
        joined: labels of the two parts of a joined clip, else empty.
        joints: (T, 22, 3), 20 fps, floor at y = 0.
        content_map: content of ``assets/language/contents.json``.
    """
    result = ClipContents(family(label))
    whole = label.removesuffix("-part")
    if whole == label or whole in CYCLIC:
        result.contents += _by_label(whole, style, content_map)
    result.contents += _of_joined(joined)
    body = BodyMeasures(joints)
    result.contents += [content for content in _measured(label, body) if content not in result.contents]
    result.stretches += _parts(label, body)
    return result


def _by_label(label: str, style: str, content_map: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for content, entry in content_map.items():
        for condition in entry["true_of"]:
            fits = condition["content"] == label and style in condition.get("style", [style])
            if fits and not (label in KICKS and content == "kick"):  # the kicking leg is measured
                yield content, condition.get("side", "")


def _of_joined(joined: list[str]) -> list[tuple[str, str]]:
    sides = [side for label in joined for side in ("left", "right") if f"-{side}-hand" in label]
    if len(sides) != 2 or not all(label.startswith("raise") for label in joined):
        return []
    return [("raise-twice" if sides[0] == sides[1] else "raise-then-other", sides[0])]


class BodyMeasures:
    """Per-frame measurements of joints (T, 22, 3) that several contents use."""

    def __init__(self, joints: np.ndarray) -> None:
        self.joints = joints.astype(np.float64)
        self.height = self.joints[:, PELVIS, 1]
        self.stand = float(np.quantile(self.height, 0.9))
        heading = np.degrees(headings(self.joints, T2M))
        self.heading = uniform_filter1d(heading, 9, mode="nearest")       # degrees, left positive
        path = uniform_filter1d(self.joints[:, PELVIS, [0, 2]], 5, axis=0, mode="nearest")
        steps = np.linalg.norm(np.diff(path, axis=0), axis=-1) * FPS
        self.speed = np.append(steps, steps[-1])                          # m/s of the pelvis over the ground
        hands = np.linalg.norm(np.diff(self.joints[:, WRISTS], axis=0), axis=-1).max(1) * FPS
        self.hand_speed = np.append(hands, hands[-1])
        self.hands_down = (self.joints[:, WRISTS, 1] < self.joints[:, SHOULDERS, 1] - 0.25).all(1)
        forward = np.stack([np.sin(np.radians(self.heading)), np.cos(np.radians(self.heading))], -1)
        path = np.diff(self.joints[:, PELVIS, [0, 2]], axis=0)
        self.forward = float((path * forward[:-1]).sum() / max(np.linalg.norm(path, axis=-1).sum(), 1e-6))
        self.turn = float(self.heading[-1] - self.heading[0])


def _measured(label: str, body: BodyMeasures) -> Iterator[tuple[str, str]]:
    moving = float((body.speed > 0.4).mean())
    side = "left" if body.turn > 0 else "right"
    if moving > 0.8 and body.forward > 0.8 and abs(body.turn) > 270 and _one_way(body.heading):
        yield "circle", side
    if "stairs" in label:
        rise = body.height[-5:].mean() - body.height[:5].mean()
        if abs(rise) > 0.3:
            yield ("climb-stairs" if rise > 0 else "descend-stairs"), ""
    if label.removesuffix("-part") in KICKS and (leg := _kicking_leg(body)):
        yield "kick", leg
        if label != "soccer-kick":
            yield "kick-any", ""
    if body.forward > 0.6 and _about_turn(body):
        yield "about-turn", ""
    if label == "scoop":
        yield "pick-up", ""


def _one_way(heading: np.ndarray) -> bool:
    """Return whether a body turns in one direction, apart from swaying."""
    sign = np.sign(heading[-1] - heading[0])
    return bool((sign * (np.maximum.accumulate(sign * heading) - sign * heading) < 30).all()) if sign else False


def _about_turn(body: BodyMeasures) -> bool:
    """Return whether the body turns by 150 to 210 degrees between two straight stretches of walking."""
    ends = max(10, len(body.heading) // 6)
    straight = all(np.ptp(part) < 40 for part in (body.heading[:ends], body.heading[-ends:]))
    walks = all((part > 0.4).mean() > 0.7 for part in (body.speed[:ends], body.speed[-ends:]))
    return bool(150 < abs(body.turn) < 210 and straight and walks)


def _kicking_leg(body: BodyMeasures) -> str:
    """Return the side of the foot that rises at least 0.45 m and clearly higher than the other foot; "" if unclear."""
    floor = body.joints[:, ANKLES, 1].min()
    left, right = (body.joints[:, ankle, 1].max() - floor for ankle in ANKLES)
    if max(left, right) < 0.45 or abs(left - right) < 0.25:
        return ""
    return "left" if left > right else "right"


def _parts(label: str, body: BodyMeasures) -> Iterator[tuple[str, str, int, int]]:
    """Yield the ranges of rows that show one action, as (content, side, first row, end row)."""
    upright = body.height > 0.93 * body.stand
    quiet = (body.speed < 0.12) & body.hands_down & (body.hand_speed < 0.35) & upright
    if "sit" not in label and "mime" not in label:
        for first, end in stretches(quiet):
            if end - first >= MIN_ROWS + 1 and np.ptp(body.heading[first:end]) < 25:
                yield "stand", "", first, min(end - 1, first + MAX_ROWS)
    if label == "sit":
        yield from _sitting(body)
    if label in ("squat", "squat-part", "playground", "exercise"):
        for first, end in _dips(body.height < 0.65 * body.stand, upright):
            if np.ptp(body.joints[first:end, PELVIS, [0, 2]], axis=0).max() < 0.6:
                yield "squat", "", first, end
    if label in ("scoop", "playground", "gesture-story", "toe-touch", "toe-touch-part", "mime-mouse"):
        head = body.joints[:, HEAD, 1]
        usual = np.quantile(head, 0.9)
        reaching = (head < 0.75 * usual) & (body.joints[:, WRISTS, 1].min(1) < 0.3)
        for first, end in _dips(reaching, head > 0.9 * usual):
            yield "pick-up", "", first, end


def _dips(low: np.ndarray, upright: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield row ranges (first, end) from upright through each low stretch back to upright."""
    frames = len(low)
    for first, end in stretches(low):
        before, after = np.flatnonzero(upright[:first]), np.flatnonzero(upright[end:])
        if len(before) and len(after):
            first, end = max(0, int(before[-1]) - 8), min(frames - 1, end + int(after[0]) + 8)
            pad = max(0, MIN_ROWS - (end - first))
            first, end = max(0, first - pad // 2), min(frames - 1, end + pad - pad // 2)
            if MIN_ROWS <= end - first <= MAX_ROWS:
                yield first, end


def _sitting(body: BodyMeasures) -> Iterator[tuple[str, str, int, int]]:
    """Yield the ranges in which the body sits down or gets up, with up to 30 rows of rest before and 40 after."""
    low, upright = body.height < 0.72 * body.stand, body.height > 0.92 * body.stand
    states = np.where(low, -1, np.where(upright, 1, 0))
    runs = [(value, first, end) for value in (-1, 1) for first, end in stretches(states == value) if end - first >= 5]
    runs.sort(key=lambda run: run[1])
    for (value, first, end), (after, start, stop) in pairwise(runs):
        if value != after:
            begin, last = max(first, end - 30), min(stop, start + 40, len(body.height) - 1)
            if MIN_ROWS <= last - begin <= MAX_ROWS:
                yield ("sit-down" if value == 1 else "stand-up"), "", begin, last
