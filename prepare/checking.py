"""Data set checks: find faults that training does not report but that spoil its result."""
import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch

from data.dataset import PARTS, DatasetSpec
from data.text import Caption, parse_caption
from motion.body import Sides, bone_length_drift, find_sides, lies_throughout
from motion.features import ColumnStatistics, features_to_joints
from motion.rotation import fixed_bones
from prepare.importing import read_sources, read_splits
from prepare.motion_sources import read_real_array
from utils import InputError
from utils.files import read_text
from utils.runtime import map_jobs

FLOOR = 0.05            # maximum depth of a joint below the floor, metres
BONE_DRIFT = 0.02       # maximum mean relative change of bone lengths
SAME_JOINTS = 0.01      # maximum distance between stored joints and those of the features, metres
LATE = 0.25             # maximum time that a caption may extend beyond its clip, seconds
STILL = 0.02            # maximum speed of joints in a clip without motion, m/s
# Limits in m/s for the speed of the fastest joint of a clip (90th percentile over time). Over the clips of a data set,
# the upper quartile is at least the first limit, which even old people reach, and the median at most the second.
USUAL_SPEED = (0.8, 9)
MEAN_OFF = 0.1          # maximum difference of a stored mean from that of the features, in stds
STD_OFF = 1.25          # maximum factor between a stored std and that of the features
DIGITS = 3              # decimals compared to find copies of a clip

# Faults that make a clip unusable for training.
UNUSABLE = ("unreadable features", "wrong dimension", "not finite", "too short", "too long", "sides swapped")


@dataclass(frozen=True)
class Fault:
    kind: str    # one of ``check_data.KINDS``
    item: str    # the clip, split or file
    detail: str = ""


@dataclass
class ClipCheck:
    name: str
    faults: list[Fault] = field(default_factory=list)
    captions: list[Fault] = field(default_factory=list)
    statistics: ColumnStatistics | None = None
    fingerprint: str = ""
    sides: Sides | None = None  # None: the motion could not be checked
    lies: bool = False          # whether the body lies throughout
    fixed: str = ""             # joints whose bones do not turn with the body
    speed: float | None = None  # m/s of the fastest joint, 90th percentile over time
    has_whole_caption: bool = False  # whether a caption describes the whole clip

    def add(self, kind: str, detail: str = "") -> None:
        """Record a fault of the motion."""
        self.faults.append(Fault(kind, self.name, detail))

    @property
    def usable(self) -> bool:
        return not any(fault.kind in UNUSABLE for fault in self.faults)


@dataclass
class Checked:
    """Clips and splits of a data set, and their faults."""

    clips: dict[str, ClipCheck]
    splits: dict[str, list[str]]             # ids by existing split
    faults: list[Fault] = field(default_factory=list)
    statistics: ColumnStatistics | None = None

    @property
    def notes(self) -> list[str]:
        """Notes about limitations that are not faults, one line each."""
        parts = [part for part in PARTS if self.splits.get(part) and not any(
            self.clips[name].has_whole_caption for name in self.splits[part] if name in self.clips)]
        return [f"no clip in {', '.join(parts)} has a caption of the whole clip (#0.0#0.0); eval_retrieval.py needs one"
                ] if parts else []


def check_data(spec: DatasetSpec, workers: int = 1, quiet: bool = False) -> Checked:
    """Check the data set at ``spec.root``. Raises ``InputError`` if it has no features."""
    folder = spec.root / "new_joint_vecs"
    names = sorted(path.stem for path in folder.glob("*.npy") if not path.name.startswith("."))
    if not names:
        raise InputError(f"{folder} has no .npy file; prepare/motion_features.py computes them from "
                         f"{spec.root / 'joints'}")
    sources = read_sources(spec.root)
    seconds = {source.id: source.end - source.start for source in sources}
    checks = map_jobs(partial(_check_clip, spec, seconds), names, workers, "checking clips", quiet)
    clips = {check.name: check for check in checks}
    _check_bodies(clips, {source.id: source.file for source in sources})
    checked = Checked(clips, read_splits(spec.root), [fault for check in clips.values() for fault in check.faults])
    for check in clips.values():
        if check.statistics is not None:
            first = checked.statistics is None
            checked.statistics = check.statistics if first else checked.statistics + check.statistics
    split_ids = {name for ids in checked.splits.values() for name in ids}
    for name, check in clips.items():
        if name in split_ids and check.usable:
            checked.faults += check.captions
    checked.faults += _orphans(clips, {source.id for source in sources})
    checked.faults += _split_faults(checked, split_ids)
    checked.faults += _leaks(checked)
    checked.faults += _rate_faults(clips.values())
    checked.faults += _statistics_faults(spec, checked.statistics)
    return checked


