"""Evaluation protocol of text-to-motion: metrics over repeats (T2M, Guo et al. 2022, section 5).

A repeat shuffles the clips, samples a caption of each, generates a motion of the clip's length, and ranks each text
among the motions of its batch of 32. Clips are taken whole from their first frame, so that texts and real motions are
embedded once. Motions that are not finite are excluded from all metrics, counted and listed.
"""
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, TypeVar

import numpy as np
import torch
from tqdm import tqdm

from data.dataset import DatasetSpec
from data.text_motion import Pair, whole_crop
from evaluation import metrics
from evaluation.report import Estimate, estimates
from models.text_to_motion import Sample
from motion.body import bone_length_drift, floor_penetration, foot_skating, roughness
from motion.features import features_to_joints
from utils import InputError
from utils.runtime import side_by_side, stream_seed

UNITS = {"skating": "m/s of feet in contact with the floor", "penetration": "mm of the lowest joint below the floor",
         "jerk": "m/s^3, mean of all joints", "bone_drift": "per cent of a bone's length"}


def physical_faults(motion: np.ndarray, spec: DatasetSpec) -> dict[str, float]:
    """Metrics of ``UNITS`` for features (T, d) in the data set's unit, from their joint positions."""
    joints = spec.metres * features_to_joints(torch.from_numpy(motion), spec.skeleton).double().numpy()
    return {"skating": foot_skating(joints, spec.skeleton, spec.fps), "penetration": 1000 * floor_penetration(joints),
            "jerk": roughness(joints) * spec.fps**3, "bone_drift": 100 * bone_length_drift(joints, spec.skeleton)}


def mean_faults(motions: Sequence[np.ndarray], spec: DatasetSpec) -> dict[str, float]:
    """Means of ``physical_faults`` over motions; NaN without motions."""
    found = [physical_faults(motion, spec) for motion in motions]
    return {key: float(np.mean([one[key] for one in found])) if found else float("nan") for key in UNITS}


TOP = 3                # ranks of R-precision
REAL = "real motion"   # name of the first row of every table
CHUNK = 480            # motions for multimodality held in memory at once
_MODALITY = 1 << 32    # seed offset, beyond the repeats
_LEGEND = {"fid_halves": "FID between two random halves of the real motions", "R1": "R-precision in per cent",
           "mm_dist": "mean distance between texts and their motions", **UNITS}

Item, Result = TypeVar("Item"), TypeVar("Result")
# Generates motions for samples, by row; one generation may give several rows.
Generate = Callable[[Sequence[Sample]], Mapping[str, Sequence[np.ndarray]]]


class TextMotionEmbedder(Protocol):
    """An evaluator that reads captions as tokens."""

    def motions(self, motions: Sequence[np.ndarray]) -> np.ndarray:
        """Embeddings (n, e) of unnormalised features (T, d)."""

    def texts(self, tokens: Sequence[Sequence[str]]) -> np.ndarray:
        """Embeddings (n, e) of captions as ``word/POS`` tokens."""


class CaptionEmbedder(Protocol):
    """A second evaluator, which reads plain captions, for R-precision and MM-Dist only."""

    def motions(self, motions: Sequence[np.ndarray]) -> np.ndarray:
        """Embeddings (n, e) of unnormalised features (T, d)."""

    def texts(self, captions: Sequence[str]) -> np.ndarray:
        """Embeddings (n, e) of cleaned captions."""


@dataclass(frozen=True)
class Plan:
    """Sample sizes. Diversity uses ``evaluation.metrics.diversity_pairs``."""

    repeats: int = 20
    batch: int = 32             # candidates of R-precision
    modality_texts: int = 100   # texts for multimodality; 0 skips it
    modality_motions: int = 30  # motions per text
    modality_pairs: int = 10    # pairs per text
    modality_fresh: bool = False  # resample texts and motions in every repeat, as in MoMask's evaluation


@dataclass
class Row:
    """Metrics of one kind of motion."""

    numbers: dict[str, Estimate]
    faults: list[str] = field(default_factory=list)  # excluded motions: clip, caption, repeat

    def table(self) -> dict[str, float | Estimate]:
        """Metrics for a report, with the number of excluded motions."""
        return {**self.numbers, "not_finite": len(self.faults)}


@dataclass
class _Generated:
    """Motions of one row in one repeat, and embeddings of the finite ones."""

    embeddings: np.ndarray  # (k, e)
    kept: np.ndarray        # (n,) bool, the k finite motions
    motions: list[np.ndarray]
    lamp: np.ndarray | None = None  # (k, e) from the second evaluator


