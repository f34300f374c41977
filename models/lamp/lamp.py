"""LaMP: language-motion pretraining of a Q-Former with four objectives (LaMP paper, section 3.2).

    ptc  contrastive: make the features of paired texts and motions similar
    ptm  matching: classify whether a text describes a motion
    lm   motion to text: predict the caption of a motion
    gen  text to motion: predict the motion tokens of a caption

The released code differs from the paper. ``LaMPConfig.published`` reproduces it. Without ``published``:

- pairs with equal captions are never negatives;
- ``temp`` is the logarithm of the similarity scale and has no weight decay (published: the scale itself);
- the motion encoder is the tokenizer's, without dropout (published: initialised at random, with dropout);
- motion latents have position encodings;
- padding is masked in all attention layers and losses;
- in gen, queries attend to the hidden states of the text (published: to word embeddings).

With several processes, the negatives of ptc and ptm come from all processes. Averaged over the processes, the losses
equal those of the whole batch.

To add an objective or another loss, see the "Extend" section of docs/train.md.
"""
import itertools
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.config import OBJECTIVES
from models.lamp.features import EncodedMotion, LaMPConfig, LaMPFeatures
from models.lamp.objectives import (
    accuracy,
    contrastive_loss,
    masked_softmax,
    next_word_targets,
    own_column,
    same_caption,
    similarity,
    smoothed_cross_entropy,
)
from models.lamp.qformer import QFormer, QueryPass
from models.layers import Linear
from models.vq.model import RVQVAE, HumanVQVAE
from utils.runtime import WHOLE, BatchSlice, sample_columns

TEMP_INIT = math.log(1 / 0.07)
MAX_SCALE = 100.0  # maximum scale of similarities, as in CLIP


@dataclass(frozen=True)
class Negatives:
    """Indices of hard negatives for the matching objective."""

    motion: Tensor  # (r,) int64 negative motion for the text of each row
    text: Tensor    # (r,) int64 negative text for the motion of each row
    rows: Tensor | None = None  # (r,) int64 rows; None: the first r rows


@dataclass(frozen=True)
class MirroredNegatives:
    """Captions with left and right swapped, as extra negatives for the contrastive objective."""

    ids: Tensor   # (r, t) int64 word pieces
    mask: Tensor  # (r, t) bool, False at padding
    rows: Tensor  # (r,) int64 motion of each caption


@dataclass(frozen=True)
class AlsoTrue:
    """Other matching pairs, which must not be used as negatives. In shapes, ``all`` is the size of the whole batch."""

    text: Tensor    # (b, all) bool, whether local text i describes motion j
    motion: Tensor  # (b, all) bool, whether text j describes local motion i


@dataclass(frozen=True)
class Objective:
    """Loss and accuracy of one objective. Both are scalars."""

    loss: Tensor
    accuracy: Tensor  # in [0, 1]; for ptc, the top-1 retrieval accuracy averaged over both directions


@dataclass(frozen=True)
class LaMPResult:
    """Losses and accuracies of the objectives, as scalars, and hidden states of the texts."""

    loss: Tensor  # weighted sum of the losses
    losses: dict[str, Tensor]
    accuracies: dict[str, Tensor]
    text: Tensor | None = None  # (b, t, h) hidden states of the texts, if they were computed


@dataclass(frozen=True)
class Pairs:
    """Local text-motion pairs, and the texts of the whole batch."""

    encoded: EncodedMotion
    states: Tensor   # (b, n, encoder_width) motion states that the queries attend to
    ids: Tensor      # (b, t) word pieces
    mask: Tensor     # (b, t) bool, False at padding
    all_ids: Tensor  # (all, t') word pieces of the whole batch
    first: int       # index of the first local row in the whole batch
    batch_slice: BatchSlice
    excluded: tuple[Tensor | None, Tensor | None]  # (b, all) pairs to exclude from negatives, for texts and for motions

    @property
    def own(self) -> Tensor:
        """Indices (b,) of the local rows in the whole batch."""
        return torch.arange(self.first, self.first + len(self.ids), device=self.ids.device)


