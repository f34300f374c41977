"""Load tokenizers, LaMP models, transformers and the text-to-motion pipeline by name."""
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import safetensors
import torch
from torch import Tensor

from data.dataset import MAX_TOKENS, DatasetSpec, Normalisation
from data.text import clean_caption
from models.config import (
    ATTENTION_KINDS,
    BASE_SAMPLING,
    LENGTH_SAMPLING,
    LENGTHS,
    QFORMER_PREFIX,
    RESIDUAL_SAMPLING,
    MaskTransformerConfig,
    ResidualTransformerConfig,
    Sampling,
)
from models.lamp.bert import VOCAB_FILE, WordPieces
from models.lamp.features import ConditionKind, Familiarity, LaMPConfig, LaMPText, TextEncoder, text_inputs
from models.lamp.lamp import LaMP
from models.lamp.objectives import Comparison, similarity
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
from storage.checkpoint import (
    PRETRAINED,
    Source,
    find_source,
    load_strictly,
    open_source,
    to_eight_bits,
    write_tensors,
)
from utils import InputError
from utils.files import fingerprint, model_folder

LAMP_OPTIONAL = (*TIED_NAMES, POSITION_IDS)
BUNDLED_LAMP = "lamp_demo"
PUBLISHED_BERT = "bert-base-uncased"  # BERT whose vocabulary released models use
PUBLISHED_TEXT_LEN = 32
PUBLISHED_CONDITION = "query"
SHORTEST_TEXT = 3  # [CLS], one word piece and [SEP]


@dataclass(frozen=True)
class LoadedTokenizer:
    """Tokenizer in eval mode with its normalisation."""

    model: HumanVQVAE | RVQVAE
    normalisation: Normalisation
    source: Source

    @property
    def fingerprint(self) -> str:
        """Hash of everything that affects the tokens."""
        mean, std = self.normalisation.mean.tobytes(), self.normalisation.std.tobytes()
        return fingerprint(self.source.file, repr(self.model.config), mean, std)


def load_tokenizer(name: str, spec: DatasetSpec, checkpoints_dir: str | Path, device: torch.device | str = "cpu",
                   which: str | None = None) -> LoadedTokenizer:
    """Load a tokenizer by name."""
    source, state = open_source(find_source(name, spec.name, checkpoints_dir, which), ("vq_model", "net"),
                                partial(released.with_sizes, released.tokenizer_sizes))
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
    """LaMP model in eval mode with its vocabulary and normalisation."""

    model: LaMP
    pieces: WordPieces
    normalisation: Normalisation
    max_text_len: int  # maximum number of word pieces of a text
    source: Source
    familiarity: Familiarity | None = None

    def text_features(self, texts: Sequence[str]) -> Tensor:
        """Compute normalised features (b, embed_dim) of texts, for retrieval."""
        return self.model.text_features(*text_inputs(self.model, self.pieces, texts, self.max_text_len))

    def motion_features(self, motion: Tensor, m_lens: Tensor) -> Tensor:
        """Compute normalised features (b, embed_dim) of normalised ``motion`` (b, t, d), for retrieval."""
        device = self.model.query_tokens.device
        return self.model.motion_features(motion.to(device), m_lens.to(device))

    def comparison(self, kind: str) -> Comparison:
        """Return the encoders and the similarity function for retrieval.

        - ``mean``: cosine similarity with the mean over the queries of a motion, as in search and validation.
        - ``paper``: cosine similarity with the most similar query of a motion, as in the contrastive objective.
        - ``released``: negative Euclidean distance of unnormalised features, as in the released evaluation.
        """
        features = {"mean": self.model.motion_features, "paper": self.model.motion_query_features,
                    "released": self.model.motion_embedding}[kind]

        def motions(motion: Tensor, m_lens: Tensor) -> Tensor:
            return features(motion.to(self.model.query_tokens.device), m_lens.to(self.model.query_tokens.device))

        def text_embedding(texts: Sequence[str]) -> Tensor:
            return self.model.text_embedding(*text_inputs(self.model, self.pieces, texts, self.max_text_len))

        if kind == "released":
            return Comparison(text_embedding, motions, lambda texts, motions: -torch.cdist(texts, motions))
        return Comparison(self.text_features, motions, similarity)

    def text_encoder(self, kind: ConditionKind) -> LaMPText:
        """Return a text encoder for features of this ``kind``."""
        return LaMPText(self.model, self.pieces, kind, self.max_text_len, self.fingerprint, self.familiarity)

    @property
    def fingerprint(self) -> str:
        """Hash of everything that affects the features, except ``max_text_len``."""
        mean, std = self.normalisation.mean.tobytes(), self.normalisation.std.tobytes()
        return fingerprint(self.source.file, repr(self.model.config), self.pieces.path, mean, std)


