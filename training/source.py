"""Where a model's settings and weights lie, and what is wrong with them where it cannot be built."""
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from options.opt_file import read_options
from training.checkpoint import load_checkpoint, load_weights
from utils.errors import InputError
from utils.paths import find_model_dir

PREFERRED = ("net_best_fid", "net_best_mpjpe", "net_best_cider", "net_best_acc", "net_best_loss", "finest",
             "net_best_mm", "net_best_top1", "net_best_matching", "net_best_div", "net_last", "latest")
SUFFIXES = (".tar", ".pth", ".pt", ".safetensors")


@dataclass(frozen=True)
class Source:
    """Where a model comes from. Errors that its options are to blame for name ``opt.txt`` and the key."""

    folder: Path
    options: dict[str, Any]
    file: Path

    def __str__(self) -> str:
        return str(self.file)

    @property
    def options_file(self) -> Path:
        """The model's ``opt.txt``."""
        return self.folder / "opt.txt"

    def needed(self, key: str) -> Any:
        """An option that the model cannot do without."""
        if key not in self.options:
            if not self.options_file.exists():
                raise InputError(f"{self.options_file} is missing; it needs a line '{key}: NAME'")
            raise InputError(f"{self.options_file} lacks {key}")
        return self.options[key]

    def read_off(self, sizes: Mapping[str, Any], otherwise: Mapping[str, Any] | None = None) -> Self:
        """The same with options as the tensors tell them (``training.sizes``), and those of ``otherwise`` where neither
        they nor ``opt.txt`` do. Raises ``InputError`` where one in the file is of another kind than the tensors tell.
        """
        for key, size in sizes.items():
            if key in self.options and not _fits(self.options[key], size):
                raise InputError(f"{self.options_file}: {key} cannot be {self.options[key]!r}")
        return replace(self, options={**(otherwise or {}), **self.options, **sizes})

    def one_of(self, key: str, choices: Sequence[str], default: str) -> str:
        """An option that has only so many values."""
        value = self.options.get(key, default)
        if value not in choices:
            raise InputError(f"{self.options_file}: {key} {value!r} is none of {', '.join(choices)}")
        return value

    @contextmanager
    def building(self, config: type, prefix: str = "") -> Iterator[None]:
        """Around the building of a model from ``config``, a dataclass whose fields are options ``prefix`` + name.

        Each option must be of the kind of the field's default (whole numbers are sizes, so from 1 on); what the model
        refuses on top of that becomes an ``InputError`` too.
        """
        for field in fields(config):
            key = prefix + field.name
            if key in self.options and field.default is not MISSING and not _fits(self.options[key], field.default):
                raise InputError(f"{self.options_file}: {key} cannot be {self.options[key]!r}")
        try:
            yield
        except (ValueError, RuntimeError) as error:
            raise InputError(f"{self.options_file}: {error}") from error


def _fits(value: Any, default: Any) -> bool:
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    if isinstance(default, int):
        return isinstance(value, int) and value >= 1
    if isinstance(default, float):
        return isinstance(value, (int, float)) and value >= 0
    return isinstance(value, str)


def find_source(name: str, dataset_name: str, checkpoints_dir: str | Path, which: str | None = None,
                bare: bool = False) -> Source:
    """The folder, options and weights file of a model, by its name or by the path of its folder or of a checkpoint.

    ``which`` is a checkpoint's name with or without ending; by default the best one there is, ``latest`` last.
    Raises ``InputError`` where the folder, ``opt.txt`` or the file is missing; ``bare`` models may lack options, for
    their tensors tell enough.
    """
    path = Path(name)
    if path.suffix in SUFFIXES and path.is_file():
        name, which = str(path.absolute().parent.parent), which or path.stem
    folder = find_model_dir(name, dataset_name, checkpoints_dir)
    options = {} if bare and not (folder / "opt.txt").exists() else read_options(folder / "opt.txt")
    stems = (Path(which).stem,) if which else PREFERRED
    for stem in stems:
        for suffix in SUFFIXES:
            path = folder / "model" / f"{stem}{suffix}"
            if path.is_file():
                return Source(folder, options, path)
    raise InputError(f"{folder / 'model'} holds no {' or '.join(stems)} ({', '.join(SUFFIXES)})")


def checkpoint_names(source: Source) -> list[str]:
    """Names, without ending, of all checkpoints beside that of ``source``."""
    return sorted(path.stem for path in source.file.parent.iterdir() if path.suffix in SUFFIXES)


def read_state(path: Path, keys: Sequence[str]) -> dict[str, Tensor]:
    """The state dict in a file: under the first of ``keys`` that it has, or the whole file for safetensors."""
    if path.suffix == ".safetensors":
        return load_weights(path)
    content = load_checkpoint(path)
    for key in keys:
        state = content.get(key)
        if isinstance(state, dict) and all(isinstance(value, Tensor) for value in state.values()):
            return state
    raise InputError(f"checkpoint {path} has no weights under {', '.join(keys)}; it has {', '.join(map(str, content))}")
