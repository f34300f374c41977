"""A trained LaMP model: features of texts and motions, the text condition for generation, and prompt familiarity.

LaMP's trained text space moves every text to the nearest motion it knows, so familiarity compares the means of its
word embeddings, which keep their meaning. A text is familiar if it is near a k-means centre of the training texts, and
not closer to an example of a text that the models cannot show.
"""
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from models.config import INIT_STD, ConditionKind
from models.lamp.bert import WordPieces
from models.lamp.qformer import QFormer, QFormerConfig, QueryPass
from models.layers import Linear, sinusoid_table
from models.vq.model import RVQVAE, Encoder, HumanVQVAE, VQConfig
from utils import InputError

FOREIGN_WEIGHT = 0.75  # of the similarity to examples of unknown texts
FOREIGN = -1.0         # familiarity of texts without words in Latin letters
_WORD = re.compile(r"[^\W\d_]+(['’-][^\W\d_]+)*")


@dataclass(frozen=True)
class Familiarity:
    """Centres of the training texts of a LaMP model, and the threshold of familiarity."""

    centres: Tensor           # (k, h) normalised
    labels: tuple[str, ...]   # a short training text near each centre
    foreign: Tensor           # (u, h) normalised, of texts that no motion shows
    threshold: float

    def scores(self, vectors: Tensor) -> Tensor:
        """Familiarity (b,) of normalised text vectors (b, h): higher is more familiar."""
        known, foreign = ((vectors @ some.T).amax(1) for some in (self.centres, self.foreign))
        return known - FOREIGN_WEIGHT * foreign

    def nearest(self, vector: Tensor, count: int = 2) -> list[str]:
        """Distinct labels of the centres closest to a normalised text vector (h,)."""
        order = (self.centres @ vector).argsort(descending=True).tolist()
        return list(dict.fromkeys(self.labels[row] for row in order))[:count]


def word_means(model: nn.Module, pieces: WordPieces, texts: Sequence[str], longest: int) -> Tensor:
    """Normalised means (b, h) of LaMP's word embeddings over texts, on the CPU; zero for texts without words."""
    made = pieces.encode(texts, longest)
    ids, mask = made.ids.to(model.query_tokens.device), made.mask.to(model.query_tokens.device)
    words = mask & (ids != pieces.cls_id) & (ids != pieces.sep_id)
    with torch.no_grad():
        embedded = model.Qformer.bert.embeddings.word_embeddings(ids).float() * words.unsqueeze(-1)
    return F.normalize(embedded.sum(1), dim=-1).cpu()


def is_latin(text: str) -> bool:
    """Whether most of a text's parts, separated by spaces, are words in Latin letters."""
    parts = [part.strip(".,!?;:()\"'“”…") for part in text.split()]
    words = [part for part in parts if _WORD.fullmatch(part) and all(ord(letter) < 0x250 for letter in part
                                                                     if letter.isalpha())]
    return len(words) > len(parts) / 2


def familiarity_of(known: Familiarity, model: nn.Module, pieces: WordPieces, texts: Sequence[str],
                   longest: int) -> Tensor:
    """Familiarity (b,) of cleaned texts: ``FOREIGN`` for those that are not mostly words in Latin letters."""
    scores = known.scores(word_means(model, pieces, texts, longest))
    return torch.where(torch.tensor([is_latin(text) for text in texts]), scores, FOREIGN)


@dataclass(frozen=True)
class LaMPConfig:
    """Settings that rebuild a LaMP model; the defaults are the published sizes."""

    qformer: QFormerConfig = field(default_factory=QFormerConfig)
    vq: VQConfig = field(default_factory=lambda: VQConfig(num_quantizers=1))
    embed_dim: int = 512     # of the features that are compared
    published: bool = False  # reproduce the released code's behaviour, see models.lamp.lamp

    def to_options(self) -> dict[str, Any]:
        """Flat options of LaMP without those of its tokenizer, which has its own file."""
        return {"embed_dim": self.embed_dim, "published_behaviour": self.published, **self.qformer.to_options()}

    @classmethod
    def from_options(cls, options: Mapping[str, Any], vq: VQConfig) -> "LaMPConfig":
        """Settings from a run's flat options and its tokenizer's.

        Missing sizes are the published ones. Options without ``published_behaviour`` are those of a released model.
        """
        return cls(QFormerConfig.from_options(options), vq, options.get("embed_dim", cls.embed_dim),
                   options.get("published_behaviour", True))


