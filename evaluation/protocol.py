"""Evaluation protocol for text-to-motion: metrics averaged over repeats (T2M, Guo et al. 2022, section 5).

Each repeat shuffles the clips, samples one caption per clip, generates a motion of the clip's length and, for each
text, ranks the 32 motions of its batch. Real clips always start at their first frame (no random cropping), so texts and
real motions are embedded only once. Motions that are not finite, or whose embeddings are not, are excluded from all
metrics, counted and listed.
"""
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, TypeVar

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

UNITS = {"skating": "mean speed of feet in contact, m/s", "penetration": "mean depth of the lowest joint, mm",
         "jerk": "mean over joints, m/s^3", "bone_drift": "variation of bone lengths, per cent"}


def physical_faults(motion: np.ndarray, spec: DatasetSpec) -> dict[str, float]:
    """Compute the metrics in ``UNITS`` from the joint positions of a motion with unnormalised features (T, d)."""
    joints = spec.metres * features_to_joints(torch.from_numpy(motion), spec.skeleton).double().numpy()
    return {"skating": foot_skating(joints, spec.skeleton, spec.fps), "penetration": 1000 * floor_penetration(joints),
            "jerk": roughness(joints) * spec.fps**3, "bone_drift": 100 * bone_length_drift(joints, spec.skeleton)}


def mean_faults(motions: Sequence[np.ndarray], spec: DatasetSpec) -> dict[str, float]:
    """Average ``physical_faults`` over motions. All metrics are NaN if there are no motions."""
    found = [physical_faults(motion, spec) for motion in motions]
    return {key: float(np.mean([one[key] for one in found])) if found else float("nan") for key in UNITS}


TOP = 3                # ranks of R-precision
REAL = "real motion"   # name of the first row of every table
CHUNK = 480            # number of multimodality motions held in memory at once
_MODALITY = 1 << 32    # seed offset, greater than any repeat
_LEGEND = {"fid_halves": "FID between two random halves of the real motions", "R1": "R-precision in per cent",
           "mm_dist": "mean distance between texts and their motions", **UNITS}

Item, Result = TypeVar("Item"), TypeVar("Result")
# Generates the motions of samples. Returns them keyed by row of the results table.
Generate = Callable[[Sequence[Sample]], Mapping[str, Sequence[np.ndarray]]]


class TextMotionEmbedder(Protocol):
    """Interface of evaluators.

    In ``Evaluation``, ``embedder`` embeds captions given as ``word/POS`` tokens, and ``lamp`` embeds cleaned captions.
    """

    def motions(self, motions: Sequence[np.ndarray]) -> np.ndarray:
        """Return embeddings (n, e) of unnormalised features (T, d)."""

    def texts(self, captions: Sequence[Any]) -> np.ndarray:
        """Return embeddings (n, e) of captions."""


@dataclass(frozen=True)
class Plan:
    """Sample sizes of the evaluation. ``evaluation.metrics.diversity_pairs`` gives the number of diversity pairs."""

    repeats: int = 20
    batch: int = 32             # candidates for R-precision
    modality_texts: int = 100   # texts for multimodality; 0 skips it
    modality_motions: int = 30  # motions per text
    modality_pairs: int = 10    # pairs per text
    modality_fresh: bool = False  # resample texts and motions in every repeat, as in MoMask's evaluation


@dataclass
class Row:
    """Metrics of one row of the results table. A row is, for example, one model."""

    numbers: dict[str, Estimate]
    faults: list[str] = field(default_factory=list)  # excluded motions: clip, caption, repeat

    def table(self) -> dict[str, float | Estimate]:
        """Return the metrics and the number of excluded motions, for a report."""
        return {**self.numbers, "not_finite": len(self.faults)}


@dataclass
class _Generated:
    """Motions of one row in one repeat, and embeddings of the finite motions."""

    embeddings: np.ndarray  # (k, e)
    kept: np.ndarray        # (n,) bool, the k finite motions
    motions: list[np.ndarray]
    lamp: np.ndarray | None = None  # (k, e) from the second evaluator


