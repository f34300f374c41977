"""Load models by name: find the checkpoint, rebuild the network from its settings, load the weights strictly."""
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch

from data.specs import MAX_TOKENS, DatasetSpec
from data.text import clean_caption
from models.config import (
    ATTENTION_KINDS,
    BASE_SAMPLING,
    LENGTH_SAMPLING,
    LENGTHS,
    RESIDUAL_SAMPLING,
    MaskTransformerConfig,
    ResidualTransformerConfig,
    Sampling,
)
from models.hub import CLIP_NAME, ClipText
from models.lamp.features import ConditionKind, TextEncoder
from models.lamp.qformer import OPTION_PREFIX as QFORMER_PREFIX
from models.lamp.qformer import QFormerConfig
from models.text_to_motion import LengthEstimator, TextToMotion
from models.transformers.mask_transformer import UNUSED, LaMPMaskTransformer, MaskTransformer, ReleasedText
from models.transformers.residual import ResidualTransformer
from models.transformers.trunk import FIXED_TABLE
from storage import released
from storage.checkpoint import PRETRAINED, Source, find_source, load_strictly, open_source
from storage.load_lamp import (
    LAMP_OPTIONAL,
    PUBLISHED_CONDITION,
    LoadedTokenizer,
    fetched,
    load_lamp,
    load_tokenizer,
    word_pieces_of,
)
from utils.errors import InputError
from utils.files import fingerprint

BUNDLED_RESIDUAL = "res_demo"
NO_RESIDUAL = "none"


@dataclass(frozen=True)
class LoadedNetwork:
    """A masked or residual transformer or a length estimator in eval mode, with the text encoder it was trained with.
    """

    model: MaskTransformer | ResidualTransformer | LengthEstimator
    text: TextEncoder
    source: Source


def load_masked(name: str, spec: DatasetSpec, checkpoints_dir: str | Path, device: torch.device | str = "cpu",
                which: str | None = None) -> tuple[MaskTransformer, Source]:
    """A masked transformer by name, in eval mode, without its text encoder. Released LaMP files, which contain a
    Q-Former, become a ``LaMPMaskTransformer``."""
    source, state = open_source(find_source(name, spec.name, checkpoints_dir, which), ("t2m_transformer", "trans"))
    source = released.with_masked_sizes(source, state)
    source.one_of("attention", ATTENTION_KINDS, MaskTransformerConfig.attention)
    with source.building(MaskTransformerConfig), source.building(QFormerConfig, QFORMER_PREFIX):
        config = MaskTransformerConfig.from_options(source.options)
        model = (LaMPMaskTransformer(config, QFormerConfig.from_options(source.options))
                 if released.has_qformer(state) else MaskTransformer(config))
    load_strictly(model, state, source.file, optional=(FIXED_TABLE, *LAMP_OPTIONAL, *UNUSED))
    return model.to(device).eval().requires_grad_(False), source


def load_mask_transformer(name: str, spec: DatasetSpec, checkpoints_dir: str | Path, device: torch.device | str = "cpu",
                          which: str | None = None) -> LoadedNetwork:
    """A masked transformer by name with its text encoder: the LaMP model that its options name, CLIP, or, for a
    released LaMP transformer, the Q-Former inside."""
    model, source = load_masked(name, spec, checkpoints_dir, device, which)
    source.needed("vq_name")
    if isinstance(model, LaMPMaskTransformer):
        pieces = word_pieces_of(source, model.Qformer.config, checkpoints_dir, published=True)
        key = fingerprint(source.file, repr(model.Qformer.config), pieces.path)
        return LoadedNetwork(model, ReleasedText(model, pieces, key), source)
    text = _text_encoder_of(source, model.config.cond_dim, spec, checkpoints_dir, device)
    return LoadedNetwork(model, text, source)


def load_residual_transformer(name: str, spec: DatasetSpec, checkpoints_dir: str | Path,
                              device: torch.device | str = "cpu") -> tuple[ResidualTransformer, Source]:
    """A residual transformer by name, in eval mode, without its text encoder."""
    source, state = open_source(find_source(name, spec.name, checkpoints_dir), ("res_transformer",))
    source = released.with_residual_sizes(source, state)
    with source.building(ResidualTransformerConfig):
        model = ResidualTransformer(ResidualTransformerConfig.from_options(source.options))
    load_strictly(model, state, source.file, optional=(FIXED_TABLE,))
    return model.to(device).eval().requires_grad_(False), source


def load_residual(name: str, spec: DatasetSpec, checkpoints_dir: str | Path, device: torch.device | str = "cpu",
                  beside: LoadedNetwork | None = None) -> LoadedNetwork:
    """A residual transformer by name with its text encoder, shared with ``beside`` if both use the same."""
    model, source = load_residual_transformer(name, spec, checkpoints_dir, device)
    text = _text_encoder_of(source, model.config.cond_dim, spec, checkpoints_dir, device, beside)
    return LoadedNetwork(model, text, source)


