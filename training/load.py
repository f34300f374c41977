"""Models by name: find the folder, read ``opt.txt``, rebuild the network, take its weights strictly."""
import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from data.motion_windows import Normalisation
from data.specs import DatasetSpec
from data.text import clean_caption
from models.clip_text import CLIP_NAME, ClipText
from models.hub import model_folder
from models.lamp.features import ConditionKind, LaMPConfig
from models.lamp.lamp import LaMP
from models.lamp.qformer import OPTION_PREFIX as QFORMER_PREFIX
from models.lamp.qformer import POSITION_IDS, TIED_NAMES, QFormer, QFormerConfig
from models.lamp.text_encoder import LaMPText, text_inputs
from models.lamp.tokenizer import VOCAB_FILE, WordPieces
from models.length_estimator import LengthEstimator
from models.text_to_motion import TextToMotion
from models.transformers.lamp_text import LaMPMaskTransformer, ReleasedText
from models.transformers.mask_transformer import MaskTransformer
from models.transformers.residual import ResidualTransformer
from models.vq.model import RVQVAE, HumanVQVAE, VQConfig, build_tokenizer
from motion.features import biased_std
from options.base import origin
from options.opt_file import read_options
from training.checkpoint import load_strictly
from training.load_transformers import (
    load_masked,
    load_residual_transformer,
    residual_to_use,
    with_text_encoder,
)
from training.runs import run_folder
from training.sizes import lamp_sizes, tokenizer_sizes, usual_heads
from training.source import Source, find_source, read_state
from training.text_features import TextEncoder, fingerprint
from utils.errors import InputError

LAMP_OPTIONAL = (*TIED_NAMES, POSITION_IDS)
BUNDLED_LAMP = "lamp_demo"
PUBLISHED_BERT = "bert-base-uncased"  # whose word pieces the released models read
PUBLISHED_TEXT_LEN = 32
PUBLISHED_CONDITION = "query"
SHORTEST_TEXT = 3  # word pieces: [CLS], one, [SEP]


def starting_normalisation(opt: argparse.Namespace, spec: DatasetSpec) -> Normalisation:
    """What a run normalises motions by: statistics of the data set, in which root motion and contacts weigh more; or
    those of the model that it starts from, which is what its weights are about."""
    if name := origin(opt):
        meta = find_source(name, spec.name, opt.checkpoints_dir).folder / "meta"
        return Normalisation.load(meta / "mean.npy", meta / "std.npy", spec.dim_pose, "the training of that model")
    published = Normalisation.load(spec.root / "Mean.npy", spec.root / "Std.npy", spec.dim_pose)
    return Normalisation(published.mean, biased_std(published.std, opt.feat_bias))


@dataclass(frozen=True)
class LoadedTokenizer:
    """A tokenizer in eval mode with the normalisation it was trained with."""

    model: HumanVQVAE | RVQVAE
    normalisation: Normalisation
    source: Source

    @property
    def fingerprint(self) -> str:
        """A hash of all that codes depend on; not every setting shows in the weights."""
        mean, std = self.normalisation.mean.tobytes(), self.normalisation.std.tobytes()
        return fingerprint(self.source.file, repr(self.model.config), mean, std)


def load_tokenizer(name: str, spec: DatasetSpec, checkpoints_dir: str | Path, device: torch.device | str = "cpu",
                   which: str | None = None) -> LoadedTokenizer:
    """A trained tokenizer by name."""
    source = find_source(name, spec.name, checkpoints_dir, which, bare=True)
    state = read_state(source.file, ("vq_model", "net"))
    source = source.read_off(tokenizer_sizes(state))
    with source.building(VQConfig):
        model = build_tokenizer(VQConfig.from_options({**source.options, "dim_pose": spec.dim_pose}))
    load_strictly(model, state, source.file)
    for quantizer in model.quantizers:
        quantizer.seed_running_state()
    meta = source.folder / "meta"
    normalisation = Normalisation.load(meta / "mean.npy", meta / "std.npy", spec.dim_pose, "train_vq.py")
    return LoadedTokenizer(model.to(device).eval().requires_grad_(False), normalisation, source)