@dataclass(frozen=True)
class EncodedMotion:
    """Output of the frozen parts for a batch of motions, which may be cached."""

    latents: Tensor      # (b, n, code_dim) of the motion encoder
    ids: Tensor | None   # (b, n) int64 tokens of the first quantizer; None without a tokenizer
    mask: Tensor | None  # (b, n) bool, False at padding; None if nothing is padded


class LaMPFeatures(nn.Module):
    """The parts of a LaMP model that compute features. Motion is (b, t, d), normalised, zero where padded;
    ``m_lens`` (b,) are its lengths in frames. Text is ids (b, t) with a mask that is 1 or True at words.

    Motions are padded to ``num_query_tokens`` tokens, the length in training, so features do not depend on the rest
    of the batch. Methods that give features run without gradient or dropout.
    """

    def __init__(self, config: LaMPConfig, vq_model: HumanVQVAE | RVQVAE | None = None,
                 qformer: QFormer | None = None) -> None:
        super().__init__()
        if vq_model is not None and vq_model.config != config.vq:
            raise ValueError("the settings of the tokenizer differ from those of the LaMP model")
        if qformer is not None and qformer.config != config.qformer:
            raise ValueError("the sizes of the Q-Former differ from those of the LaMP model")
        self.config = config
        sizes, code_dim = config.qformer, config.vq.output_emb_width
        self.query_tokens = nn.Parameter(torch.randn(1, sizes.num_query_tokens, sizes.hidden) * INIT_STD)
        projection_std = sizes.encoder_width**-0.5
        self.motion_projection = nn.Parameter(torch.randn(code_dim, sizes.encoder_width) * projection_std)
        self.text_projection = nn.Parameter(torch.randn(sizes.hidden, sizes.encoder_width) * projection_std)
        self.vq_model = vq_model
        self.Qformer = qformer or QFormer(sizes)
        self.motion_encoder = (
            _motion_encoder(config.vq) if vq_model is None or config.published else vq_model.motion_encoder)
        self.text_proj = Linear(sizes.hidden, config.embed_dim)
        self.motion_proj = Linear(sizes.hidden, config.embed_dim)
        # Published queries attend to an unordered set of latents.
        positions = None if config.published else sinusoid_table(sizes.num_query_tokens, sizes.encoder_width)
        self.register_buffer("positions", positions, persistent=False)
        for part in self._frozen():
            part.requires_grad_(False)
        self.register_load_state_dict_pre_hook(_complete_state)
        self.train()

    def train(self, mode: bool = True) -> "LaMPFeatures":
        """Switch dropout except in the frozen parts (published: also in the motion encoder)."""
        super().train(mode)
        for part in self._frozen():
            if not (self.config.published and part is self.motion_encoder):
                part.eval()
        return self

    @torch.no_grad()
    def encode_motion(self, motion: Tensor, m_lens: Tensor | None = None) -> EncodedMotion:
        """Latents and tokens of motion (b, t, d). Without ``m_lens`` all t frames count (published: padding always).

        Raises ``InputError`` if a motion has more frames than the queries cover.
        """
        unit, tokens = self.config.vq.unit_length, self.config.qformer.num_query_tokens
        frames = motion.shape[1]
        if frames > tokens * unit:
            raise InputError(f"a motion has {frames} frames; this LaMP model reads at most {tokens * unit}")
        padded = F.pad(motion, (0, 0, 0, tokens * unit - frames))
        latents = self.motion_encoder(padded).transpose(1, 2).float()  # (b, n, code_dim)
        ids = None if self.vq_model is None else self._token_ids(padded, latents)
        if self.config.published:
            return EncodedMotion(latents, ids, None)
        if m_lens is None:
            m_lens = torch.full((len(motion),), frames, device=motion.device)
        positions = torch.arange(tokens, device=motion.device)
        return EncodedMotion(latents, ids, positions < (m_lens // unit).clamp_min(1).unsqueeze(1))

    def motion_states(self, encoded: EncodedMotion) -> Tensor:
        """Motion states that the queries attend to, (b, n, encoder_width)."""
        states = encoded.latents.to(self.motion_projection.dtype) @ self.motion_projection
        return states if self.positions is None else states + self.positions

    def query_motion(self, encoded: EncodedMotion, states: Tensor | None = None) -> QueryPass:
        """The queries after attending to motions: LaMP's language-informative motion features."""
        states = self.motion_states(encoded) if states is None else states
        return self.Qformer.query(self.query_tokens, states, encoded.mask)

    def query_text(self, hidden: Tensor, mask: Tensor | None = None) -> QueryPass:
        """The queries after attending to hidden states of text (b, t, h)."""
        return self.Qformer.query(self.query_tokens, hidden @ self.text_projection, mask)

    def project_text(self, hidden: Tensor) -> Tensor:
        """Normalised embeddings (b, embed_dim) of texts from their hidden states (b, t, h)."""
        return F.normalize(self.text_proj(hidden[:, 0]).float(), dim=-1)

    def project_motion(self, hidden: Tensor) -> Tensor:
        """Normalised embeddings (b, queries, embed_dim) of motions from their queries' hidden states."""
        return F.normalize(self.motion_proj(hidden).float(), dim=-1)

    def text_features(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Normalised embeddings (b, embed_dim) of texts, comparable with either kind of motion by ``similarity``."""
        with _inference(self):
            return self.project_text(self.Qformer.text(ids, mask))

    def motion_features(self, motion: Tensor | EncodedMotion, m_lens: Tensor | None = None) -> Tensor:
        """Normalised embeddings (b, embed_dim) of motions: the normalised mean over their queries."""
        return F.normalize(self.motion_query_features(motion, m_lens).mean(1), dim=-1)

    def motion_query_features(self, motion: Tensor | EncodedMotion, m_lens: Tensor | None = None) -> Tensor:
        """Normalised embeddings (b, queries, embed_dim); training compares the nearest query of a motion."""
        with _inference(self):
            return self.project_motion(self.query_motion(self._encoded(motion, m_lens)).hidden)

    def text_embedding(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Embeddings (b, embed_dim), not normalised; the published retrieval compares their Euclidean distances."""
        with _inference(self):
            return self.text_proj(self.Qformer.text(ids, mask)[:, 0]).float()

    def motion_embedding(self, motion: Tensor | EncodedMotion, m_lens: Tensor | None = None) -> Tensor:
        """Embeddings (b, embed_dim), not normalised, mean over queries; the counterpart of ``text_embedding``."""
        with _inference(self):
            return self.motion_proj(self.query_motion(self._encoded(motion, m_lens)).hidden).float().mean(1)

    def condition(self, ids: Tensor, mask: Tensor, kind: ConditionKind = "query") -> Tensor:
        """Text condition of a text-to-motion transformer: (b, h), or (b, 2h) for ``both``.

        ``query``: mean of the queries after attending to the text. ``cls``: the text's [CLS] state. Published models
        let the queries attend to padding too, so texts must be padded as in training.
        """
        with _inference(self):
            return self.make_condition(ids, mask, kind)

    def make_condition(self, ids: Tensor, mask: Tensor, kind: ConditionKind) -> Tensor:
        """``condition`` with gradient, in the current mode."""
        hidden = self.Qformer.text(ids, mask)
        parts = []
        if kind in ("query", "both"):
            parts.append(self.query_text(hidden, None if self.config.published else mask).hidden.mean(1))
        if kind in ("cls", "both"):
            parts.append(hidden[:, 0])
        if not parts:
            raise ValueError(f"condition kind {kind!r} is not one of query, cls, both")
        return torch.cat(parts, -1).float()

    def _token_ids(self, padded: Tensor, latents: Tensor) -> Tensor:
        """Tokens (b, n) of the first quantizer; distances always in float32."""
        if self.motion_encoder is not self.vq_model.motion_encoder:
            latents = self.vq_model.motion_encoder(padded).transpose(1, 2).float()
        with torch.autocast(latents.device.type, enabled=False):
            return self.vq_model.quantizers[0].nearest(latents.flatten(0, 1)).view(latents.shape[:2])

    def _encoded(self, motion: Tensor | EncodedMotion, m_lens: Tensor | None) -> EncodedMotion:
        return motion if isinstance(motion, EncodedMotion) else self.encode_motion(motion, m_lens)

    def _frozen(self) -> list[nn.Module]:
        return [part for part in (self.motion_encoder, self.vq_model) if part is not None]


def _motion_encoder(vq: VQConfig) -> Encoder:
    return Encoder(vq.dim_pose, vq.output_emb_width, vq.down_t, vq.stride_t, vq.width, vq.depth,
                   vq.dilation_growth_rate, vq.vq_act, vq.vq_norm, vq.vq_dropout)


@contextmanager
def _inference(model: nn.Module) -> Iterator[None]:
    """No gradient and no dropout; training mode is restored afterwards."""
    training = model.training
    if training:  # switching hundreds of modules is slow for single texts
        model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        if training:
            model.train()


def _complete_state(model: LaMPFeatures, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """If the motion encoder is the tokenizer's, its weights may have either name, but must not differ."""
    if model.vq_model is None or model.motion_encoder is not model.vq_model.motion_encoder:
        return
    inner = next(name for name, part in model.vq_model.named_modules() if part is model.motion_encoder)
    for name in model.motion_encoder.state_dict():
        names = f"{prefix}motion_encoder.{name}", f"{prefix}vq_model.{inner}.{name}"
        given = [state[key] for key in names if key in state]
        if len(given) == 2 and not torch.equal(given[0].to(given[1]), given[1]):
            raise InputError("these LaMP weights have a separate motion encoder, as released ones do: "
                             "load them with published_behaviour")
        if given:
            state[names[0]] = state[names[1]] = given[0]


TEXT_BATCH = 256


class TextEncoder(Protocol):
    """Text features with their width, and a fingerprint of everything they depend on."""

    dim: int
    fingerprint: str

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Features (b, dim) float32 of texts."""


def text_inputs(model: LaMPFeatures, pieces: WordPieces, texts: Sequence[str], longest: int,
                width: int | None = None) -> tuple[Tensor, Tensor]:
    """Ids and mask (b, t) of texts on the model's device, padded to the longest of them or to ``width``, at most
    ``longest``.

    With published behaviour and on accelerators, all are padded to ``longest``. On accelerators this costs nothing and
    keeps the shape of a pass, and so the rounding of a text's features, independent of the other texts.
    """
    device = model.query_tokens.device
    if model.config.published or device.type != "cpu":
        width = longest
    made = pieces.encode(texts, longest, width and min(width, longest))
    return made.ids.to(device, non_blocking=True), made.mask.to(device, non_blocking=True)


class LaMPText:
    """Features (b, dim) of texts: ``kind`` is that of ``LaMP.condition``."""

    def __init__(self, model: LaMPFeatures, pieces: WordPieces, kind: ConditionKind, max_text_len: int,
                 fingerprint: str = "", familiarity: Familiarity | None = None) -> None:
        """``fingerprint``: a hash of the weights, for caches. ``familiarity``: of texts, if known."""
        self.familiarity = familiarity
        self.model, self.pieces, self.kind, self.max_text_len = model.eval(), pieces, kind, max_text_len
        self.dim = model.config.qformer.hidden * (2 if kind == "both" else 1)
        self.fingerprint = f"lamp {fingerprint} {kind} {max_text_len}"

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Number of word pieces of each text, at most those that the model reads."""
        return self.pieces.encode(texts, self.max_text_len).mask.sum(1).tolist()

    def __call__(self, texts: Sequence[str], width: int | None = None) -> Tensor:
        """Features (b, dim) float32 of texts, on the model's device; ``width`` as in ``text_inputs``."""
        inputs = text_inputs(self.model, self.pieces, texts, self.max_text_len, width)
        return self.model.condition(*inputs, self.kind)


def encode_texts(encoder: Callable[[Sequence[str]], Tensor], texts: Sequence[str], quiet: bool = True) -> Tensor:
    """Features of texts in the given order, on the CPU, computed in batches of texts of similar length."""
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    rows: list[Tensor] = [torch.empty(0)] * len(texts)
    for start in tqdm(range(0, len(order), TEXT_BATCH), desc="text features", disable=quiet or None, leave=False):
        chosen = order[start:start + TEXT_BATCH]
        for index, feature in zip(chosen, encoder([texts[i] for i in chosen]).cpu(), strict=True):
            rows[index] = feature
    return torch.stack(rows)
