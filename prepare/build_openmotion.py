"""Build the openmotion data set from the public recordings that are available locally.

    python prepare/build_openmotion.py OUT BANDAI_FOLDER CMU_FOLDER

``assets/openmotion/index.jsonl.xz`` has one line per clip. ``assets/openmotion/README.md`` lists the sources.

``OUT/contents.json`` has the contents of each clip, as used by the language bank. ``assets/language/contents.json``
lists the labels (with style and side where needed) of each content. Other contents are detected from the joints:
circles, about-turns, quiet standing, sitting down, getting up, kicks by side, squats, picking up, stairs up and down.
"""
import json
import lzma
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import uniform_filter1d

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import utils  # noqa: F401 (sets the thread policy before torch is loaded)

# isort: split
from data.dataset import PARTS
from data.language import CONTENTS, OTHER_SIDE
from motion.asf_amc import read_amc
from motion.bvh import Bvh, read_bvh
from motion.bvh_fit import headings
from motion.foot import stretches
from motion.recording import FPS, UNITS, RecordedPose, joined, normalised, resampled_pose
from motion.skeleton import T2M
from motion.source_rig import Placement, place_joints
from options.base import Parser, add_workers
from prepare.split_dataset import write_splits
from utils import InputError, script
from utils.files import ROOT, read_text, save_npy, write_text
from utils.runtime import map_jobs

INDEX = ROOT / "assets" / "openmotion" / "index.jsonl.xz"
CONTENT_MAP = ROOT / "assets" / "language" / "contents.json"
CMU_T_POSE = 12  # length of the initial T-pose in CMU files, frames
# File format of the recordings of each source, and their unit in metres.
SOURCES = {**dict.fromkeys(("bandai-1", "bandai-2", "cmu", "100style"), (".bvh", UNITS["cm"])),
           "cmu-asf": (".amc", UNITS["cmu"])}
STYLES = ("angry", "chicken", "drunk", "in-the-dark", "aeroplane", "karate-chop", "t-pose")
CYCLIC = {"boxing", "jumping-jacks", "direct-traffic", "wash-window", "cartwheel", "arm-circles", "sweep-floor",
          "jump-up", "jump-forward", "squat", "torso-twist", "bend-stretch", "dance-pop-moves", "ballet-leap",
          "hop-left-foot", "hop-right-foot", "karate-kata", "karate-lunge-punch", "karate-knife-hand-block", "bow"}
KICKS = {"kick", "kick-front", "kick-side", "kick-roundhouse", "kick-front-right", "soccer-kick"}
PELVIS, HEAD = T2M.joint_names.index("pelvis"), T2M.joint_names.index("head")
ANKLES, SHOULDERS, WRISTS = ([T2M.joint_names.index(f"{side}_{name}") for side in ("left", "right")]
                             for name in ("ankle", "shoulder", "wrist"))
MIN_ROWS = 40          # minimum and maximum length of a stretch that is used for training
MAX_ROWS = 190


@dataclass(frozen=True)
class Clip:
    """A clip in the index."""

    id: str
    source: str                   # one of SOURCES
    recording: str                # file name without suffix, or two names joined by + for a joined clip
    frames: tuple[int, int]       # first and end at 20 fps
    content: str
    style: str
    split: str
    captions: tuple[str, ...]     # lines of texts/ID.txt
    joined: tuple[tuple[int, int], ...] = ()  # frame ranges of the clip covered by its two recordings


@dataclass
class Built:
    clips: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)  # reason by clip
    missing: set[str] = field(default_factory=set)         # recordings that were not found


def read_index(path: Path = INDEX) -> list[Clip]:
    """Read all clips of the index, in the order of their ids."""
    with lzma.open(path, "rt", encoding="utf-8") as lines:
        return [Clip(**json.loads(line)) for line in lines]


