"""LaMP: language-motion pretraining of one Q-Former with four objectives (paper, section 3.2).

    ptc  contrastive: captions and motions of a pair get close features
    ptm  matching: does this caption tell this motion?
    lm   motion to text: predict the caption from the queried motion
    gen  text to motion: predict the motion's tokens from the caption

The released code departs from the paper in several places. ``LaMPConfig.published`` repeats it, for released weights
and comparisons; without it

- the true pair, and any pair with the same caption, is never drawn as a hard negative or counted as a wrong answer;
- ``temp`` is the logarithm of the scale of similarities and is not weight-decayed (published: the scale itself);
- the motion encoder is the tokenizer's, and its dropout is always off (published: random and noisy);
- padding of motions and texts is hidden from every attention and loss, where ``m_lens`` tells it;
- gen reads the hidden states of the text-only pass (published: the embeddings of the words).
"""
import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.lamp.objectives import (
    accuracy,
    contrastive_loss,
    negative_weights,
    next_word_targets,
    same_caption,
    similarity,
    smoothed_cross_entropy,
)
from models.lamp.qformer import INIT_STD, POSITION_IDS, TIED_NAMES, QFormer, QFormerConfig, QueryPass
from models.vq.encdec import Encoder
from models.vq.model import RVQVAE, HumanVQVAE, VQConfig
from utils.errors import InputError

OBJECTIVES = ("ptc", "ptm", "lm", "gen")
TEMP_INIT = math.log(1 / 0.07)
MAX_SCALE = 100.0  # of similarities, as in CLIP: keeps the softmax from hardening into an arg-max
MATCH = 1  # class of a true pair

ConditionKind = Literal["query", "cls", "both"]


@dataclass(frozen=True)
class LaMPConfig:
    """Settings that rebuild a LaMP model; the defaults are the published sizes."""

    qformer: QFormerConfig = field(default_factory=QFormerConfig)
    vq: VQConfig = field(default_factory=lambda: VQConfig(num_quantizers=1))
    embed_dim: int = 512     # of the features that are compared
    published: bool = False  # repeat the released code's behaviour

    def to_options(self) -> dict[str, Any]:
        """What is LaMP's own of a run's flat options; the tokenizer has its own file."""
        return {"embed_dim": self.embed_dim, "published_behaviour": self.published, **self.qformer.to_options()}

    @classmethod
    def from_options(cls, options: Mapping[str, Any], vq: VQConfig) -> "LaMPConfig":
        """Settings from a run's flat options and its tokenizer's; what is missing takes the published size."""
        return cls(QFormerConfig.from_options(options), vq, options.get("embed_dim", 512),
                   bool(options.get("published_behaviour", False)))


@dataclass(frozen=True)
class EncodedMotion:
    """What the frozen parts make of a batch of motions; worth keeping where a motion is used often."""

    latents: Tensor      # (b, n, code_dim) of the motion encoder
    ids: Tensor | None   # (b, n) int64 tokens, of the first quantizer; None without a tokenizer
    mask: Tensor | None  # (b, n) bool, False at padding; None where everything counts

    def rows(self, index: Tensor | slice) -> "EncodedMotion":
        """A choice of the motions."""
        ids, mask = (None if part is None else part[index] for part in (self.ids, self.mask))
        return EncodedMotion(self.latents[index], ids, mask)


@dataclass(frozen=True)
class Negatives:
    """Which other rows stand in for the partners of the first rows of a batch."""

    motion: Tensor  # (r,) int64 motion that does not belong to text i
    text: Tensor    # (r,) int64 text that does not belong to motion i


@dataclass(frozen=True)
class LaMPResult:
    """Losses and accuracies by objective, all (); only of the objectives that were asked for."""

    loss: Tensor  # weighted sum
    losses: dict[str, Tensor]
    accuracies: dict[str, Tensor]  # shares in [0, 1]; ptc is top-1 retrieval in the batch, mean of both ways


