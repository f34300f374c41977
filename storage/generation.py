"""Tokenizers, LaMP models and the text-to-motion pipeline by name: find the checkpoint, rebuild the network from its
settings, load the weights strictly."""
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor

from data.dataset import MAX_TOKENS, DatasetSpec, Normalisation
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
from models.lamp.bert import VOCAB_FILE, WordPieces
from models.lamp.features import ConditionKind, Familiarity, LaMPConfig, LaMPText, TextEncoder, text_inputs
from models.lamp.lamp import LaMP
from models.lamp.objectives import Comparison, similarity
from models.lamp.qformer import OPTION_PREFIX as QFORMER_PREFIX
from models.lamp.qformer import POSITION_IDS, TIED_NAMES, QFormerConfig
from models.text_to_motion import LengthEstimator, TextToMotion
from models.transformers.mask_transformer import (
    CLIP_NAME,
    UNUSED,
    ClipText,
    LaMPMaskTransformer,
    MaskTransformer,
    ReleasedText,
)
from models.transformers.residual import ResidualTransformer
from models.transformers.trunk import FIXED_TABLE
from models.vq.model import RVQVAE, HumanVQVAE, VQConfig, build_tokenizer
from storage import released
from storage.checkpoint import EARLIER_SAMPLING, PRETRAINED, Source, find_source, load_strictly, open_source
from utils import InputError
from utils.files import atomic_path, fingerprint, model_folder

LAMP_OPTIONAL = (*TIED_NAMES, POSITION_IDS)
BUNDLED_LAMP = "lamp_demo"
PUBLISHED_BERT = "bert-base-uncased"  # source of the word pieces of released models
PUBLISHED_TEXT_LEN = 32
PUBLISHED_CONDITION = "query"
SHORTEST_TEXT = 3  # word pieces: [CLS], one, [SEP]


@dataclass(frozen=True)
class LoadedTokenizer:
    """A tokenizer in eval mode with the normalisation it was trained with."""

    model: HumanVQVAE | RVQVAE
    normalisation: Normalisation
    source: Source

    @property
    def fingerprint(self) -> str:
        """Hash of everything that affects codes: weights, settings and normalisation."""
        mean, std = self.normalisation.mean.tobytes(), self.normalisation.std.tobytes()
        return fingerprint(self.source.file, repr(self.model.config), mean, std)