class Evaluation:
    """Evaluates any number of models against real motions and captions, which are embedded once.

    Args:
        pairs: clips with captions and their tokens.
        embedder: the evaluator.
        seed: of all sampling; repeat r uses the same captions and batches for every model.
        workers: repeats generated in parallel, each on one core.
        lamp: a second evaluator, whose R-precision and MM-Dist get the prefix ``lamp_``.
    """

    def __init__(self, pairs: Sequence[Pair], embedder: TextMotionEmbedder, spec: DatasetSpec, plan: Plan = Plan(),
                 seed: int = 0, quiet: bool = True, workers: int = 1, lamp: CaptionEmbedder | None = None) -> None:
        self.pairs, self.embedder, self.spec, self.plan = pairs, embedder, spec, plan
        self.seed, self.quiet, self.workers, self.lamp = seed, quiet, workers, lamp
        self.clips = [pair.features[:whole_crop(len(pair.features)).length] for pair in pairs]
        self._firsts = np.cumsum([0, *(len(pair.captions) for pair in pairs)])  # first caption of each clip
        self._texts = embedder.texts([tokens for pair in pairs for tokens in pair.tokens])
        if not np.isfinite(self._texts).all():
            raise InputError("the evaluator's text embeddings are not finite")
        self._lamp_texts = lamp and lamp.texts([caption for pair in pairs for caption in pair.captions])
        self._real = self._embed(self.clips)

    @property
    def left_out(self) -> list[str]:
        """Metrics that need more clips than there are."""
        count, needed = len(self.pairs), metrics.diversity_pairs(len(self.pairs))
        short = [("R-precision", self.plan.batch), ("diversity", needed)]
        return [f"left out: {what}, which needs {least} clips; there are {count}"
                for what, least in short if count < least]

    @property
    def legend(self) -> list[str]:
        """Explanations of the metrics."""
        return [f"{key}: {meaning}" for key, meaning in _LEGEND.items()]

    def real(self) -> Row:
        """Row of the real motions. Its FID is between two halves, because that against itself would be zero."""
        faults = mean_faults(self._real.motions, self.spec)
        draws = []
        for repeat in range(self.plan.repeats):
            order, captions = self._draw(repeat)
            numbers = self._numbers(repeat, captions, order, self._real)
            halves = np.array_split(self._real.embeddings[_places(self._real.kept, order)], 2)
            draws.append({"fid_halves": _fid(*halves), **numbers})
        return Row(estimates(draws) | estimates([faults]), self._named(self._real.kept, None))

    def fixed(self, motions: Sequence[np.ndarray]) -> Row:
        """Row of one motion (T, d) per clip that is the same in every repeat, such as a reconstruction."""
        made = self._embed(motions)
        draws = []
        for repeat in range(self.plan.repeats):
            order, captions = self._draw(repeat)
            draws.append(self._numbers(repeat, captions, order, made))
        once = mean_faults(made.motions, self.spec)
        return Row(estimates([self._fid(made)]) | estimates(draws) | estimates([once]), self._named(made.kept, None))

    def generated(self, generate: Generate) -> dict[str, Row]:
        """Rows of motions that are generated in every repeat; ``workers`` threads call ``generate``."""
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
        """Metrics of each row in one repeat, and the excluded motions."""
        order, captions = self._draw(repeat)
        samples = [self._sample(clip, caption, repeat) for clip, caption in zip(order, captions, strict=True)]
        rows, back = {}, np.argsort(order)
        for row, motions in generate(samples).items():
            made = self._embed([motions[place] for place in back])
            numbers = self._fid(made) | self._numbers(repeat, captions, order, made)
            rows[row] = numbers | mean_faults(made.motions, self.spec), self._named(made.kept, repeat, captions[back])
        return rows

    def _spread(self, work: Callable[[Item], Result], items: Sequence[Item], desc: str) -> Iterator[Result]:
        """Results of ``work`` for each item, in order, computed by the workers."""
        with side_by_side(min(self.workers, len(items))) as spread:
            yield from tqdm(spread(work, items), total=len(items), desc=desc, disable=self.quiet or None, leave=False)

    def _draw(self, repeat: int) -> tuple[np.ndarray, np.ndarray]:
        """Clips (n,) in the order of a repeat, and the index of the sampled caption of each among all captions."""
        rng = np.random.default_rng(stream_seed(self.seed, repeat))
        order = rng.permutation(len(self.pairs))
        return order, self._firsts[order] + rng.integers(np.diff(self._firsts)[order])

    def _sample(self, clip: int, caption: int, stream: int) -> Sample:
        text = self.pairs[clip].captions[caption - self._firsts[clip]]
        return Sample(text, stream_seed(self.seed, stream, int(clip)), len(self.clips[clip]))

    def _embed(self, motions: Sequence[np.ndarray], with_lamp: bool = True) -> _Generated:
        kept = np.array([bool(np.isfinite(motion).all()) for motion in motions], dtype=bool)
        embeddings = self.embedder.motions([motion for motion, good in zip(motions, kept, strict=True) if good])
        sound = np.isfinite(embeddings).all(1)
        kept[kept] = sound
        motions = [motion for motion, good in zip(motions, kept, strict=True) if good]
        lamp = self.lamp.motions(motions) if with_lamp and self.lamp is not None else None
        return _Generated(embeddings[sound], kept, motions, lamp)

    def _fid(self, made: _Generated) -> dict[str, float]:
        return {"fid": _fid(self._real.embeddings, made.embeddings)}

    def _numbers(self, repeat: int, captions: np.ndarray, order: np.ndarray, made: _Generated) -> dict[str, float]:
        """Metrics of ``made``, which has the order of the clips, with the captions and batches of a repeat."""
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
        """R-precision, if there are enough clips, and MM-Dist of pairs (n, e) in the order of the batches."""
        numbers = {}
        if len(self.pairs) >= self.plan.batch:
            hits = (metrics.r_precision(text, motion, TOP, self.plan.batch) if len(motion) >= self.plan.batch
                    else np.full(TOP, np.nan))
            numbers |= {f"R{k}": float(100 * share) for k, share in enumerate(hits, 1)}
        return numbers | {"mm_dist": metrics.matching_score(text, motion) if len(motion) else float("nan")}

    def _modality(self, generate: Generate, faults: dict[str, list[str]], repeat: int = 0) -> dict[str, np.ndarray]:
        """Embeddings (texts, motions, e) of multimodality by row; another repeat uses other texts."""
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
        """Embeddings (texts, motions, e) by row of many motions for the captions ``chosen``, and excluded motions."""
        each, rows = self.plan.modality_motions, {}
        streams = range(_MODALITY + repeat * each, _MODALITY + (repeat + 1) * each)
        samples = [self._sample(clip, caption, stream) for clip, caption in chosen for stream in streams]
        for row, motions in generate(samples).items():
            made = self._embed(motions, with_lamp=False)
            whole = made.kept.reshape(-1, each).all(1)  # a text with a motion that is not finite is excluded
            table = np.full((len(samples), made.embeddings.shape[1]), np.nan)
            table[made.kept] = made.embeddings
            rows[row] = table.reshape(len(chosen), each, -1)[whole], [
                f"{self.pairs[chosen[place // each][0]].name}, {samples[place].text!r}, multimodality"
                for place in np.flatnonzero(~made.kept)]
        return rows

    def _named(self, kept: np.ndarray, repeat: int | None, captions: np.ndarray | None = None) -> list[str]:
        """Names of the clips whose motion was excluded."""
        names = []
        for clip in np.flatnonzero(~kept):
            said = "" if captions is None else f", {self._sample(clip, captions[clip], 0).text!r}, repeat {repeat}"
            names.append(self.pairs[clip].name + said)
        return names


def _places(kept: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Indices of the kept clips of ``order`` among all kept clips."""
    return (np.cumsum(kept) - 1)[order[kept[order]]]


def _fid(real: np.ndarray, made: np.ndarray) -> float:
    return metrics.fid(real, made) if min(len(real), len(made)) > 1 else float("nan")


def _multimodality(embeddings: np.ndarray, pairs: int, rng: np.random.Generator) -> float:
    return metrics.multimodality(embeddings, rng, pairs) if len(embeddings) else float("nan")


def fault_notes(rows: Mapping[str, Row], named: int = 10) -> list[str]:
    """One line per row with motions that are not finite, naming the first ones; a single line if there are none."""
    notes = []
    for name, row in rows.items():
        if row.faults:
            more = f"; and {len(row.faults) - named} more" if len(row.faults) > named else ""
            notes.append(f"not finite, excluded from all metrics: {len(row.faults)} motions of {name}: "
                         f"{'; '.join(row.faults[:named])}{more}")
    return notes or ["motions that are not finite: none"]
