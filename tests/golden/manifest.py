"""Read manifests (sizes from parameter shapes, everything else from settings) and fill models with their weights."""
import math
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from models.layers import pack_linears, packs
from tests.golden.report import Report

Manifest = Mapping[str, Any]
Shapes = dict[str, tuple[int, ...]]
Network = TypeVar("Network", bound=nn.Module)


def fill(name: str, shape: Sequence[int]) -> np.ndarray:
    """Return the float32 values of the tensor ``name``.

    They are sampled from N(0, 1) by a generator seeded with the CRC-32 of the name. With two or more dimensions they
    are divided by the root of the fan-in (all sizes except the first), else by ten, and centred at 1 for ``*weight``.
    """
    shape = tuple(shape)
    values = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    if len(shape) > 1:
        return (values / math.sqrt(math.prod(shape[1:]))).astype(np.float32)
    centre = 1.0 if name.endswith("weight") else 0.0
    return np.asarray(centre + 0.1 * values, dtype=np.float32)


@torch.no_grad()
def fill_state_dict(state_dict: Mapping[str, Tensor], skip: Sequence[str] = ()) -> None:
    """Fill the floating-point tensors of a state dict in place, except names that end with one of ``skip``."""
    for name, tensor in state_dict.items():
        if tensor.is_floating_point() and not name.endswith(tuple(skip)):
            tensor.copy_(torch.from_numpy(fill(name, tensor.shape)))


def shapes_of(manifest: Manifest) -> Shapes:
    """Return the shape of each parameter. Raises ``ValueError`` if the manifest lists no parameters."""
    if "parameters" not in manifest:
        raise ValueError("the manifest lists no parameters")
    return {name: tuple(shape) for name, shape, *_ in manifest["parameters"]}


def state_of(manifest: Manifest, prefix: str = "", new: str = "") -> dict[str, Tensor]:
    """Return the parameters whose names start with ``prefix`` as tensors without values; ``new`` replaces it."""
    return {new + name.removeprefix(prefix): torch.empty(shape, device="meta")
            for name, shape in shapes_of(manifest).items() if name.startswith(prefix)}


def indices(shapes: Shapes, before: str, after: str = r"\..*") -> list[int]:
    """Return the sorted numbers between ``before`` and the pattern ``after`` in parameter names."""
    pattern = re.compile(re.escape(before) + r"(\d+)" + after)
    return sorted({int(match[1]) for name in shapes if (match := pattern.fullmatch(name))})


def setting(manifest: Manifest, *names: str, default: Any = None, inside: str = "hyperparameters") -> Any:
    """Return a setting by any of its ``names``, from the part ``inside`` of the manifest or its subparts.

    Case and hyphens in names are ignored. The text "None" is converted to None.
    """
    settings = manifest.get(inside)
    if isinstance(settings, Mapping):
        for part in (settings, *(value for value in settings.values() if isinstance(value, Mapping))):
            told = {key.casefold().replace("-", "_"): value for key, value in part.items()}
            for name in names:
                if name in told:
                    return None if told[name] == "None" else told[name]
    return default


def filled(model: Network, report: Report, ignore: Sequence[str] = (), gradients: bool = False) -> Network:
    """Fill a model with the fixture's weights in eval mode, and compare its parameters with the manifest.

    Linear layers are packed as for generation, unless ``gradients`` are needed.
    """
    report.parameters(model.state_dict(), ignore)
    fill_state_dict(model.state_dict(), skipped(report.manifest))
    model.eval()
    if packs() and not gradients:
        pack_linears(model)
    return model


def skipped(manifest: Manifest) -> list[str]:
    """Return the suffixes of tensor names that keep their values."""
    return manifest.get("fill", {}).get("skip", [])