class Evaluation:
    """Evaluation of any number of models on the same clips. Real motions and captions are embedded once.

    Args:
        pairs: clips with captions and their tokens.
        embedder: the evaluator.
        seed: seed of all sampling. A repeat uses the same captions and batches for every model.
        workers: number of repeats to generate in parallel, each on one core.
        lamp: second evaluator. Its R-precision and MM-Dist have the prefix ``lamp_``.
    """

    def __init__(self, pairs: Sequence[Pair], embedder: TextMotionEmbedder, spec: DatasetSpec, plan: Plan = Plan(),
                 seed: int = 0, quiet: bool = True, workers: int = 1, lamp: TextMotionEmbedder | None = None) -> None:
        self.pairs, self.embedder, self.spec, self.plan = pairs, embedder, spec, plan
        self.seed, self.quiet, self.workers, self.lamp = seed, quiet, workers, lamp
        self.clips = [pair.features[:whole_crop(len(pair.features)).length] for pair in pairs]
        self._firsts = np.cumsum([0, *(len(pair.captions) for pair in pairs)])  # first caption of each clip
        self._texts = embedder.texts([tokens for pair in pairs for tokens in pair.tokens])
        if not np.isfinite(self._texts).all():
            raise InputError("the evaluator's text embeddings are not finite")
        self._lamp_texts = lamp and lamp.texts([caption for pair in pairs for caption in pair.captions])
        self._real = self._embed(self.clips)

    def notes(self, rows: Mapping[str, Row]) -> list[str]:
        """Return notes for a report: metrics that need more clips than there are, ``fault_notes``, and the legend."""
        count = len(self.pairs)
        needed = {"R-precision": self.plan.batch, "diversity": metrics.diversity_pairs(count)}
        return [*(f"omitted: {what} needs {least} clips, but there are {count}"
                  for what, least in needed.items() if count < least),
                *fault_notes(rows), *(f"{key}: {meaning}" for key, meaning in _LEGEND.items())]

    def real(self) -> Row:
        """Compute the row of the real motions. Its FID compares two random halves of the motions."""
        faults = mean_faults(self._real.motions, self.spec)
        draws = []
        for repeat in range(self.plan.repeats):
            order, captions = self._draw(repeat)
            numbers = self._numbers(repeat, captions, order, self._real)
            halves = np.array_split(self._real.embeddings[_places(self._real.kept, order)], 2)
            draws.append({"fid_halves": _fid(*halves), **numbers})
        return Row(estimates(draws) | estimates([faults]), self._named(self._real.kept, None))

    def fixed(self, motions: Sequence[np.ndarray]) -> Row:
        """Compute the row of motions (T, d) that do not change between repeats, such as reconstructions."""
        made = self._embed(motions)
        draws = []
        for repeat in range(self.plan.repeats):
            order, captions = self._draw(repeat)
            draws.append(self._numbers(repeat, captions, order, made))
        once = mean_faults(made.motions, self.spec)
        return Row(estimates([self._fid(made)]) | estimates(draws) | estimates([once]), self._named(made.kept, None))

    def generated(self, generate: Generate) -> dict[str, Row]:
        """Compute the rows of generated motions. ``generate`` is called in every repeat, by parallel workers."""
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
                    numbers["multimodality"] = (
                        metrics.multimodality(modality[row], rng, self.plan.modality_pairs) if len(modality[row])
                        else float("nan"))
                draws.setdefault(row, []).append(numbers)
                faults.setdefault(row, []).extend(named)
        return {row: Row(estimates(draws[row]), faults[row]) for row in draws}

    def _repeat(self, generate: Generate, repeat: int) -> dict[str, tuple[dict[str, float], list[str]]]:
        """Return, for each row of the table, its metrics and the names of its excluded motions in one repeat."""
        order, captions = self._draw(repeat)
        samples = [self._sample(clip, caption, repeat) for clip, caption in zip(order, captions, strict=True)]
        rows, back = {}, np.argsort(order)
        for row, motions in generate(samples).items():
            made = self._embed([motions[place] for place in back])
            numbers = self._fid(made) | self._numbers(repeat, captions, order, made)
            rows[row] = numbers | mean_faults(made.motions, self.spec), self._named(made.kept, repeat, captions[back])
        return rows

    def _spread(self, work: Callable[[Item], Result], items: Sequence[Item], desc: str) -> Iterator[Result]:
        """Yield the results of ``work`` for each item, in order, computed by parallel workers."""
        with side_by_side(min(self.workers, len(items))) as spread:
            yield from tqdm(spread(work, items), total=len(items), desc=desc, disable=self.quiet or None, leave=False)

    def _draw(self, repeat: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the clip order (n,) of a repeat, and the index of each clip's sampled caption among all captions."""
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
        """Compute the metrics of ``made`` (in clip order) for the captions and the order of one repeat."""
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
        """Compute MM-Dist and, if there are enough clips, R-precision of paired embeddings (n, e) in batch order."""
        numbers = {}
        if len(self.pairs) >= self.plan.batch:
            hits = (metrics.r_precision(text, motion, TOP, self.plan.batch) if len(motion) >= self.plan.batch
                    else np.full(TOP, np.nan))
            numbers |= {f"R{k}": float(100 * share) for k, share in enumerate(hits, 1)}
        return numbers | {"mm_dist": metrics.matching_score(text, motion) if len(motion) else float("nan")}

    def _modality(self, generate: Generate, faults: dict[str, list[str]], repeat: int = 0) -> dict[str, np.ndarray]:
        """Return the embeddings (texts, motions, e) for the multimodality metric, keyed by row of the results table.

        Each ``repeat`` samples new texts.
        """
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
        """Generate several motions per caption. Returns embeddings (texts, motions, e) and names of excluded motions.

        Results are keyed by row. If a motion of a text is not finite, the text has no embeddings.
        """
        each, rows = self.plan.modality_motions, {}
        streams = range(_MODALITY + repeat * each, _MODALITY + (repeat + 1) * each)
        samples = [self._sample(clip, caption, stream) for clip, caption in chosen for stream in streams]
        for row, motions in generate(samples).items():
            made = self._embed(motions, with_lamp=False)
            whole = made.kept.reshape(-1, each).all(1)  # texts whose motions are all finite
            table = np.full((len(samples), made.embeddings.shape[1]), np.nan)
            table[made.kept] = made.embeddings
            rows[row] = table.reshape(len(chosen), each, -1)[whole], [
                f"{self.pairs[chosen[place // each][0]].name}, {samples[place].text!r}, multimodality"
                for place in np.flatnonzero(~made.kept)]
        return rows

    def _named(self, kept: np.ndarray, repeat: int | None, captions: np.ndarray | None = None) -> list[str]:
        """Describe each excluded motion by its clip and, if it was generated, by its caption and repeat."""
        names = []
        for clip in np.flatnonzero(~kept):
            said = "" if captions is None else f", {self._sample(clip, captions[clip], 0).text!r}, repeat {repeat}"
            names.append(self.pairs[clip].name + said)
        return names


def _places(kept: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Return, for each kept clip in ``order``, its position in the array of all kept clips."""
    return (np.cumsum(kept) - 1)[order[kept[order]]]


def _fid(real: np.ndarray, made: np.ndarray) -> float:
    return metrics.fid(real, made) if min(len(real), len(made)) > 1 else float("nan")


def fault_notes(rows: Mapping[str, Row], named: int = 10) -> list[str]:
    """Return one line per row that has excluded motions. If there are none, return one line that says so."""
    notes = []
    for name, row in rows.items():
        if row.faults:
            more = f"; and {len(row.faults) - named} more" if len(row.faults) > named else ""
            notes.append(f"excluded as not finite: {len(row.faults)} motions of {name}: "
                         f"{'; '.join(row.faults[:named])}{more}")
    return notes or ["motions that are not finite: none"]