def load_lamp(name: str, spec: DatasetSpec, checkpoints_dir: str | Path, device: torch.device | str = "cpu",
              which: str | None = None) -> LoadedLaMP:
    """Load a LaMP model by name, with its tokenizer, vocabulary and familiarity file."""
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
    length, most = source.options.get("max_text_len", PUBLISHED_TEXT_LEN), config.qformer.max_positions
    if not isinstance(length, int) or not SHORTEST_TEXT <= length <= most:
        raise InputError(f"{source.settings_file}: max_text_len {length!r} is not an integer from {SHORTEST_TEXT} to "
                         f"{most}")
    return LoadedLaMP(model.to(device).eval().requires_grad_(False), pieces, tokenizer.normalisation, length, source,
                      load_familiarity(source.folder, config.qformer.hidden))


def open_lamp(name: str, spec: DatasetSpec, checkpoints_dir: str | Path,
              which: str | None = None) -> tuple[Source, dict[str, Tensor]]:
    """Read the settings and the state dict of a LaMP model."""
    return open_source(find_source(name, spec.name, checkpoints_dir, which), ("motion_qformer",),
                       partial(released.with_sizes, released.lamp_sizes))


def word_pieces_of(source: Source, sizes: QFormerConfig, checkpoints_dir: str | Path, published: bool) -> WordPieces:
    """Load the vocabulary from the folder of a model. If a published model has none, load BERT's vocabulary.

    Raises ``InputError`` if the vocabulary has more word pieces than the model.
    """
    folder = source.folder
    if published and not (folder / VOCAB_FILE).is_file():
        folder = fetched(PUBLISHED_BERT, checkpoints_dir, lambda place: model_folder(
            place, "vocabulary", (VOCAB_FILE,), weights=False))
    pieces = WordPieces(folder)
    if len(pieces) > sizes.vocab:
        raise InputError(f"{pieces.path} has {len(pieces) - 1} word pieces, but the model has {sizes.vocab - 1}")
    return pieces


def fetched(name: str, checkpoints_dir: str | Path, load: Callable[[str | Path], Any]) -> Any:
    """Load the hub model ``name`` with ``load``. A folder of the same name in ``checkpoints_dir`` takes precedence."""
    own = Path(checkpoints_dir) / Path(name).name
    if own.is_dir():
        return load(own)
    try:
        return load(name)
    except InputError as error:
        raise InputError(f"{error}; its files may also be placed in {own}") from error


FAMILIARITY_FILE = "familiarity.safetensors"


def save_familiarity(path: Path, known: Familiarity) -> None:
    """Write a familiarity file, with vectors in 8 bits. Raises ``InputError`` if the file cannot be written."""
    (centres, centre_scale), (foreign, foreign_scale) = map(to_eight_bits, (known.centres, known.foreign))
    tensors = {"centres": centres, "centre_scale": centre_scale.half(),
               "foreign": foreign, "foreign_scale": foreign_scale.half()}
    write_tensors(path, tensors, {"labels": json.dumps(known.labels), "threshold": repr(known.threshold)})


