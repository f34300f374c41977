"""Text and motion features of a trained LaMP model, and a score of how familiar a prompt is.

Familiarity compares mean word embeddings, because LaMP's text features are close to those of a known motion even for
unknown texts. A text is familiar if it is near a k-means centre of the training texts and not similar to an example
prompt for which the models cannot generate a motion.
"""
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from models.config import INIT_STD, ConditionKind, LaMPConfig
from models.lamp.bert import WordPieces
from models.lamp.qformer import QFormer, QueryPass
from models.layers import Linear, sinusoid_table
from models.vq.model import RVQVAE, Encoder, HumanVQVAE
from utils import InputError

FOREIGN_WEIGHT = 0.75  # weight of the similarity to unfamiliar examples
FOREIGN = -1.0         # familiarity of texts that are not mostly words in Latin letters
_WORD = re.compile(r"[^\W\d_]+(['’-][^\W\d_]+)*")


@dataclass(frozen=True)
class Familiarity:
    """Clusters of the training texts of a LaMP model, for scoring the familiarity of a text."""

    centres: Tensor           # (k, h) normalised cluster centres
    labels: tuple[str, ...]   # a short training text near each centre
    foreign: Tensor           # (u, h) normalised vectors of unfamiliar examples
    threshold: float          # minimum score of a familiar text

    def scores(self, vectors: Tensor) -> Tensor:
        """Score the familiarity (b,) of normalised text vectors (b, h). Higher is more familiar."""
        known, foreign = ((vectors @ some.T).amax(1) for some in (self.centres, self.foreign))
        return known - FOREIGN_WEIGHT * foreign

    def nearest(self, vector: Tensor, count: int = 2) -> list[str]:
        """Return up to ``count`` distinct labels of the centres closest to a normalised text ``vector`` (h,)."""
        order = (self.centres @ vector).argsort(descending=True).tolist()
        return list(dict.fromkeys(self.labels[row] for row in order))[:count]


def word_means(model: nn.Module, pieces: WordPieces, texts: Sequence[str], longest: int) -> Tensor:
    """Average LaMP's word embeddings over each text. Returns normalised vectors (b, h), zero for empty texts."""
    made = pieces.encode(texts, longest)
    ids, mask = made.ids.to(model.query_tokens.device), made.mask.to(model.query_tokens.device)
    words = mask & (ids != pieces.cls_id) & (ids != pieces.sep_id)
    with torch.no_grad():
        embedded = model.Qformer.bert.embeddings.word_embeddings(ids).float() * words.unsqueeze(-1)
    return F.normalize(embedded.sum(1), dim=-1).cpu()


def is_latin(text: str) -> bool:
    """Return whether a text consists mostly of words in Latin letters."""
    parts = [part.strip(".,!?;:()\"'“”…") for part in text.split()]
    words = [part for part in parts if _WORD.fullmatch(part) and all(ord(letter) < 0x250 for letter in part
                                                                     if letter.isalpha())]
    return len(words) > len(parts) / 2


def familiarity_of(known: Familiarity, model: nn.Module, pieces: WordPieces, texts: Sequence[str],
                   longest: int) -> Tensor:
    """Score the familiarity (b,) of cleaned texts. Texts whose words are not mostly Latin score ``FOREIGN``."""
    scores = known.scores(word_means(model, pieces, texts, longest))
    return torch.where(torch.tensor([is_latin(text) for text in texts]), scores, FOREIGN)


@dataclass(frozen=True)
class EncodedMotion:
    """Motions encoded by the frozen motion encoder and tokenizer."""

    latents: Tensor      # (b, n, code_dim) output of the motion encoder
    ids: Tensor | None   # (b, n) int64 tokens of the first quantizer; None without a tokenizer
    mask: Tensor | None  # (b, n) bool, False at padding; None if padding is not masked


