"""Where named models lie: in the user's checkpoints first, then among the bundled ones."""
import os
from collections.abc import Iterable
from pathlib import Path

from utils.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
PRETRAINED = ROOT / "pretrained"


def model_dirs(name: str, dataset_name: str, checkpoints_dir: str | Path) -> list[Path]:
    """The folders there are under the name of a model, in the order of ``_places``; those that hold one come first."""
    folders = [place for place in _places(name, dataset_name, checkpoints_dir)
               if os.path.isdir(place)]  # unlike is_dir it bears a name that is too long
    return sorted(folders, key=lambda folder: not _holds_model(folder))


def find_model_dir(name: str, dataset_name: str, checkpoints_dir: str | Path) -> Path:
    """The folder of the model ``name``: a path as it stands, of the folder or of a checkpoint in its ``model/``, else
    ``checkpoints_dir/<dataset>/<name>``, else ``pretrained/<dataset>/<name>``. A folder that holds nothing but one of
    its own name, as the released length estimator may, stands for that; one that holds nothing of a model, but the
    scores of a bundled one of that name, is passed over. Raises ``InputError`` naming every place that was tried.
    """
    if os.path.dirname(name) and os.path.isfile(name):
        return Path(name).absolute().parent.parent
    for folder in model_dirs(name, dataset_name, checkpoints_dir):
        inner = folder / folder.name
        return inner if (inner / "model").is_dir() and not (folder / "model").is_dir() else folder
    places = ", ".join(map(str, _places(name, dataset_name, checkpoints_dir)))
    raise InputError(f"no model named {name!r}: looked for {places}")


def model_names(files: Iterable[Path]) -> str:
    """Checkpoints ``.../<name>/model/<file>`` by model and file, and where they are from: ``t2m_demo/net_best_loss
    (bundled)``, or ``mine/latest (checkpoints/t2m)`` as seen from the working directory."""
    named = []
    for file in files:
        folder = file.absolute().parent.parent
        place = folder.parent
        if place.is_relative_to(Path.cwd()):
            place = place.relative_to(Path.cwd())
        where = "bundled" if folder.is_relative_to(PRETRAINED) else place
        named.append(f"{folder.name}/{file.stem} ({where})")
    return ", ".join(named)


def _places(name: str, dataset_name: str, checkpoints_dir: str | Path) -> list[Path]:
    """Where a model may lie: at a path as it stands, among the user's checkpoints, among the bundled ones."""
    path = [Path(name)] if os.path.dirname(name) else []
    return [*path, Path(checkpoints_dir) / dataset_name / name, PRETRAINED / dataset_name / name]


def _holds_model(folder: Path) -> bool:
    return any((folder / part).exists() for part in ("opt.txt", "model", folder.name))
