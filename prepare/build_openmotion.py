"""Build the openmotion data set from the public recordings that are available locally.

    python prepare/build_openmotion.py OUT BANDAI_FOLDER CMU_FOLDER

``assets/openmotion/index.jsonl.xz`` has one line per clip. ``assets/openmotion/README.md`` lists the sources.
"""
import json
import lzma
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import utils  # noqa: F401 (sets the thread policy before torch is loaded)

# isort: split
import torch

from data.dataset import PARTS
from data.language import CONTENTS
from motion.asf_amc import read_amc
from motion.bvh import Bvh, chained, read_bvh
from motion.bvh_fit import headings
from motion.recording import UNITS, RecordedPose, normalised, resampled_pose
from motion.rotation import lerp, matrix_to_quat, quat_multiply, quat_rotate, quat_to_matrix, slerp, yaw_quat
from motion.skeleton import T2M
from motion.source_rig import Placement, place_joints
from options.base import Parser, add_workers
from prepare.openmotion_contents import clip_contents
from prepare.split_dataset import write_splits
from utils import InputError, script
from utils.files import ROOT, read_text, save_npy, write_text
from utils.runtime import map_jobs


def joined(bvh: Bvh, placement: Placement, first: RecordedPose, second: RecordedPose, blend: int) -> np.ndarray:
    """Join two motions of the hierarchy ``bvh``, with ``blend`` frames in between. Returns joints (T, 22, 3), y up.

    ``second`` is rotated about y and moved on the floor to continue the heading and pelvis position of ``first``.
    Raises ``ValueError`` if the pelvis is not a single bone.
    """
    pelvis = np.flatnonzero(placement.weights[0])
    if len(pelvis) != 1:
        raise ValueError("cannot join recordings whose pelvis is not a single bone")
    first, second = (_freed(bvh, pose, int(pelvis[0])) for pose in (first, second))
    last, start = first.joints(bvh, placement)[-1:], second.joints(bvh, placement)[:1]
    turn = yaw_quat(torch.from_numpy(headings(last, T2M) - headings(start, T2M)) / 2)
    second = _moved(second, int(pelvis[0]), turn, start[0, 0], last[0, 0])
    steps = torch.arange(1, blend + 1, dtype=torch.float64)[:, None, None] / (blend + 1)
    ease = steps**2 * (3 - 2 * steps)
    between = RecordedPose(lerp(first.places[-1], second.places[0], ease.numpy()),
                   slerp(first.quats[-1:].expand(blend, -1, -1), second.quats[:1].expand(blend, -1, -1), ease))
    parts = (first, between, second)
    whole = RecordedPose(np.concatenate([part.places for part in parts]), torch.cat([part.quats for part in parts]))
    return whole.joints(bvh, placement)


def _freed(bvh: Bvh, pose: RecordedPose, pelvis: int) -> RecordedPose:
    """Transfer the translation and rotation of the pelvis' ancestors to the pelvis."""
    places, turns = chained(bvh.parents, pose.places, quat_to_matrix(pose.quats).numpy())
    freed, quats = pose.places.copy(), pose.quats.clone()
    freed[:, pelvis], quats[:, pelvis] = places[:, pelvis], matrix_to_quat(torch.from_numpy(turns[:, pelvis]))
    above = pelvis
    while (above := bvh.parents[above]) >= 0:
        freed[:, above], quats[:, above] = 0, torch.tensor([1.0, 0, 0, 0], dtype=torch.float64)
    return RecordedPose(freed, quats)


def _moved(pose: RecordedPose, pelvis: int, turn: torch.Tensor, origin: np.ndarray, place: np.ndarray) -> RecordedPose:
    """Rotate a pose about ``origin`` and move ``origin`` horizontally to ``place``."""
    places, quats = pose.places.copy(), pose.quats.clone()
    places[:, pelvis] = quat_rotate(turn, torch.from_numpy(places[:, pelvis] - origin)).numpy() + [
        place[0], origin[1], place[2]]
    quats[:, pelvis] = quat_multiply(turn.expand(len(quats), 4), quats[:, pelvis])
    return RecordedPose(places, quats)


INDEX = ROOT / "assets" / "openmotion" / "index.jsonl.xz"
CONTENT_MAP = ROOT / "assets" / "language" / "contents.json"
CMU_T_POSE = 12  # length of the initial T-pose in CMU files, frames


# File format of the recordings of each source, and their unit in metres.
SOURCES = {**dict.fromkeys(("bandai-1", "bandai-2", "cmu", "100style"), (".bvh", UNITS["cm"])),
           "cmu-asf": (".amc", UNITS["cmu"])}


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
    """Result of building the data set."""

    clips: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)  # reason by clip
    missing: set[str] = field(default_factory=set)         # recordings that were not found


def read_index(path: Path = INDEX) -> list[Clip]:
    """Read all clips of the index, in the order of their ids."""
    with lzma.open(path, "rt", encoding="utf-8") as lines:
        return [Clip(**json.loads(line)) for line in lines]


def build_openmotion(folders: Sequence[Path], out: Path, workers: int = 1, quiet: bool = False) -> Built:
    """Write joints, texts and splits of every clip whose recordings are below ``folders``. Existing clips are kept.

    Raises ``InputError`` if no recording is found.
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
    """Write one clip, its text last to mark it as complete. Returns None, or the reason if the clip is refused."""
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


SHOWN = 10  # maximum number of missing recordings and refused clips to list


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
