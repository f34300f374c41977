"""Table of data sets, ``DATASETS``, with every fact that differs between them."""
from dataclasses import dataclass, replace
from pathlib import Path

from motion.skeleton import KIT, T2M, Skeleton
from utils.errors import InputError

MAX_MOTION_LENGTH = 196  # maximum frames of a model's input; shorter clips are padded to it
UNIT_LENGTH = 4          # frames per motion token
MAX_TOKENS = MAX_MOTION_LENGTH // UNIT_LENGTH
LOCKED = "_ik"  # suffix of motions with foot locking


@dataclass(frozen=True)
class DatasetSpec:
    """Facts about a data set."""

    name: str
    root: Path
    skeleton: Skeleton
    fps: float
    metres: float              # one unit of the joints on disk
    min_length: int            # clips with fewer rows are dropped
    max_length: int = 200      # clips with this many rows or more are dropped
    caption_fps: float = 20.0  # rows per second of caption times; 20 for KIT-ML too, as published

    @property
    def joints_num(self) -> int:
        """Number of joints."""
        return len(self.skeleton)

    @property
    def dim_pose(self) -> int:
        """Features per frame."""
        return self.skeleton.feature_count


DATASETS = {spec.name: spec for spec in (
    DatasetSpec("t2m", Path("dataset/HumanML3D"), T2M, fps=20.0, metres=1.0, min_length=40),
    DatasetSpec("kit", Path("dataset/KIT-ML"), KIT, fps=12.5, metres=0.001, min_length=24),
)}


def dataset_spec(name: str, data_root: str | Path | None = None) -> DatasetSpec:
    """The row ``name``, with ``data_root`` as its folder if given. Raises ``InputError`` for an unknown name."""
    if name not in DATASETS:
        raise InputError(f"--dataset_name {name}: known data sets are {', '.join(DATASETS)}")
    spec = DATASETS[name]
    return replace(spec, root=Path(data_root)) if data_root else spec


def require(path: Path, made_by: str) -> Path:
    """``path`` if it exists. Raises ``InputError`` naming it and the script that creates it."""
    if not path.exists():
        raise InputError(f"{path} is missing; {made_by} creates it")
    return path