def padded_motion(config: LaMPConfig, motion: Tensor, m_lens: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Pad ``motion`` (b, t, d) to ``num_query_tokens`` tokens. Also returns a mask (b, n) of valid tokens.

    For published models, the mask is None. If ``m_lens`` (b,) is None, no frame is padding. Raises ``InputError`` if a
    motion is too long for the model.
    """
    unit, tokens, frames = config.vq.unit_length, config.qformer.num_query_tokens, motion.shape[1]
    if frames > tokens * unit:
        raise InputError(f"a motion has {frames} frames; this LaMP model reads at most {tokens * unit}")
    padded = F.pad(motion, (0, 0, 0, tokens * unit - frames))
    if config.published:
        return padded, None
    if m_lens is None:
        m_lens = torch.full((len(motion),), frames, device=motion.device)
    return padded, torch.arange(tokens, device=motion.device) < (m_lens // unit).clamp_min(1).unsqueeze(1)


class LaMPFeatures(nn.Module):
    """LaMP model that computes text and motion features.

    In all methods, ``motion`` (b, t, d) is normalised and zero-padded, ``m_lens`` (b,) are lengths in frames, ``ids``
    (b, t) are word pieces, and ``mask`` (b, t) is 1 or True at words. Motions are padded to ``num_query_tokens`` tokens
    as in training, so features do not depend on the rest of the batch.
    """

    def __init__(self, config: LaMPConfig, vq_model: HumanVQVAE | RVQVAE | None = None,
                 qformer: QFormer | None = None) -> None:
        super().__init__()
        if vq_model is not None and vq_model.config != config.vq:
            raise ValueError("the settings of the tokenizer differ from those in the LaMP settings")
        if qformer is not None and qformer.config != config.qformer:
            raise ValueError("the sizes of the Q-Former differ from those in the LaMP settings")
        self.config = config
        sizes, code_dim = config.qformer, config.vq.output_emb_width
        self.query_tokens = nn.Parameter(torch.randn(1, sizes.num_query_tokens, sizes.hidden) * INIT_STD)
        projection_std = sizes.encoder_width**-0.5
        self.motion_projection = nn.Parameter(torch.randn(code_dim, sizes.encoder_width) * projection_std)
        self.text_projection = nn.Parameter(torch.randn(sizes.hidden, sizes.encoder_width) * projection_std)
        self.vq_model = vq_model
        self.Qformer = qformer or QFormer(sizes)
        own = vq_model is None or config.published
        self.motion_encoder = Encoder(config.vq) if own else vq_model.motion_encoder
        self.text_proj = Linear(sizes.hidden, config.embed_dim)
        self.motion_proj = Linear(sizes.hidden, config.embed_dim)
        # Published models use no position encodings here.
        positions = None if config.published else sinusoid_table(sizes.num_query_tokens, sizes.encoder_width)
        self.register_buffer("positions", positions, persistent=False)
        for part in self._frozen():
            part.requires_grad_(False)
        self.register_load_state_dict_pre_hook(_complete_state)
        self.train()

    def train(self, mode: bool = True) -> "LaMPFeatures":
        """Set the mode of all parts that are not frozen; in published models, also of the motion encoder."""
        super().train(mode)
        for part in self._frozen():
            if not (self.config.published and part is self.motion_encoder):
                part.eval()
        return self

    @torch.no_grad()
    def encode_motion(self, motion: Tensor, m_lens: Tensor | None = None) -> EncodedMotion:
        """Encode motions to latents and tokens. If ``m_lens`` is None, no frame is padding.

        Raises ``InputError`` if a motion is too long for the model.
        """
        padded, mask = padded_motion(self.config, motion, m_lens)
        latents = self.motion_encoder(padded).transpose(1, 2).float()  # (b, n, code_dim)
        return EncodedMotion(latents, None if self.vq_model is None else self._token_ids(padded, latents), mask)

    def motion_states(self, encoded: EncodedMotion) -> Tensor:
        """Project the latents to the states (b, n, encoder_width) that the queries attend to."""
        states = encoded.latents.to(self.motion_projection.dtype) @ self.motion_projection
        return states if self.positions is None else states + self.positions

    def query_motion(self, encoded: EncodedMotion, states: Tensor | None = None) -> QueryPass:
        """Let the queries attend to motions, which gives LaMP's language-informative motion features."""
        states = self.motion_states(encoded) if states is None else states
        return self.Qformer.query(self.query_tokens, states, encoded.mask)

    def query_text(self, hidden: Tensor, mask: Tensor | None = None) -> QueryPass:
        """Let the queries attend to the hidden states (b, t, h) of texts."""
        return self.Qformer.query(self.query_tokens, hidden @ self.text_projection, mask)

    def project_text(self, hidden: Tensor) -> Tensor:
        """Project the hidden states (b, t, h) of texts to normalised features (b, embed_dim)."""
        return F.normalize(self.text_proj(hidden[:, 0]).float(), dim=-1)

    def project_motion(self, hidden: Tensor) -> Tensor:
        """Project the hidden states (b, queries, h) of the queries to normalised features (b, queries, embed_dim)."""
        return F.normalize(self.motion_proj(hidden).float(), dim=-1)

    def text_features(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Compute normalised features (b, embed_dim) of texts."""
        with _inference(self):
            return self.project_text(self.Qformer.text(ids, mask))

    def motion_features(self, motion: Tensor | EncodedMotion, m_lens: Tensor | None = None) -> Tensor:
        """Compute normalised features (b, embed_dim) of motions, averaged over the queries."""
        return F.normalize(self.motion_query_features(motion, m_lens).mean(1), dim=-1)

    def motion_query_features(self, motion: Tensor | EncodedMotion, m_lens: Tensor | None = None) -> Tensor:
        """Compute normalised features (b, queries, embed_dim) of motions.

        In training, a text is compared with the most similar query of a motion.
        """
        with _inference(self):
            return self.project_motion(self.query_motion(self._encoded(motion, m_lens)).hidden)

    def text_embedding(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Compute unnormalised features (b, embed_dim) of texts, for published retrieval by Euclidean distance."""
        with _inference(self):
            return self.text_proj(self.Qformer.text(ids, mask)[:, 0]).float()

    def motion_embedding(self, motion: Tensor | EncodedMotion, m_lens: Tensor | None = None) -> Tensor:
        """Compute unnormalised features (b, embed_dim) of motions, averaged over the queries."""
        with _inference(self):
            return self.motion_proj(self.query_motion(self._encoded(motion, m_lens)).hidden).float().mean(1)

    def condition(self, ids: Tensor, mask: Tensor, kind: ConditionKind = "query") -> Tensor:
        """Compute the text condition for text-to-motion transformers, (b, h), or (b, 2h) for ``both``.

        ``query`` is the mean hidden state of the queries after they attend to the text; ``cls`` is the hidden state of
        [CLS]. The queries of published models also attend to padding, so texts must be padded as in training.
        """
        with _inference(self):
            return self.make_condition(ids, mask, kind)

    def make_condition(self, ids: Tensor, mask: Tensor, kind: ConditionKind) -> Tensor:
        """Compute the text condition as ``condition`` does, but with gradients and without switching to eval mode."""
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
        """Compute the tokens (b, n) of the first quantizer, in float32."""
        if self.motion_encoder is not self.vq_model.motion_encoder:
            latents = self.vq_model.motion_encoder(padded).transpose(1, 2).float()
        with torch.autocast(latents.device.type, enabled=False):
            return self.vq_model.quantizers[0].nearest(latents.flatten(0, 1)).view(latents.shape[:2])

    def _encoded(self, motion: Tensor | EncodedMotion, m_lens: Tensor | None) -> EncodedMotion:
        return motion if isinstance(motion, EncodedMotion) else self.encode_motion(motion, m_lens)

    def _frozen(self) -> list[nn.Module]:
        return [part for part in (self.motion_encoder, self.vq_model) if part is not None]


@contextmanager
def _inference(model: nn.Module) -> Iterator[None]:
    """Context without gradients or dropout. The mode of ``model`` is restored afterwards."""
    training = model.training
    if training:  # switching the mode of hundreds of modules is slow for single texts
        model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        if training:
            model.train()


def _complete_state(model: LaMPFeatures, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Fill in missing weights of a motion encoder that is shared with the tokenizer: each weight then has two names.

    Raises ``InputError`` if the weights under both names differ.
    """
    if model.vq_model is None or model.motion_encoder is not model.vq_model.motion_encoder:
        return
    inner = next(name for name, part in model.vq_model.named_modules() if part is model.motion_encoder)
    for name in model.motion_encoder.state_dict():
        names = f"{prefix}motion_encoder.{name}", f"{prefix}vq_model.{inner}.{name}"
        given = [state[key] for key in names if key in state]
        if len(given) == 2 and not torch.equal(given[0].to(given[1]), given[1]):
            raise InputError("these LaMP weights have a separate motion encoder, as released weights do: "
                             "load them with published_behaviour")
        if given:
            state[names[0]] = state[names[1]] = given[0]


TEXT_BATCH = 256


class TextEncoder(Protocol):
    """Interface of text encoders."""

    dim: int          # width of the features
    fingerprint: str  # hash of everything that the features depend on

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Encode texts to features (b, dim), float32."""


def text_inputs(model: LaMPFeatures, pieces: WordPieces, texts: Sequence[str], longest: int,
                width: int | None = None) -> tuple[Tensor, Tensor]:
    """Encode texts to word pieces and their mask (b, t) on the model's device, truncated to ``longest`` word pieces.

    Texts are padded to ``width``, or to the longest text. For published models, they are always padded to ``longest``,
    as in training. The same applies on accelerators, to make rounding errors independent of the other texts.
    """
    device = model.query_tokens.device
    if model.config.published or device.type != "cpu":
        width = longest
    made = pieces.encode(texts, longest, width and min(width, longest))
    return made.ids.to(device, non_blocking=True), made.mask.to(device, non_blocking=True)


class LaMPText:
    """Text encoder of a LaMP model.

    ``kind`` selects the condition (see ``LaMPFeatures.condition``). ``fingerprint`` identifies the model in cache keys.
    """

    def __init__(self, model: LaMPFeatures, pieces: WordPieces, kind: ConditionKind, max_text_len: int,
                 fingerprint: str = "", familiarity: Familiarity | None = None) -> None:
        self.familiarity = familiarity
        self.model, self.pieces, self.kind, self.max_text_len = model.eval(), pieces, kind, max_text_len
        self.dim = model.config.qformer.hidden * (2 if kind == "both" else 1)
        self.fingerprint = f"lamp {fingerprint} {kind} {max_text_len}"

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Count the word pieces of each text, after truncation."""
        return self.pieces.encode(texts, self.max_text_len).mask.sum(1).tolist()

    def __call__(self, texts: Sequence[str], width: int | None = None) -> Tensor:
        """Encode texts to features (b, dim), float32, on the model's device. For ``width``, see ``text_inputs``."""
        inputs = text_inputs(self.model, self.pieces, texts, self.max_text_len, width)
        return self.model.condition(*inputs, self.kind)


def encode_texts(encoder: Callable[[Sequence[str]], Tensor], texts: Sequence[str], quiet: bool = True) -> Tensor:
    """Encode texts in batches of similar length. Returns features (n, dim) on the CPU, in the order of ``texts``."""
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    rows: list[Tensor] = [torch.empty(0)] * len(texts)
    for start in tqdm(range(0, len(order), TEXT_BATCH), desc="text features", disable=quiet or None, leave=False):
        chosen = order[start:start + TEXT_BATCH]
        for index, feature in zip(chosen, encoder([texts[i] for i in chosen]).cpu(), strict=True):
            rows[index] = feature
    return torch.stack(rows)
