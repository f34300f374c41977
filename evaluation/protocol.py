"""The one evaluation loop: what motions are measured by, and how often (T2M, Guo et al. 2022, section 5).

A repeat shuffles the clips, draws a caption for each, has a motion made for it at the length of its clip, and ranks
each text among the motions of its batch of 32. Clips are taken whole from their first frame, so that what does not
change from repeat to repeat is embedded once. A motion that is not finite is in no number; it is counted and named.
"""
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, TypeVar

import numpy as np
import torch
from tqdm import tqdm

from data.specs import DatasetSpec
from data.text_motion import Pair, whole_crop
from evaluation import metrics
from evaluation.report import Estimate, estimates
from models.text_to_motion import Sample
from motion.features import features_to_joints
from motion.quality import bone_length_drift, floor_penetration, foot_skating, roughness
from utils.device import side_by_side
from utils.errors import InputError
from utils.seeding import stream_seed

UNITS = {"skating": "m/s of feet on the floor", "penetration": "mm of the lowest joint under the floor",
         "jerk": "m/s^3, mean of all joints", "bone_drift": "per cent of a bone's length"}


def physical_faults(motion: np.ndarray, spec: DatasetSpec) -> dict[str, float]:
    """The numbers of ``UNITS`` for features (T, d) in the data set's unit, through the joint positions in them."""
    joints = spec.metres * features_to_joints(torch.from_numpy(motion), spec.skeleton).double().numpy()
    return {"skating": foot_skating(joints, spec.skeleton, spec.fps), "penetration": 1000 * floor_penetration(joints),
            "jerk": roughness(joints) * spec.fps**3, "bone_drift": 100 * bone_length_drift(joints, spec.skeleton)}


def mean_faults(motions: Sequence[np.ndarray], spec: DatasetSpec) -> dict[str, float]:
    """Means over motions; NaN where there is none."""
    found = [physical_faults(motion, spec) for motion in motions]
    return {key: float(np.mean([one[key] for one in found])) if found else float("nan") for key in UNITS}


TOP = 3                # ranks of R-precision
REAL = "real motion"   # the first row of every table
CHUNK = 480            # motions of one text after the other that are held at once
_MODALITY = 1 << 32    # of the seeds: beyond the repeats
_LEGEND = {"fid_halves": "FID of one random half of the real motions against the other", "R1": "R-precision, per cent",
           "mm_dist": "distance of text and motion", **UNITS}

Item, Result = TypeVar("Item"), TypeVar("Result")
# Motions made for samples, by the row that they belong to: several where one generation gives them.
Generate = Callable[[Sequence[Sample]], Mapping[str, Sequence[np.ndarray]]]


class Embedder(Protocol):
    """The evaluator."""

    def motions(self, motions: Sequence[np.ndarray]) -> np.ndarray:
        """Embeddings (n, e) of features (T, d) in their own units."""

    def texts(self, tokens: Sequence[Sequence[str]]) -> np.ndarray:
        """Embeddings (n, e) of captions as ``word/POS`` tokens."""


class CaptionEmbedder(Protocol):
    """A second evaluator, which reads captions as they are: of R-precision and MM-Dist only."""

    def motions(self, motions: Sequence[np.ndarray]) -> np.ndarray:
        """Embeddings (n, e) of features (T, d) in their own units."""

    def texts(self, captions: Sequence[str]) -> np.ndarray:
        """Embeddings (n, e) of cleaned captions."""


@dataclass(frozen=True)
class Plan:
    """How much is drawn. Diversity is over 300 pairs (``evaluation.metrics.diversity_pairs``)."""

    repeats: int = 20
    batch: int = 32             # motions that a text is ranked among
    modality_texts: int = 100   # texts of multimodality; 0 leaves it out
    modality_motions: int = 30  # of each
    modality_pairs: int = 10    # of these
    modality_fresh: bool = False  # whether every repeat draws other texts and motions, as MoMask's evaluation does


