"""Extract HumanML3D's joints (ROOT/joints/ID.npy) from AMASS and HumanAct12, as listed in its index.csv.

    python prepare/humanml3d.py ROOT --index index.csv --amass DIR --humanact12 DIR --body_models DIR
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import csv
import io
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from motion.recording import FPS
from motion.skeleton import T2M
from options.base import Parser, add_workers
from prepare.motion_sources import read_amass, read_body_model, read_real_array
from utils import InputError, script
from utils.files import read_text, save_npy, write_text
from utils.runtime import map_jobs

BETAS = 10  # number of shape parameters used for the published joints
LEAD_IN = {"Eyes_Japan_Dataset": 3.0, "MPI_HDM05": 3.0, "TotalCapture": 1.0, "MPI_Limits": 1.0,
           "Transitions_mocap": 0.5}  # seconds removed from the start of every recording of a subset
# Current AMASS names of some subsets, keyed by their names in the index.
RENAMED = {"BioMotionLab_NTroje": "BMLrub", "DFaust_67": "DFaust", "MPI_HDM05": "HDM05", "MPI_Limits": "PosePrior",
           "MPI_mosh": "MoSh", "SSM_synced": "SSM", "TCD_handMocap": "TCDHands", "Transitions_mocap": "Transitions",
           "Eyes_Japan_Dataset": "EyesJapanDataset"}
_ACTED = "humanact12"


@dataclass(frozen=True)
class Folders:
    """Folders of recordings and body models. A folder that is not available is None."""

    amass: Path | None
    humanact12: Path | None
    body_models: Path | None


@dataclass(frozen=True)
class Cut:
    id: str
    parts: tuple[str, ...]  # components of the source path below pose_data
    start: int              # frames at 20 fps
    end: int


class Extracted(NamedTuple):
    clips: list[str]
    refused: dict[str, str]  # reason by clip


def read_cuts(path: Path) -> list[Cut]:
    """Read the clips in ``index.csv`` (source_path, start_frame, end_frame, new_name).

    Raises an ``InputError`` that names the line if a row is invalid.
    """
    cuts = []
    table = csv.DictReader(io.StringIO(read_text(path, "index")))
    for row in table:
        try:
            parts = PurePosixPath(row["source_path"]).parts
            below = parts[parts.index("pose_data") + 1:] if "pose_data" in parts else parts
            if ".." in below or not below or PurePosixPath(*below).is_absolute():
                raise ValueError(f"invalid path {row['source_path']}")
            cuts.append(Cut(PurePosixPath(row["new_name"]).stem, below, int(row["start_frame"]), int(row["end_frame"])))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}:{table.line_num}: expected source_path, start_frame, end_frame and new_name "
                             f"({error})") from error
    if not cuts:
        raise InputError(f"{path} lists no clips")
    return cuts


def make_joints(cuts: list[Cut], sources: Folders, root: Path, workers: int = 1, quiet: bool = False) -> Extracted:
    """Write ``root/joints/ID.npy`` for every clip whose recording is available. Existing files are kept."""
    reasons = map_jobs(partial(_make, sources, root), cuts, workers, "HumanML3D joints", quiet)
    outcomes = [(cut.id, reason) for cut, reason in zip(cuts, reasons, strict=True)]
    return Extracted([name for name, reason in outcomes if reason is None],
                     {name: reason for name, reason in outcomes if reason is not None})


def cut_joints(cut: Cut, sources: Folders) -> np.ndarray:
    """Extract the joints (T, 22, 3) float32 of a clip, y up.

    Raises ``ValueError`` or ``OSError`` if its recording or the body models are missing or invalid, or if no frame
    remains.
    """
    lead = 0
    if _ACTED in cut.parts:
        joints = _acted(_found(sources.humanact12, cut.parts, ".npy"))
    else:
        path = _found(sources.amass, cut.parts, ".npz")
        if sources.body_models is None:
            raise ValueError("AMASS needs body models (--body_models)")
        joints = _captured(path, sources.body_models)
        lead = round(FPS * next((LEAD_IN[part] for part in cut.parts if part in LEAD_IN), 0.0))
    joints = joints[lead:][cut.start:cut.end]
    if not len(joints):
        raise ValueError(f"its recording ends before frame {cut.start}")
    return joints.astype(np.float32)


def _make(sources: Folders, root: Path, cut: Cut) -> str | None:
    path = root / "joints" / f"{cut.id}.npy"
    if path.exists():
        return None
    try:
        save_npy(path, cut_joints(cut, sources))
        return None
    except (OSError, ValueError) as error:
        return " ".join(str(error).split())


def _found(folder: Path | None, parts: tuple[str, ...], suffix: str) -> Path:
    if folder is None:
        raise ValueError("its source was not given (--amass, --humanact12)")
    names = [parts, (RENAMED.get(parts[0], parts[0]), *parts[1:])]
    if parts[0] == _ACTED:  # the folder of the archive may have another name
        names = [parts[start:] for start in range(len(parts))]
    paths = [(folder / Path(*name)).with_suffix(suffix) for name in names]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise ValueError(f"{paths[0]} is missing")
    return path


@lru_cache(maxsize=2)
def _captured(path: Path, models: Path) -> np.ndarray:
    """Compute the joints (T, 22, 3) of an AMASS archive at about 20 fps, by keeping every n-th frame, as published."""
    amass = read_amass(path)
    step, model = max(int(amass.fps / FPS), 1), read_body_model(models, amass.gender)
    x, y, z = np.moveaxis(model.joints(amass.poses[::step], amass.trans[::step], amass.betas[:BETAS]), -1, 0)
    return np.stack([-x, z, y], -1)


@lru_cache(maxsize=2)
def _acted(path: Path) -> np.ndarray:
    joints = read_real_array(path)
    if joints.ndim != 3 or joints.shape[1] < len(T2M) or joints.shape[2] != 3:
        raise ValueError(f"{path} has shape {joints.shape}, expected (frames, 24, 3)")
    return joints[:, :len(T2M)]


def build_parser() -> Parser:
    parser = Parser("Extract ROOT/joints/ID.npy of HumanML3D from its sources. prepare/README.md lists all steps. "
                    "Running it again resumes an unfinished run.")
    parser.add_argument("root", type=Path, metavar="ROOT", help="output data set folder")
    parser.add_argument("--index", type=Path, required=True, help="index.csv of HumanML3D")
    parser.add_argument("--amass", type=Path, help="folder of the AMASS sets (SMPL+H G): KIT/..., CMU/...")
    parser.add_argument("--humanact12", type=Path, help="folder of the HumanAct12 .npy files")
    parser.add_argument("--body_models", type=Path, help="SMPL-H models: male/model.npz, female/model.npz, ...")
    add_workers(parser)
    return parser


@script
def main() -> None:
    opt = build_parser().parse_args()
    cuts = read_cuts(opt.index)
    print(f"reading {len(cuts)} clips of {opt.index}")
    made = make_joints(cuts, Folders(opt.amass, opt.humanact12, opt.body_models), opt.root, opt.workers, opt.quiet)
    if made.refused:
        path = opt.root / "not_made.txt"
        write_text(path, "".join(f"{name}: {reason}\n" for name, reason in made.refused.items()))
        homes = Counter(cut.parts[0] for cut in cuts if cut.id in made.refused)  # AMASS subsets
        sets = ", ".join(f"{count} of {name}" for name, count in homes.items())
        print(f"{len(made.refused)} clips not extracted ({sets}); {path} lists the reasons")
    if not made.clips:
        name, reason = next(iter(made.refused.items()))
        raise InputError(f"no clip could be extracted; {name}: {reason}")
    print(f"{len(made.clips)} clips written to {opt.root / 'joints'}")


if __name__ == "__main__":
    main()
