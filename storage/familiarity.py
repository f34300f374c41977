"""The file of a LaMP model that says what it has read: ``familiarity.safetensors`` in its folder."""
import json
from pathlib import Path

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor

from models.lamp.familiarity import Familiarity
from utils.errors import InputError
from utils.files import atomic_path

FAMILIARITY_FILE = "familiarity.safetensors"
_LEVELS = 127  # of normalised numbers in 8 bits


def save_familiarity(path: Path, known: Familiarity) -> None:
    """Write centres in 8 bits, with labels and threshold. Raises ``InputError`` if the file cannot be written."""
    def packed(vectors: Tensor) -> tuple[Tensor, Tensor]:
        scale = vectors.abs().amax(1, keepdim=True).clamp_min(1e-12) / _LEVELS
        return (vectors / scale).round().to(torch.int8), scale.half()

    (centres, centre_scale), (foreign, foreign_scale) = packed(known.centres), packed(known.foreign)
    tensors = {"centres": centres, "centre_scale": centre_scale, "foreign": foreign, "foreign_scale": foreign_scale}
    described = {"labels": json.dumps(known.labels), "threshold": repr(known.threshold)}
    with atomic_path(path) as temporary:
        try:
            save_file(tensors, temporary, described)
        except safetensors.SafetensorError as error:
            raise OSError(str(error)) from error


def load_familiarity(folder: Path, width: int) -> Familiarity | None:
    """The familiarity in a LaMP model's folder, None without such a file; ``width`` is that of word embeddings.

    Raises ``InputError`` where the file is damaged or belongs to a model of another width.
    """
    path = folder / FAMILIARITY_FILE
    if not path.is_file():
        return None
    try:
        with safetensors.safe_open(path, "pt") as opened:
            described, tensors = opened.metadata(), {name: opened.get_tensor(name).float() for name in opened.keys()}  # noqa: SIM118
        centres, foreign = (torch.nn.functional.normalize(tensors[f"{name}s" if name == "centre" else name]
                                                          * tensors[f"{name}_scale"], dim=-1)
                            for name in ("centre", "foreign"))
        known = Familiarity(centres, tuple(json.loads(described["labels"])), foreign, float(described["threshold"]))
    except (OSError, safetensors.SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    if centres.shape[1:] != (width,) or foreign.shape[1:] != (width,) or len(known.labels) != len(centres):
        raise InputError(f"{path} belongs to another model: {tuple(centres.shape)} centres with {len(known.labels)} "
                         f"labels, and word embeddings are {width} wide")
    return known
