"""Remove all files that belong to a clip of a data set."""
from collections.abc import Collection, Iterable
from pathlib import Path

from utils.files import read_text, write_text

SPLITS = ("train", "val", "test", "train_val", "all")
FEATURE_FOLDERS = ("new_joint_vecs", "new_joints")


def twin_of(clip: str) -> str:
    """Id of the mirrored twin of a clip."""
    return f"M{clip}"


def remove_clips(root: Path, clips: Collection[str]) -> None:
    """Remove clips and their mirrored twins from the data set ``root``: joints, features, captions, split entries."""
    gone = {name for clip in clips for name in (clip, twin_of(clip))}
    for name in gone:
        _remove(root / folder / f"{name}.npy" for folder in ("joints", *FEATURE_FOLDERS))
        _remove([root / "texts" / f"{name}.txt"])
    for split in SPLITS if gone else ():
        path = root / f"{split}.txt"
        if path.exists():
            names = read_text(path, "split").split()
            kept = [name for name in names if name not in gone]
            if kept != names:
                write_text(path, "".join(f"{name}\n" for name in kept))


def remove_features(root: Path, clip: str) -> None:
    """Remove data derived from the joints of a clip: its features and its twin. The twin's split entry is kept."""
    twin = twin_of(clip)
    _remove(root / folder / f"{name}.npy" for folder in FEATURE_FOLDERS for name in (clip, twin))
    _remove([root / "joints" / f"{twin}.npy", root / "texts" / f"{twin}.txt"])


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
