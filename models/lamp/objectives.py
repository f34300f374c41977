"""The losses of language-motion pretraining, functions of scores and logits in float32."""
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

LABEL_SMOOTHING = 0.1
DISTILLATION_TEMPERATURE = 0.1


def similarity(text: Tensor, motion: Tensor) -> Tensor:
    """Scores (texts, motions) of text features (texts, e) and motion features (motions, e) or (motions, queries, e).

    Of several query features of a motion, the most similar one counts. Normalised features give cosines.
    """
    with torch.autocast(text.device.type, enabled=False):
        text, motion = text.float(), motion.float()
        if motion.dim() == 2:
            return text @ motion.T
        return (motion.flatten(0, 1) @ text.T).unflatten(0, motion.shape[:2]).amax(1).T


@dataclass(frozen=True)
class Comparison:
    """Encoders of texts and motions, and their similarity."""

    texts: Callable[[Sequence[str]], Tensor]           # maps texts to (n, e)
    motions: Callable[[Tensor, Tensor], Tensor]        # maps motion (m, t, d), lengths (m,) to (m, e) or (m, q, e)
    similarity: Callable[[Tensor, Tensor], Tensor]     # maps both to similarities (n, m), larger is closer


def same_caption(ids: Tensor, others: Tensor | None = None) -> Tensor:
    """(b, n) True if a row of ids (b, t) equals a row of ``others`` (n, t), by default ids."""
    others = ids if others is None else others
    return (ids[:, None] == others[None]).all(-1)


def own_column(rows: int, columns: int, first: int, device: torch.device) -> Tensor:
    """(rows, columns) True at the column of each row's partner; that of row 0 is ``first``."""
    return torch.arange(columns, device=device) == torch.arange(first, first + rows, device=device).unsqueeze(1)


def contrastive_loss(scores: Tensor, excluded: Tensor | None = None, extra: Tensor | None = None,
                     first: int = 0) -> Tensor:
    """Cross-entropy of each row of scores (b, n) with its partner's column, with label smoothing, mean over rows.

    Row 0's column is ``first``, and so on. Entries of ``excluded`` (b, n) are not candidates, except the
    partner. ``extra`` (b,) are scores of one more wrong candidate for each row, -inf for none.
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


def negative_probabilities(scores: Tensor, excluded: Tensor | None = None) -> Tensor:
    """Probabilities (r, n) of sampling each column as the negative of a row: a softmax of scores (r, n).

    Entries of ``excluded`` (r, n) are never sampled; each row needs another candidate.
    """
    scores = scores.detach().float()
    if excluded is not None:
        scores = scores.masked_fill(excluded, float("-inf"))
    return scores.softmax(1)


def next_word_targets(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mask (b, t) of positions of text (b, t) with a next word piece, and these pieces (m,) in order."""
    has_next = F.pad(mask[:, 1:].bool(), (0, 1), value=False)
    return has_next, ids.roll(-1, 1)[has_next]


def smoothed_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of logits (m, classes) with targets (m,), label smoothing 0.1."""
    return F.cross_entropy(logits.float(), targets, label_smoothing=LABEL_SMOOTHING)


def accuracy(logits: Tensor, targets: Tensor) -> Tensor:
    """Top-1 accuracy of logits (m, classes), in [0, 1]."""
    logits = logits.detach()
    # arg-max over a vocabulary is many times slower than the maximum.
    return (logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1) == logits.amax(-1)).float().mean()


def distillation_loss(features: Tensor, teacher: Tensor, temperature: float = DISTILLATION_TEMPERATURE) -> Tensor:
    """Cross-entropy between the similarities of each text to the others by two models, above that of equal ones.

    ``features`` (b, e) and ``teacher`` (b, d) are normalised; similarities to the other texts of the batch become
    probabilities by a softmax at ``temperature``. A batch of one text gives 0.
    """
    if len(features) < 2:
        return features.new_zeros(())
    own = torch.eye(len(features), dtype=torch.bool, device=features.device)
    student, target = ((one.float() @ one.float().T / temperature).masked_fill(own, float("-inf"))
                       for one in (features, teacher))
    return F.kl_div(student.log_softmax(1).masked_fill(own, 0), target.softmax(1), reduction="batchmean")