@dataclass(frozen=True)
class Scores:
    """Scaled similarities of text-motion pairs, and the query features from which they are computed."""

    text: Tensor    # (b, all) between local texts and all motions
    motion: Tensor  # (b, all) between local motions and all texts
    query: Tensor   # (b, queries, embed_dim) normalised features of local motions


class LaMP(LaMPFeatures):
    """LaMP model with the heads for pretraining. The objective gen needs a tokenizer ``vq_model``."""

    def __init__(self, config: LaMPConfig, vq_model: HumanVQVAE | RVQVAE | None = None,
                 qformer: QFormer | None = None) -> None:
        """Create a model. ``qformer`` may have pretrained weights (``models.lamp.bert.from_bert``)."""
        super().__init__(config, vq_model, qformer)
        hidden = config.qformer.hidden
        self.temp = nn.Parameter(torch.tensor(TEMP_INIT))
        self.itm_head = Linear(hidden, 2)
        self.motion_cls = Linear(hidden, config.vq.nb_code, bias=False)

    def forward(self, motion: Tensor | EncodedMotion, ids: Tensor, mask: Tensor, m_lens: Tensor | None = None, *,
                objectives: Collection[str] | Mapping[str, float] = OBJECTIVES, matching_rows: int | None = None,
                negatives: Negatives | None = None, mirrored: MirroredNegatives | None = None,
                also_true: AlsoTrue | None = None, generator: torch.Generator | None = None,
                batch_slice: BatchSlice = WHOLE) -> LaMPResult:
        """Compute the losses of a batch in which motion i belongs to text i.

        Args:
            motion: (b, t, d) normalised motions, or the output of ``encode_motion``.
            ids, mask: (b, t) word pieces and their mask.
            m_lens: (b,) lengths in frames; ignored if ``motion`` is encoded.
            objectives: names from ``OBJECTIVES``, or a mapping from names to weights.
            matching_rows: number of rows of the whole batch that ptm uses, None for all.
            negatives: negatives for ptm. By default, they are sampled with ``generator``, whose state must be the same
                in all processes.
            mirrored: extra negatives for ptc.
            also_true: pairs that are never negatives.
            batch_slice: position of the local rows in the whole batch.
        """
        weights = objectives if isinstance(objectives, Mapping) else dict.fromkeys(objectives, 1.0)
        if not weights or set(weights) - set(OBJECTIVES):
            raise ValueError(f"objectives {sorted(weights)} must be some of {OBJECTIVES}")
        chosen, pairs = weights.keys(), self._pairs(self._encoded(motion, m_lens), ids, mask, batch_slice, also_true)
        query = text = scores = None
        if chosen & {"ptc", "ptm", "lm"}:  # pass 1: queries attend to the motion
            query = self.query_motion(pairs.encoded, pairs.states)
        if chosen & {"ptc", "ptm"} or ("gen" in chosen and not self.config.published):  # pass 2: text alone
            text = self.Qformer.text(ids, mask)
        if chosen & {"ptc", "ptm"}:
            scores = self._scores(query, text, batch_slice)
        losses = {
            "ptc": lambda: self._contrastive(pairs, scores, mirrored),
            "ptm": lambda: self._matching(pairs, negatives or self._negatives(  # pass 3: queries and text together
                pairs, scores, matching_rows, generator or torch.default_generator)),
            "lm": lambda: self._captioning(pairs, query),  # pass 4: text, causal, after the queries
            "gen": lambda: self._motion_generation(pairs, text),  # pass 1 again: queries attend to the text
        }
        results = {name: losses[name]() for name in OBJECTIVES if name in weights}
        total = sum(weights[name] * result.loss for name, result in results.items())
        return LaMPResult(total, {name: result.loss for name, result in results.items()},
                          {name: result.accuracy for name, result in results.items()}, text)

    def _contrastive(self, pairs: Pairs, scores: Scores, mirrored: MirroredNegatives | None) -> Objective:
        """Contrastive objective ptc, averaged over both directions."""
        extra = None if mirrored is None else self._mirrored_scores(scores.query, mirrored)
        loss = (contrastive_loss(scores.text, pairs.excluded[0], first=pairs.first)
                + contrastive_loss(scores.motion, pairs.excluded[1], extra, pairs.first)) / 2
        return Objective(loss, (accuracy(scores.text, pairs.own) + accuracy(scores.motion, pairs.own)) / 2)

    def _matching(self, pairs: Pairs, negatives: Negatives) -> Objective:
        """Matching objective ptm, on positive pairs and hard negatives."""
        logits, targets = self.matching(*self._candidates(pairs, negatives))
        return self._weighted(pairs, F.cross_entropy(logits, targets), accuracy(logits, targets), targets)

    def _captioning(self, pairs: Pairs, query: QueryPass) -> Objective:
        """Captioning objective lm: next-word prediction."""
        where, targets = next_word_targets(pairs.ids, pairs.mask)
        logits = self.caption_logits(pairs.ids, pairs.mask, query, where)
        return self._weighted(pairs, smoothed_cross_entropy(logits, targets), accuracy(logits, targets), targets)

    def _motion_generation(self, pairs: Pairs, text: Tensor | None) -> Objective:
        """Generation objective gen: prediction of motion tokens."""
        encoded = pairs.encoded
        if encoded.ids is None:
            raise ValueError("the objective gen needs a LaMP model with a tokenizer")
        states = self.word_states(pairs.ids) if self.config.published else text
        logits = self.generation_logits(states, pairs.mask)
        where = torch.ones_like(encoded.ids, dtype=torch.bool) if encoded.mask is None else encoded.mask
        logits, targets = logits[where], encoded.ids[where]
        return self._weighted(pairs, smoothed_cross_entropy(logits, targets), accuracy(logits, targets), targets)

    def scaled(self, cosines: Tensor) -> Tensor:
        """Multiply similarities by the learned scale."""
        scale = self.temp if self.config.published else self.temp.exp().clamp(max=MAX_SCALE)
        return cosines * scale

    def negative_probabilities(self, scores: Tensor, ids: Tensor, first: int = 0,
                               excluded: Tensor | None = None) -> Tensor:
        """Compute the probabilities (b, n) of sampling each column as the negative of a row, from ``scores`` (b, n).

        Row i and column ``first`` + i belong to the same pair. Pairs in ``excluded`` (b, n), by default those of equal
        texts ``ids`` (b, t), are never sampled, unless a row has no other candidate; with ``published`` nothing is
        excluded. Raises ``ValueError`` for a batch of one pair.
        """
        rows, columns = scores.shape
        if columns < 2:
            raise ValueError("a batch of one pair has no negatives to match")
        if self.config.published:
            return masked_softmax(scores)
        excluded = same_caption(ids) if excluded is None else excluded
        own = own_column(rows, columns, first, ids.device)
        return masked_softmax(scores, torch.where(excluded.all(1, keepdim=True), own, excluded))

    def match_logits(self, states: Tensor, states_mask: Tensor | None, ids: Tensor, mask: Tensor,
                     rows: Tensor | None = None) -> Tensor:
        """Compute logits (b, 2) of texts and motion ``states`` (b, n, encoder_width). Class 1 means a match.

        With ``rows`` (b,), pair i uses row ``rows[i]`` of ``states``, so that states shared by several pairs are
        projected only once.
        """
        hidden = self.Qformer.joint(self.query_tokens, ids, mask, states, states_mask, rows)
        return self.itm_head(hidden[:, :self.query_tokens.shape[1]]).float().mean(1)

    def matching(self, states: Tensor, states_mask: Tensor | None, ids: Tensor, mask: Tensor,
                 negatives: Negatives) -> tuple[Tensor, Tensor]:
        """Compute matching logits (3r, 2) and targets (3r,).

        The r positive pairs are followed by their texts with negative motions and their motions with negative texts.
        """
        count = len(negatives.motion)
        own = torch.arange(count, device=ids.device) if negatives.rows is None else negatives.rows
        motion = torch.cat([own, negatives.motion, own])
        text = torch.cat([own, own, negatives.text])
        targets = (torch.arange(3 * count, device=ids.device) < count).long()
        states_mask = None if states_mask is None else states_mask[motion]
        if len(motion) <= len(states):
            states, rows = states[motion], None
        else:
            rows = motion
        return self.match_logits(states, states_mask, ids[text], mask[text], rows), targets

    def caption_logits(self, ids: Tensor, mask: Tensor, query: QueryPass, where: Tensor | None = None) -> Tensor:
        """Compute next-word logits (b, t, vocab) of ``ids`` (b, t), whose first word piece is replaced by [DEC].

        With a boolean mask ``where`` (b, t), only the logits (m, vocab) at these positions are computed.
        """
        hidden = self.Qformer.language_model(self._with_dec(ids), mask, query.cache)
        return self.Qformer.lm_logits(hidden if where is None else hidden[where])

    def generation_logits(self, text_states: Tensor, mask: Tensor | None) -> Tensor:
        """Compute logits (b, queries, codes) of motion tokens, one per query, from text states (b, t, h)."""
        return self.motion_cls(self.query_text(text_states, mask).hidden)

    def word_states(self, ids: Tensor) -> Tensor:
        """Embed word pieces (b, t), the first replaced by [DEC], as input of the published objective gen."""
        return self.Qformer.bert.embeddings(self._with_dec(ids))

    def parameter_groups(self, weight_decay: float, lr: float | None = None,
                         text_lr: float | None = None) -> list[dict[str, Any]]:
        """Return parameter groups for an optimizer, with weight decay on matrices only (published: also on ``temp``).

        With ``text_lr``, the text encoder (see ``is_text``) has this learning rate, and the other parameters ``lr``.
        """
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                decays = parameter.dim() > 1 or (self.config.published and name == "temp")
                groups.setdefault((text_lr is not None and is_text(name), decays), []).append(parameter)
        rates = {} if text_lr is None else {True: {"lr": text_lr}, False: {"lr": lr}}
        return [{"params": groups[text, decays], "weight_decay": weight_decay if decays else 0.0, **rates.get(text, {})}
                for text, decays in itertools.product((False, True), (True, False)) if (text, decays) in groups]

    def _pairs(self, encoded: EncodedMotion, ids: Tensor, mask: Tensor, batch_slice: BatchSlice,
               also_true: AlsoTrue | None) -> Pairs:
        all_ids, first = batch_slice.gather(ids, pad=True), batch_slice.rank * len(ids)
        excluded = (None, None)
        if not self.config.published:
            same = same_caption(all_ids[first:first + len(ids)], all_ids)
            excluded = (same, same) if also_true is None else (same | also_true.text, same | also_true.motion)
        return Pairs(encoded, self.motion_states(encoded), ids, mask, all_ids, first, batch_slice, excluded)

    def _scores(self, query: QueryPass, text: Tensor, batch_slice: BatchSlice) -> Scores:
        motions, texts = self.project_motion(query.hidden), self.project_text(text)
        by_text = self.scaled(similarity(texts, batch_slice.gather_with_gradient(motions)))
        if batch_slice.world_size == 1:
            return Scores(by_text, by_text.T, motions)
        return Scores(by_text, self.scaled(similarity(batch_slice.gather_with_gradient(texts), motions)).T, motions)

    def _mirrored_scores(self, query: Tensor, mirrored: MirroredNegatives) -> Tensor:
        """Compute the scaled similarity (b,) of each motion to its mirrored caption, -inf if it has none."""
        text = self.project_text(self.Qformer.text(mirrored.ids, mirrored.mask))
        scores = torch.full((len(query),), float("-inf"), device=text.device)
        cosines = (query[mirrored.rows] * text[:, None]).sum(-1).amax(1)
        return scores.index_put((mirrored.rows,), self.scaled(cosines))

    def _negatives(self, pairs: Pairs, scores: Scores, limit: int | None, generator: torch.Generator) -> Negatives:
        """Sample negatives for ``limit`` rows of the whole batch, evenly distributed over the processes."""
        batch_slice, size, everyone = pairs.batch_slice, len(pairs.ids), len(pairs.all_ids)
        rows = pairs.own - pairs.first
        if limit is not None and batch_slice.total is not None:  # limit of this micro-batch
            limit = limit * everyone // batch_slice.total
        if limit is not None and limit < everyone:
            # On the CPU, because boolean indexing would wait for the device.
            chosen = torch.arange(max(limit, batch_slice.world_size))
            chosen = chosen * everyone // len(chosen) - pairs.first
            rows = chosen[(chosen >= 0) & (chosen < size)].to(rows.device, non_blocking=True)
        uniform = batch_slice.rand(generator, size, 2).to(rows.device, non_blocking=True)[rows]
        sampled = [sample_columns(self.negative_probabilities(way, pairs.ids, pairs.first, no)[rows], numbers)
                   for way, no, numbers in zip((scores.text, scores.motion), pairs.excluded, uniform.T, strict=True)]
        return Negatives(*sampled, rows)

    def _candidates(self, pairs: Pairs, negatives: Negatives,
                    ) -> tuple[Tensor, Tensor | None, Tensor, Tensor, Negatives]:
        """Return the arguments of ``matching``: the local pairs and, with several processes, the sampled negatives.

        Processes exchange only motion latents, which are frozen, and word pieces. All later results are computed
        locally, with gradients.
        """
        encoded, batch_slice = pairs.encoded, pairs.batch_slice
        if batch_slice.world_size == 1:
            return pairs.states, encoded.mask, pairs.ids, pairs.mask, negatives
        latents = batch_slice.gather(encoded.latents)[negatives.motion]
        seen = None if encoded.mask is None else torch.cat(
            [encoded.mask, batch_slice.gather(encoded.mask)[negatives.motion]])
        mask = batch_slice.gather(pairs.mask, pad=True)
        behind = len(pairs.ids) + torch.arange(len(negatives.motion), device=pairs.ids.device)
        return (torch.cat([pairs.states, self.motion_states(EncodedMotion(latents, None, None))]), seen,
                torch.cat([pairs.all_ids[pairs.own], pairs.all_ids[negatives.text]]),
                torch.cat([mask[pairs.own], mask[negatives.text]]), Negatives(behind, behind, negatives.rows))

    def _weighted(self, pairs: Pairs, loss: Tensor, hits: Tensor, targets: Tensor) -> Objective:
        """Weight means over local ``targets`` (m,), so that the average over processes is the mean over all targets."""
        weight = pairs.batch_slice.mean_weight(len(targets), loss.device)
        return Objective(weight * loss, weight * hits)

    def _with_dec(self, ids: Tensor) -> Tensor:
        ids = ids.clone()
        ids[:, 0] = self.config.qformer.vocab - 1  # [DEC], the last one in the vocabulary
        return ids