def build_openmotion(folders: Sequence[Path], out: Path, workers: int = 1, quiet: bool = False) -> Built:
    """Write joints, texts, contents and splits of every clip whose recordings are below ``folders``.

    Existing clips are kept. Raises ``InputError`` if no recording is found.
    """
    files: dict[str, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder} is not a folder of BVH or AMC files")
        for path in sorted(path for path in folder.rglob("*") if path.suffix in (".bvh", ".amc")):
            files.setdefault(path.name, path)
    result, jobs, clips = Built(), [], []
    for clip in read_index():
        names = [name + SOURCES[clip.source][0] for name in clip.recording.split("+")]
        absent = [name for name in names if name not in files]
        result.missing.update(absent)
        if not absent:
            jobs.append((clip, [files[name] for name in names]))
    if not jobs:
        raise InputError(f"none of the recordings is in {', '.join(map(str, folders))}; "
                         f"assets/openmotion/README.md lists their sources")
    reasons = map_jobs(partial(_build_clip, out), jobs, workers, "openmotion", quiet)
    for (clip, _), reason in zip(jobs, reasons, strict=True):
        if reason:
            result.refused[clip.id] = reason
        else:
            clips.append(clip)
    result.clips = [clip.id for clip in clips]
    write_contents(out, clips)
    write_splits(out, {part: [clip.id for clip in clips if clip.split == part] for part in PARTS})
    return result


def write_contents(out: Path, clips: Sequence[Clip]) -> None:
    """Write ``contents.json`` with the contents of each clip and its mirrored twin (see ``data.language``)."""
    content_map, listed = json.loads(read_text(CONTENT_MAP)), {}
    for clip in clips:
        halves = [name.split("_")[1] for name in clip.recording.split("+")] if clip.joined else []
        one = clip_contents(clip.content, clip.style, halves, np.load(out / "joints" / f"{clip.id}.npy"), content_map)
        listed |= {clip.id: asdict(one), f"M{clip.id}": asdict(one.mirrored())}
    write_text(out / CONTENTS, json.dumps(listed) + "\n")


def clip_joints(clip: Clip, paths: Sequence[Path]) -> np.ndarray:
    """Extract the joints (T, 22, 3) of a clip from its recordings.

    Raises ``ValueError`` if the recordings do not match the clip.
    """
    recordings = [_recording(path) for path in paths]
    bvh, placement, first = recordings[0]
    if clip.joined:
        (_, end), (start, _) = clip.joined
        second = recordings[1][2]
        if (len(first.places), len(second.places)) != tuple(b - a for a, b in clip.joined):
            raise ValueError(f"its recordings have {len(first.places)} and {len(second.places)} frames at 20 fps")
        if recordings[1][0].names != bvh.names:
            raise ValueError("its recordings have different rigs")
        joints = joined(bvh, placement, first, second, start - end)
    else:
        joints = first.joints(bvh, placement)[clip.frames[0]:clip.frames[1]]
        if len(joints) != clip.frames[1] - clip.frames[0]:
            raise ValueError(f"its recording has {len(first.places)} frames at 20 fps, but it ends at {clip.frames[1]}")
    return normalised(SOURCES[clip.source][1] * joints)


@lru_cache(maxsize=4)
def _recording(path: Path) -> tuple[Bvh, Placement, RecordedPose]:
    bvh = read_amc(path) if path.suffix == ".amc" else read_bvh(path)
    placement = place_joints(bvh)
    first = CMU_T_POSE if placement.rig == "CMU/Daz" else 0
    if len(bvh.values) <= first:
        raise ValueError(f"{path} has only {len(bvh.values)} frames")
    return bvh, placement, resampled_pose(bvh, first, len(bvh.values))


def _build_clip(out: Path, job: tuple[Clip, list[Path]]) -> str | None:
    """Write one clip, its text last to mark it as complete. Returns the reason if the clip is refused, else None."""
    clip, paths = job
    text = out / "texts" / f"{clip.id}.txt"
    if text.exists() and (out / "joints" / f"{clip.id}.npy").exists():
        return None
    try:
        joints = clip_joints(clip, paths)
    except (OSError, ValueError) as error:
        return " ".join(str(error).split())
    save_npy(out / "joints" / f"{clip.id}.npy", joints)
    write_text(text, "".join(f"{line}\n" for line in clip.captions))
    return None


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