def load_length_estimator(name: str, spec: DatasetSpec, checkpoints_dir: str | Path,
                          device: torch.device | str = "cpu",
                          beside: LoadedNetwork | None = None) -> LoadedNetwork:
    """A length estimator by name with its text encoder, shared with ``beside`` if both use the same."""
    source, state = open_source(find_source(name, spec.name, checkpoints_dir), ("estimator",))
    if source.has_settings and "cond_dim" in source.options:
        model = LengthEstimator(source.options["cond_dim"], MAX_TOKENS + 1)
    else:
        try:
            model = released.length_estimator(state)
        except ValueError as error:
            raise InputError(f"{source} is not a length estimator: {error}") from error
    load_strictly(model, state, source.file)
    width = model.output[0].in_features
    source = released.with_text_encoder(source, width)
    text = _text_encoder_of(source, width, spec, checkpoints_dir, device, beside)
    return LoadedNetwork(model.to(device).eval().requires_grad_(False), text, source)


def _text_encoder_of(source: Source, width: int, spec: DatasetSpec, checkpoints_dir: str | Path,
                     device: torch.device | str, beside: LoadedNetwork | None = None) -> TextEncoder:
    """The text encoder named in a model's options; ``width`` is that of the features the model takes."""
    keys = ("text_encoder", "lamp_name", "condition")
    if beside is not None and all(source.options.get(key) == beside.source.options.get(key) for key in keys):
        text = beside.text
    else:
        if source.one_of("text_encoder", ("lamp", "clip"), "lamp") == "lamp":
            source.needed("lamp_name")
            source.one_of("condition", get_args(ConditionKind), PUBLISHED_CONDITION)
        text = load_text_encoder(source.options, spec, checkpoints_dir, device)
    if text.dim != width:
        raise InputError(f"{source} reads text features of width {width}, but those of its text encoder have "
                         f"width {text.dim}")
    return text


def load_text_encoder(options: dict[str, Any], spec: DatasetSpec, checkpoints_dir: str | Path,
                      device: torch.device | str = "cpu") -> TextEncoder:
    """The frozen text encoder named in a run's options: LaMP (default) or CLIP."""
    if options.get("text_encoder", "lamp") == "clip":
        return fetched(CLIP_NAME, checkpoints_dir, lambda place: ClipText(place, device))
    lamp = load_lamp(options["lamp_name"], spec, checkpoints_dir, device)
    return lamp.text_encoder(options.get("condition", PUBLISHED_CONDITION))


def residual_to_use(res_name: str | None, transformer: Source, spec: DatasetSpec) -> str | None:
    """Name of the residual transformer for a masked transformer; None for the base layer alone.

    If ``res_name`` is None, a bundled masked transformer takes the bundled residual one, and others take none.
    """
    if res_name is not None:
        return None if res_name == NO_RESIDUAL else res_name
    bundled = PRETRAINED / spec.name
    there = transformer.folder.parent == bundled and (bundled / BUNDLED_RESIDUAL).is_dir()
    return BUNDLED_RESIDUAL if there else None


def load_text_to_motion(name: str, len_name: str | None, spec: DatasetSpec, checkpoints_dir: str | Path,
                        device: torch.device | str = "cpu", which: str | None = None,
                        res_name: str | None = None) -> tuple[TextToMotion, list[Path]]:
    """The generation pipeline of a masked transformer, and the files it was loaded from.

    Without ``len_name`` there is no length estimator, and every sample needs a length. ``res_name`` as in
    ``residual_to_use``.
    """
    transformer = load_mask_transformer(name, spec, checkpoints_dir, device, which)
    tokenizer = load_tokenizer(transformer.source.needed("vq_name"), spec, checkpoints_dir, device)
    vq = tokenizer.model.config
    if vq.nb_code != transformer.model.config.num_tokens:
        raise InputError(f"{transformer.source} has {transformer.model.config.num_tokens} codes, but its tokenizer "
                         f"{tokenizer.source} has {vq.nb_code}")
    files = [transformer.source.file, tokenizer.source.file]
    residual = length = None
    if res_name := residual_to_use(res_name, transformer.source, spec):
        residual = load_residual(res_name, spec, checkpoints_dir, device, beside=transformer)
        _check_layers(residual, tokenizer)
        files.append(residual.source.file)
    if len_name is not None:
        length = load_length_estimator(len_name, spec, checkpoints_dir, device, beside=transformer)
        files.append(length.source.file)
    pipeline = TextToMotion(
        tokenizer.model, tokenizer.normalisation.invert, transformer.model, transformer.text, spec.skeleton,
        spec.metres, length and length.model, length and length.text, clean_caption, residual and residual.model,
        residual and residual.text, tokenizer.normalisation.apply,
        _own_sampling(spec, (transformer, BASE_SAMPLING), (residual, RESIDUAL_SAMPLING), (length, LENGTH_SAMPLING)))
    return pipeline, files


def _own_sampling(spec: DatasetSpec,
                  *parts: tuple[LoadedNetwork | None, Sequence[str]]) -> Sampling:
    """Sampling settings of the models, else the published ones."""
    sampling = Sampling()
    for model, names in parts:
        if model is not None:
            source = released.with_sampling(model.source, spec.name)
            source.one_of("length", LENGTHS, Sampling.length)
            with source.building(Sampling):
                sampling = sampling.changed({name: source.options.get(name) for name in names})
    return sampling


def _check_layers(residual: LoadedNetwork, tokenizer: LoadedTokenizer) -> None:
    config, vq = residual.model.config, tokenizer.model.config
    if (config.num_quantizers, config.num_tokens) != (vq.num_quantizers, vq.nb_code):
        raise InputError(f"{residual.source} is for {config.num_quantizers} layers of {config.num_tokens} codes, but "
                         f"the tokenizer {tokenizer.source} has {vq.num_quantizers} of {vq.nb_code}")