def _check_clip(spec: DatasetSpec, seconds: Mapping[str, float], name: str) -> ClipCheck:
    check, rows = ClipCheck(name), None
    try:
        features = read_real_array(spec.root / "new_joint_vecs" / f"{name}.npy")
        if features.ndim != 2 or features.shape[1] != spec.dim_pose:
            check.add("wrong dimension", f"{features.shape}, expected (frames, {spec.dim_pose})")
        elif not np.isfinite(features.astype(np.float32)).all():
            check.add("not finite", f"row {np.argmin(np.isfinite(features).all(1))}")
        else:
            rows = len(features)
    except (OSError, ValueError) as error:
        check.add("unreadable features", str(error))
    if rows is not None:
        _check_motion(spec, check, features.astype(np.float32), seconds.get(name))
    _check_captions(spec, check, rows)
    return check


def _check_motion(spec: DatasetSpec, check: ClipCheck, features: np.ndarray, seconds: float | None) -> None:
    rows = len(features)
    if rows < spec.min_length:
        check.add("too short", f"{rows} rows, at least {spec.min_length} expected")
    if rows >= spec.max_length:
        check.add("too long", f"{rows} rows, at most {spec.max_length - 1} expected")
    if seconds is not None and abs((rows + 1) / spec.fps - seconds) > 0.1:
        check.add("wrong frame rate", f"{(rows + 1) / spec.fps:.2f} s at {spec.fps:g} fps, its source gives "
                                      f"{seconds:.2f} s")
    if rows < 2:
        return
    check.statistics = ColumnStatistics.of(features)
    check.fingerprint = hashlib.sha256(np.round(features, DIGITS).tobytes()).hexdigest()
    joints = features_to_joints(torch.from_numpy(features), spec.skeleton).numpy().astype(np.float64)
    _check_stored(spec, check, joints)
    joints *= spec.metres
    lowest = float(joints[..., 1].min())
    if lowest < -FLOOR:
        check.add("under the floor", f"{-100 * lowest:.0f} cm")
    drift = bone_length_drift(joints, spec.skeleton)
    if drift > BONE_DRIFT:
        check.add("bones change length", f"{100 * drift:.0f} % on average")
    check.sides, check.lies = find_sides(joints, spec.skeleton), lies_throughout(joints, spec.skeleton)
    check.fixed = ", ".join(spec.skeleton.joint_names[joint]
                            for joint in fixed_bones(torch.from_numpy(joints), spec.skeleton))
    speeds = np.linalg.norm(np.diff(joints, axis=0), axis=-1).max(1) * spec.fps
    check.speed = float(np.percentile(speeds, 90))
    if speeds.max() < STILL:
        check.add("does not move")


def _check_stored(spec: DatasetSpec, check: ClipCheck, joints: np.ndarray) -> None:
    """Check that stored joints match the features and that source joints have the right length."""
    for folder, more in (("new_joints", 0), ("joints", 1)):
        path = spec.root / folder / f"{check.name}.npy"
        if not path.exists():
            continue
        expected = (len(joints) + more, *joints.shape[1:])
        try:
            stored = read_real_array(path)
            if stored.shape != expected:
                check.add("joints do not fit", f"{folder} has {stored.shape}, expected {expected}")
            elif not more and not np.abs(stored - joints).max() * spec.metres < SAME_JOINTS:
                check.add("joints do not fit", f"{folder} does not match the features")
        except (OSError, ValueError) as error:
            check.add("joints do not fit", f"{folder}: {error}")


def _check_captions(spec: DatasetSpec, check: ClipCheck, rows: int | None) -> None:
    def add(kind: str, detail: str = "") -> None:
        check.captions.append(Fault(kind, check.name, detail))

    path = spec.root / "texts" / f"{check.name}.txt"
    if not path.exists():
        add("no captions")
        return
    try:
        lines = read_text(path, "captions").splitlines()
    except InputError as error:
        add("caption unreadable", str(error))
        return
    if not any(map(str.strip, lines)):
        add("no captions", "the file is empty")
    for number, line in enumerate(lines, 1):
        if line.count("#") > 3:
            add("caption with #", f"line {number}")
        elif line.strip():
            try:
                caption = parse_caption(line, f"line {number}")
            except InputError as error:
                add("caption unreadable", str(error))
                continue
            check.has_whole_caption |= caption.whole_clip and bool(caption.text.strip())
            for kind in _caption_faults(caption, None if rows is None else rows / spec.caption_fps):
                add(kind, f"line {number}")


def _caption_faults(caption: Caption, seconds: float | None) -> Iterable[str]:
    if not caption.text.strip():
        yield "caption empty"
    elif not caption.tokens or not all("/" in token for token in caption.tokens):
        yield "caption without tokens"
    late = seconds is not None and caption.end > seconds + LATE
    if not caption.whole_clip and (caption.start >= caption.end or late):
        yield "caption times"


