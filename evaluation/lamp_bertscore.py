"""LaMP-BertScore (Li et al. 2025): what a captioning model tells of generated motions, held against the prompts."""
from collections.abc import Callable, Sequence

import numpy as np

from data.text_motion import Pair
from evaluation.estimates import estimates
from evaluation.protocol import Generate, Row
from models.text_to_motion import Sample
from utils.seeding import stream_seed

KEY = "lamp_bertscore"
LEGEND = f"{KEY}: BERTScore of what a captioning model tells of a motion against its prompt, per cent"
_PROMPTS = 1 << 33  # of the seeds: apart from those of the protocol


class LampBertScore:
    """One prompt a clip, drawn among its captions, and a motion of the clip's length made for each.

    Args:
        pairs, clips: clips with captions, and their motions (T, d) cut to whole tokens.
        tell: motions (T, d) in their own units to captions, the best of a motion first.
        bert: BERTScore of captions against one or more references each.
        seed: of the draws.
    """

    def __init__(self, pairs: Sequence[Pair], clips: Sequence[np.ndarray],
                 tell: Callable[[Sequence[np.ndarray]], list[list[str]]],
                 bert: Callable[[Sequence[str], Sequence[Sequence[str]]], float], seed: int = 0) -> None:
        self.pairs, self.clips, self.tell, self.bert = pairs, clips, tell, bert
        rng = np.random.default_rng(stream_seed(seed, _PROMPTS))
        self.samples = [Sample(str(rng.choice(pair.captions)), stream_seed(seed, _PROMPTS, number), len(clip))
                        for number, (pair, clip) in enumerate(zip(pairs, clips, strict=True))]

    def add_real(self, row: Row) -> None:
        """The score of the clips themselves: what a perfect generator would come to."""
        self._add(row, self.clips)

    def add_generated(self, rows: dict[str, Row], generate: Generate) -> None:
        """The scores of the rows that ``generate`` gives."""
        for name, motions in generate(self.samples).items():
            self._add(rows[name], motions)

    def _add(self, row: Row, motions: Sequence[np.ndarray]) -> None:
        finite = [number for number, motion in enumerate(motions) if np.isfinite(motion).all()]
        told = [captions[0] for captions in self.tell([motions[number] for number in finite])]
        prompts = [(self.samples[number].text,) for number in finite]
        row.numbers |= estimates([{KEY: self.bert(told, prompts) if finite else float("nan")}])
        row.faults += [f"{self.pairs[number].name}, {self.samples[number].text!r}, {KEY}"
                       for number in sorted(set(range(len(motions))) - set(finite))]
