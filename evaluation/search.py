"""The nearest of many vectors: a plain matrix product, fast enough below a million."""
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Hit:
    """One row that was found, and how near it is."""

    row: int
    score: float  # cosine


def nearest(query: np.ndarray, vectors: np.ndarray, top_k: int, groups: Sequence[int] | None = None) -> list[Hit]:
    """The ``top_k`` of unit vectors (n, e) nearest to ``query``, one unit vector (e,) or several (m, e), best first.

    Several count by the best of them. With ``groups`` (n,), the row's motion say, only the best row of a group counts.
    Equally near rows come in their order.
    """
    scores = (vectors @ np.atleast_2d(query).T).max(1)
    if groups is None:
        count = min(top_k, len(scores))
        rows = np.flatnonzero(scores >= np.partition(scores, -count)[-count])
        rows = rows[np.argsort(-scores[rows], kind="stable")]
    else:
        rows = np.argsort(-scores, kind="stable")
        _, first = np.unique(np.asarray(groups)[rows], return_index=True)
        rows = rows[np.sort(first)]
    return [Hit(int(row), float(scores[row])) for row in rows[:top_k]]