def _split_faults(checked: Checked, split_ids: set[str]) -> Iterable[Fault]:
    for split in PARTS:
        if not checked.splits.get(split):
            yield Fault("split missing", f"{split}.txt")
    for split, ids in checked.splits.items():
        seen = set()
        for name in ids:
            if name in seen:
                yield Fault("twice in a split", name, split)
            elif name not in checked.clips:
                yield Fault("split without file", name, split)
            seen.add(name)
    if split_ids:
        for name, check in checked.clips.items():
            if name not in split_ids and check.usable and not any(f.kind == "no captions" for f in check.captions):
                yield Fault("in no split", name)


def _orphans(clips: Iterable[str], imported: set[str]) -> Iterable[Fault]:
    """Find mirrored twins whose original was removed by a later import.

    If left in place, they would be treated as original clips.
    """
    number = re.compile(r"_\d{3,}$")  # distinguishes the clips of one file
    stems = {number.sub("", name) for name in imported}
    for name in clips:
        if name.startswith("M") and not {name, name[1:]} & imported and number.sub("", name[1:]) in stems:
            yield Fault("twin without original", name)


def _leaks(checked: Checked) -> Iterable[Fault]:
    """Find clips that occur in two splits, directly or as a copy or mirrored twin."""
    homes = defaultdict(list)
    for part in PARTS:
        for name in dict.fromkeys(checked.splits.get(part, ())):
            homes[name].append(part)
    for name, parts in homes.items():
        if len(parts) > 1:
            yield Fault("in two splits", name, " and ".join(parts))
        original = name[1:] if name.startswith("M") else ""
        if original in homes and homes[original][0] != parts[0]:
            yield Fault("twin in another split", name, f"{parts[0]}, its original in {homes[original][0]}")
    copies = defaultdict(list)
    for name, check in checked.clips.items():
        if name in homes and check.fingerprint:
            copies[check.fingerprint].append(name)
    for names in copies.values():
        first, *others = names
        yield from (Fault("copy in another split", name, f"{homes[name][0]}, as {first} in {homes[first][0]}")
                    for name in others if homes[name][0] != homes[first][0])


def _rate_faults(clips: Iterable[ClipCheck]) -> Iterable[Fault]:
    speeds = [check.speed for check in clips if check.speed is not None]
    if not speeds:
        return
    usual, lively = np.percentile(speeds, (50, 75))
    if lively < USUAL_SPEED[0] or usual > USUAL_SPEED[1]:
        yield Fault("wrong frame rate", "all clips", f"the fastest joint moves at {usual:.1f} m/s in a median clip and "
                                                     f"{lively:.1f} m/s in a lively one; expected "
                                                     f"{USUAL_SPEED[0]:g} to {USUAL_SPEED[1]:g} m/s")


def _statistics_faults(spec: DatasetSpec, statistics: ColumnStatistics | None) -> Iterable[Fault]:
    stored = {}
    for name in ("Mean.npy", "Std.npy"):
        try:
            array = read_real_array(spec.root / name)
        except ValueError as error:
            yield Fault("statistics", name, str(error) if (spec.root / name).exists() else "missing")
            continue
        if array.shape != (spec.dim_pose,):
            yield Fault("statistics", name, f"{array.shape}, expected ({spec.dim_pose},)")
        elif not np.isfinite(array).all() or (name == "Std.npy" and not (array > 0).all()):
            yield Fault("statistics", name, "invalid values")
        else:
            stored[name] = array
    if statistics is None or len(stored) < 2:
        return
    mean, std = statistics.mean_std()
    std = np.where(std > 0, std, 1.0)
    off = np.abs(stored["Mean.npy"] - mean) / std
    ratio = np.maximum(stored["Std.npy"] / std, std / stored["Std.npy"])
    for name, apart, most, unit in (("Mean.npy", off, MEAN_OFF, "stds"), ("Std.npy", ratio, STD_OFF, "times")):
        if apart.max() > most:
            yield Fault("statistics", name, f"{apart.max():.2g} {unit} off in column {apart.argmax()}: it was computed "
                                            f"from other features")


def _check_bodies(clips: Mapping[str, ClipCheck], files: Mapping[str, str]) -> None:
    """Record swapped sides, bodies that lie throughout, and bones that do not turn.

    The evidence for the first two is combined over all clips of a recording. ``files`` maps clips to their recordings.
    """
    recordings = defaultdict(list)
    bodies = {name: check for name, check in clips.items() if check.sides is not None}
    for name, check in bodies.items():
        is_twin = name.startswith("M") and name[1:] in bodies
        recordings[is_twin, files.get(name[is_twin:], name)].append(check)
    for checks in recordings.values():
        sides = sum((check.sides for check in checks[1:]), start=checks[0].sides)
        lies = all(check.lies for check in checks)
        for check in checks:
            if sides.fault:
                check.add("sides swapped")
            if lies:
                check.add("lies throughout")
            if check.fixed:
                check.add("bones do not turn", check.fixed)
