"""Checkpoints: written atomically, read without running code, loaded strictly; folders and settings of models."""
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from utils import InputError
from utils.files import ROOT, atomic_path, read_text, write_text

# NumPy numbers, such as a best validation score, which many trainers store with the weights.
_scalar = np.float64(0).__reduce__()[0]
_NUMPY_SCALARS = [_scalar, (_scalar, "numpy.core.multiarray.scalar"), np.dtype,
                  *(type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "bool"))]
_WRAPPERS = ("module.", "_orig_mod.")  # prefixes of DistributedDataParallel and torch.compile


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write ``content`` (nested dicts, lists, numbers, tensors) as a torch file, atomically.

    Raises ``InputError`` if the file cannot be written.
    """
    with atomic_path(path) as temporary:
        try:
            torch.save(content, temporary)
        except RuntimeError as error:  # torch's error on a full disk
            raise OSError("torch could not write all of it, the disk may be full") from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a torch file with ``weights_only=True``. Raises ``InputError`` if it is missing, truncated or needs more."""
    if not path.is_file():
        raise InputError(f"checkpoint {path} is missing")
    try:
        with torch.serialization.safe_globals(_NUMPY_SCALARS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types here, all of which mean an unusable file
        raise InputError(f"checkpoint {path} is truncated or contains more than tensors: {_reason(error)}") from error
    if not isinstance(content, dict):
        raise InputError(f"checkpoint {path} contains a {type(content).__name__}, not named tensors")
    return content


def _reason(error: Exception) -> str:
    """One line of torch's message, or the name of the class if it is not allowed."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip()
    if found := re.search(r"GLOBAL ([\w.]+)", text):
        return f"{found[1]} is not allowed in a checkpoint"
    return text.splitlines()[0][:200] if text else type(error).__name__


ROW_SCALE = ".row_scale"  # suffix of the scale of a matrix stored in 8 bits


def save_weights(path: Path, state: dict[str, Tensor], eight_bits: Sequence[str] = ()) -> None:
    """Write a state dict as float16 safetensors; integer tensors keep their type, shared tensors are written once.

    Matrices whose name ends in one of ``eight_bits`` are written as int8 with one scale per row, with errors of at most
    0.4 % of the largest value in a row.

    Raises ``InputError`` if the file cannot be written.
    """
    unique: dict[tuple[int, torch.Size], tuple[str, Tensor]] = {}
    for name, tensor in state.items():
        key = (tensor.data_ptr(), tensor.shape) if tensor.numel() else (name, tensor.shape)
        unique.setdefault(key, (name, tensor))
    stored: dict[str, Tensor] = {}
    for name, tensor in unique.values():
        if name.endswith(tuple(eight_bits)):
            scale = tensor.float().abs().amax(1, keepdim=True).clamp_min(1e-12) / 127
            stored |= {name: (tensor.float() / scale).round().to(torch.int8), name + ROW_SCALE: scale}
        else:
            stored[name] = (tensor.half() if tensor.is_floating_point() else tensor).contiguous()
    with atomic_path(path) as temporary:
        try:
            save_file(stored, temporary)
        except safetensors.SafetensorError as error:
            raise OSError(str(error)) from error


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read safetensors as float32. Raises ``InputError`` if the file is missing or damaged."""
    try:
        state = load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(f"weights {path} cannot be read: {error}") from error
    scales = {name.removesuffix(ROW_SCALE): state.pop(name) for name in list(state) if name.endswith(ROW_SCALE)}
    return {name: tensor * scales[name] if name in scales else tensor.float() if tensor.is_floating_point() else tensor
            for name, tensor in state.items()}


def is_state(value: object) -> bool:
    """Whether a value is a state dict that contains only tensors."""
    return isinstance(value, dict) and all(isinstance(tensor, Tensor) for tensor in value.values())


def unwrapped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict without the prefixes that wrappers add to all names."""
    while prefix := next((one for one in _WRAPPERS if state and all(name.startswith(one) for name in state)), None):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def find_state(content: Mapping[str, Any], keys: Sequence[str], path: Path) -> dict[str, Tensor]:
    """The state dict of a checkpoint's content, under the first of ``keys`` that exists. Raises ``InputError`` if none
    does."""
    for key in keys:
        if is_state(content.get(key)):
            return unwrapped(content[key])
    raise InputError(f"checkpoint {path} has no weights under {', '.join(keys)}; it has {', '.join(map(str, content))}")


def read_state(path: Path, keys: Sequence[str]) -> dict[str, Tensor]:
    """The state dict in a file: under the first of ``keys`` in a torch file, all of a safetensors file."""
    return load_weights(path) if path.suffix == ".safetensors" else find_state(load_checkpoint(path), keys, path)


def load_strictly(model: nn.Module, state: dict[str, Tensor], path: Path, optional: Sequence[str] = ()) -> None:
    """Load every tensor. Raises ``InputError`` listing ``incompatible_keys``."""
    if parts := incompatible_keys(model, state, optional):
        raise InputError(f"{path} does not match this model; {'; '.join(parts)}")
    own = model.state_dict()
    model.load_state_dict({name: tensor for name, tensor in state.items() if name in own}, strict=False)


def incompatible_keys(model: nn.Module, state: Mapping[str, Tensor], optional: Sequence[str] = ()) -> list[str]:
    """Names in ``state`` that are missing, unexpected or of another shape than the model's; empty if all fit.

    ``optional`` are name endings that may be absent or present: tied names and fixed buffers. A tensor that the model
    has under several names is needed under one of them only.
    """
    own = model.state_dict(keep_vars=True)  # the same object for a tensor with two names
    given = {id(own[name]) for name in own if name in state}

    def is_optional(name: str) -> bool:
        return bool(optional) and name.endswith(tuple(optional))

    missing = [name for name in own if name not in state and not is_optional(name) and id(own[name]) not in given]
    unexpected = [name for name in state if name not in own and not is_optional(name)]
    wrong = [f"{name} {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
             for name in own if name in state and state[name].shape != own[name].shape]
    return [f"{label}: {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
            for label, names in (("missing", missing), ("unexpected", unexpected), ("shape", wrong)) if names]


PRETRAINED = ROOT / "pretrained"
PREFERRED = ("net_best_fid", "net_best_mpjpe", "net_best_cider", "net_best_acc", "net_best_loss", "finest",
             "net_best_mm", "net_best_top1", "net_best_matching", "net_best_div", "net_last", "latest")
SUFFIXES = (".tar", ".pth", ".pt", ".safetensors")
HEADER = "------------ Options -------------"
FOOTER = "-------------- End ----------------"
OTHER_MODELS = ("vq_name", "lamp_name")  # taken from opt.txt first, as folders may be renamed
# Sampling of our early checkpoints, whose options lack it.
EARLIER_SAMPLING = {"res_cond_scale": 2.0, "res_temperature": 0.1, "length": "mean"}
_FLOAT = re.compile(r"[+-]?\d+\.\d+(e[+-]?\d+)?|[+-]?\d+e[+-]?\d+")
_INT = re.compile(r"[+-]?\d+")


def write_options(path: str | Path, options: Mapping[str, Any]) -> None:
    """Write ``opt.txt``: a ``key: value`` line per setting, sorted, between two dashed lines. Atomic."""
    lines = [f"{key}: {value}" for key, value in sorted(options.items())]
    write_text(path, "\n".join([HEADER, *lines, FOOTER, ""]))


def read_options(path: str | Path) -> dict[str, Any]:
    """Read ``opt.txt``. True/False and numbers are converted; everything else, names included, stays text.

    Lines are split at their first ``":"``; blank lines are skipped. Raises ``InputError`` for a line without one.
    """
    options: dict[str, Any] = {}
    for number, line in enumerate(read_text(path, "options").splitlines(), 1):
        if not line.strip() or line.startswith("---"):
            continue
        key, separator, value = line.partition(":")
        if not separator:
            raise InputError(f"{path}:{number}: expected 'key: value', not {line!r}")
        key, value = key.strip(), value.strip()
        options[key] = value if key == "name" or key.endswith("_name") else _value(value)
    return options


def _value(text: str) -> Any:
    if text in ("True", "False"):
        return text == "True"
    if _INT.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text


def _places(name: str, dataset_name: str, checkpoints_dir: str | Path) -> list[Path]:
    path = [Path(name)] if os.path.dirname(name) else []
    return [*path, Path(checkpoints_dir) / dataset_name / name, PRETRAINED / dataset_name / name]


def model_dirs(name: str, dataset_name: str, checkpoints_dir: str | Path) -> list[Path]:
    """Existing folders for a model name, those with a model first: a path, the user's checkpoints, ``pretrained``.
    """
    folders = [place for place in _places(name, dataset_name, checkpoints_dir)
               if os.path.isdir(place)]  # unlike Path.is_dir, accepts a name that is too long for the file system
    return sorted(folders, key=lambda folder: not any(
        (folder / part).exists() for part in ("opt.txt", "model", folder.name)))


def find_model_dir(name: str, dataset_name: str, checkpoints_dir: str | Path) -> Path:
    """The folder of the model ``name``: a path to the folder or to a checkpoint in its ``model/``, else
    ``checkpoints_dir/<dataset>/<name>``, else ``pretrained/<dataset>/<name>``.

    If a folder only contains a folder of the same name, like the released length estimator, that one is used. Raises
    ``InputError`` with all places that were tried.
    """
    if os.path.dirname(name) and os.path.isfile(name):
        return Path(name).absolute().parent.parent
    for folder in model_dirs(name, dataset_name, checkpoints_dir):
        inner = folder / folder.name
        return inner if (inner / "model").is_dir() and not (folder / "model").is_dir() else folder
    places = ", ".join(map(str, _places(name, dataset_name, checkpoints_dir)))
    raise InputError(f"no model named {name!r}: looked for {places}")


def model_names(files: Iterable[Path]) -> str:
    """Checkpoints by model, file and place, for messages: ``t2m_demo/net_best_loss (bundled)``, or
    ``mine/latest (checkpoints/t2m)`` relative to the working directory."""
    named = []
    for file in files:
        folder = file.absolute().parent.parent
        place = folder.parent
        if place.is_relative_to(Path.cwd()):
            place = place.relative_to(Path.cwd())
        where = "bundled" if folder.is_relative_to(PRETRAINED) else place
        named.append(f"{folder.name}/{file.stem} ({where})")
    return ", ".join(named)


@dataclass(frozen=True)
class Source:
    """A model's folder, settings and checkpoint. Errors caused by a setting name its file and key."""

    folder: Path
    options: dict[str, Any]
    file: Path
    has_settings: bool = False  # whether ``options`` come from the checkpoint; else from opt.txt

    def __str__(self) -> str:
        return str(self.file)

    @property
    def options_file(self) -> Path:
        """The model's ``opt.txt``."""
        return self.folder / "opt.txt"

    @property
    def is_complete(self) -> bool:
        """Whether ``options`` are all settings of the model: those in the checkpoint, or the opt.txt beside weights
        alone. Released checkpoints have none, and their sizes are inferred (``storage.released``)."""
        return self.has_settings or (self.file.suffix == ".safetensors" and bool(self.options))

    @property
    def settings_file(self) -> Path:
        """The file that the settings were read from."""
        return self.file if self.has_settings else self.options_file

    def needed(self, key: str) -> Any:
        """A required option."""
        if key not in self.options:
            if not self.options_file.exists():
                raise InputError(f"{self.options_file} is missing; it needs a line '{key}: NAME'")
            raise InputError(f"{self.options_file} lacks {key}")
        return self.options[key]

    def one_of(self, key: str, choices: Sequence[str], default: str) -> str:
        """An option with a fixed set of values."""
        value = self.options.get(key, default)
        if value not in choices:
            raise InputError(f"{self.settings_file}: {key} {value!r} is not one of {', '.join(choices)}")
        return value

    def with_settings(self, content: Mapping[str, Any]) -> Self:
        """This source with the settings inside a checkpoint's ``content``, if there are any."""
        settings = content.get("settings")
        if not isinstance(settings, dict):
            return self
        kept = {key: self.options[key] for key in OTHER_MODELS if key in self.options}
        return replace(self, options={**self.options, **settings, **kept}, has_settings=True)

    def with_sizes(self, sizes: Mapping[str, Any], guesses: Mapping[str, Any] | None = None) -> Self:
        """This source with ``sizes`` inferred from tensors (``storage.released``), and ``guesses`` for unknown
        settings. ``sizes`` take precedence over ``opt.txt``, which may be of another run.

        Raises ``InputError`` if ``opt.txt`` has a value of another type.
        """
        for key, size in sizes.items():
            if key in self.options and not fits(self.options[key], size):
                raise InputError(f"{self.options_file}: {key} cannot be {self.options[key]!r}")
        return replace(self, options={**(guesses or {}), **self.options, **sizes})

    def without(self, key: str) -> Self:
        """This source without an option."""
        return replace(self, options={name: value for name, value in self.options.items() if name != key})

    @contextmanager
    def building(self, config: type, prefix: str = "") -> Iterator[None]:
        """Context for building a model from ``config``, a dataclass whose fields are the options ``prefix`` + name.

        Each option must have the type of the field's default, integers at least 1. A ``ValueError`` or
        ``RuntimeError`` raised by the model becomes an ``InputError``.
        """
        for field in fields(config):
            key = prefix + field.name
            if key in self.options and field.default is not MISSING and not fits(self.options[key], field.default):
                raise InputError(f"{self.settings_file}: {key} cannot be {self.options[key]!r}")
        try:
            yield
        except (ValueError, RuntimeError) as error:
            raise InputError(f"{self.settings_file}: {error}") from error


def fits(value: Any, default: Any) -> bool:
    """Whether a value from a file has the type of an option's default; integers at least 1."""
    if default is None:
        return value is None or isinstance(value, str)
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    if isinstance(default, int):
        return isinstance(value, int) and value >= 1
    if isinstance(default, float):
        return isinstance(value, (int, float)) and value >= 0
    return isinstance(value, str)


def find_source(name: str, dataset_name: str, checkpoints_dir: str | Path, which: str | None = None) -> Source:
    """The folder, ``opt.txt`` and checkpoint of a model, by its name or by the path of its folder or of a checkpoint.

    ``which`` is a checkpoint's name with or without suffix; by default the best one, ``latest`` last. ``opt.txt`` may
    be absent. Raises ``InputError`` if there is no folder or no checkpoint.
    """
    path = Path(name)
    if path.suffix in SUFFIXES and path.is_file():
        name, which = str(path.absolute().parent.parent), which or path.stem
    folder = find_model_dir(name, dataset_name, checkpoints_dir)
    options = read_options(folder / "opt.txt") if (folder / "opt.txt").exists() else {}
    stems = (Path(which).stem,) if which else PREFERRED
    for stem in stems:
        for suffix in SUFFIXES:
            path = folder / "model" / f"{stem}{suffix}"
            if path.is_file():
                return Source(folder, options, path)
    raise InputError(f"{folder / 'model'} has no {' or '.join(stems)} ({', '.join(SUFFIXES)})")


def open_source(source: Source, keys: Sequence[str],
                infer: Callable[[Source, dict[str, Tensor]], Source]) -> tuple[Source, dict[str, Tensor]]:
    """A source with the settings of its checkpoint, and the state dict under the first of ``keys``. If the settings
    are not complete, ``infer`` adds those that follow from the state dict."""
    if source.file.suffix == ".safetensors":
        state = load_weights(source.file)
    else:
        content = load_checkpoint(source.file)
        source, state = source.with_settings(content), find_state(content, keys, source.file)
    return (source if source.is_complete else infer(source, state)), state


def checkpoint_names(source: Source) -> list[str]:
    """Names, without suffix, of all checkpoints in the folder of ``source``."""
    return sorted(path.stem for path in source.file.parent.iterdir() if path.suffix in SUFFIXES)