class LaMP(nn.Module):
    """The pretraining model. Motion is (b, t, d) normalised features, zero where padded; ``m_lens`` (b,) in frames.

    Motions are padded to ``num_query_tokens`` tokens, the length that the convolutions were shown in training, so
    features do not depend on what else is in a batch. Text is (b, t) ids with a mask that is 1 or True at words.
    Without a tokenizer (``vq_model`` None) everything works but the objective gen.
    """

    def __init__(self, config: LaMPConfig, vq_model: HumanVQVAE | RVQVAE | None = None,
                 qformer: QFormer | None = None) -> None:
        """``qformer``: one that has learned language already (``models.lamp.bert.from_bert``)."""
        super().__init__()
        if vq_model is not None and vq_model.config != config.vq:
            raise ValueError("the tokenizer has other settings than the LaMP model was given")
        if qformer is not None and qformer.config != config.qformer:
            raise ValueError("the Q-Former has other sizes than the LaMP model was given")
        self.config = config
        sizes, code_dim = config.qformer, config.vq.output_emb_width
        self.query_tokens = nn.Parameter(torch.randn(1, sizes.num_query_tokens, sizes.hidden) * INIT_STD)
        projection_std = sizes.encoder_width**-0.5
        self.motion_projection = nn.Parameter(torch.randn(code_dim, sizes.encoder_width) * projection_std)
        self.text_projection = nn.Parameter(torch.randn(sizes.hidden, sizes.encoder_width) * projection_std)
        self.temp = nn.Parameter(torch.tensor(TEMP_INIT))
        self.vq_model = vq_model
        self.Qformer = qformer or QFormer(sizes)
        self.motion_encoder = (
            _motion_encoder(config.vq) if vq_model is None or config.published else vq_model.motion_encoder)
        self.text_proj = nn.Linear(sizes.hidden, config.embed_dim)
        self.motion_proj = nn.Linear(sizes.hidden, config.embed_dim)
        self.itm_head = nn.Linear(sizes.hidden, 2)
        self.motion_cls = nn.Linear(sizes.hidden, config.vq.nb_code, bias=False)
        for part in self._frozen():
            part.requires_grad_(False)
        self.register_load_state_dict_pre_hook(_complete_state)
        self.train()

    def train(self, mode: bool = True) -> "LaMP":
        """Switch dropout, but never in the frozen parts (published: it stays in the motion encoder)."""
        super().train(mode)
        for part in self._frozen():
            if not (self.config.published and part is self.motion_encoder):
                part.eval()
        return self

    def forward(self, motion: Tensor | EncodedMotion, ids: Tensor, mask: Tensor, m_lens: Tensor | None = None, *,
                objectives: Collection[str] | Mapping[str, float] = OBJECTIVES, matching_rows: int | None = None,
                negatives: Negatives | None = None, generator: torch.Generator | None = None) -> LaMPResult:
        """Losses of a batch of pairs: motion i belongs to text i.

        ``motion`` may come encoded (``encode_motion``), then ``m_lens`` is not read. ``objectives`` chooses among
        ``OBJECTIVES``, as a mapping with a weight each. ``matching_rows`` limits ptm to the first rows, as it costs
        three passes a row. ``negatives`` fixes what ptm else draws with ``generator``.
        """
        weights = objectives if isinstance(objectives, Mapping) else dict.fromkeys(objectives, 1.0)
        if not weights or set(weights) - set(OBJECTIVES):
            raise ValueError(f"objectives {sorted(weights)} are not some of {OBJECTIVES}")
        encoded = motion if isinstance(motion, EncodedMotion) else self.encode_motion(motion, m_lens)
        passes = _Passes(self, encoded, ids, mask)
        outcomes = {}
        if "ptc" in weights:
            outcomes["ptc"] = self._contrast(passes)
        if "ptm" in weights:
            rows = min(matching_rows or len(ids), len(ids))
            outcomes["ptm"] = self._match(passes, negatives or self.draw_negatives(passes.scores, ids, rows, generator))
        if "lm" in weights:
            outcomes["lm"] = self._tell(passes)
        if "gen" in weights:
            outcomes["gen"] = self._predict_motion(passes)
        losses = {name: loss for name, (loss, _) in outcomes.items()}
        accuracies = {name: share for name, (_, share) in outcomes.items()}
        return LaMPResult(sum(weights[name] * loss for name, loss in losses.items()), losses, accuracies)

    @torch.no_grad()
    def encode_motion(self, motion: Tensor, m_lens: Tensor | None = None) -> EncodedMotion:
        """Latents and tokens of motion (b, t, d). Without ``m_lens`` all t frames count (published: padding too)."""
        unit, tokens = self.config.vq.unit_length, self.config.qformer.num_query_tokens
        frames = motion.shape[1]
        if frames > tokens * unit:
            raise InputError(f"a motion has {frames} frames, and this LaMP model reads at most {tokens * unit}")
        padded = F.pad(motion, (0, 0, 0, tokens * unit - frames))
        latents = self.motion_encoder(padded).transpose(1, 2).float()  # (b, n, code_dim)
        ids = None if self.vq_model is None else self._token_ids(padded, latents)
        if self.config.published:
            return EncodedMotion(latents, ids, None)
        if m_lens is None:
            m_lens = torch.full((len(motion),), frames, device=motion.device)
        positions = torch.arange(tokens, device=motion.device)
        return EncodedMotion(latents, ids, positions < (m_lens // unit).clamp_min(1).unsqueeze(1))

    def scaled(self, cosines: Tensor) -> Tensor:
        """Similarities times the learned scale."""
        scale = self.temp if self.config.published else self.temp.exp().clamp(max=MAX_SCALE)
        return cosines * scale

    def draw_negatives(self, scores: Tensor, ids: Tensor, rows: int,
                       generator: torch.Generator | None = None) -> Negatives:
        """Hard negatives of the first rows by scaled scores (texts, motions): likelier, the more alike.

        Raises ``ValueError`` where a batch of one pair offers none.
        """
        motion, text = self.negative_chances(scores, ids)
        return Negatives(torch.multinomial(motion[:rows], 1, generator=generator).squeeze(1),
                         torch.multinomial(text[:rows], 1, generator=generator).squeeze(1))

    def negative_chances(self, scores: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Chances (b, b) of each motion to be the negative of a text (row), and of each text for a motion (row)."""
        if len(ids) < 2:
            raise ValueError("a batch of one pair has no negatives to match")
        excluded = None
        if not self.config.published:
            own = torch.eye(len(ids), dtype=torch.bool, device=ids.device)
            excluded = same_caption(ids)
            excluded = torch.where(excluded.all(1, keepdim=True), own, excluded)
        return negative_weights(scores, excluded), negative_weights(scores.T, excluded)

    def match_logits(self, states: Tensor, states_mask: Tensor | None, ids: Tensor, mask: Tensor) -> Tensor:
        """Logits (b, 2) of a caption and motion states (b, n, encoder_width) belonging together (class 1)."""
        hidden = self.Qformer.joint(self.query_tokens, ids, mask, states, states_mask)
        return self.itm_head(hidden[:, :self.query_tokens.shape[1]]).float().mean(1)

    def matching(self, states: Tensor, states_mask: Tensor | None, ids: Tensor, mask: Tensor,
                 negatives: Negatives) -> tuple[Tensor, Tensor]:
        """Logits (3r, 2) and targets (3r,): r pairs, then other motions with their texts, then other texts."""
        rows = len(negatives.motion)
        own = torch.arange(rows, device=ids.device)
        motion = torch.cat([own, negatives.motion, own])
        text = torch.cat([own, own, negatives.text])
        states_mask = None if states_mask is None else states_mask[motion]
        targets = torch.zeros_like(motion)
        targets[:rows] = MATCH
        return self.match_logits(states[motion], states_mask, ids[text], mask[text]), targets

    def caption_logits(self, ids: Tensor, mask: Tensor, query: QueryPass, where: Tensor | None = None) -> Tensor:
        """Logits (b, t, vocab) of the word piece after each position of ids (b, t), whose first becomes [DEC].

        ``where`` (b, t) bool: only these positions, (m, vocab); the vocabulary is the costly part.
        """
        hidden = self.Qformer.language_model(self._with_dec(ids), mask, query.cache)
        return self.Qformer.lm_logits(hidden if where is None else hidden[where])

    def generation_logits(self, text_states: Tensor, mask: Tensor | None) -> Tensor:
        """Token logits (b, queries, codes), a query a token, from hidden states of text (b, t, h)."""
        return self.motion_cls(self._ask_text(text_states, mask).hidden)

    def generation_text_states(self, ids: Tensor, mask: Tensor) -> Tensor:
        """What the objective gen knows of a text, (b, t, h)."""
        if self.config.published:
            return self.Qformer.embed_text(self._with_dec(ids))
        return self.Qformer.text(ids, mask)

    def motion_states(self, encoded: EncodedMotion) -> Tensor:
        """What queries look at, (b, n, encoder_width)."""
        return encoded.latents @ self.motion_projection

    def query_motion(self, encoded: EncodedMotion, states: Tensor | None = None) -> QueryPass:
        """The queries after looking at a motion: its language-informative features."""
        states = self.motion_states(encoded) if states is None else states
        return self.Qformer.query(self.query_tokens, states, encoded.mask)

    def text_features(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Unit vectors (b, embed_dim) of texts, to compare with either feature of motions by ``similarity``."""
        return F.normalize(self.text_embedding(ids, mask), dim=-1)

    def motion_features(self, motion: Tensor | EncodedMotion, m_lens: Tensor | None = None) -> Tensor:
        """Unit vectors (b, embed_dim) of motions: the mean direction of the features of their queries."""
        return F.normalize(self.motion_query_features(motion, m_lens).mean(1), dim=-1)

    def motion_query_features(self, motion: Tensor | EncodedMotion, m_lens: Tensor | None = None) -> Tensor:
        """Unit vectors (b, queries, embed_dim); the best of a motion's queries is what training compares."""
        with _inference(self):
            return self._motion_directions(self.query_motion(self._encoded(motion, m_lens)))

    def text_embedding(self, ids: Tensor, mask: Tensor) -> Tensor:
        """(b, embed_dim) of any length, which the published retrieval compares by Euclidean distance."""
        with _inference(self):
            return self.text_proj(self.Qformer.text(ids, mask)[:, 0]).float()

    def motion_embedding(self, motion: Tensor | EncodedMotion, m_lens: Tensor | None = None) -> Tensor:
        """(b, embed_dim) of any length, mean over queries; the partner of ``text_embedding``."""
        with _inference(self):
            query = self.query_motion(self._encoded(motion, m_lens))
            return self.motion_proj(query.hidden).float().mean(1)

    def condition(self, ids: Tensor, mask: Tensor, kind: ConditionKind = "query") -> Tensor:
        """What a text-to-motion transformer is told of texts: (b, h), or (b, 2h) for ``both``. No gradient, no dropout.

        ``query``: mean of the queries after looking at the text. ``cls``: the text's [CLS] state. Published models
        let the queries look at padding too, so there the text must be padded as it was in training.
        """
        with _inference(self):
            hidden = self.Qformer.text(ids, mask)
            parts = []
            if kind in ("query", "both"):
                parts.append(self._ask_text(hidden, None if self.config.published else mask).hidden.mean(1))
            if kind in ("cls", "both"):
                parts.append(hidden[:, 0])
            if not parts:
                raise ValueError(f"condition kind {kind!r} is none of query, cls, both")
            return torch.cat(parts, -1).float()

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Trainable parameters for an optimiser: matrices decay, vectors do not (published: ``temp`` does)."""
        decayed, plain = [], []
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                decays = parameter.dim() > 1 or (self.config.published and name == "temp")
                (decayed if decays else plain).append(parameter)
        return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]

    def inference_state_dict(self) -> dict[str, Tensor]:
        """Every tensor that features and conditions need, once: for small files, loaded with ``vq_model`` None."""
        left_out = (*TIED_NAMES, POSITION_IDS)
        return {name: tensor for name, tensor in self.state_dict().items()
                if not name.startswith("vq_model.") and not name.endswith(left_out)}

    def _contrast(self, passes: "_Passes") -> tuple[Tensor, Tensor]:
        scores, ids = passes.scores, passes.ids
        excluded = None if self.config.published else same_caption(ids)
        own = torch.arange(len(ids), device=ids.device)
        loss = (contrastive_loss(scores, excluded) + contrastive_loss(scores.T, excluded)) / 2
        return loss, (accuracy(scores, own) + accuracy(scores.T, own)) / 2

    def _match(self, passes: "_Passes", negatives: Negatives) -> tuple[Tensor, Tensor]:
        logits, targets = self.matching(
            passes.states, passes.encoded.mask, passes.ids, passes.mask, negatives)
        return F.cross_entropy(logits, targets), accuracy(logits, targets)

    def _tell(self, passes: "_Passes") -> tuple[Tensor, Tensor]:
        where, targets = next_word_targets(passes.ids, passes.mask)
        logits = self.caption_logits(passes.ids, passes.mask, passes.query, where)
        return smoothed_cross_entropy(logits, targets), accuracy(logits, targets)

    def _predict_motion(self, passes: "_Passes") -> tuple[Tensor, Tensor]:
        encoded = passes.encoded
        if encoded.ids is None:
            raise ValueError("the objective gen needs a LaMP model with its tokenizer")
        states = (
            self.generation_text_states(passes.ids, passes.mask) if self.config.published else passes.text_hidden)
        logits = self.generation_logits(states, passes.mask)
        where = torch.ones_like(encoded.ids, dtype=torch.bool) if encoded.mask is None else encoded.mask
        logits, targets = logits[where], encoded.ids[where]
        return smoothed_cross_entropy(logits, targets), accuracy(logits, targets)

    def _token_ids(self, padded: Tensor, latents: Tensor) -> Tensor:
        """Tokens (b, n) of the first quantizer; distances always in float32."""
        if self.motion_encoder is not self.vq_model.motion_encoder:
            latents = self.vq_model.motion_encoder(padded).transpose(1, 2).float()
        with torch.autocast(latents.device.type, enabled=False):
            return self.vq_model.quantizers[0].nearest(latents.flatten(0, 1)).view(latents.shape[:2])

    def _encoded(self, motion: Tensor | EncodedMotion, m_lens: Tensor | None) -> EncodedMotion:
        return motion if isinstance(motion, EncodedMotion) else self.encode_motion(motion, m_lens)

    def _ask_text(self, hidden: Tensor, mask: Tensor | None) -> QueryPass:
        return self.Qformer.query(self.query_tokens, hidden @ self.text_projection, mask)

    def _motion_directions(self, query: QueryPass) -> Tensor:
        return F.normalize(self.motion_proj(query.hidden).float(), dim=-1)  # (b, queries, embed_dim)

    def _text_directions(self, hidden: Tensor) -> Tensor:
        return F.normalize(self.text_proj(hidden[:, 0]).float(), dim=-1)  # (b, embed_dim)

    def _with_dec(self, ids: Tensor) -> Tensor:
        ids = ids.clone()
        ids[:, 0] = self.config.qformer.vocab - 1  # [DEC], the last of the vocabulary
        return ids

    def _frozen(self) -> list[nn.Module]:
        return [part for part in (self.motion_encoder, self.vq_model) if part is not None]


class _Passes:
    """The passes over one batch that objectives share, each run when first asked for."""

    def __init__(self, model: LaMP, encoded: EncodedMotion, ids: Tensor, mask: Tensor) -> None:
        self.model, self.encoded, self.ids, self.mask = model, encoded, ids, mask

    @cached_property
    def states(self) -> Tensor:
        return self.model.motion_states(self.encoded)

    @cached_property
    def query(self) -> QueryPass:
        return self.model.query_motion(self.encoded, self.states)

    @cached_property
    def text_hidden(self) -> Tensor:
        return self.model.Qformer.text(self.ids, self.mask)

    @cached_property
    def scores(self) -> Tensor:
        """Scaled similarities (texts, motions)."""
        text, motion = self.model._text_directions(self.text_hidden), self.model._motion_directions(self.query)
        return self.model.scaled(similarity(text, motion))


def _motion_encoder(vq: VQConfig) -> Encoder:
    return Encoder(vq.dim_pose, vq.output_emb_width, vq.down_t, vq.stride_t, vq.width, vq.depth,
                   vq.dilation_growth_rate, vq.vq_act, vq.vq_norm)


@contextmanager
def _inference(model: nn.Module) -> Iterator[None]:
    """No gradient, no dropout; training mode comes back afterwards."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def _complete_state(model: LaMP, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Where the motion encoder is the tokenizer's, its weights may lie under either name, but not differ."""
    if model.vq_model is None or model.motion_encoder is not model.vq_model.motion_encoder:
        return
    inner = next(name for name, part in model.vq_model.named_modules() if part is model.motion_encoder)
    for name in model.motion_encoder.state_dict():
        names = f"{prefix}motion_encoder.{name}", f"{prefix}vq_model.{inner}.{name}"
        given = [state[key] for key in names if key in state]
        if len(given) == 2 and not torch.equal(given[0].to(given[1]), given[1]):
            raise InputError("these LaMP weights have a motion encoder of their own, as released ones do; "
                             "they need published_behaviour")
        if given:
            state[names[0]] = state[names[1]] = given[0]
