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
- queries are told where in a motion a latent stands, and so can tell what came first;
- padding of motions and texts is hidden from every attention and loss, where ``m_lens`` tells it;
- gen reads the hidden states of the text-only pass (published: the embeddings of the words).

Where several processes train together, ptc compares with the pairs of all of them and ptm draws its negatives among
those, so that the losses of each, averaged, are the loss of the whole batch.
"""
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.lamp.config import OBJECTIVES
from models.lamp.features import EncodedMotion, LaMPConfig, LaMPFeatures
from models.lamp.objectives import (
    accuracy,
    contrastive_loss,
    negative_weights,
    next_word_targets,
    own_column,
    same_caption,
    similarity,
    smoothed_cross_entropy,
)
from models.lamp.qformer import QFormer, QueryPass
from models.vq.model import RVQVAE, HumanVQVAE
from utils import ranks
from utils.draws import WHOLE, Share, choose

TEMP_INIT = math.log(1 / 0.07)
MAX_SCALE = 100.0  # of similarities, as in CLIP: keeps the softmax from hardening into an arg-max


@dataclass(frozen=True)
class Negatives:
    """Which other rows of the whole batch stand in for the partners of some rows of the batch at hand."""

    motion: Tensor  # (r,) int64 motion that does not belong to text i
    text: Tensor    # (r,) int64 text that does not belong to motion i
    rows: Tensor | None = None  # (r,) int64 which rows these are; None: the first ones


@dataclass(frozen=True)
class Decoys:
    """Texts that are wrong about a motion of the batch in one point, such as its side."""

    ids: Tensor   # (r, t) int64
    mask: Tensor  # (r, t) bool
    rows: Tensor  # (r,) int64 which motion each is wrong about


@dataclass(frozen=True)
class LaMPResult:
    """Losses and accuracies by objective, all (); only of the objectives that were asked for."""

    loss: Tensor  # weighted sum
    losses: dict[str, Tensor]
    accuracies: dict[str, Tensor]  # shares in [0, 1]; ptc is top-1 retrieval in the batch, mean of both ways


class LaMP(LaMPFeatures):
    """The pretraining model. Without a tokenizer (``vq_model`` None) everything works but the objective gen."""

    def __init__(self, config: LaMPConfig, vq_model: HumanVQVAE | RVQVAE | None = None,
                 qformer: QFormer | None = None) -> None:
        """``qformer``: one that has learned language already (``models.lamp.bert.from_bert``)."""
        super().__init__(config, vq_model, qformer)
        hidden = config.qformer.hidden
        self.temp = nn.Parameter(torch.tensor(TEMP_INIT))
        self.itm_head = nn.Linear(hidden, 2)
        self.motion_cls = nn.Linear(hidden, config.vq.nb_code, bias=False)

    def forward(self, motion: Tensor | EncodedMotion, ids: Tensor, mask: Tensor, m_lens: Tensor | None = None, *,
                objectives: Collection[str] | Mapping[str, float] = OBJECTIVES, matching_rows: int | None = None,
                negatives: Negatives | None = None, decoys: Decoys | None = None,
                generator: torch.Generator | None = None, share: Share = WHOLE) -> LaMPResult:
        """Losses of a batch of pairs: motion i belongs to text i.

        ``motion`` may come encoded (``encode_motion``), then ``m_lens`` is not read. ``objectives`` chooses among
        ``OBJECTIVES``, as a mapping with a weight each. ``matching_rows`` limits ptm to so many rows of the whole
        batch, as it costs three passes a row. ``negatives`` fixes what ptm else draws with ``generator``, which is to
        be alike in all processes; ``share`` is which pairs of the whole batch these are. ``decoys`` are more
        candidates that ptc has to tell from a motion's own text.
        """
        weights = objectives if isinstance(objectives, Mapping) else dict.fromkeys(objectives, 1.0)
        if not weights or set(weights) - set(OBJECTIVES):
            raise ValueError(f"objectives {sorted(weights)} are not some of {OBJECTIVES}")
        passes = _Passes(self, self._encoded(motion, m_lens), ids, mask)
        outcomes = {}
        if "ptc" in weights:
            outcomes["ptc"] = self._contrast(passes, decoys)
        if "ptm" in weights:
            drawn = negatives or self._negatives(passes, matching_rows, generator or torch.default_generator, share)
            outcomes["ptm"] = self._match(passes, drawn)
        if "lm" in weights:
            outcomes["lm"] = self._tell(passes)
        if "gen" in weights:
            outcomes["gen"] = self._predict_motion(passes)
        losses = {name: loss for name, (loss, _) in outcomes.items()}
        accuracies = {name: share for name, (_, share) in outcomes.items()}
        return LaMPResult(sum(weights[name] * loss for name, loss in losses.items()), losses, accuracies)

    def scaled(self, cosines: Tensor) -> Tensor:
        """Similarities times the learned scale."""
        scale = self.temp if self.config.published else self.temp.exp().clamp(max=MAX_SCALE)
        return cosines * scale

    def negative_chances(self, scores: Tensor, ids: Tensor, others: Tensor | None = None, first: int = 0) -> Tensor:
        """Chances (b, n) of each of n motions to be the negative of a text, or of texts to be that of a motion, by
        scaled scores (b, n): the likelier, the more alike.

        ``ids`` (b, t) are the texts of the rows, ``others`` (n, t) those of the columns, by default the same; row 0's
        own partner is column ``first``. Raises ``ValueError`` where a batch of one pair offers none.
        """
        rows, columns = scores.shape
        if columns < 2:
            raise ValueError("a batch of one pair has no negatives to match")
        if self.config.published:
            return negative_weights(scores)
        excluded = same_caption(ids, others)
        own = own_column(rows, columns, first, ids.device)
        return negative_weights(scores, torch.where(excluded.all(1, keepdim=True), own, excluded))

    def match_logits(self, states: Tensor, states_mask: Tensor | None, ids: Tensor, mask: Tensor,
                     rows: Tensor | None = None) -> Tensor:
        """Logits (b, 2) of captions and motion states (b, n, encoder_width); class 1: they belong together. With
        ``rows`` (b,) of these among fewer states, which are projected once however often they occur."""
        hidden = self.Qformer.joint(self.query_tokens, ids, mask, states, states_mask, rows)
        return self.itm_head(hidden[:, :self.query_tokens.shape[1]]).float().mean(1)

    def matching(self, states: Tensor, states_mask: Tensor | None, ids: Tensor, mask: Tensor,
                 negatives: Negatives) -> tuple[Tensor, Tensor]:
        """Logits (3r, 2) and targets (3r,): r pairs, then other motions with their texts, then other texts."""
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
        """Logits (b, t, vocab) of the word piece after each position of ids (b, t), whose first becomes [DEC].

        ``where`` (b, t) bool: only at these positions, (m, vocab); the vocabulary is the costly part.
        """
        hidden = self.Qformer.language_model(self._with_dec(ids), mask, query.cache)
        return self.Qformer.lm_logits(hidden if where is None else hidden[where])

    def generation_logits(self, text_states: Tensor, mask: Tensor | None) -> Tensor:
        """Token logits (b, queries, codes), a query a token, from states of text (b, t, h)."""
        return self.motion_cls(self.query_text(text_states, mask).hidden)

    def word_states(self, ids: Tensor) -> Tensor:
        """All that the published objective gen knows of texts (b, t, h): their embedded words, [DEC] first."""
        return self.Qformer.embed_text(self._with_dec(ids))

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Trainable parameters for an optimiser: matrices decay, vectors do not (published: ``temp`` does)."""
        decayed, plain = [], []
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                decays = parameter.dim() > 1 or (self.config.published and name == "temp")
                (decayed if decays else plain).append(parameter)
        return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]

    def _contrast(self, passes: "_Passes", decoys: Decoys | None) -> tuple[Tensor, Tensor]:
        excluded = None if self.config.published else same_caption(passes.all_ids[passes.own], passes.all_ids)
        wrong = None if decoys is None else self._decoy_scores(passes, decoys)
        loss = (contrastive_loss(passes.text_scores, excluded, first=passes.first)
                + contrastive_loss(passes.motion_scores, excluded, wrong, passes.first)) / 2
        return loss, (accuracy(passes.text_scores, passes.own) + accuracy(passes.motion_scores, passes.own)) / 2

    def _decoy_scores(self, passes: "_Passes", decoys: Decoys) -> Tensor:
        """Scaled scores (b,) of each motion's decoy, -inf where it has none."""
        text = self.text_directions(self.Qformer.text(decoys.ids, decoys.mask))
        scores = torch.full((len(passes.ids),), float("-inf"), device=text.device)
        motion = passes.motion_directions[decoys.rows]  # (r, queries, embed_dim)
        cosines = (motion * text[:, None]).sum(-1).amax(1)
        return scores.index_put((decoys.rows,), self.scaled(cosines))

    def _negatives(self, passes: "_Passes", limit: int | None, generator: torch.Generator, share: Share) -> Negatives:
        """Negatives for as many rows of the whole batch as ``limit`` says, spread so that every process has some."""
        size, everyone = len(passes.ids), passes.all_ids
        rows = passes.own - passes.first
        if limit is not None and share.total is not None:  # this is a part of the batch, and takes its part of them
            limit = limit * len(everyone) // share.total
        if limit is not None and limit < len(everyone):
            chosen = torch.arange(max(limit, ranks.count()))  # on the CPU, as how many are left is asked for
            chosen = chosen * len(everyone) // len(chosen) - passes.first
            rows = chosen[(chosen >= 0) & (chosen < size)].to(rows.device, non_blocking=True)
        uniform = share.rand(generator, size, 2).to(rows.device, non_blocking=True)[rows]
        drawn = [choose(self.negative_chances(scores, everyone[passes.own], everyone, passes.first)[rows], numbers)
                 for scores, numbers in zip((passes.text_scores, passes.motion_scores), uniform.T, strict=True)]
        return Negatives(*drawn, rows)

    def _match(self, passes: "_Passes", negatives: Negatives) -> tuple[Tensor, Tensor]:
        logits, targets = self.matching(*passes.candidates(negatives))
        return self._shared(F.cross_entropy(logits, targets), accuracy(logits, targets), targets)

    def _tell(self, passes: "_Passes") -> tuple[Tensor, Tensor]:
        where, targets = next_word_targets(passes.ids, passes.mask)
        logits = self.caption_logits(passes.ids, passes.mask, passes.query, where)
        return self._shared(smoothed_cross_entropy(logits, targets), accuracy(logits, targets), targets)

    def _shared(self, loss: Tensor, share_right: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Means over targets (m,), which processes may have different numbers of."""
        if ranks.count() == 1:
            return loss, share_right
        weight = ranks.share_of(torch.tensor(float(len(targets)), device=loss.device))
        return weight * loss, weight * share_right

    def _predict_motion(self, passes: "_Passes") -> tuple[Tensor, Tensor]:
        encoded = passes.encoded
        if encoded.ids is None:
            raise ValueError("the objective gen needs a LaMP model with its tokenizer")
        states = self.word_states(passes.ids) if self.config.published else passes.text_hidden
        logits = self.generation_logits(states, passes.mask)
        where = torch.ones_like(encoded.ids, dtype=torch.bool) if encoded.mask is None else encoded.mask
        logits, targets = logits[where], encoded.ids[where]
        return self._shared(smoothed_cross_entropy(logits, targets), accuracy(logits, targets), targets)

    def _with_dec(self, ids: Tensor) -> Tensor:
        ids = ids.clone()
        ids[:, 0] = self.config.qformer.vocab - 1  # [DEC], the last of the vocabulary
        return ids


class _Passes:
    """The passes over one batch that objectives share, each run when first asked for; and what other processes have of
    the whole batch, which is asked for in the same order everywhere."""

    def __init__(self, model: LaMP, encoded: EncodedMotion, ids: Tensor, mask: Tensor) -> None:
        self.model, self.encoded, self.ids, self.mask = model, encoded, ids, mask
        self.first = ranks.number() * len(ids)  # row of the whole batch
        self.own = torch.arange(self.first, self.first + len(ids), device=ids.device)

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
    def motion_directions(self) -> Tensor:
        return self.model.motion_directions(self.query.hidden)

    @cached_property
    def text_directions(self) -> Tensor:
        return self.model.text_directions(self.text_hidden)

    @cached_property
    def all_ids(self) -> Tensor:
        """Ids (all, t) of every process."""
        return ranks.gather(self.ids, self.width)

    @cached_property
    def width(self) -> int:
        """Word pieces of the longest text of every process."""
        return ranks.widest(self.ids.shape[1], self.ids.device)

    @cached_property
    def text_scores(self) -> Tensor:
        """Scaled similarities (b, all) of the texts here to the motions of every process."""
        motion = ranks.gather_with_gradient(self.motion_directions)
        return self.model.scaled(similarity(self.text_directions, motion))

    @cached_property
    def motion_scores(self) -> Tensor:
        """Scaled similarities (b, all) of the motions here to the texts of every process."""
        if ranks.count() == 1:
            return self.text_scores.T
        text = ranks.gather_with_gradient(self.text_directions)
        return self.model.scaled(similarity(text, self.motion_directions)).T

    def candidates(self, negatives: Negatives) -> tuple[Tensor, Tensor | None, Tensor, Tensor, Negatives]:
        """Arguments of ``LaMP.matching``: the pairs here, and behind them, where other processes have some of the
        negatives, all of these, which gradients reach no further than through the maps that read them."""
        if ranks.count() == 1:
            return self.states, self.encoded.mask, self.ids, self.mask, negatives
        latents = ranks.gather(self.encoded.latents)[negatives.motion]
        seen = None if self.encoded.mask is None else torch.cat(
            [self.encoded.mask, ranks.gather(self.encoded.mask)[negatives.motion]])
        mask = ranks.gather(self.mask, self.width)
        behind = len(self.ids) + torch.arange(len(negatives.motion), device=self.ids.device)
        return (torch.cat([self.states, self.model.motion_states(EncodedMotion(latents, None, None))]), seen,
                torch.cat([self.all_ids[self.own], self.all_ids[negatives.text]]),
                torch.cat([mask[self.own], mask[negatives.text]]), Negatives(behind, behind, negatives.rows))