def is_text(name: str) -> bool:
    """Return whether the LaMP parameter ``name`` is used to encode text: embeddings, self-attention, feed-forward."""
    return name.startswith("Qformer.bert.") and "_query" not in name and "crossattention" not in name


def freeze_motion(model: LaMP) -> None:
    """Freeze all parameters except the feed-forward blocks for text and the text projection ``text_proj``.

    Motion features then do not change in training. The self-attention, which texts and queries share, is also frozen,
    and so are the word embeddings, the heads and the temperature.
    """
    for name, parameter in model.named_parameters():
        if not (name.startswith("text_proj.") or (is_text(name) and ".encoder." in name and ".attention." not in name)):
            parameter.requires_grad_(False)


def freeze_text(model: LaMP, words: bool, trained_layers: int | None) -> None:
    """Freeze parameters of the text encoder (see ``is_text``), including the self-attention shared with the queries.

    ``words`` freezes the word embeddings. ``trained_layers``, unless None, freezes the whole text encoder except its
    last ``trained_layers`` layers.
    """
    model.Qformer.bert.embeddings.word_embeddings.requires_grad_(not words)
    if trained_layers is None:
        return
    layers = range(model.config.qformer.layers)
    trained = tuple(f"Qformer.bert.encoder.layer.{layer}." for layer in layers[len(layers) - trained_layers:])
    for name, parameter in model.named_parameters():
        if is_text(name) and not name.startswith(trained):
            parameter.requires_grad_(False)
