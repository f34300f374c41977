"""Which check a fixture belongs to: decided by what is in it, never by its file's name."""
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


class UnknownFixture(Exception):
    """The content of a fixture fits no check."""


def model_kind(model: str) -> tuple[str, ...] | None:
    """The kind that the words of a model name settle, None where they settle none."""
    letters = "".join(character for character in model.casefold() if character.isalnum())
    return next((words for words in _KINDS if all(word in letters for word in words)), None)


def find_model_check(manifest: Mapping[str, Any], checks: Mapping[str, ModelCheck]) -> ModelCheck:
    """The check for a manifest: by its exact ``model``, else by the kind of model that the name tells.

    Raises ``UnknownFixture`` where the name fits nothing.
    """
    model = str(manifest["model"])
    if model in checks:
        return checks[model]
    kind = model_kind(model)
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