@dataclass
class Row:
    """What was measured of one kind of motion."""

    numbers: dict[str, Estimate]
    faults: list[str] = field(default_factory=list)  # motions that are not finite: clip, caption, repeat

    def table(self) -> dict[str, float | Estimate]:
        """The numbers for a report, with how many motions are in none of them."""
        return {**self.numbers, "not_finite": len(self.faults)}


@dataclass
class _Made:
    """Motions of one row in one repeat: embeddings of those that are finite, and which these are."""

    embeddings: np.ndarray  # (k, e)
    kept: np.ndarray        # (n,) bool, k of them
    motions: list[np.ndarray]
    lamp: np.ndarray | None = None  # (k, e) of the second evaluator


class Evaluation:
    """Real motion and its captions, embedded once, that any number of models is measured against.

    Args:
        pairs: clips with captions and their tokens.
        embedder: the evaluator.
        seed: of every draw; repeat r draws the same captions and batches whatever is measured.
        workers: repeats that are generated side by side, each on a core of its own.
        lamp: a second evaluator, whose R-precision and MM-Dist get the prefix ``lamp_``.
    """

    def __init__(self, pairs: Sequence[Pair], embedder: Embedder, spec: DatasetSpec, plan: Plan = Plan(),
                 seed: int = 0, quiet: bool = True, workers: int = 1, lamp: CaptionEmbedder | None = None) -> None:
        self.pairs, self.embedder, self.spec, self.plan = pairs, embedder, spec, plan
        self.seed, self.quiet, self.workers, self.lamp = seed, quiet, workers, lamp
        self.clips = [pair.features[:whole_crop(len(pair.features)).length] for pair in pairs]
        self._firsts = np.cumsum([0, *(len(pair.captions) for pair in pairs)])  # of each clip's captions
        self._texts = embedder.texts([tokens for pair in pairs for tokens in pair.tokens])
        if not np.isfinite(self._texts).all():
            raise InputError("the evaluator gives text embeddings that are not finite, so that nothing can be measured")
        self._lamp_texts = lamp and lamp.texts([caption for pair in pairs for caption in pair.captions])
        self._real = self._embed(self.clips)

    @property
    def left_out(self) -> list[str]:
        """What so few clips cannot give."""
        count, needed = len(self.pairs), metrics.diversity_pairs(len(self.pairs))
        short = [("R-precision", self.plan.batch), ("diversity", needed)]
        return [f"left out: {what}, which needs {least} clips of the {count} there are"
                for what, least in short if count < least]

    @property
    def legend(self) -> list[str]:
        """What the numbers are."""
        return [f"{key}: {meaning}" for key, meaning in _LEGEND.items()]

    def real(self) -> Row:
        """The row of real motion: as any other, but FID is that of two halves, for it would be zero with itself."""
        faults = mean_faults(self._real.motions, self.spec)
        draws = []
        for repeat in range(self.plan.repeats):
            order, captions = self._draw(repeat)
            numbers = self._numbers(repeat, captions, order, self._real)
            halves = np.array_split(self._real.embeddings[_places(self._real.kept, order)], 2)
            draws.append({"fid_halves": _fid(*halves), **numbers})
        return Row(estimates(draws) | estimates([faults]), self._named(self._real.kept, None))

    def fixed(self, motions: Sequence[np.ndarray]) -> Row:
        """The row of one motion (T, d) a clip that is the same in every repeat, as a reconstruction is."""
        made = self._embed(motions)
        draws = []
        for repeat in range(self.plan.repeats):
            order, captions = self._draw(repeat)
            draws.append(self._numbers(repeat, captions, order, made))
        once = mean_faults(made.motions, self.spec)
        return Row(estimates([self._fid(made)]) | estimates(draws) | estimates([once]), self._named(made.kept, None))

    def generated(self, generate: Generate) -> dict[str, Row]:
        """Rows of motions that are regenerated in every repeat; ``workers`` threads call ``generate``."""
        draws: dict[str, list[dict[str, float]]] = {}
        faults: dict[str, list[str]] = {}
        modality = {} if self.plan.modality_fresh else self._modality(generate, faults)
        for repeat, rows in enumerate(self._spread(partial(self._repeat, generate), range(self.plan.repeats),
                                                   "repeats")):
            if self.plan.modality_fresh:
                modality = self._modality(generate, faults, repeat)
            for row, (numbers, named) in rows.items():
                if row in modality:
                    rng = np.random.default_rng(stream_seed(self.seed, repeat, _MODALITY))
                    numbers["multimodality"] = _multimodality(modality[row], self.plan.modality_pairs, rng)
                draws.setdefault(row, []).append(numbers)
                faults.setdefault(row, []).extend(named)
        return {row: Row(estimates(draws[row]), faults[row]) for row in draws}

    def _repeat(self, generate: Generate, repeat: int) -> dict[str, tuple[dict[str, float], list[str]]]:
        """What a repeat measures of each row, and which motions are in none of it."""
        order, captions = self._draw(repeat)
        samples = [self._sample(clip, caption, repeat) for clip, caption in zip(order, captions, strict=True)]
        rows, back = {}, np.argsort(order)
        for row, motions in generate(samples).items():
            made = self._embed([motions[place] for place in back])
            numbers = self._fid(made) | self._numbers(repeat, captions, order, made)
            rows[row] = numbers | mean_faults(made.motions, self.spec), self._named(made.kept, repeat, captions[back])
        return rows

    def _spread(self, work: Callable[[Item], Result], items: Sequence[Item], desc: str) -> Iterator[Result]:
        """What ``work`` makes of each item, in their order, over the workers."""
        with side_by_side(min(self.workers, len(items))) as spread:
            yield from tqdm(spread(work, items), total=len(items), desc=desc, disable=self.quiet or None, leave=False)

    def _draw(self, repeat: int) -> tuple[np.ndarray, np.ndarray]:
        """Clips (n,) in the order of a repeat, and for each the number of its caption among all."""
        rng = np.random.default_rng(stream_seed(self.seed, repeat))
        order = rng.permutation(len(self.pairs))
        return order, self._firsts[order] + rng.integers(np.diff(self._firsts)[order])

    def _sample(self, clip: int, caption: int, stream: int) -> Sample:
        text = self.pairs[clip].captions[caption - self._firsts[clip]]
        return Sample(text, stream_seed(self.seed, stream, int(clip)), len(self.clips[clip]))

    def _embed(self, motions: Sequence[np.ndarray], with_lamp: bool = True) -> _Made:
        kept = np.array([bool(np.isfinite(motion).all()) for motion in motions], dtype=bool)
        embeddings = self.embedder.motions([motion for motion, good in zip(motions, kept, strict=True) if good])
        sound = np.isfinite(embeddings).all(1)
        kept[kept] = sound
        motions = [motion for motion, good in zip(motions, kept, strict=True) if good]
        lamp = self.lamp.motions(motions) if with_lamp and self.lamp is not None else None
        return _Made(embeddings[sound], kept, motions, lamp)

    def _fid(self, made: _Made) -> dict[str, float]:
        return {"fid": _fid(self._real.embeddings, made.embeddings)}

    def _numbers(self, repeat: int, captions: np.ndarray, order: np.ndarray, made: _Made) -> dict[str, float]:
        """What a repeat measures of ``made``, which is in the order of the clips, by its captions and batches."""
        rng = np.random.default_rng(stream_seed(self.seed, repeat, len(self.pairs)))  # the same pairs for every row
        places, chosen = _places(made.kept, order), captions[made.kept[order]]
        motion = made.embeddings[places]
        numbers = self._matching(self._texts[chosen], motion)
        if made.lamp is not None:
            in_lamp = self._matching(self._lamp_texts[chosen], made.lamp[places])
            numbers |= {f"lamp_{key}": value for key, value in in_lamp.items()}
        if len(self.pairs) >= metrics.diversity_pairs(len(self.pairs)):
            enough = len(motion) >= metrics.diversity_pairs(len(motion))
            numbers["diversity"] = metrics.diversity(motion, rng) if enough else float("nan")
        return numbers

    def _matching(self, text: np.ndarray, motion: np.ndarray) -> dict[str, float]:
        """R-precision, where there are enough clips for it, and MM-Dist of pairs (n, e) in the order of the batches."""
        numbers = {}
        if len(self.pairs) >= self.plan.batch:
            hits = (metrics.r_precision(text, motion, TOP, self.plan.batch) if len(motion) >= self.plan.batch
                    else np.full(TOP, np.nan))
            numbers |= {f"R{k}": float(100 * share) for k, share in enumerate(hits, 1)}
        return numbers | {"mm_dist": metrics.matching_score(text, motion) if len(motion) else float("nan")}

    def _modality(self, generate: Generate, faults: dict[str, list[str]], repeat: int = 0) -> dict[str, np.ndarray]:
        """Embeddings (texts, motions, e) by row of many motions for some texts; others for another repeat."""
        count, each = min(self.plan.modality_texts, len(self.pairs)), self.plan.modality_motions
        if not count:
            return {}
        rng = np.random.default_rng(stream_seed(self.seed, _MODALITY, *([repeat] if repeat else [])))
        clips = rng.choice(len(self.pairs), count, replace=False)
        captions = self._firsts[clips] + rng.integers(np.diff(self._firsts)[clips])
        rows: dict[str, list[np.ndarray]] = {}
        step, chosen = max(1, CHUNK // each), list(zip(clips, captions, strict=True))
        parts = [chosen[start:start + step] for start in range(0, count, step)]
        for part in self._spread(partial(self._many_each, generate, repeat), parts, "multimodality"):
            for row, (table, named) in part.items():
                rows.setdefault(row, []).append(table)
                faults.setdefault(row, []).extend(named)
        return {row: np.concatenate(tables) for row, tables in rows.items()}

    def _many_each(self, generate: Generate, repeat: int,
                   chosen: Sequence[tuple[int, int]]) -> dict[str, tuple[np.ndarray, list[str]]]:
        """Embeddings (texts, motions, e) by row of many motions for some captions of clips, and motions in none."""
        each, rows = self.plan.modality_motions, {}
        streams = range(_MODALITY + repeat * each, _MODALITY + (repeat + 1) * each)
        samples = [self._sample(clip, caption, stream) for clip, caption in chosen for stream in streams]
        for row, motions in generate(samples).items():
            made = self._embed(motions, with_lamp=False)
            whole = made.kept.reshape(-1, each).all(1)  # a text with a motion that is none is left out
            table = np.full((len(samples), made.embeddings.shape[1]), np.nan)
            table[made.kept] = made.embeddings
            rows[row] = table.reshape(len(chosen), each, -1)[whole], [
                f"{self.pairs[chosen[place // each][0]].name}, {samples[place].text!r}, multimodality"
                for place in np.flatnonzero(~made.kept)]
        return rows

    def _named(self, kept: np.ndarray, repeat: int | None, captions: np.ndarray | None = None) -> list[str]:
        """The clips whose motion was left out."""
        names = []
        for clip in np.flatnonzero(~kept):
            said = "" if captions is None else f", {self._sample(clip, captions[clip], 0).text!r}, repeat {repeat}"
            names.append(self.pairs[clip].name + said)
        return names


def _places(kept: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Where the kept ones of ``order`` stand among those kept."""
    return (np.cumsum(kept) - 1)[order[kept[order]]]


def _fid(real: np.ndarray, made: np.ndarray) -> float:
    return metrics.fid(real, made) if min(len(real), len(made)) > 1 else float("nan")


def _multimodality(embeddings: np.ndarray, pairs: int, rng: np.random.Generator) -> float:
    return metrics.multimodality(embeddings, rng, pairs) if len(embeddings) else float("nan")


def fault_notes(rows: Mapping[str, Row], named: int = 10) -> list[str]:
    """A line a row that has motions which are not finite, with the first of their names; one line where none has."""
    notes = []
    for name, row in rows.items():
        if row.faults:
            more = f"; and {len(row.faults) - named} more" if len(row.faults) > named else ""
            notes.append(f"not finite, in no number: {len(row.faults)} motions of {name}: "
                         f"{'; '.join(row.faults[:named])}{more}")
    return notes or ["motions that are not finite: none"]
