"""Checkpoint files: written whole or not at all, read without running code that lies in them."""
import random
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


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write ``content`` (nested dicts, lists, numbers, tensors) as a torch file, atomically.

    Raises ``InputError`` where it cannot be written.
    """
    with atomic_path(path) as temporary:
        try:
            torch.save(content, temporary)
        except RuntimeError as error:  # what torch makes of a full disk
            raise OSError("torch could not write all of it, the disk may be full") from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a torch file with ``weights_only=True``. ``InputError`` where it is missing, cut short, or needs more."""
    if not path.is_file():
        raise InputError(f"checkpoint {path} is missing")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds here; all mean that this file is of no use
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"checkpoint {path} is cut short or holds more than tensors: {reason[:200]}") from error
    if not isinstance(content, dict):
        raise InputError(f"checkpoint {path} holds a {type(content).__name__}, not named tensors")
    return content


def save_weights(path: Path, state: dict[str, Tensor]) -> None:
    """Write a state dict as float16 safetensors (whole numbers stay as they are). Shared tensors are written once.

    Raises ``InputError`` where it cannot be written.
    """
    unique: dict[str, Tensor] = {}
    seen: set[tuple[int, torch.Size]] = set()
    for name, tensor in state.items():
        place = _place(tensor)
        if place in seen and tensor.numel() > 0:
            continue
        seen.add(place)
        unique[name] = (tensor.half() if tensor.is_floating_point() else tensor).contiguous()
    with atomic_path(path) as temporary:
        try:
            save_file(unique, temporary)
        except safetensors.SafetensorError as error:
            raise OSError(str(error)) from error


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read safetensors as float32. Raises ``InputError`` where the file is missing or damaged."""
    try:
        state = load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(f"weights {path} cannot be read: {error}") from error
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def load_strictly(model: nn.Module, state: dict[str, Tensor], path: Path, optional: Sequence[str] = ()) -> None:
    """Load every tensor; ``InputError`` lists what is missing, left over or of another shape (``misfits``)."""
    if parts := misfits(model, state, optional):
        raise InputError(f"{path} does not fit this model; {'; '.join(parts)}")
    own = model.state_dict()
    model.load_state_dict({name: tensor for name, tensor in state.items() if name in own}, strict=False)


def misfits(model: nn.Module, state: Mapping[str, Tensor], optional: Sequence[str] = ()) -> list[str]:
    """What of ``state`` is missing, left over or of another shape than the model's, in words; nothing where it fits.

    ``optional`` are name endings that may be absent or present: tied names and fixed buffers. A tensor that the model
    has under several names needs to be there under one of them.
    """
    own = model.state_dict(keep_vars=True)  # so that one tensor under two names is one object
    given = {id(own[name]) for name in own if name in state}

    def free(name: str) -> bool:
        return bool(optional) and name.endswith(tuple(optional))

    missing = [name for name in own if name not in state and not free(name) and id(own[name]) not in given]
    left_over = [name for name in state if name not in own and not free(name)]
    wrong = [f"{name} {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
             for name in own if name in state and state[name].shape != own[name].shape]
    return [f"{label}: {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
            for label, names in (("missing", missing), ("unexpected", left_over), ("shape", wrong)) if names]


def _place(tensor: Tensor) -> tuple[int, torch.Size]:
    """What two names of the same tensor have in common."""
    return tensor.data_ptr(), tensor.shape


def random_state() -> dict[str, Any]:
    """The state of Python's, NumPy's and torch's global generators, as plain numbers and tensors."""
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002
    state = {"python": [version, list(words), gauss], "torch": torch.get_rng_state(),
             "numpy": [kind, keys.tolist(), position, has_gauss, cached]}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Take up what ``random_state`` gave."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.device_count() == len(state["cuda"]):
        torch.cuda.set_rng_state_all(state["cuda"])