def load_tokenizer(name: str, spec: DatasetSpec, checkpoints_dir: str | Path, device: torch.device | str = "cpu",
                   which: str | None = None) -> LoadedTokenizer:
    """A trained tokenizer by name."""
    source, state = open_source(find_source(name, spec.name, checkpoints_dir, which), ("vq_model", "net"),
                                released.with_tokenizer_sizes)
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
    """A LaMP model in eval mode with its word pieces and the normalisation of its motions."""

    model: LaMP
    pieces: WordPieces
    normalisation: Normalisation
    max_text_len: int  # maximum word pieces of a text
    source: Source
    familiarity: Familiarity | None = None  # of its training texts

    def text_features(self, texts: Sequence[str]) -> Tensor:
        """Normalised embeddings (b, embed_dim) of texts, for retrieval."""
        return self.model.text_features(*text_inputs(self.model, self.pieces, texts, self.max_text_len))

    def motion_features(self, motion: Tensor, m_lens: Tensor) -> Tensor:
        """Normalised embeddings (b, embed_dim) of normalised motions (b, t, d) of ``m_lens`` frames, for retrieval."""
        device = self.model.query_tokens.device
        return self.model.motion_features(motion.to(device), m_lens.to(device))

    def comparison(self, kind: str) -> Comparison:
        """How texts and motions are compared, by name.

        - ``mean``: cosine of the text and the mean direction of a motion's queries. Search and validation use it.
        - ``paper``: cosine of the text and the nearest of a motion's queries, as in the contrastive objective.
        - ``released``: negative Euclidean distance between unnormalised projections, with the mean over a motion's
          queries, as in the released evaluation.
        """
        device = self.model.query_tokens.device

        def on_device(features: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
            return lambda motion, m_lens: features(motion.to(device), m_lens.to(device))

        if kind == "released":
            def text_embedding(texts: Sequence[str]) -> Tensor:
                return self.model.text_embedding(*text_inputs(self.model, self.pieces, texts, self.max_text_len))

            return Comparison(text_embedding, on_device(self.model.motion_embedding),
                              lambda texts, motions: -torch.cdist(texts, motions))
        motions = self.model.motion_features if kind == "mean" else self.model.motion_query_features
        return Comparison(self.text_features, on_device(motions), similarity)

    def text_encoder(self, kind: ConditionKind) -> LaMPText:
        """Encoder of text features for other models."""
        return LaMPText(self.model, self.pieces, kind, self.max_text_len, self.fingerprint, self.familiarity)

    @property
    def fingerprint(self) -> str:
        """Hash of everything that affects features, except ``max_text_len``."""
        mean, std = self.normalisation.mean.tobytes(), self.normalisation.std.tobytes()
        return fingerprint(self.source.file, repr(self.model.config), self.pieces.path, mean, std)


def load_lamp(name: str, spec: DatasetSpec, checkpoints_dir: str | Path, device: torch.device | str = "cpu",
              which: str | None = None) -> LoadedLaMP:
    """A trained LaMP model by name, with the tokenizer that its options name."""
    source, state = open_lamp(name, spec, checkpoints_dir, which)
    tokenizer = load_tokenizer(source.needed("vq_name"), spec, checkpoints_dir, device)
    with source.building(LaMPConfig), source.building(QFormerConfig, QFORMER_PREFIX):
        config = LaMPConfig.from_options(source.options, tokenizer.model.config)
        model = LaMP(config, tokenizer.model)
    if source.file.suffix == ".safetensors":  # bundled files do not contain the tokenizer's weights
        frozen = {"vq_model": tokenizer.model, "motion_encoder": tokenizer.model.motion_encoder}
        for prefix, part in frozen.items():
            state = {f"{prefix}.{key}": tensor for key, tensor in part.state_dict().items()} | state
    load_strictly(model, state, source.file, optional=LAMP_OPTIONAL)
    pieces = word_pieces_of(source, config.qformer, checkpoints_dir, published=config.published)
    return LoadedLaMP(model.to(device).eval().requires_grad_(False), pieces, tokenizer.normalisation,
                      _text_length(source, config.qformer.max_positions), source,
                      load_familiarity(source.folder, config.qformer.hidden))


def open_lamp(name: str, spec: DatasetSpec, checkpoints_dir: str | Path,
              which: str | None = None) -> tuple[Source, dict[str, Tensor]]:
    """The settings and the state dict of a LaMP model."""
    return open_source(find_source(name, spec.name, checkpoints_dir, which), ("motion_qformer",),
                       released.with_lamp_sizes)


def word_pieces_of(source: Source, sizes: QFormerConfig, checkpoints_dir: str | Path, published: bool) -> WordPieces:
    """The word pieces in a model's folder; a published model without any uses BERT's."""
    folder = source.folder
    if published and not (folder / VOCAB_FILE).is_file():
        folder = fetched(PUBLISHED_BERT, checkpoints_dir, lambda place: model_folder(
            place, "vocabulary", (VOCAB_FILE,), weights=False))
    pieces = WordPieces(folder)
    if len(pieces) > sizes.vocab:
        raise InputError(f"{pieces.path} has {len(pieces) - 1} word pieces, but the model has {sizes.vocab - 1}")
    return pieces


def fetched(name: str, checkpoints_dir: str | Path, load: Callable[[str | Path], Any]) -> Any:
    """Apply ``load`` to the folder ``checkpoints_dir/<last part of name>`` if it exists, else to the hub's ``name``."""
    own = Path(checkpoints_dir) / Path(name).name
    if own.is_dir():
        return load(own)
    try:
        return load(name)
    except InputError as error:
        raise InputError(f"{error}; its files may also be placed in {own}") from error


def _text_length(source: Source, most: int) -> int:
    length = source.options.get("max_text_len", PUBLISHED_TEXT_LEN)
    if not isinstance(length, int) or not SHORTEST_TEXT <= length <= most:
        raise InputError(f"{source.settings_file}: max_text_len {length!r} is not from {SHORTEST_TEXT} to {most}")
    return length


FAMILIARITY_FILE = "familiarity.safetensors"
_LEVELS = 127  # scale of normalised values in 8 bits


def save_familiarity(path: Path, known: Familiarity) -> None:
    """Write centres in 8 bits, with labels and threshold. Raises ``InputError`` if the file cannot be written."""
    def packed(vectors: Tensor) -> tuple[Tensor, Tensor]:
        scale = vectors.abs().amax(1, keepdim=True).clamp_min(1e-12) / _LEVELS
        return (vectors / scale).round().to(torch.int8), scale.half()

    (centres, centre_scale), (foreign, foreign_scale) = packed(known.centres), packed(known.foreign)
    tensors = {"centres": centres, "centre_scale": centre_scale, "foreign": foreign, "foreign_scale": foreign_scale}
    described = {"labels": json.dumps(known.labels), "threshold": repr(known.threshold)}
    with atomic_path(path) as temporary:
        try:
            save_file(tensors, temporary, described)
        except safetensors.SafetensorError as error:
            raise OSError(str(error)) from error


def load_familiarity(folder: Path, width: int) -> Familiarity | None:
    """The familiarity in a LaMP model's folder, None without such a file; ``width`` is that of word embeddings.

    Raises ``InputError`` if the file is damaged or belongs to a model of another width.
    """
    path = folder / FAMILIARITY_FILE
    if not path.is_file():
        return None
    try:
        with safetensors.safe_open(path, "pt") as opened:
            described, tensors = opened.metadata(), {name: opened.get_tensor(name).float() for name in opened.keys()}  # noqa: SIM118
        centres, foreign = (torch.nn.functional.normalize(tensors[f"{name}s" if name == "centre" else name]
                                                          * tensors[f"{name}_scale"], dim=-1)
                            for name in ("centre", "foreign"))
        known = Familiarity(centres, tuple(json.loads(described["labels"])), foreign, float(described["threshold"]))
    except (OSError, safetensors.SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    if centres.shape[1:] != (width,) or foreign.shape[1:] != (width,) or len(known.labels) != len(centres):
        raise InputError(f"{path} belongs to another model: {tuple(centres.shape)} centres with {len(known.labels)} "
                         f"labels, but word embeddings have width {width}")
    return known


BUNDLED_RESIDUAL = "res_demo"
NO_RESIDUAL = "none"


@dataclass(frozen=True)
class LoadedNetwork:
    """A masked or residual transformer or a length estimator in eval mode, with its text encoder."""

    model: MaskTransformer | ResidualTransformer | LengthEstimator
    text: TextEncoder
    source: Source


def load_masked(name: str, spec: DatasetSpec, checkpoints_dir: str | Path, device: torch.device | str = "cpu",
                which: str | None = None) -> tuple[MaskTransformer, Source]:
    """A masked transformer by name, in eval mode, without its text encoder. Released LaMP files, which contain a
    Q-Former, become a ``LaMPMaskTransformer``."""
    source, state = open_source(find_source(name, spec.name, checkpoints_dir, which), ("t2m_transformer", "trans"),
                                released.with_masked_sizes)
    source.one_of("attention", ATTENTION_KINDS, MaskTransformerConfig.attention)
    with source.building(MaskTransformerConfig), source.building(QFormerConfig, QFORMER_PREFIX):
        config = MaskTransformerConfig.from_options(source.options)
        model = (LaMPMaskTransformer(config, QFormerConfig.from_options(source.options))
                 if not source.is_complete and released.has_qformer(state) else MaskTransformer(config))
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
    source, state = open_source(find_source(name, spec.name, checkpoints_dir), ("res_transformer",),
                                released.with_residual_sizes)
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


def load_length_estimator(name: str, spec: DatasetSpec, checkpoints_dir: str | Path, device: torch.device | str = "cpu",
                          beside: LoadedNetwork | None = None) -> LoadedNetwork:
    """A length estimator by name with its text encoder, shared with ``beside`` if both use the same."""
    source, state = open_source(find_source(name, spec.name, checkpoints_dir), ("estimator",),
                                released.with_length_sizes)
    if source.is_complete and "cond_dim" in source.options:  # early checkpoints lack it
        model = LengthEstimator(source.options["cond_dim"], MAX_TOKENS + 1)
    else:
        try:
            model = released.length_estimator(state)
        except ValueError as error:
            raise InputError(f"{source} is not a length estimator: {error}") from error
    load_strictly(model, state, source.file)
    text = _text_encoder_of(source, model.output[0].in_features, spec, checkpoints_dir, device, beside)
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


def _own_sampling(spec: DatasetSpec, *parts: tuple[LoadedNetwork | None, Sequence[str]]) -> Sampling:
    """Sampling settings of the models, else the published ones."""
    sampling = Sampling()
    for model, names in parts:
        if model is not None:
            source = model.source
            source = source.with_sizes({}, EARLIER_SAMPLING) if source.is_complete else released.with_sampling(
                source, spec.name)
            source.one_of("length", LENGTHS, Sampling.length)
            with source.building(Sampling):
                sampling = sampling.changed({name: source.options.get(name) for name in names})
    return sampling


def _check_layers(residual: LoadedNetwork, tokenizer: LoadedTokenizer) -> None:
    config, vq = residual.model.config, tokenizer.model.config
    if (config.num_quantizers, config.num_tokens) != (vq.num_quantizers, vq.nb_code):
        raise InputError(f"{residual.source} is for {config.num_quantizers} layers of {config.num_tokens} codes, but "
                         f"the tokenizer {tokenizer.source} has {vq.num_quantizers} of {vq.nb_code}")
