"""Import a folder of motion capture (BVH, ASF/AMC, joint arrays, AMASS archives) as OUT/joints/ID.npy.

    python prepare/import_motion.py SRC OUT [--mapping RIG.json] [--window 9.95] [--overlap 0]
"""
import os
import sys
from argparse import ArgumentTypeError
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import utils  # noqa: F401, I001 (sets the thread policy before torch is loaded)

from data.dataset import LOCKED
from motion.bvh import MAX_FRAME_TIME
from motion.skeleton import UP_AXES
from motion.recording import FPS, UNITS
from options.base import Parser, add_workers, bounded
from prepare.importing import (
    LONGEST,
    NOT_IMPORTED,
    SHORTEST,
    Imported,
    ImportJob,
    import_motion,
    shown,
)
from prepare.motion_sources import Reader, read_mapping
from utils import InputError, script
from visualization.video import strip

SHEET_NAME = 80  # maximum length of a contact sheet's name, the end of its folder path
SHEET_ROWS = 12  # maximum number of clips on a contact sheet


def build_parser() -> Parser:
    parser = Parser(
        "Convert every .bvh, .amc (with its .asf), .npy (frames, joints, 3) and AMASS .npz file below SRC to clips of "
        "the 22 joints, in metres at 20 fps. Writes OUT/joints/ID.npy, OUT/sources.jsonl (the source of each clip) and "
        "OUT/contact_sheets (check them: left limbs are blue, right ones orange). Files that cannot be used are "
        "listed with the reason.")
    parser.add_argument("source", type=Path, metavar="SRC", help="folder of motion files, searched recursively")
    parser.add_argument("out", type=Path, metavar="OUT", help="output data set folder")
    parser.add_argument("--mapping", type=Path, metavar="RIG.json",
                        help="bones of an unknown rig: {\"left_hip\": \"BONE\", ...}; a draft for each unknown "
                             "rig is written to OUT/mappings")
    parser.add_argument("--window", type=bounded(float, SHORTEST / FPS, LONGEST / FPS), default=LONGEST / FPS,
                        help="maximum clip length in seconds; longer recordings are split")
    parser.add_argument("--overlap", type=bounded(float, 0.0), default=0.0,
                        help="minimum overlap of consecutive clips in seconds")
    parser.add_argument("--unit", type=unit, metavar="NAME|METRES",
                        help=f"unit of the files: {', '.join(UNITS)} (2.54/0.45 cm), or a number of metres; "
                             "default: estimated from the leg length")
    parser.add_argument("--up", choices=UP_AXES, help="up axis of the files; default: estimated from the bodies "
                                                      "(write --up=-y)")
    parser.add_argument("--fps", type=bounded(float, 1 / MAX_FRAME_TIME, 10000.0),
                        help="frame rate of .npy joint arrays (default 20) and .amc (default 120); replaces the "
                             "frame time of .bvh")
    parser.add_argument("--body_models", type=Path, metavar="DIR",
                        help="SMPL-H or SMPL-X models (neutral/model.npz or SMPLH_NEUTRAL.npz ...), for AMASS")
    parser.add_argument("--keep_t_pose", action="store_true", help="keep T-poses at the ends of recordings")
    parser.add_argument("--no_sheets", action="store_true", help="do not write contact sheets")
    add_workers(parser)
    return parser


def unit(text: str) -> str | float:
    """Parse a unit: a name in ``UNITS``, or its size in metres."""
    if text.lower() in UNITS:
        return text.lower()
    try:
        metres = float(text)
    except ValueError:
        metres = 0.0
    if not 0 < metres < np.inf:
        raise ArgumentTypeError(f"{text!r} is not one of {', '.join(UNITS)} or a number of metres")
    return metres


def draw_sheets(imported: Imported, out: Path) -> None:
    """Draw a contact sheet for each source folder, with evenly sampled clips."""
    folders = defaultdict(list)
    for clip in imported.clips:
        folders[os.path.dirname(clip.file)].append(clip)
    for folder, clips in folders.items():
        chosen = [clips[number] for number in sorted({*np.linspace(0, len(clips) - 1, SHEET_ROWS).astype(int)})]
        path = out / "contact_sheets" / f"{folder.replace(os.sep, '_')[-SHEET_NAME:] or 'all'}.png"
        strip(path, [np.load(out / "joints" / f"{clip.id}.npy") for clip in chosen], [clip.id for clip in chosen])
        print(f"contact sheet {shown(str(path))}")


def report(imported: Imported, out: Path) -> None:
    for (rig, unit, up), count in Counter((clip.rig, clip.unit, clip.up) for clip in imported.clips).items():
        print(f"{count} clips of a {rig} rig in {unit}, {up} up")
    for name, seconds in imported.cut.items():
        print(f"{shown(name)}: {seconds:.2f} s of T-pose, capture errors or short remainders omitted")
    if imported.removed:
        print(f"{len(imported.removed)} clips of an earlier import removed, with their twins, features, captions and "
              f"split entries")
    if imported.kept:
        print(f"{imported.kept} clips of an earlier import kept, whose files are missing now or were not imported")
    if imported.others:
        print(f"{imported.others} files with other suffixes skipped")
    for name, reason in sorted(imported.refused.items()):
        print(f"not imported: {shown(name)}: {reason}")
    names = {os.path.splitext(clip.file) for clip in imported.clips}
    locked = [stem + suffix for stem, suffix in names
              if stem.endswith(LOCKED) and (stem.removesuffix(LOCKED), suffix) in names]
    if locked:
        print(f"{len(locked)} files are foot-locked copies of other files, such as {shown(min(locked))}; keep one of "
              f"each")
    if imported.refused:
        print(f"{len(imported.refused)} files not imported (listed in {out / NOT_IMPORTED})")
    seconds = sum(clip.end - clip.start for clip in imported.clips)
    print(f"{len(imported.clips)} clips, {seconds / 60:.1f} minutes, written to {out / 'joints'}")


@script
def main() -> None:
    opt = build_parser().parse_args()
    if opt.overlap >= opt.window:
        raise InputError(f"--overlap {opt.overlap:g} s must be less than --window {opt.window:g} s")
    print(f"reading {opt.source}")
    rig = None if opt.mapping is None else read_mapping(opt.mapping)
    reader = Reader(rig, opt.fps, opt.body_models, opt.keep_t_pose)
    job = ImportJob(opt.source, opt.out, reader, opt.unit, opt.up, round(opt.window * FPS), round(opt.overlap * FPS))
    imported = import_motion(job, opt.workers, opt.quiet)
    if not opt.no_sheets:
        draw_sheets(imported, opt.out)
    report(imported, opt.out)


if __name__ == "__main__":
    main()
