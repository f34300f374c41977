"""One row a data set: every fact that differs between them."""
from dataclasses import dataclass, replace
from pathlib import Path

from motion.skeleton import SKELETONS, Skeleton
from utils.errors import InputError

MAX_MOTION_LENGTH = 196  # frames a model sees at most; shorter clips are padded to it
UNIT_LENGTH = 4          # frames a motion token stands for
MAX_TOKENS = MAX_MOTION_LENGTH // UNIT_LENGTH


@dataclass(frozen=True)
class DatasetSpec:
    """Facts about a data set; ``root`` is its folder."""

    name: str
    root: Path
    joints_num: int
    dim_pose: int       # features a frame, 12 * joints - 1
    fps: float
    unit: str           # of the joints on disk
    metres: float       # one unit in metres
    min_length: int     # clips with fewer rows are dropped
    max_length: int     # clips with this many rows or more are dropped
    caption_fps: float  # rows a second that caption times are turned into rows with (20 for both, as published)

    @property
    def skeleton(self) -> Skeleton:
        """The skeleton table of this data set."""
        return SKELETONS[self.name]


DATASETS = {
    "t2m": DatasetSpec("t2m", Path("dataset/HumanML3D"), 22, 263, 20.0, "metre", 1.0, 40, 200, 20.0),
    "kit": DatasetSpec("kit", Path("dataset/KIT-ML"), 21, 251, 12.5, "millimetre", 0.001, 24, 200, 20.0),
}


def dataset_spec(name: str, data_root: str | Path | None = None) -> DatasetSpec:
    """The row ``name``, its folder replaced by ``data_root`` where given. Raises ``InputError`` for an unknown name."""
    if name not in DATASETS:
        raise InputError(f"--dataset_name {name}: known data sets are {', '.join(DATASETS)}")
    spec = DATASETS[name]
    return replace(spec, root=Path(data_root)) if data_root else spec


def require(path: Path, made_by: str) -> Path:
    """``path`` if it exists; else ``InputError`` naming it and the script that makes it."""
    if not path.exists():
        raise InputError(f"{path} is missing; {made_by} makes it")
    return path
