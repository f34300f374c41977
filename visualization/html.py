"""Write a self-contained HTML page that plays motions in a browser without a network."""
import base64
import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np

from models.control.constraints import Constraint, Heading, JointTarget, Pose, RootPath
from motion.bvh import Bvh
from motion.foot import foot_joints, standing
from motion.skeleton import T2M, Skeleton
from utils.files import write_text
from visualization.body import CLOTHES, FILE, PALETTE, REST
from visualization.glb import parts_of

PAGE = Path(__file__).resolve().parent / "page"
# In order of dependency.
SCRIPTS = ("three.min.js", "motions.js", "files.js", "figure.js", "body.js", "glb.js", "character.js", "marks.js",
           "stage.js", "takes.js", "viewer.js")
FINEST = 2.5e-4  # metres: resolution of coordinates, coarser for motions with large jumps
ANGLE = 0.02     # degrees: the same for BVH angles
MARK_HEIGHT = 0.012  # metres: height of flat marks above the floor
ARROW = 0.45         # metres
APART = 0.02         # metres: positions of a joint that are closer than this share a marker


class Mark(TypedDict):
    """A marker for a constraint. ``kind`` is path, arrow, point or pose."""

    kind: str
    points: list[list[float]]  # (k, 3) metres, y up
    first: int                 # first and last frame of the constraint
    last: int


@dataclass(frozen=True)
class PageMotion:
    """A motion on the page: joints (T, J, 3) in metres with the floor at y = 0, as generated and with locked feet."""

    name: str
    caption: str
    plain: np.ndarray
    locked: np.ndarray
    plain_files: tuple[str, ...] = ()   # downloads, relative to the folder of the page
    locked_files: tuple[str, ...] = ()
    plain_bvh: Bvh | None = None        # ``motion.bvh_fit.joints_to_bvh`` of the joints, to offer it as a download
    locked_bvh: Bvh | None = None
    parts: tuple[tuple[int, str], ...] = ()  # first frame and prompt of each part of a sequence
    marks: tuple[Mark, ...] = ()             # constraints of the motion
    remade: tuple[tuple[int, int], ...] = ()  # first and last frame of each regenerated part


def write_page(path: str | Path, motions: Sequence[PageMotion], skeleton: Skeleton, fps: float,
               title: str = "Motions") -> None:
    """Write the page. Raises ``ValueError`` for an empty list or joints that are not finite or of the wrong shape."""
    write_text(path, make_page(motions, skeleton, fps, title))


