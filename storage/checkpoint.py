"""Read and write checkpoints and ``opt.txt`` files, and find models by name."""
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

# Types of NumPy numbers, which many trainers store in checkpoints.
_scalar = np.float64(0).__reduce__()[0]
_NUMPY_SCALARS = [_scalar, (_scalar, "numpy.core.multiarray.scalar"), np.dtype,
                  *(type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "bool"))]
Key = str | tuple[str, ...]  # key of a state dict in a checkpoint, or keys of several, see ``find_state``
_WRAPPERS = ("module.", "_orig_mod.")  # prefixes of DistributedDataParallel and torch.compile


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write ``content`` to a torch file, atomically. Raises ``InputError`` if the file cannot be written."""
    with atomic_path(path) as temporary:
        try:
            torch.save(content, temporary)
        except RuntimeError as error:  # torch's error on a full disk
            raise OSError("torch could not write the file; the disk may be full") from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a dictionary from a torch file with ``weights_only=True``.

    Raises ``InputError`` if the file is missing, damaged or unsafe, or is not a dictionary.
    """
    if not path.is_file():
        raise InputError(f"checkpoint {path} is missing")
    try:
        with torch.serialization.safe_globals(_NUMPY_SCALARS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds of errors for unusable files
        raise InputError(f"checkpoint {path} is truncated or contains more than tensors: {_reason(error)}") from error
    if not isinstance(content, dict):
        raise InputError(f"checkpoint {path} contains a {type(content).__name__}, not named tensors")
    return content


def _reason(error: Exception) -> str:
    """Shorten an error message from torch to one line. If the cause is a class that is not allowed, name it."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip()
    if found := re.search(r"GLOBAL ([\w.]+)", text):
        return f"{found[1]} is not allowed in a checkpoint"
    return text.splitlines()[0][:200] if text else type(error).__name__


ROW_SCALE = ".row_scale"  # name suffix of the scales of a matrix stored in 8 bits


def save_weights(path: Path, state: dict[str, Tensor], eight_bits: Sequence[str] = ()) -> None:
    """Write a state dict to a safetensors file in float16. Integer tensors keep their type.

    Matrices whose names end in one of ``eight_bits`` are stored as int8 with one scale per row. A tensor with several
    names is stored once, under the first. Raises ``InputError`` if the file cannot be written.
    """
    unique: dict[tuple[int, torch.Size], tuple[str, Tensor]] = {}
    for name, tensor in state.items():
        key = (tensor.data_ptr(), tensor.shape) if tensor.numel() else (name, tensor.shape)
        unique.setdefault(key, (name, tensor))
    stored: dict[str, Tensor] = {}
    for name, tensor in unique.values():
        if name.endswith(tuple(eight_bits)):
            stored[name], stored[name + ROW_SCALE] = to_eight_bits(tensor)
        else:
            stored[name] = (tensor.half() if tensor.is_floating_point() else tensor).contiguous()
    write_tensors(path, stored)


def to_eight_bits(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Convert a matrix (r, c) to int8 with scales (r, 1), one for each row."""
    scale = matrix.float().abs().amax(1, keepdim=True).clamp_min(1e-12) / 127
    return (matrix.float() / scale).round().to(torch.int8), scale


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file, atomically. Raises ``InputError`` if the file cannot be written."""
    with atomic_path(path) as temporary:
        try:
            save_file(tensors, temporary, metadata)
        except safetensors.SafetensorError as error:
            raise OSError(str(error)) from error


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file. Floating-point tensors and 8-bit matrices are converted to float32.

    Raises ``InputError`` if the file is missing or damaged.
    """
    try:
        state = load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(f"weights {path} cannot be read: {error}") from error
    scales = {name.removesuffix(ROW_SCALE): state.pop(name) for name in list(state) if name.endswith(ROW_SCALE)}
    return {name: tensor * scales[name] if name in scales else tensor.float() if tensor.is_floating_point() else tensor
            for name, tensor in state.items()}


def is_state(value: object) -> bool:
    """Return whether ``value`` is a dictionary of tensors."""
    return isinstance(value, dict) and all(isinstance(tensor, Tensor) for tensor in value.values())


def unwrapped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove the prefixes that DistributedDataParallel and torch.compile add to all names."""
    while prefix := next((one for one in _WRAPPERS if state and all(name.startswith(one) for name in state)), None):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def find_state(content: Mapping[str, Any], keys: Sequence[Key], path: Path) -> dict[str, Tensor]:
    """Return the state dict under the first key of ``keys`` in ``content``. Raises ``InputError`` if there is none.

    If a key is a tuple, the state dicts under all its elements are merged, with the elements as prefixes of the names.
    """
    missing: list[str] = []
    for key in keys:
        parts = key if isinstance(key, tuple) else (key,)
        if not (lacking := [part for part in parts if not is_state(content.get(part))]):
            return unwrapped(content[key]) if isinstance(key, str) else {
                f"{part}.{name}": tensor for part in parts for name, tensor in content[part].items()}
        missing += lacking
    raise InputError(f"checkpoint {path} has no weights under {', '.join(missing)}; it has "
                     f"{', '.join(map(str, content))}")


def read_state(path: Path, keys: Sequence[Key]) -> dict[str, Tensor]:
    """Read a state dict from a safetensors file, or from a torch file that has it under one of ``keys``."""
    return load_weights(path) if path.suffix == ".safetensors" else find_state(load_checkpoint(path), keys, path)


def load_strictly(model: nn.Module, state: dict[str, Tensor], path: Path, optional: Sequence[str] = ()) -> None:
    """Load a state dict into ``model``. Raises ``InputError`` for ``incompatible_keys``."""
    if parts := incompatible_keys(model, state, optional):
        raise InputError(f"{path} does not match this model; {'; '.join(parts)}")
    own = model.state_dict()
    model.load_state_dict({name: tensor for name, tensor in state.items() if name in own}, strict=False)


def incompatible_keys(model: nn.Module, state: Mapping[str, Tensor], optional: Sequence[str] = ()) -> list[str]:
    """Return up to three lines that describe missing and unexpected tensors in ``state``, and those of a wrong shape.

    Tensors whose names end in one of ``optional`` may be missing or unexpected. A tensor with several names needs only
    one of them.
    """
    own = model.state_dict(keep_vars=True)  # a tensor with several names is the same object
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
OTHER_MODELS = ("vq_name", "lamp_name")  # opt.txt takes precedence over the checkpoint, as folders may be renamed
# Sampling settings of early checkpoints of this project, which do not contain them.
EARLIER_SAMPLING = {"res_cond_scale": 2.0, "res_temperature": 0.1, "length": "mean"}
_FLOAT = re.compile(r"[+-]?\d+\.\d+(e[+-]?\d+)?|[+-]?\d+e[+-]?\d+")
_INT = re.compile(r"[+-]?\d+")


def write_options(path: str | Path, options: Mapping[str, Any]) -> None:
    """Write an ``opt.txt`` file, with one ``key: value`` line per option."""
    lines = [f"{key}: {value}" for key, value in sorted(options.items())]
    write_text(path, "\n".join([HEADER, *lines, FOOTER, ""]))


def read_options(path: str | Path) -> dict[str, Any]:
    """Read an ``opt.txt`` file. Booleans and numbers are converted, except in names; all other values are strings.

    Raises ``InputError`` for a line that is not ``key: value``.
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
    """List the existing folders for a model name. Folders that contain a model come first."""
    folders = [place for place in _places(name, dataset_name, checkpoints_dir)
               if os.path.isdir(place)]  # unlike Path.is_dir, accepts a name that is too long for the file system
    return sorted(folders, key=lambda folder: not any(
        (folder / part).exists() for part in ("opt.txt", "model", folder.name)))


def find_model_dir(name: str, dataset_name: str, checkpoints_dir: str | Path) -> Path:
    """Find the folder of a model in ``checkpoints_dir/<dataset>``, else in ``pretrained/<dataset>``.

    ``name`` may also be a path to the folder or to a checkpoint in its ``model/``. If the model is in a subfolder of
    the same name, like the released length estimator, the subfolder is returned. Raises ``InputError`` if no folder is
    found.
    """
    if os.path.dirname(name) and os.path.isfile(name):
        return Path(name).absolute().parent.parent
    for folder in model_dirs(name, dataset_name, checkpoints_dir):
        inner = folder / folder.name
        return inner if (inner / "model").is_dir() and not (folder / "model").is_dir() else folder
    places = ", ".join(map(str, _places(name, dataset_name, checkpoints_dir)))
    raise InputError(f"no model named {name!r}: looked for {places}")


def model_names(files: Iterable[Path]) -> str:
    """Format checkpoint paths for messages, such as ``t2m_demo/net_best_loss (bundled)``."""
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
    """Folder, options and checkpoint of a model."""

    folder: Path
    options: dict[str, Any]
    file: Path                  # the checkpoint
    has_settings: bool = False  # whether ``options`` come from the checkpoint, not from opt.txt

    def __str__(self) -> str:
        return str(self.file)

    @property
    def options_file(self) -> Path:
        """Path of ``opt.txt``."""
        return self.folder / "opt.txt"

    @property
    def is_complete(self) -> bool:
        """Whether ``options`` contain all settings. If not, ``storage.released`` infers the missing ones."""
        return self.has_settings or (self.file.suffix == ".safetensors" and bool(self.options))

    @property
    def settings_file(self) -> Path:
        """File that the options were read from."""
        return self.file if self.has_settings else self.options_file

    def needed(self, key: str) -> Any:
        """Return a required option. Raises ``InputError`` if it is missing."""
        if key not in self.options:
            if not self.options_file.exists():
                raise InputError(f"{self.options_file} is missing; it needs a line '{key}: NAME'")
            raise InputError(f"{self.options_file} lacks {key}")
        return self.options[key]

    def one_of(self, key: str, choices: Sequence[str], default: str) -> str:
        """Return an option, or ``default`` if it is missing. Raises ``InputError`` if it is not one of ``choices``."""
        value = self.options.get(key, default)
        if value not in choices:
            raise InputError(f"{self.settings_file}: {key} {value!r} is not one of {', '.join(choices)}")
        return value

    def with_settings(self, content: Mapping[str, Any]) -> Self:
        """Return a copy with the settings from the ``content`` of a checkpoint, if there are any.

        The options in ``OTHER_MODELS`` keep their values.
        """
        settings = content.get("settings")
        if not isinstance(settings, dict):
            return self
        kept = {key: self.options[key] for key in OTHER_MODELS if key in self.options}
        return replace(self, options={**self.options, **settings, **kept}, has_settings=True)

    def with_options(self, inferred: Mapping[str, Any], guesses: Mapping[str, Any] | None = None) -> Self:
        """Return a copy with the options ``inferred``, which replace existing ones, and ``guesses`` for missing ones.

        Raises ``InputError`` if an option and its inferred value have different types.
        """
        for key, value in inferred.items():
            if key in self.options and not fits(self.options[key], value):
                raise InputError(f"{self.options_file}: {key} cannot be {self.options[key]!r}")
        return replace(self, options={**(guesses or {}), **self.options, **inferred})

    @contextmanager
    def building(self, config: type, prefix: str = "") -> Iterator[None]:
        """Context for building a model. Raises ``InputError`` if an option is invalid or the model cannot be built.

        ``config`` is a dataclass. The option for a field is named ``prefix`` + field name, and must fit the default of
        the field (see ``fits``).
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
    """Return whether ``value`` has the type of ``default``, or is None or a string if ``default`` is None.

    Integers must be at least 1, floats at least 0.
    """
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
    """Find a model by its name, or by the path of its folder or of a checkpoint.

    ``which`` is the name of a checkpoint, with or without suffix. By default, the first of ``PREFERRED`` is used.
    Raises ``InputError`` if the folder or the checkpoint is missing.
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


def open_source(source: Source, keys: Sequence[Key],
                infer: Callable[[Source, dict[str, Tensor]], Source]) -> tuple[Source, dict[str, Tensor]]:
    """Read the checkpoint of ``source``. Returns the source with the checkpoint's settings, and the state dict.

    ``keys`` are as in ``find_state``. If settings are missing, ``infer`` adds those that it can infer from the tensors.
    """
    if source.file.suffix == ".safetensors":
        state = load_weights(source.file)
    else:
        content = load_checkpoint(source.file)
        source, state = source.with_settings(content), find_state(content, keys, source.file)
    return (source if source.is_complete else infer(source, state)), state


def checkpoint_names(source: Source) -> list[str]:
    """List the names, without suffix, of all checkpoints of a model."""
    return sorted(path.stem for path in source.file.parent.iterdir() if path.suffix in SUFFIXES)
