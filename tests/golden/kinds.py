"""Which check a fixture belongs to: decided by what is in it, never by its file's name."""
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from tests.golden.report import Report

ModelCheck = Callable[[dict[str, Any], dict[str, np.ndarray], Report], None]
MotionCheck = Callable[[dict[str, np.ndarray], Report], None]

# Words of a manifest's model name that settle the kind, whatever else the name says (settings, data set).
# The first line whose words all occur decides.
_KINDS = (
    ("pretraining",),
    ("m2t",),
    ("evaluator",),
    ("length", "estimator"),
    ("residual", "transformer"),
    ("momask", "mask", "transformer"),
    ("lamp", "mask", "transformer"),
    ("rvqvae",),
    ("humanvqvae",),
    ("quantizer",),
    ("qformer",),
)
# Names that leave it open: words, a part of a parameter's name that settles it, and the kind.
_OPEN_KINDS = (
    (("mask", "transformer"), "Qformer.", ("lamp", "mask", "transformer")),
    (("mask", "transformer"), "seqTransEncoder.", ("momask", "mask", "transformer")),
    (("vqvae",), "quantizer.layers.", ("rvqvae",)),
    (("vqvae",), "vqvae.quantizer.", ("humanvqvae",)),
    (("lamp",), "motion_cls.", ("pretraining",)),
)


class UnknownFixture(Exception):
    """The content of a fixture fits no check."""


def model_kind(model: str, parameters: Iterable[str] = ()) -> tuple[str, ...] | None:
    """The kind of a model by the words of its name, and by the names of its parameters where those leave it open.

    None where nothing fits.
    """
    spoken = re.findall(r"[a-z0-9]+", model.casefold().replace("-", ""))

    def says(words: Iterable[str]) -> bool:
        return all(any(word in one for one in spoken) for word in words)

    parameters = list(parameters)
    kinds = [words for words in _KINDS if says(words)]
    kinds += [kind for words, part, kind in _OPEN_KINDS if says(words) and any(part in name for name in parameters)]
    return kinds[0] if kinds else None


def find_model_check(manifest: Mapping[str, Any], checks: Mapping[str, ModelCheck]) -> ModelCheck:
    """The check for a manifest: by its exact ``model``, else by the kind of model that name and parameters tell.

    Raises ``UnknownFixture`` where the name fits nothing.
    """
    model = str(manifest["model"])
    if model in checks:
        return checks[model]
    kind = model_kind(model, (name for name, *_ in manifest.get("parameters", ())))
    for known, check in checks.items():
        if kind is not None and model_kind(known) == kind:
            return check
    raise UnknownFixture(f"no check for the model {model!r}")


def find_motion_check(names: Iterable[str], checks: Iterable[tuple[frozenset[str], MotionCheck]]) -> MotionCheck:
    """The check whose arrays are all there; where several are, the one that asks for the most.

    Raises ``UnknownFixture`` where none is.
    """
    names = frozenset(names)
    fitting = [(wanted, check) for wanted, check in checks if wanted <= names]
    if not fitting:
        raise UnknownFixture(f"no check for the arrays {', '.join(sorted(names)) or '(none)'}")
    return max(fitting, key=lambda entry: len(entry[0]))[1]
