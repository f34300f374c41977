"""Convert constraints to marks for the page: paths and arrows on the floor, points in space."""
from collections.abc import Sequence
from typing import TypedDict

import numpy as np

from models.control.constraints import Constraint, Heading, JointTarget, Pose, RootPath

FLOOR = 0.012     # m; height of flat marks above the floor
ARROW = 0.45      # m
APART = 0.02      # m: closer positions of one joint share a mark


class Mark(TypedDict):
    """One mark: ``kind`` is path, arrow, point or pose."""

    kind: str
    points: list[list[float]]  # (k, 3) metres, y up
    first: int                 # frames that the mark applies to
    last: int


def marks_of(constraints: Sequence[Constraint], joints: np.ndarray) -> tuple[Mark, ...]:
    """Marks for the constraints of joints (T, J, 3) in metres; headings are drawn at the position of the body."""
    marks: list[Mark] = []
    for constraint in constraints:
        frames = constraint.frames.tolist()
        if not frames:
            continue
        span = {"first": frames[0], "last": frames[-1]}
        if isinstance(constraint, RootPath):
            ground = constraint.points.cpu().numpy()
            points = np.stack([ground[:, 0], np.full(len(ground), FLOOR), ground[:, 1]], -1)
            marks.append({"kind": "path" if len(points) > 2 else "point", "points": _listed(points), **span})
        elif isinstance(constraint, Heading) and not constraint.tolerance:
            start, angle = joints[frames[-1], 0] * [1, 0, 1] + [0, FLOOR, 0], float(constraint.angles[-1])
            tip = start + ARROW * np.array([np.sin(angle), 0, np.cos(angle)])
            marks.append({"kind": "arrow", "points": _listed(np.stack([start, tip])), **span})
        elif isinstance(constraint, JointTarget):
            wanted, own = constraint.places.cpu().numpy(), joints[frames, constraint.joint]
            marks.append({"kind": "point", "points": _listed(_apart(np.where(np.isnan(wanted), own, wanted))), **span})
        elif isinstance(constraint, Pose) and not constraint.in_body:
            marks.append({"kind": "pose", "points": _listed(constraint.poses[-1].cpu().numpy()), **span})
    return tuple(marks)


def _apart(places: np.ndarray) -> np.ndarray:
    kept = [places[0]]
    for place in places[1:]:
        if np.linalg.norm(place - kept[-1]) > APART:
            kept.append(place)
    return np.stack(kept)


def _listed(points: np.ndarray) -> list[list[float]]:
    return np.round(points.astype(np.float64), 4).tolist()
