"""LaMP: language-motion pretraining of one Q-Former with four objectives (paper, section 3.2).

    ptc  contrastive: captions and motions of a pair get similar embeddings
    ptm  matching: does this caption describe this motion?
    lm   motion to text: predict the caption from the queried motion
    gen  text to motion: predict the motion's tokens from the caption

The released code departs from the paper in several places. ``LaMPConfig.published`` reproduces it, for released weights
and comparisons; without it

- the true pair, and any pair with the same caption, is never a hard negative or a wrong candidate;
- ``temp`` is the logarithm of the scale of similarities and is not weight-decayed (published: the scale itself);
- the motion encoder is the tokenizer's, with dropout off (published: randomly initialised, with dropout);
- latents carry positions, so queries can tell the order of events;
- padding of motions and texts is masked in every attention and loss, given ``m_lens``;
- gen reads the hidden states of the text-only pass (published: word embeddings).

With several processes ptc compares the pairs of all of them, and ptm samples negatives from all (``BatchSlice``).
Averaged over processes, the losses are those of the whole batch.

To add an objective, write a method of ``LaMP`` that returns an ``Objective``; in ``forward`` add a line to ``losses``
and the name to the conditions of the passes it needs; and add the name to ``models.config.OBJECTIVES``, which are on by
default. A loss that needs more than texts and motions, or is off by default, goes into ``training.stages.lamp`` beside
``text_pairs``, with a flag of the same name that is its weight.
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
    negative_probabilities,
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
MAX_SCALE = 100.0  # of similarities, as in CLIP; a larger scale would turn the softmax into an arg-max


@dataclass(frozen=True)
class Negatives:
    """Indices of the motions and texts that replace the partners of some rows in the matching objective."""

    motion: Tensor  # (r,) int64 motion that does not belong to text i
    text: Tensor    # (r,) int64 text that does not belong to motion i
    rows: Tensor | None = None  # (r,) int64 the rows; None: the first r


@dataclass(frozen=True)
class MirroredNegatives:
    """Captions with left and right exchanged: extra wrong candidates of their motions."""

    ids: Tensor   # (r, t) int64
    mask: Tensor  # (r, t) bool
    rows: Tensor  # (r,) int64 the motion of each


@dataclass(frozen=True)
class AlsoTrue:
    """Further true pairs between the local batch and the whole batch, besides matching rows, (b, all) bool."""

    text: Tensor    # local text i describes motion j
    motion: Tensor  # local motion i is described by text j


@dataclass(frozen=True)
class Objective:
    """The loss and accuracy of one objective, both ()."""

    loss: Tensor
    accuracy: Tensor  # in [0, 1]; for ptc top-1 retrieval in the batch, averaged over both directions


@dataclass(frozen=True)
class LaMPResult:
    """Losses and accuracies by objective, all ()."""

    loss: Tensor  # weighted sum
    losses: dict[str, Tensor]
    accuracies: dict[str, Tensor]
    text: Tensor | None = None  # (b, t, h) hidden states of the texts alone, if an objective needed them


@dataclass(frozen=True)
class Pairs:
    """The pairs of a forward pass and those of the whole batch."""

    encoded: EncodedMotion
    states: Tensor   # (b, n, encoder_width) motion states that queries attend to
    ids: Tensor      # (b, t) word pieces
    mask: Tensor     # (b, t) bool
    all_ids: Tensor  # (all, t') word pieces of the whole batch
    first: int       # row of the whole batch that is local row 0
    part: BatchSlice
    excluded: tuple[Tensor | None, Tensor | None]  # (b, all) excluded negatives of local texts, and of motions

    @property
    def own(self) -> Tensor:
        """Rows (b,) of the whole batch that are local."""
        return torch.arange(self.first, self.first + len(self.ids), device=self.ids.device)


@dataclass(frozen=True)
class Scores:
    """Scaled similarities between the local pairs and those of the whole batch."""

    text: Tensor    # (b, all) of local texts to all motions
    motion: Tensor  # (b, all) of local motions to all texts
    query: Tensor   # (b, queries, embed_dim) normalised embeddings of local motions


class LaMP(LaMPFeatures):
    """The pretraining model. Without a tokenizer (``vq_model`` None) everything works except the objective gen."""

    def __init__(self, config: LaMPConfig, vq_model: HumanVQVAE | RVQVAE | None = None,
                 qformer: QFormer | None = None) -> None:
        """``qformer``: one with pretrained language weights (``models.lamp.bert.from_bert``)."""
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
        """Losses of a batch of pairs: motion i belongs to text i.

        Args:
            motion: (b, t, d) normalised, or encoded by ``encode_motion``; then ``m_lens`` is ignored.
            ids, mask: (b, t) word pieces.
            m_lens: (b,) lengths in frames.
            objectives: some of ``OBJECTIVES``, as a mapping with their weights.
            matching_rows: number of rows of the whole batch in ptm, which costs three passes per row; None: all.
            negatives: fixes the negatives of ptm, which are otherwise sampled from ``generator``; its state must be the
                same in all processes.
            mirrored: extra wrong candidates for ptc.
            also_true: pairs that are neither wrong candidates in ptc nor negatives in ptm.
            batch_slice: position of these rows in the whole batch.
        """
        weights = objectives if isinstance(objectives, Mapping) else dict.fromkeys(objectives, 1.0)
        if not weights or set(weights) - set(OBJECTIVES):
            raise ValueError(f"objectives {sorted(weights)} are not all in {OBJECTIVES}")
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
        """ptc: cross-entropy of each text against all motions, and of each motion against all texts."""
        extra = None if mirrored is None else self._mirrored_scores(scores.query, mirrored)
        loss = (contrastive_loss(scores.text, pairs.excluded[0], first=pairs.first)
                + contrastive_loss(scores.motion, pairs.excluded[1], extra, pairs.first)) / 2
        return Objective(loss, (accuracy(scores.text, pairs.own) + accuracy(scores.motion, pairs.own)) / 2)

    def _matching(self, pairs: Pairs, negatives: Negatives) -> Objective:
        """ptm: whether a motion and a text match, for pairs and hard negatives."""
        logits, targets = self.matching(*self._candidates(pairs, negatives))
        return self._mean(pairs, F.cross_entropy(logits, targets), accuracy(logits, targets), targets)

    def _captioning(self, pairs: Pairs, query: QueryPass) -> Objective:
        """lm: the next word piece of the caption."""
        where, targets = next_word_targets(pairs.ids, pairs.mask)
        logits = self.caption_logits(pairs.ids, pairs.mask, query, where)
        return self._mean(pairs, smoothed_cross_entropy(logits, targets), accuracy(logits, targets), targets)

    def _motion_generation(self, pairs: Pairs, text: Tensor | None) -> Objective:
        """gen: the motion tokens of the text."""
        encoded = pairs.encoded
        if encoded.ids is None:
            raise ValueError("the objective gen needs a LaMP model with its tokenizer")
        states = self.word_states(pairs.ids) if self.config.published else text
        logits = self.generation_logits(states, pairs.mask)
        where = torch.ones_like(encoded.ids, dtype=torch.bool) if encoded.mask is None else encoded.mask
        logits, targets = logits[where], encoded.ids[where]
        return self._mean(pairs, smoothed_cross_entropy(logits, targets), accuracy(logits, targets), targets)

    def scaled(self, cosines: Tensor) -> Tensor:
        """Similarities times the learned scale."""
        scale = self.temp if self.config.published else self.temp.exp().clamp(max=MAX_SCALE)
        return cosines * scale

    def negative_probabilities(self, scores: Tensor, ids: Tensor, others: Tensor | None = None,
                               first: int = 0, excluded: Tensor | None = None) -> Tensor:
        """Probabilities (b, n) of n motions as negatives of each text, or of n texts as negatives of each motion: a
        softmax of scaled scores (b, n), so that negatives are hard.

        ``ids`` (b, t) are the texts of the rows, ``others`` (n, t) those of the columns, by default the same; row 0's
        partner is column ``first``. Pairs in ``excluded`` (b, n), by default those with the same text, are not
        negatives unless a row has no others. Raises ``ValueError`` for a batch of one pair.
        """
        rows, columns = scores.shape
        if columns < 2:
            raise ValueError("a batch of one pair has no negatives to match")
        if self.config.published:
            return negative_probabilities(scores)
        excluded = same_caption(ids, others) if excluded is None else excluded
        own = own_column(rows, columns, first, ids.device)
        return negative_probabilities(scores, torch.where(excluded.all(1, keepdim=True), own, excluded))

    def match_logits(self, states: Tensor, states_mask: Tensor | None, ids: Tensor, mask: Tensor,
                     rows: Tensor | None = None) -> Tensor:
        """Logits (b, 2) of captions and motion states (b, n, encoder_width); class 1: they match.

        With ``rows`` (b,), ``states`` has fewer rows and is projected once; pair i takes row ``rows[i]``.
        """
        hidden = self.Qformer.joint(self.query_tokens, ids, mask, states, states_mask, rows)
        return self.itm_head(hidden[:, :self.query_tokens.shape[1]]).float().mean(1)

    def matching(self, states: Tensor, states_mask: Tensor | None, ids: Tensor, mask: Tensor,
                 negatives: Negatives) -> tuple[Tensor, Tensor]:
        """Logits (3r, 2) and targets (3r,): r true pairs, then their texts with wrong motions, then their motions with
        wrong texts."""
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
        """Logits (b, t, vocab) of the word piece after each position of ids (b, t); the first id is replaced by [DEC].

        With ``where`` (b, t) bool, only at these positions, (m, vocab); the vocabulary is the expensive part.
        """
        hidden = self.Qformer.language_model(self._with_dec(ids), mask, query.cache)
        return self.Qformer.lm_logits(hidden if where is None else hidden[where])

    def generation_logits(self, text_states: Tensor, mask: Tensor | None) -> Tensor:
        """Token logits (b, queries, codes), one query per token, from hidden states of text (b, t, h)."""
        return self.motion_cls(self.query_text(text_states, mask).hidden)

    def word_states(self, ids: Tensor) -> Tensor:
        """Word embeddings of texts (b, t, h), [DEC] first: the input of the published objective gen."""
        return self.Qformer.embed_text(self._with_dec(ids))

    def parameter_groups(self, weight_decay: float, lr: float | None = None,
                         text_lr: float | None = None) -> list[dict[str, Any]]:
        """Trainable parameters for an optimiser: matrices decay, vectors do not (published: ``temp`` does).

        With ``text_lr``, parameters that came from BERT have this learning rate and the others ``lr``.
        """
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                decays = parameter.dim() > 1 or (self.config.published and name == "temp")
                groups.setdefault((text_lr is not None and is_text(name), decays), []).append(parameter)
        rates = {} if text_lr is None else {True: {"lr": text_lr}, False: {"lr": lr}}
        return [{"params": groups[text, decays], "weight_decay": weight_decay if decays else 0.0, **rates.get(text, {})}
                for text, decays in itertools.product((False, True), (True, False)) if (text, decays) in groups]

    def _pairs(self, encoded: EncodedMotion, ids: Tensor, mask: Tensor, part: BatchSlice,
               also_true: AlsoTrue | None) -> Pairs:
        all_ids, first = part.gather(ids, pad=True), part.rank * len(ids)
        excluded = (None, None)
        if not self.config.published:
            same = same_caption(all_ids[first:first + len(ids)], all_ids)
            excluded = (same, same) if also_true is None else (same | also_true.text, same | also_true.motion)
        return Pairs(encoded, self.motion_states(encoded), ids, mask, all_ids, first, part, excluded)

    def _scores(self, query: QueryPass, text: Tensor, part: BatchSlice) -> Scores:
        motions, texts = self.project_motion(query.hidden), self.project_text(text)
        by_text = self.scaled(similarity(texts, part.gather_with_gradient(motions)))
        if part.world_size == 1:
            return Scores(by_text, by_text.T, motions)
        return Scores(by_text, self.scaled(similarity(part.gather_with_gradient(texts), motions)).T, motions)

    def _mirrored_scores(self, query: Tensor, mirrored: MirroredNegatives) -> Tensor:
        """Scaled scores (b,) of each motion's mirrored caption, -inf for motions without one."""
        text = self.project_text(self.Qformer.text(mirrored.ids, mirrored.mask))
        scores = torch.full((len(query),), float("-inf"), device=text.device)
        cosines = (query[mirrored.rows] * text[:, None]).sum(-1).amax(1)
        return scores.index_put((mirrored.rows,), self.scaled(cosines))

    def _negatives(self, pairs: Pairs, scores: Scores, limit: int | None, generator: torch.Generator) -> Negatives:
        """Sample negatives for at most ``limit`` rows of the whole batch, spread evenly over the processes."""
        part, size, everyone = pairs.part, len(pairs.ids), len(pairs.all_ids)
        rows = pairs.own - pairs.first
        if limit is not None and part.total is not None:  # rows of this micro-batch
            limit = limit * everyone // part.total
        if limit is not None and limit < everyone:
            chosen = torch.arange(max(limit, part.world_size))  # on the CPU, as its selection has a variable size
            chosen = chosen * everyone // len(chosen) - pairs.first
            rows = chosen[(chosen >= 0) & (chosen < size)].to(rows.device, non_blocking=True)
        uniform = part.rand(generator, size, 2).to(rows.device, non_blocking=True)[rows]
        own = pairs.all_ids[pairs.own]
        sampled = [sample_columns(self.negative_probabilities(way, own, pairs.all_ids, pairs.first, no)[rows], numbers)
                   for way, no, numbers in zip((scores.text, scores.motion), pairs.excluded, uniform.T, strict=True)]
        return Negatives(*sampled, rows)

    def _candidates(self, pairs: Pairs, negatives: Negatives,
                    ) -> tuple[Tensor, Tensor | None, Tensor, Tensor, Negatives]:
        """Arguments of ``matching``: the local pairs and, with several processes, the sampled negatives after them.
        Gradients reach negatives of other processes only through local projections."""
        encoded, part = pairs.encoded, pairs.part
        if part.world_size == 1:
            return pairs.states, encoded.mask, pairs.ids, pairs.mask, negatives
        latents = part.gather(encoded.latents)[negatives.motion]
        seen = None if encoded.mask is None else torch.cat(
            [encoded.mask, part.gather(encoded.mask)[negatives.motion]])
        mask = part.gather(pairs.mask, pad=True)
        behind = len(pairs.ids) + torch.arange(len(negatives.motion), device=pairs.ids.device)
        return (torch.cat([pairs.states, self.motion_states(EncodedMotion(latents, None, None))]), seen,
                torch.cat([pairs.all_ids[pairs.own], pairs.all_ids[negatives.text]]),
                torch.cat([mask[pairs.own], mask[negatives.text]]), Negatives(behind, behind, negatives.rows))

    def _mean(self, pairs: Pairs, loss: Tensor, hits: Tensor, targets: Tensor) -> Objective:
        """Mean over targets (m,), weighted for processes with different numbers of targets."""
        weight = pairs.part.mean_weight(len(targets), loss.device)
        return Objective(weight * loss, weight * hits)

    def _with_dec(self, ids: Tensor) -> Tensor:
        ids = ids.clone()
        ids[:, 0] = self.config.qformer.vocab - 1  # [DEC], the last of the vocabulary
        return ids


def is_text(name: str) -> bool:
    """Whether a parameter of LaMP by this name is one of BERT's: queries have separate feed-forward blocks, and only
    they use cross-attention."""
    return name.startswith("Qformer.bert.") and "_query" not in name and "crossattention" not in name


def freeze_text(model: LaMP, words: bool, trained_layers: int | None) -> None:
    """Freeze BERT's word embeddings (``words``) or, given ``trained_layers``, all of its parameters except those of the
    last so many layers. Self-attention belongs to BERT and serves queries and text alike."""
    model.Qformer.bert.embeddings.word_embeddings.requires_grad_(not words)
    if trained_layers is None:
        return
    layers = range(model.config.qformer.layers)
    trained = tuple(f"Qformer.bert.encoder.layer.{layer}." for layer in layers[len(layers) - trained_layers:])
    for name, parameter in model.named_parameters():
        if is_text(name) and not name.startswith(trained):
            parameter.requires_grad_(False)
