"""Read a manifest: sizes from the shapes of parameters, everything else from settings."""
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from torch import nn

from models.layers import pack_linears, packs
from tests.golden.fill import fill_state_dict
from tests.golden.report import Report

Manifest = Mapping[str, Any]
Shapes = dict[str, tuple[int, ...]]
Network = TypeVar("Network", bound=nn.Module)


def shapes_of(manifest: Manifest) -> Shapes:
    """Shape by parameter name. Raises ``ValueError`` if the manifest lists no parameters."""
    if "parameters" not in manifest:
        raise ValueError("the manifest lists no parameters")
    return {name: tuple(shape) for name, shape, *_ in manifest["parameters"]}


def indices(shapes: Shapes, before: str, after: str = r"\..*") -> list[int]:
    """The numbers between ``before`` and ``after`` (a pattern) in names of parameters, ascending."""
    pattern = re.compile(re.escape(before) + r"(\d+)" + after)
    return sorted({int(match[1]) for name in shapes if (match := pattern.fullmatch(name))})


def setting(manifest: Manifest, *names: str, default: Any = None, inside: str = "hyperparameters") -> Any:
    """The setting of a model under one of ``names``, in the manifest's part ``inside`` or its subparts.

    Names differ in case and hyphens without harm; ``None`` written as text counts as None.
    """
    for part in _parts(manifest.get(inside)):
        told = {_plain(key): value for key, value in part.items()}
        for name in names:
            if name in told:
                return None if told[name] == "None" else told[name]
    return default


def filled(model: Network, report: Report, ignore: Sequence[str] = (), gradients: bool = False) -> Network:
    """The model in eval mode with the fixture's weights, its parameters compared with the manifest's. Linear layers are
    packed where generation would pack them, unless ``gradients`` are needed."""
    report.parameters(model.state_dict(), ignore)
    fill_state_dict(model.state_dict(), skipped(report.manifest))
    model.eval()
    if packs() and not gradients:
        pack_linears(model)
    return model


def skipped(manifest: Manifest) -> list[str]:
    """Suffixes of the names that keep their values."""
    return manifest.get("fill", {}).get("skip", [])


def _parts(settings: Any) -> list[Mapping[str, Any]]:
    """The mapping itself, then the mappings in it."""
    if not isinstance(settings, Mapping):
        return []
    return [settings, *(value for value in settings.values() if isinstance(value, Mapping))]


def _plain(key: str) -> str:
    return key.casefold().replace("-", "_")
