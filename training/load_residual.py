"""A residual transformer by name."""
from pathlib import Path

import torch

from data.specs import DatasetSpec
from models.transformers.config import ResidualTransformerConfig
from models.transformers.residual import ResidualTransformer
from training.checkpoint import load_strictly
from training.source import Source, find_source, read_state
from utils.paths import PRETRAINED

NO_RESIDUAL = "none"
BUNDLED_RESIDUAL = "res_demo"


def residual_to_use(res_name: str | None, transformer: Source, spec: DatasetSpec) -> str | None:
    """The residual transformer to take with a masked transformer; None for the base layer alone.

    Where none is named (``res_name`` None), the bundled one goes with a bundled masked transformer.
    """
    if res_name is not None:
        return None if res_name == NO_RESIDUAL else res_name
    bundled = PRETRAINED / spec.name
    there = transformer.folder.parent == bundled and (bundled / BUNDLED_RESIDUAL).is_dir()
    return BUNDLED_RESIDUAL if there else None


def load_residual_transformer(name: str, spec: DatasetSpec, checkpoints_dir: str | Path,
                              device: torch.device | str = "cpu") -> tuple[ResidualTransformer, Source]:
    """A trained residual transformer by name, in eval mode, and where it comes from."""
    source = find_source(name, spec.name, checkpoints_dir)
    with source.building(ResidualTransformerConfig):
        model = ResidualTransformer(ResidualTransformerConfig.from_options(source.options))
    load_strictly(model, read_state(source.file, ("res_transformer",)), source.file, optional=("position_enc.pe",))
    return model.to(device).eval().requires_grad_(False), source
