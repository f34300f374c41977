"""Checkpoint files: written atomically, read without running code, loaded strictly."""
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from utils.errors import InputError
from utils.files import atomic_path

# Numbers of NumPy, such as a best validation score, which many trainers keep beside the weights: plain data.
_scalar = np.float64(0).__reduce__()[0]
_NUMPY_SCALARS = [_scalar, (_scalar, "numpy.core.multiarray.scalar"), np.dtype,
                  *(type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "bool"))]
_WRAPPERS = ("module.", "_orig_mod.")  # of DistributedDataParallel and torch.compile, in front of every name


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
        raise InputError(f"checkpoint {path} is cut short or holds more than tensors: {_reason(error)}") from error
    if not isinstance(content, dict):
        raise InputError(f"checkpoint {path} holds a {type(content).__name__}, not named tensors")
    return content


def _reason(error: Exception) -> str:
    """One plain line of torch's message; of one about a forbidden class, the class."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip()
    if found := re.search(r"GLOBAL ([\w.]+)", text):
        return f"{found[1]} is not allowed in a checkpoint"
    return text.splitlines()[0][:200] if text else type(error).__name__


ROW_SCALE = ".row_scale"  # after the name of a matrix kept in 8 bits


def save_weights(path: Path, state: dict[str, Tensor], eight_bits: Sequence[str] = ()) -> None:
    """Write a state dict as float16 safetensors; integer tensors keep their type, shared tensors are written once.

    Matrices whose name ends in one of ``eight_bits`` are written as int8 with one scale a row, with errors of at most
    0.4 % of the largest number of a row.

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
    """Whether a value is a state dict, with nothing in it but tensors."""
    return isinstance(value, dict) and all(isinstance(tensor, Tensor) for tensor in value.values())


def unwrapped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict without the prefixes that wrappers put in front of all names."""
    while prefix := next((one for one in _WRAPPERS if state and all(name.startswith(one) for name in state)), None):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def find_state(content: Mapping[str, Any], keys: Sequence[str], path: Path) -> dict[str, Tensor]:
    """The state dict of a checkpoint's content, under the first of ``keys`` that has one. Raises ``InputError``."""
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
        raise InputError(f"{path} does not fit this model; {'; '.join(parts)}")
    own = model.state_dict()
    model.load_state_dict({name: tensor for name, tensor in state.items() if name in own}, strict=False)


def incompatible_keys(model: nn.Module, state: Mapping[str, Tensor], optional: Sequence[str] = ()) -> list[str]:
    """Names in ``state`` that are missing, unexpected or of another shape than the model's; empty if all fit.

    ``optional`` are name endings that may be absent or present: tied names and fixed buffers. A tensor that the model
    has under several names is needed under one of them only.
    """
    own = model.state_dict(keep_vars=True)  # keeps one object for a tensor with two names
    given = {id(own[name]) for name in own if name in state}

    def is_optional(name: str) -> bool:
        return bool(optional) and name.endswith(tuple(optional))

    missing = [name for name in own if name not in state and not is_optional(name) and id(own[name]) not in given]
    unexpected = [name for name in state if name not in own and not is_optional(name)]
    wrong = [f"{name} {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
             for name in own if name in state and state[name].shape != own[name].shape]
    return [f"{label}: {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
            for label, names in (("missing", missing), ("unexpected", unexpected), ("shape", wrong)) if names]
