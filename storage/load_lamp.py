"""Tokenizers and LaMP models by name, with their normalisation, word pieces and prompt familiarity."""
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor

from data.motion_windows import Normalisation
from data.specs import DatasetSpec
from models.hub import model_folder
from models.lamp.bert import VOCAB_FILE, WordPieces
from models.lamp.features import ConditionKind, Familiarity, LaMPConfig, LaMPText, text_inputs
from models.lamp.lamp import LaMP
from models.lamp.objectives import Comparison, similarity
from models.lamp.qformer import OPTION_PREFIX as QFORMER_PREFIX
from models.lamp.qformer import POSITION_IDS, TIED_NAMES, QFormerConfig
from models.vq.model import RVQVAE, HumanVQVAE, VQConfig, build_tokenizer
from storage import released
from storage.checkpoint import Source, find_source, load_strictly, open_source
from utils.errors import InputError
from utils.files import atomic_path, fingerprint

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
    source, state = open_source(find_source(name, spec.name, checkpoints_dir, which), ("vq_model", "net"))
    source = source.with_sizes(released.tokenizer_sizes(state))
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
    source, state = open_source(find_source(name, spec.name, checkpoints_dir, which), ("motion_qformer",))
    sizes = released.lamp_sizes(state)
    return source.with_sizes(sizes, released.usual_heads(sizes)), state


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
