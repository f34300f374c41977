"""Losses, similarities and masks of language-motion pretraining. Losses are computed in float32."""
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

LABEL_SMOOTHING = 0.1
DISTILLATION_TEMPERATURE = 0.1


def similarity(text: Tensor, motion: Tensor) -> Tensor:
    """Compute the dot products (n, m) of ``text`` features (n, e) and ``motion`` features (m, e) or (m, queries, e).

    If a motion has several query features, the most similar feature is used.
    """
    with torch.autocast(text.device.type, enabled=False):
        text, motion = text.float(), motion.float()
        if motion.dim() == 2:
            return text @ motion.T
        return (motion.flatten(0, 1) @ text.T).unflatten(0, motion.shape[:2]).amax(1).T


@dataclass(frozen=True)
class Comparison:
    """Text and motion encoders with their similarity function, for retrieval."""

    texts: Callable[[Sequence[str]], Tensor]           # encodes texts to (n, e)
    motions: Callable[[Tensor, Tensor], Tensor]        # encodes motions (m, t, d) with lengths (m,), as (m[, q], e)
    similarity: Callable[[Tensor, Tensor], Tensor]     # computes similarities (n, m); larger is closer


def same_caption(ids: Tensor, others: Tensor | None = None) -> Tensor:
    """Return a mask (b, n), True where rows of ``ids`` (b, t) and ``others`` (n, t), by default ``ids``, are equal."""
    others = ids if others is None else others
    return (ids[:, None] == others[None]).all(-1)


def own_column(rows: int, columns: int, first: int, device: torch.device) -> Tensor:
    """Return a mask (rows, columns) of the positive pairs: row i belongs to column ``first`` + i."""
    return torch.arange(columns, device=device) == torch.arange(first, first + rows, device=device).unsqueeze(1)


def contrastive_loss(scores: Tensor, excluded: Tensor | None = None, extra: Tensor | None = None,
                     first: int = 0) -> Tensor:
    """Compute the mean cross-entropy of ``scores`` (b, n) with label smoothing; the target of row i is ``first`` + i.

    Entries that are True in ``excluded`` (b, n), except the targets, are ignored. ``extra`` (b,) is the score of an
    additional negative for each row, or -inf for none.
    """
    rows, columns = scores.shape
    if columns < 2:
        raise ValueError("the contrastive objective needs at least two pairs in a batch")
    candidates = torch.ones_like(scores, dtype=torch.bool) if excluded is None else ~excluded
    candidates = candidates | own_column(rows, columns, first, scores.device)
    if extra is not None:
        scores = torch.cat([scores, extra[:, None]], 1)
        candidates = torch.cat([candidates, extra[:, None].isfinite()], 1)
    log_shares = scores.float().masked_fill(~candidates, float("-inf")).log_softmax(1)
    smooth = log_shares.masked_fill(~candidates, 0).sum(1) / candidates.sum(1)
    own = log_shares.diagonal(first)[:rows]
    return -((1 - LABEL_SMOOTHING) * own + LABEL_SMOOTHING * smooth).mean()


def masked_softmax(scores: Tensor, excluded: Tensor | None = None) -> Tensor:
    """Compute the softmax (r, n) of each row of ``scores``, without gradients.

    Entries that are True in ``excluded`` (r, n) have probability zero. Each row needs at least one that is False.
    """
    scores = scores.detach().float()
    if excluded is not None:
        scores = scores.masked_fill(excluded, float("-inf"))
    return scores.softmax(1)


def next_word_targets(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return a mask (b, t) of the positions that have a next word piece, and these next word pieces (m,)."""
    has_next = F.pad(mask[:, 1:].bool(), (0, 1), value=False)
    return has_next, ids.roll(-1, 1)[has_next]


def smoothed_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Compute the mean cross-entropy of ``logits`` (m, classes) and ``targets`` (m,) with label smoothing."""
    return F.cross_entropy(logits.float(), targets, label_smoothing=LABEL_SMOOTHING)


def accuracy(logits: Tensor, targets: Tensor) -> Tensor:
    """Compute the top-1 accuracy, in [0, 1], of ``logits`` (m, classes) for ``targets`` (m,)."""
    logits = logits.detach()
    # argmax over a vocabulary is many times slower than amax.
    return (logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1) == logits.amax(-1)).float().mean()


def distillation_loss(features: Tensor, teacher: Tensor, temperature: float = DISTILLATION_TEMPERATURE) -> Tensor:
    """Compute the KL divergence between the similarity distributions of a student and a teacher.

    The distribution of a text is the softmax, at ``temperature``, of its cosine similarities to the other texts in the
    batch. ``features`` (b, e) and ``teacher`` (b, d) are normalised. A batch of one text gives 0.
    """
    if len(features) < 2:
        return features.new_zeros(())
    own = torch.eye(len(features), dtype=torch.bool, device=features.device)
    with torch.autocast(features.device.type, enabled=False):
        student, target = ((one.float() @ one.float().T / temperature).masked_fill(own, float("-inf"))
                           for one in (features, teacher))
    return F.kl_div(student.log_softmax(1).masked_fill(own, 0), target.softmax(1), reduction="batchmean")