def make_page(motions: Sequence[PageMotion], skeleton: Skeleton, fps: float, title: str = "Motions") -> str:
    """Return the HTML of the page. Raises the same errors as ``write_page``."""
    if not motions:
        raise ValueError("a page needs at least one motion")
    data = {
        "title": title, "fps": fps,
        "skeleton": {"parents": skeleton.parents, "parts": [asdict(part) for part in parts_of(skeleton)],
                     "hips": skeleton.face_joints[1::-1], "shoulders": skeleton.face_joints[:1:-1],
                     "feet": foot_joints(skeleton),
                     "left": [joint for joint, name in enumerate(skeleton.joint_names) if name.startswith("left_")],
                     "tips": [chain[-1] for chain in skeleton.chains if "_" in skeleton.joint_names[chain[-1]]]},
        "body": {"file": base64.b64encode(FILE.read_bytes()).decode("ascii"), "palette": PALETTE, "clothes": CLOTHES,
                 "rest": REST.tolist()} if skeleton == T2M else None,
        "motions": [{
            "name": motion.name, "caption": motion.caption, "frames": len(motion.plain),
            "tracks": _tracks(motion.plain, motion.locked, skeleton, fps),
            "files": {"plain": motion.plain_files, "locked": motion.locked_files},
            "bvh": {"plain": _bvh(motion.plain_bvh), "locked": _bvh(motion.locked_bvh, motion.plain_bvh)},
            "parts": motion.parts, "marks": motion.marks, "remade": motion.remade} for motion in motions],
    }
    page = _read("page.html")
    # A "<" in a caption could close the script element of the data.
    for name, text in (("STYLE", _read("style.css")), ("LICENCE", _read("three.LICENSE.txt")),
                       ("SCRIPTS", "\n".join(f"<script>\n{_read(name)}</script>" for name in SCRIPTS)),
                       ("DATA", json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"))):
        head, slot, tail = page.partition(f"{{{{{name}}}}}")
        assert slot, f"page.html has no slot for {name}"
        page = head + text + tail
    return page


def _tracks(plain: np.ndarray, locked: np.ndarray, skeleton: Skeleton, fps: float) -> dict[str, dict[str, object]]:
    """Encode joints (T, J, 3) and foot contacts for the page script, as generated and with locked feet.

    Joints are integer multiples of ``unit`` metres, relative to their parents. Their differences between frames are
    stored, low bytes first, then high bytes, and compressed with zlib. The motion with locked feet is stored as its
    differences from the motion as generated.
    """
    both = [np.asarray(joints, np.float64) for joints in (plain, locked)]
    for joints in both:
        if joints.shape[1:] != (len(skeleton), 3) or not len(joints) or not np.isfinite(joints).all():
            raise ValueError(f"a page needs finite joints of shape (frames, {len(skeleton)}, 3)")
    places = np.stack([np.concatenate([joints[:, :1], joints[:, 1:] - joints[:, :1]], 1) for joints in both])
    lower = [joint for joint, parent in enumerate(skeleton.parents) if parent > 0]
    parents = [skeleton.parents[joint] for joint in lower]
    bones = places.copy()
    bones[:, :, lower] -= places[:, :, parents]
    unit = max(FINEST, float(np.abs(np.diff(bones, axis=1, prepend=0)).max()) / 32000)
    whole = np.rint(places / unit).astype(np.int64)
    whole[:, :, lower] -= whole[:, :, parents]
    bits = [standing(joints, skeleton, fps) @ (1 << np.arange(len(foot_joints(skeleton)))) for joints in both]
    return {kind: {"unit": unit, "steps": _steps(values), "standing": _packed(stands.astype(np.uint8).tobytes())}
            for kind, values, stands in zip(("plain", "locked"), (whole[0], whole[1] - whole[0]), bits, strict=True)}


def _bvh(bvh: Bvh | None, base: Bvh | None = None) -> dict[str, object] | None:
    """Encode the header and the angles of a BVH for the page script, as differences from ``base`` if it is given.

    Root positions are omitted, because the track contains them. A header that is the same as in ``base`` is omitted.
    """
    if bvh is None:
        return None
    whole, head = _angles(bvh), bvh.header()
    if base is not None:
        whole, head = whole - _angles(base), "" if head == base.header() else head
    return {"unit": ANGLE, "head": _packed(head.encode("ascii")) if head else "", "steps": _steps(whole)}


def _angles(bvh: Bvh) -> np.ndarray:
    return np.rint(np.unwrap(bvh.values[:, 3:], axis=0, period=360) / ANGLE).astype(np.int64)


def _steps(whole: np.ndarray) -> str:
    """Encode integers (T, ...) as packed differences between frames, channel by channel."""
    steps = np.moveaxis(np.diff(whole, axis=0, prepend=0), 0, -1).astype("<i2")
    planes = np.frombuffer(steps.tobytes(), np.uint8).reshape(-1, 2).T
    return _packed(planes.tobytes())


def _packed(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data, 9)).decode("ascii")


def _read(name: str) -> str:
    return (PAGE / name).read_text(encoding="utf-8")


def marks_of(constraints: Sequence[Constraint], joints: np.ndarray) -> tuple[Mark, ...]:
    """Create markers for constraints on joints (T, J, 3) in metres. Headings are drawn at the position of the body.

    Headings with a tolerance and poses relative to the body have no marker.
    """
    marks: list[Mark] = []
    for constraint in constraints:
        frames = constraint.frames.tolist()
        if not frames:
            continue
        span = {"first": frames[0], "last": frames[-1]}
        if isinstance(constraint, RootPath):
            ground = constraint.points.cpu().numpy()
            points = np.stack([ground[:, 0], np.full(len(ground), MARK_HEIGHT), ground[:, 1]], -1)
            marks.append({"kind": "path" if len(points) > 2 else "point", "points": _listed(points), **span})
        elif isinstance(constraint, Heading) and not constraint.tolerance:
            start, angle = joints[frames[-1], 0] * [1, 0, 1] + [0, MARK_HEIGHT, 0], float(constraint.angles[-1])
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