@dataclass(frozen=True)
class LoadedLaMP:
    """A LaMP model in eval mode, its word pieces, and the tokenizer's normalisation that its motions must have."""

    model: LaMP
    pieces: WordPieces
    normalisation: Normalisation
    max_text_len: int  # word pieces of a text
    source: Source

    def text_features(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors (b, embed_dim) of texts, for retrieval."""
        return self.model.text_features(*text_inputs(self.model, self.pieces, texts, self.max_text_len))

    def motion_features(self, motion: Tensor, m_lens: Tensor) -> Tensor:
        """Unit vectors (b, embed_dim) of normalised motions (b, t, d) of ``m_lens`` frames, for retrieval."""
        device = self.model.query_tokens.device
        return self.model.motion_features(motion.to(device), m_lens.to(device))

    def text_encoder(self, kind: ConditionKind) -> LaMPText:
        """Text features for other models."""
        return LaMPText(self.model, self.pieces, kind, self.max_text_len, self.fingerprint)

    @property
    def fingerprint(self) -> str:
        """A hash of all that features depend on but the length of texts; not every setting shows in the weights."""
        mean, std = self.normalisation.mean.tobytes(), self.normalisation.std.tobytes()
        return fingerprint(self.source.file, repr(self.model.config), self.pieces.path, mean, std)


def load_lamp(name: str, spec: DatasetSpec, checkpoints_dir: str | Path, device: torch.device | str = "cpu",
              which: str | None = None) -> LoadedLaMP:
    """A trained LaMP model by name, with the tokenizer that its options name."""
    source, state = _read_lamp(name, spec, checkpoints_dir, which)
    tokenizer = load_tokenizer(source.needed("vq_name"), spec, checkpoints_dir, device)
    with source.building(LaMPConfig), source.building(QFormerConfig, QFORMER_PREFIX):
        config = LaMPConfig.from_options(source.options, tokenizer.model.config)
        model = LaMP(config, tokenizer.model)
    if source.file.suffix == ".safetensors":  # small files leave out what the tokenizer's file has already
        frozen = {"vq_model": tokenizer.model, "motion_encoder": tokenizer.model.motion_encoder}
        for prefix, part in frozen.items():
            state = {f"{prefix}.{key}": tensor for key, tensor in part.state_dict().items()} | state
    load_strictly(model, state, source.file, optional=LAMP_OPTIONAL)
    pieces = _word_pieces(source, config.qformer, checkpoints_dir, published=config.published)
    return LoadedLaMP(model.to(device).eval().requires_grad_(False), pieces, tokenizer.normalisation,
                      _text_length(source, config.qformer.max_positions), source)


def lamp_to_start_from(name: str, spec: DatasetSpec, checkpoints_dir: str | Path,
                       **dropouts: float) -> tuple[QFormer, WordPieces]:
    """A Q-Former with the sizes of a trained LaMP model and other ``dropouts``, its weights still to come, and that
    model's word pieces."""
    source, _ = _read_lamp(name, spec, checkpoints_dir)
    with source.building(QFormerConfig, QFORMER_PREFIX):
        qformer = QFormer(replace(QFormerConfig.from_options(source.options), **dropouts))
    published = source.options.get("published_behaviour", True)
    return qformer, _word_pieces(source, qformer.config, checkpoints_dir, published)


def _read_lamp(name: str, spec: DatasetSpec, checkpoints_dir: str | Path,
               which: str | None = None) -> tuple[Source, dict[str, Tensor]]:
    """Where a LaMP model comes from, all its sizes among its options, and its weights."""
    source = find_source(name, spec.name, checkpoints_dir, which, bare=True)
    state = read_state(source.file, ("motion_qformer",))
    sizes = lamp_sizes(state)
    return source.read_off(sizes, usual_heads(sizes, QFORMER_PREFIX)), state


def _word_pieces(source: Source, sizes: QFormerConfig, checkpoints_dir: str | Path, published: bool) -> WordPieces:
    """The word pieces of a model: those in its folder; a published model has none there, and reads BERT's."""
    folder = source.folder
    if published and not (folder / VOCAB_FILE).is_file():
        folder = _fetched(PUBLISHED_BERT, checkpoints_dir, lambda place: model_folder(
            place, "vocabulary", (VOCAB_FILE,), weights=False))
    pieces = WordPieces(folder)
    if len(pieces) > sizes.vocab:
        raise InputError(f"{pieces.path} has {len(pieces) - 1} word pieces, and the model {sizes.vocab - 1}")
    return pieces


def _fetched(name: str, checkpoints_dir: str | Path, load: Callable[[str | Path], Any]) -> Any:
    """What ``load`` makes of the folder ``checkpoints_dir/<last part of name>``, or of the hub's ``name``."""
    own = Path(checkpoints_dir) / Path(name).name
    if own.is_dir():
        return load(own)
    try:
        return load(name)
    except InputError as error:
        raise InputError(f"{error}; its files may also lie in {own}") from error


def _text_length(source: Source, most: int) -> int:
    length = source.options.get("max_text_len", PUBLISHED_TEXT_LEN)
    if not isinstance(length, int) or not SHORTEST_TEXT <= length <= most:
        raise InputError(f"{source.options_file}: max_text_len {length!r} is not from {SHORTEST_TEXT} to {most}")
    return length


@dataclass(frozen=True)
class LoadedTransformer:
    """A masked transformer in eval mode and the text encoder it was trained with."""

    model: MaskTransformer
    text: TextEncoder
    source: Source


def load_mask_transformer(name: str, spec: DatasetSpec, checkpoints_dir: str | Path, device: torch.device | str = "cpu",
                          which: str | None = None) -> LoadedTransformer:
    """A trained masked transformer by name, with what gives its text features: the LaMP model that its options name,
    CLIP, or for a released LaMP transformer itself."""
    model, source = load_masked(name, spec, checkpoints_dir, device, which)
    source.needed("vq_name")
    if isinstance(model, LaMPMaskTransformer):
        pieces = _word_pieces(source, model.Qformer.config, checkpoints_dir, published=True)
        made_of = fingerprint(source.file, repr(model.Qformer.config), pieces.path)
        return LoadedTransformer(model, ReleasedText(model, pieces, made_of), source)
    text = _text_encoder_of(source, model.config.cond_dim, spec, checkpoints_dir, device)
    return LoadedTransformer(model, text, source)


@dataclass(frozen=True)
class LoadedResidual:
    """A residual transformer in eval mode and the text encoder it was trained with."""

    model: ResidualTransformer
    text: TextEncoder
    source: Source


def load_residual(name: str, spec: DatasetSpec, checkpoints_dir: str | Path, device: torch.device | str = "cpu",
                  beside: LoadedTransformer | None = None) -> LoadedResidual:
    """A trained residual transformer by name; it shares the text encoder of ``beside`` where it is the same."""
    model, source = load_residual_transformer(name, spec, checkpoints_dir, device)
    text = _text_encoder_of(source, model.config.cond_dim, spec, checkpoints_dir, device, beside)
    return LoadedResidual(model, text, source)


@dataclass(frozen=True)
class LoadedLengthEstimator:
    """A length estimator in eval mode and the text encoder it was trained with."""

    model: LengthEstimator
    text: TextEncoder
    source: Source


def load_length_estimator(name: str, spec: DatasetSpec, checkpoints_dir: str | Path,
                          device: torch.device | str = "cpu",
                          beside: LoadedTransformer | None = None) -> LoadedLengthEstimator:
    """A trained length estimator by name; it shares the text encoder of ``beside`` where it is the same."""
    source = find_source(name, spec.name, checkpoints_dir, bare=True)
    state = read_state(source.file, ("estimator",))
    try:
        model = LengthEstimator.sized_like(state)
    except ValueError as error:
        raise InputError(f"{source} is not a length estimator: {error}") from error
    load_strictly(model, state, source.file)
    width = model.output[0].in_features
    source = with_text_encoder(source, width)
    text = _text_encoder_of(source, width, spec, checkpoints_dir, device, beside)
    return LoadedLengthEstimator(model.to(device).eval().requires_grad_(False), text, source)


def _text_settings(options: Mapping[str, Any]) -> list[Any]:
    return [options.get(key) for key in ("text_encoder", "lamp_name", "condition")]


def _text_encoder_of(source: Source, width: int, spec: DatasetSpec, checkpoints_dir: str | Path,
                     device: torch.device | str, beside: LoadedTransformer | None = None) -> TextEncoder:
    """The text encoder that a model's options name; ``width`` is that of the features it reads."""
    if beside is not None and _text_settings(source.options) == _text_settings(beside.source.options):
        text = beside.text
    else:
        if source.one_of("text_encoder", ("lamp", "clip"), "lamp") == "lamp":
            source.needed("lamp_name")
            source.one_of("condition", get_args(ConditionKind), PUBLISHED_CONDITION)
        text = load_text_encoder(source.options, spec, checkpoints_dir, device)
    if text.dim != width:
        raise InputError(f"{source} reads text features of width {width}, and those of its text encoder have "
                         f"{text.dim}")
    return text


def load_text_encoder(options: Mapping[str, Any], spec: DatasetSpec, checkpoints_dir: str | Path,
                      device: torch.device | str = "cpu") -> TextEncoder:
    """The frozen text encoder that a run's options name: LaMP (default) or CLIP."""
    if options.get("text_encoder", "lamp") == "clip":
        return _fetched(CLIP_NAME, checkpoints_dir, lambda place: ClipText(place, device))
    lamp = load_lamp(options["lamp_name"], spec, checkpoints_dir, device)
    return lamp.text_encoder(options.get("condition", PUBLISHED_CONDITION))


def settle_lamp(opt: argparse.Namespace, spec: DatasetSpec, vq_name: str | None = None) -> None:
    """Fill in ``opt.lamp_name`` where the run needs it and names none: a run that goes on keeps the one it began with,
    another takes ``default_lamp``."""
    if getattr(opt, "text_encoder", "lamp") != "lamp" or opt.lamp_name is not None:
        return
    begun = read_options(run_folder(opt) / "opt.txt") if opt.is_continue else {}
    opt.lamp_name = begun.get("lamp_name") or default_lamp(spec, opt.checkpoints_dir, vq_name)


def default_lamp(spec: DatasetSpec, checkpoints_dir: str | Path, vq_name: str | None = None) -> str:
    """The LaMP model to take where none is named: the one trained last, on the tokenizer ``vq_name`` where that is
    given; the bundled one where there is none. A run that has not come to a checkpoint yet does not count."""
    found = []
    for path in (Path(checkpoints_dir) / spec.name).glob("*/opt.txt"):
        options = read_options(path)
        begun = any((path.parent / "model").glob("[!.]*"))
        if begun and "qformer_hidden" in options and vq_name in (None, options.get("vq_name")):
            found.append((path.stat().st_mtime, path.parent.name))
    return max(found)[1] if found else BUNDLED_LAMP


def load_text_to_motion(name: str, len_name: str | None, spec: DatasetSpec, checkpoints_dir: str | Path,
                        device: torch.device | str = "cpu", which: str | None = None,
                        res_name: str | None = None) -> tuple[TextToMotion, list[Path]]:
    """The generation pipeline around a masked transformer, and the files that it was loaded from.

    ``len_name`` None does without a length estimator; then every sample must have a length. ``res_name`` names a
    residual transformer, ``none`` does without; None takes the bundled one with a bundled masked transformer.
    """
    transformer = load_mask_transformer(name, spec, checkpoints_dir, device, which)
    tokenizer = load_tokenizer(transformer.source.needed("vq_name"), spec, checkpoints_dir, device)
    vq = tokenizer.model.config
    if vq.nb_code != transformer.model.config.num_tokens:
        raise InputError(f"{transformer.source} has {transformer.model.config.num_tokens} codes, and its tokenizer "
                         f"{tokenizer.source} {vq.nb_code}")
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
        residual and residual.text, tokenizer.normalisation.apply)
    return pipeline, files


def _check_layers(residual: LoadedResidual, tokenizer: LoadedTokenizer) -> None:
    config, vq = residual.model.config, tokenizer.model.config
    if (config.num_quantizers, config.num_tokens) != (vq.num_quantizers, vq.nb_code):
        raise InputError(f"{residual.source} is for {config.num_quantizers} layers of {config.num_tokens} codes, and "
                         f"the tokenizer {tokenizer.source} has {vq.num_quantizers} of {vq.nb_code}")
