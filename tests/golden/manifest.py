"""Read manifests: sizes from parameter shapes, everything else from settings."""
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from models.layers import pack_linears, packs
from tests.golden.fill import fill_state_dict
from tests.golden.report import Report

Manifest = Mapping[str, Any]
Shapes = dict[str, tuple[int, ...]]
Network = TypeVar("Network", bound=nn.Module)


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
    for part in _parts(manifest.get(inside)):
        told = {_plain(key): value for key, value in part.items()}
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


def _parts(settings: Any) -> list[Mapping[str, Any]]:
    """Return ``settings`` and the mappings among its values; an empty list if ``settings`` is not a mapping."""
    if not isinstance(settings, Mapping):
        return []
    return [settings, *(value for value in settings.values() if isinstance(value, Mapping))]


def _plain(key: str) -> str:
    return key.casefold().replace("-", "_")