def load_familiarity(folder: Path, width: int) -> Familiarity | None:
    """Load the familiarity file in the folder of a LaMP model, or return None if there is none.

    Raises ``InputError`` if the file is damaged or its vectors do not have the ``width`` of the word embeddings.
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
    """Transformer or length estimator in eval mode, with its text encoder."""

    model: MaskTransformer | ResidualTransformer | LengthEstimator
    text: TextEncoder
    source: Source


def load_mask_transformer(name: str, spec: DatasetSpec, checkpoints_dir: str | Path, device: torch.device | str = "cpu",
                          which: str | None = None) -> tuple[MaskTransformer, Source]:
    """Load a masked transformer in eval mode, without its text encoder.

    Released LaMP checkpoints, however, include a text encoder and are loaded as a ``LaMPMaskTransformer``.
    """
    source, state = open_source(find_source(name, spec.name, checkpoints_dir, which), ("t2m_transformer", "trans"),
                                released.with_masked_options)
    source.one_of("attention", ATTENTION_KINDS, MaskTransformerConfig.attention)
    with source.building(MaskTransformerConfig), source.building(QFormerConfig, QFORMER_PREFIX):
        config = MaskTransformerConfig.from_options(source.options)
        model = (LaMPMaskTransformer(config, QFormerConfig.from_options(source.options))
                 if not source.is_complete and released.has_qformer(state) else MaskTransformer(config))
    load_strictly(model, state, source.file, optional=(FIXED_TABLE, *LAMP_OPTIONAL, *UNUSED))
    return model.to(device).eval().requires_grad_(False), source


def load_mask_with_text(name: str, spec: DatasetSpec, checkpoints_dir: str | Path, device: torch.device | str = "cpu",
                        which: str | None = None) -> LoadedNetwork:
    """Load a masked transformer with its text encoder."""
    model, source = load_mask_transformer(name, spec, checkpoints_dir, device, which)
    source.needed("vq_name")
    if isinstance(model, LaMPMaskTransformer):
        pieces = word_pieces_of(source, model.Qformer.config, checkpoints_dir, published=True)
        key = fingerprint(source.file, repr(model.Qformer.config), pieces.path)
        return LoadedNetwork(model, ReleasedText(model, pieces, key), source)
    text = _text_encoder_of(source, model.config.cond_dim, spec, checkpoints_dir, device)
    return LoadedNetwork(model, text, source)


def load_residual_transformer(name: str, spec: DatasetSpec, checkpoints_dir: str | Path,
                              device: torch.device | str = "cpu") -> tuple[ResidualTransformer, Source]:
    """Load a residual transformer in eval mode, without its text encoder."""
    source, state = open_source(find_source(name, spec.name, checkpoints_dir), ("res_transformer",),
                                partial(released.with_sizes, released.residual_sizes))
    with source.building(ResidualTransformerConfig):
        model = ResidualTransformer(ResidualTransformerConfig.from_options(source.options))
    load_strictly(model, state, source.file, optional=(FIXED_TABLE,))
    return model.to(device).eval().requires_grad_(False), source


def load_residual_with_text(name: str, spec: DatasetSpec, checkpoints_dir: str | Path,
                            device: torch.device | str = "cpu",
                            beside: LoadedNetwork | None = None) -> LoadedNetwork:
    """Load a residual transformer with its text encoder. If ``beside`` has the same one, that one is reused."""
    model, source = load_residual_transformer(name, spec, checkpoints_dir, device)
    text = _text_encoder_of(source, model.config.cond_dim, spec, checkpoints_dir, device, beside)
    return LoadedNetwork(model, text, source)


def load_length_estimator(name: str, spec: DatasetSpec, checkpoints_dir: str | Path, device: torch.device | str = "cpu",
                          beside: LoadedNetwork | None = None) -> LoadedNetwork:
    """Load a length estimator with its text encoder. If ``beside`` has the same one, that one is reused."""
    source, state = open_source(find_source(name, spec.name, checkpoints_dir), ("estimator",),
                                partial(released.with_sizes, released.length_sizes))
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
    """Load the text encoder of a model that expects features of this ``width``.

    If ``beside`` has the same text encoder, that one is reused. Raises ``InputError`` if the widths differ.
    """
    keys = ("text_encoder", "lamp_name", "condition")
    if beside is not None and all(source.options.get(key) == beside.source.options.get(key) for key in keys):
        text = beside.text
    else:
        if source.one_of("text_encoder", ("lamp", "clip"), "lamp") == "lamp":
            source.needed("lamp_name")
            source.one_of("condition", get_args(ConditionKind), PUBLISHED_CONDITION)
        text = load_text_encoder(source.options, spec, checkpoints_dir, device)
    if text.dim != width:
        raise InputError(f"{source} reads text features of width {width}, but its text encoder has "
                         f"features of width {text.dim}")
    return text


def load_text_encoder(options: dict[str, Any], spec: DatasetSpec, checkpoints_dir: str | Path,
                      device: torch.device | str = "cpu") -> TextEncoder:
    """Load the text encoder named in ``options``, LaMP or CLIP."""
    if options.get("text_encoder", "lamp") == "clip":
        return fetched(CLIP_NAME, checkpoints_dir, lambda place: ClipText(place, device))
    lamp = load_lamp(options["lamp_name"], spec, checkpoints_dir, device)
    return lamp.text_encoder(options.get("condition", PUBLISHED_CONDITION))


def residual_to_use(res_name: str | None, transformer: Source, spec: DatasetSpec) -> str | None:
    """Return the name of the residual transformer for a masked transformer, or None to use only the base layer.

    ``res_name`` may be "none". If it is None, bundled masked transformers use the bundled residual transformer.
    """
    if res_name is not None:
        return None if res_name == NO_RESIDUAL else res_name
    bundled = PRETRAINED / spec.name
    there = transformer.folder.parent == bundled and (bundled / BUNDLED_RESIDUAL).is_dir()
    return BUNDLED_RESIDUAL if there else None


def load_text_to_motion(name: str, len_name: str | None, spec: DatasetSpec, checkpoints_dir: str | Path,
                        device: torch.device | str = "cpu", which: str | None = None,
                        res_name: str | None = None) -> tuple[TextToMotion, list[Path]]:
    """Load the text-to-motion pipeline of a masked transformer. Also returns the checkpoint files.

    ``len_name`` names the length estimator; if it is None, every sample needs a length. For ``res_name``, see
    ``residual_to_use``.
    """
    transformer = load_mask_with_text(name, spec, checkpoints_dir, device, which)
    tokenizer = load_tokenizer(transformer.source.needed("vq_name"), spec, checkpoints_dir, device)
    vq = tokenizer.model.config
    if vq.nb_code != transformer.model.config.num_tokens:
        raise InputError(f"{transformer.source} has {transformer.model.config.num_tokens} codes, but its tokenizer "
                         f"{tokenizer.source} has {vq.nb_code}")
    files = [transformer.source.file, tokenizer.source.file]
    residual = length = None
    if res_name := residual_to_use(res_name, transformer.source, spec):
        residual = load_residual_with_text(res_name, spec, checkpoints_dir, device, beside=transformer)
        config = residual.model.config
        if (config.num_quantizers, config.num_tokens) != (vq.num_quantizers, vq.nb_code):
            raise InputError(f"{residual.source} is for {config.num_quantizers} layers of {config.num_tokens} codes, "
                             f"but the tokenizer {tokenizer.source} has {vq.num_quantizers} layers of {vq.nb_code}")
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
    """Combine the sampling settings of the models, with defaults for missing ones (see ``released.with_sampling``)."""
    sampling = Sampling()
    for model, names in parts:
        if model is not None:
            source = released.with_sampling(model.source, spec.name)
            source.one_of("length", LENGTHS, Sampling.length)
            with source.building(Sampling):
                sampling = sampling.changed({name: source.options.get(name) for name in names})
    return sampling
