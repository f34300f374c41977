"""The two token transformers by name, ours and published ones, without what gives their text features."""
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from data.specs import DatasetSpec
from models.clip_text import CLIP_WIDTH
from models.lamp.qformer import OPTION_PREFIX as QFORMER_PREFIX
from models.lamp.qformer import POSITION_IDS, TIED_NAMES, QFormerConfig
from models.transformers.config import ATTENTION_KINDS, MaskTransformerConfig, ResidualTransformerConfig
from models.transformers.lamp_text import UNUSED, LaMPMaskTransformer
from models.transformers.mask_transformer import MaskTransformer
from models.transformers.residual import ResidualTransformer
from models.transformers.trunk import FIXED_TABLE
from training.checkpoint import load_strictly
from training.sizes import qformer_sizes, residual_sizes, transformer_sizes, usual_heads
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


def load_masked(name: str, spec: DatasetSpec, checkpoints_dir: str | Path, device: torch.device | str = "cpu",
                which: str | None = None) -> tuple[MaskTransformer, Source]:
    """A trained masked transformer by name, in eval mode, and where it comes from.

    One that carries a Q-Former is a released LaMP one, and comes as ``LaMPMaskTransformer``. One whose options do not
    speak of a text encoder, but whose text features are as wide as CLIP's, is MoMask's.
    """
    source = find_source(name, spec.name, checkpoints_dir, which, bare=True)
    state = read_state(source.file, ("t2m_transformer", "trans"))
    source = _with_sizes(source, transformer_sizes(state))
    released = any(name.startswith("Qformer.") for name in state)
    if released:
        sizes = qformer_sizes(state)
        source = source.read_off(sizes, {"attention": "additive", **usual_heads(sizes, QFORMER_PREFIX)})
    elif source.options.get("text_encoder") == "clip":
        source = source.read_off({}, {"attention": "full"})
    source.one_of("attention", ATTENTION_KINDS, MaskTransformerConfig.attention)
    with source.building(MaskTransformerConfig), source.building(QFormerConfig, QFORMER_PREFIX):
        config = MaskTransformerConfig.from_options(source.options)
        model = (LaMPMaskTransformer(config, QFormerConfig.from_options(source.options)) if released
                 else MaskTransformer(config))
    load_strictly(model, state, source.file, optional=(FIXED_TABLE, *TIED_NAMES, POSITION_IDS, *UNUSED))
    return model.to(device).eval().requires_grad_(False), source


def load_residual_transformer(name: str, spec: DatasetSpec, checkpoints_dir: str | Path,
                              device: torch.device | str = "cpu") -> tuple[ResidualTransformer, Source]:
    """A trained residual transformer by name, in eval mode, and where it comes from."""
    source = find_source(name, spec.name, checkpoints_dir, bare=True)
    state = read_state(source.file, ("res_transformer",))
    source = _with_sizes(source, residual_sizes(state))
    with source.building(ResidualTransformerConfig):
        model = ResidualTransformer(ResidualTransformerConfig.from_options(source.options))
    load_strictly(model, state, source.file, optional=(FIXED_TABLE,))
    return model.to(device).eval().requires_grad_(False), source


def _with_sizes(source: Source, sizes: Mapping[str, Any]) -> Source:
    return with_text_encoder(source.read_off(sizes, usual_heads(sizes)), sizes.get("cond_dim"))


def with_text_encoder(source: Source, width: int | None) -> Source:
    """Published models do not say what their text features, ``width`` wide, come from; CLIP's are told by that."""
    if width == CLIP_WIDTH and not {"text_encoder", "lamp_name"} & source.options.keys():
        return source.read_off({"text_encoder": "clip"})
    return source
