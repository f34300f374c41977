"""Select the check of a fixture by its content, never by its file name."""
import re
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from motion.skeleton import SKELETONS, Skeleton
from tests.golden.report import Report

ModelCheck = Callable[[Report], None]
MotionCheck = Callable[[Report], None]

# Words in the model name of a manifest that determine the kind of model. The first line whose words all occur is used.
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
# For ambiguous names: words in the model name, a part of a parameter name, and the kind they determine.
_OPEN_KINDS = (
    (("mask", "transformer"), "Qformer.", ("lamp", "mask", "transformer")),
    (("mask", "transformer"), "seqTransEncoder.", ("momask", "mask", "transformer")),
    (("vqvae",), "quantizer.layers.", ("rvqvae",)),
    (("vqvae",), "vqvae.quantizer.", ("humanvqvae",)),
    (("lamp",), "motion_cls.", ("pretraining",)),
    (("text",), "opt_proj.", ("m2t",)),
    (("caption",), "opt_proj.", ("m2t",)),
    (("match",), "movement_encoder:", ("evaluator",)),
    (("length",), "output.0.", ("length", "estimator")),
    (("residual",), "quant_emb.", ("residual", "transformer")),
    (("lamp", "transformer"), "text2former.", ("lamp", "mask", "transformer")),
    (("momask", "transformer"), "token_emb.", ("momask", "mask", "transformer")),
    (("quantiser",), "codebook", ("quantizer",)),
    (("bert",), "crossattention.", ("qformer",)),
)


class UnknownFixture(Exception):
    """Raised if no check matches the content of a fixture."""


def model_kind(model: str, parameters: Iterable[str] = ()) -> tuple[str, ...] | None:
    """Return the kind of a model from the words in its name and, if ambiguous, its parameter names, or None."""
    spoken = re.findall(r"[a-z0-9]+", model.casefold().replace("-", ""))

    def says(words: Iterable[str]) -> bool:
        return all(any(word in one for one in spoken) for word in words)

    parameters = list(parameters)
    kinds = [words for words in _KINDS if says(words)]
    kinds += [kind for words, part, kind in _OPEN_KINDS if says(words) and any(part in name for name in parameters)]
    return kinds[0] if kinds else None


def find_model_check(manifest: Mapping[str, Any], checks: Mapping[str, ModelCheck]) -> ModelCheck:
    """Return the check for the ``model`` in a manifest, found by exact name or else by kind.

    Raises ``UnknownFixture`` if there is none.
    """
    model = str(manifest["model"])
    if model in checks:
        return checks[model]
    kind = model_kind(model, (name for name, *_ in manifest.get("parameters", ())))
    for known, check in checks.items():
        if kind is not None and model_kind(known) == kind:
            return check
    raise UnknownFixture(f"no check for the model {model!r}")


def find_motion_check(names: Iterable[str], checks: Iterable[tuple[tuple[str, ...], MotionCheck]]) -> MotionCheck:
    """Return the first check that lists one of the array ``names``, possibly as a pattern.

    Raises ``UnknownFixture`` if there is none.
    """
    names = sorted(names)
    for patterns, check in checks:
        if any(fnmatchcase(name, pattern) for name in names for pattern in patterns):
            return check
    raise UnknownFixture(f"no check for the arrays {', '.join(names) or '(none)'}")


def skeleton_of(joints_num: int) -> Skeleton:
    """Return the skeleton with this number of joints. Raises ``UnknownFixture`` if there is none."""
    for skeleton in SKELETONS.values():
        if len(skeleton) == joints_num:
            return skeleton
    raise UnknownFixture(f"no skeleton of {joints_num} joints")