def clip_contents(label: str, style: str, halves: list[str], joints: np.ndarray,
                  content_map: Mapping[str, Any]) -> ClipContents:
    """Determine the contents of a clip.

    Args:
        label: content label in the index.
        style: style in the index.
        halves: labels of the two parts of a joined clip, else empty.
        joints: (T, 22, 3), 20 fps, floor at y = 0.
        content_map: parsed ``assets/language/contents.json``.
    """
    family = whole = label.removesuffix("-part")
    for one in STYLES:
        family = family.removesuffix(f"-{one}")
    result = ClipContents(family)
    if whole == label or whole in CYCLIC:
        result.contents += _by_label(whole, style, content_map)
    result.contents += _of_joined(halves)
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


def _of_joined(halves: list[str]) -> list[tuple[str, str]]:
    sides = [side for label in halves for side in ("left", "right") if f"-{side}-hand" in label]
    if len(sides) != 2 or not all(label.startswith("raise") for label in halves):
        return []
    return [("raise-twice" if sides[0] == sides[1] else "raise-then-other", sides[0])]


class BodyMeasures:
    """Measurements of joints (T, 22, 3), used to detect kinds of motion (contents)."""

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
    """Return whether a body turns in one direction, apart from swaying by less than 30 degrees."""
    sign = np.sign(heading[-1] - heading[0])
    return bool((sign * (np.maximum.accumulate(sign * heading) - sign * heading) < 30).all()) if sign else False


def _about_turn(body: BodyMeasures) -> bool:
    """Return whether the body turns by 150 to 210 degrees between two straight stretches of walking."""
    ends = max(10, len(body.heading) // 6)
    straight = all(np.ptp(part) < 40 for part in (body.heading[:ends], body.heading[-ends:]))
    walks = all((part > 0.4).mean() > 0.7 for part in (body.speed[:ends], body.speed[-ends:]))
    return bool(150 < abs(body.turn) < 210 and straight and walks)


def _kicking_leg(body: BodyMeasures) -> str:
    """Return the side of the foot that rises by at least 0.45 m, and 0.25 m higher than the other, or ""."""
    floor = body.joints[:, ANKLES, 1].min()
    left, right = (body.joints[:, ankle, 1].max() - floor for ankle in ANKLES)
    if max(left, right) < 0.45 or abs(left - right) < 0.25:
        return ""
    return "left" if left > right else "right"


def _parts(label: str, body: BodyMeasures) -> Iterator[tuple[str, str, int, int]]:
    """Yield ranges of rows that each show a single action, as (content, side, first row, end row)."""
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
    """Yield the ranges of rows (first, end) that lead from upright through a low stretch back to upright."""
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


SHOWN = 10  # maximum number of missing recordings and of refused clips that are listed


def build_parser() -> Parser:
    parser = Parser(
        "Write OUT/joints, OUT/texts, OUT/contents.json and the split files from the recordings of Bandai-Namco-"
        "Research-Motiondataset 1 and 2 (BVH), CMU (BVH and AMC) and 100STYLE (BVH). assets/openmotion/README.md lists "
        "their sources. Running it again adds clips whose recordings were missing before.")
    parser.add_argument("out", type=Path, metavar="OUT", help="output data set folder")
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="folder of recordings, with subfolders")
    add_workers(parser)
    return parser


@script
def main() -> None:
    opt = build_parser().parse_args()
    print(f"reading {', '.join(map(str, opt.folders))}")
    built = build_openmotion(opt.folders, opt.out, opt.workers, opt.quiet)
    if built.missing:
        names = sorted(built.missing)
        print(f"{len(names)} recordings are missing: {', '.join(names[:SHOWN])}{', ...' * (len(names) > SHOWN)}")
    for name, reason in list(built.refused.items())[:SHOWN]:
        print(f"refused: {name}: {reason}")
    print(f"{len(built.clips)} clips written to {opt.out}, {len(built.refused)} refused; "
          f"next: prepare/motion_features.py {opt.out} --mirror")


if __name__ == "__main__":
    main()
