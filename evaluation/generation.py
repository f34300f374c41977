"""Evaluation of generated motions: text caches, LaMP-BertScore, LaMP as an evaluator, and FID during training."""
import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from data.dataset import DatasetSpec
from data.text_motion import Pair
from evaluation.metrics import frechet_distance, mean_and_covariance
from evaluation.protocol import Generate, Row
from evaluation.report import estimates
from evaluation.retrieval import motion_vectors, text_vectors
from models.lamp.features import TextEncoder
from models.text_to_motion import Sample, Sampling, TextToMotion
from storage.evaluation import LoadedEvaluator, find_evaluator
from storage.generation import LoadedLaMP, load_lamp
from utils import InputError
from utils.runtime import stream_seed

BASE = "base layer"
ALL = "base + residual"
BATCH = 64  # texts per forward pass


class RememberedTexts:
    """Text encoder with a cache, because the repeats of an evaluation use the same texts.

    ``known`` maps texts to features (1, c); new texts are added.
    """

    def __init__(self, encoder: TextEncoder, known: dict[str, Tensor]) -> None:
        self.encoder, self.known = encoder, known

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Return features (b, c) of texts. New texts are encoded in batches of similar length."""
        new = sorted({text for text in texts if text not in self.known}, key=lambda text: (len(text), text))
        for start in range(0, len(new), BATCH):
            chosen = new[start:start + BATCH]
            self.known |= zip(chosen, self.encoder(chosen).split(1), strict=True)
        return torch.cat([self.known[text] for text in texts])


def remember_texts(pipeline: TextToMotion, known: dict[str, dict[str, Tensor]]) -> None:
    """Replace both text encoders of a pipeline with encoders that cache features in ``known``.

    ``known`` maps encoder fingerprints to caches, which map texts to features. Several pipelines can share it.
    """
    pipeline.text, pipeline.residual_text = (RememberedTexts(encoder, known.setdefault(encoder.fingerprint, {}))
                                             for encoder in (pipeline.text, pipeline.residual_text))


def generated_rows(pipeline: TextToMotion, sampling: Sampling, prefix: str = "") -> Generate:
    """Return a function that generates the motions of samples for one or two rows of the results table.

    Row ``prefix`` + ``BASE`` uses the base layer only. With a residual transformer, row ``prefix`` + ``ALL`` uses all
    layers, with the same base tokens.
    """

    def generate(samples: Sequence[Sample]) -> dict[str, list[np.ndarray]]:
        for text in (pipeline.text, pipeline.residual_text):
            if isinstance(text, RememberedTexts):
                text([pipeline.clean(sample.text) for sample in samples])
        tokens = pipeline.tokens(samples, sampling)
        base = [ids if ids.dim() == 1 else ids[:, 0] for ids in tokens]
        rows = {prefix + BASE: pipeline.features_of(base, sampling.group_rows)}
        if pipeline.residual is not None:
            rows[prefix + ALL] = pipeline.features_of(tokens, sampling.group_rows)
        return rows

    return generate


KEY = "lamp_bertscore"
LEGEND = f"{KEY}: BERTScore between the caption of a generated motion and its prompt, per cent"
_PROMPTS = 1 << 33  # seed offset, distinct from those of the protocol


class LampBertScore:
    """LaMP-BertScore: the BERTScore between the captions of generated motions and their prompts.

    The prompt of each clip is sampled from its captions, and the generated motion has the length of the clip.

    Args:
        pairs: clips with captions.
        clips: their motions (T, d), cut to whole tokens.
        caption: function from unnormalised motions (T, d) to a list of captions for each motion, best caption first.
        bert: BERTScore of captions with one or more references each.
        seed: seed for sampling prompts and motions.
    """

    def __init__(self, pairs: Sequence[Pair], clips: Sequence[np.ndarray],
                 caption: Callable[[Sequence[np.ndarray]], list[list[str]]],
                 bert: Callable[[Sequence[str], Sequence[Sequence[str]]], float], seed: int = 0) -> None:
        self.pairs, self.clips, self.caption, self.bert = pairs, clips, caption, bert
        rng = np.random.default_rng(stream_seed(seed, _PROMPTS))
        self.samples = [Sample(str(rng.choice(pair.captions)), stream_seed(seed, _PROMPTS, number), len(clip))
                        for number, (pair, clip) in enumerate(zip(pairs, clips, strict=True))]

    def add_real(self, row: Row) -> None:
        """Add the score of the real clips to ``row``. It is a practical upper bound for generated motions."""
        self._add(row, self.clips)

    def add_generated(self, rows: dict[str, Row], generate: Generate) -> None:
        """Score the motions that ``generate`` returns and add the scores to ``rows``."""
        for name, motions in generate(self.samples).items():
            self._add(rows[name], motions)

    def _add(self, row: Row, motions: Sequence[np.ndarray]) -> None:
        finite = [number for number, motion in enumerate(motions) if np.isfinite(motion).all()]
        made = [captions[0] for captions in self.caption([motions[number] for number in finite])]
        prompts = [(self.samples[number].text,) for number in finite]
        row.numbers |= estimates([{KEY: self.bert(made, prompts) if finite else float("nan")}])
        row.faults += [f"{self.pairs[number].name}, {self.samples[number].text!r}, {KEY}"
                       for number in sorted(set(range(len(motions))) - set(finite))]


PREFIX = "lamp:"
NOTE = "lamp_R1, lamp_mm_dist: the same metrics with LaMP's normalised features"


@dataclass(frozen=True)
class LampSpace:
    """Embedding space of a LaMP model. Its features are normalised, so distance and cosine give the same ranking."""

    lamp: LoadedLaMP

    def texts(self, captions: Sequence[str]) -> np.ndarray:
        """Return embeddings (n, e) of cleaned captions."""
        return text_vectors(captions, self.lamp.text_features).cpu().numpy()

    def motions(self, motions: Sequence[np.ndarray]) -> np.ndarray:
        """Return embeddings (n, e) of unnormalised motions (T, d)."""
        if not motions:
            return np.zeros((0, self.lamp.model.config.embed_dim), np.float32)
        clips = [self.lamp.normalisation.apply(motion) for motion in motions]
        return motion_vectors(clips, self.lamp.motion_features, quiet=True)


def find_evaluators(names: str | None, spec: DatasetSpec, checkpoints_dir: str | Path,
                    device: torch.device | str = "cpu") -> tuple[LoadedEvaluator | None, LampSpace | None]:
    """Load the evaluators named in an option value ``NAME``, ``lamp:NAME`` or ``NAME,lamp:NAME``.

    Returns the evaluator (by default, that of ``find_evaluator``) and the LaMP model, or None if it is not named.
    Raises ``InputError`` if the value has another form.
    """
    parts = names.split(",") if names is not None else []
    lamps = [part for part in parts if part.startswith(PREFIX)]
    others = [part for part in parts if not part.startswith(PREFIX)]
    if len(lamps) > 1 or len(others) > 1 or PREFIX in lamps or "" in others:
        raise InputError(f"--evaluator {names}: expected NAME, {PREFIX}NAME, or NAME,{PREFIX}NAME")
    evaluator = find_evaluator(others[0] if others else None, spec, checkpoints_dir, device)
    lamp = load_lamp(lamps[0].removeprefix(PREFIX), spec, checkpoints_dir, device) if lamps else None
    return evaluator, lamp and LampSpace(lamp)


FEWEST = 2  # minimum number of clips to estimate a covariance
# Generates unnormalised motions (T, d) for the validation clips with the given indices.
Make = Callable[[nn.Module, Sequence[int]], Sequence[np.ndarray]]


class ValidationFid:
    """FID of motions that a model generates for a fixed set of validation clips."""

    def __init__(self, evaluator: LoadedEvaluator, clips: Sequence[np.ndarray], rows: Sequence[int],
                 make: Make, divide: Callable) -> None:
        """``divide`` applies a function to a list, possibly across processes (see ``training.runs.divide``)."""
        self.evaluator, self.rows, self.make, self.divide = evaluator, rows, make, divide
        self.real = mean_and_covariance(evaluator.motions([clips[row] for row in rows]))

    def __call__(self, model: nn.Module) -> float:
        """Compute the FID, or NaN if a motion is not finite. NaN is never the best score."""
        motions = self.divide(self.rows, lambda rows: self.make(model, rows))
        if not all(np.isfinite(motion).all() for motion in motions):
            return float("nan")
        return frechet_distance(*self.real, *mean_and_covariance(self.evaluator.motions(motions)))


def validation_fid(opt: argparse.Namespace, spec: DatasetSpec, device: torch.device | str, clips: Sequence[np.ndarray],
                   make: Make, otherwise: str, divide: Callable) -> ValidationFid | None:
    """Create the FID measure that selects the best checkpoint of a run.

    It uses ``opt.fid_clips`` validation clips, by default all. Returns None if there are fewer than ``FEWEST`` clips or
    no evaluator; the criterion is then ``otherwise``. The criterion is printed and stored as ``opt.chosen_by``, for
    ``opt.txt`` and the checkpoints.
    """
    count = len(clips) if opt.fid_clips is None else min(opt.fid_clips, len(clips))
    evaluator = find_evaluator(opt.evaluator, spec, opt.checkpoints_dir, device) if count >= FEWEST else None
    if evaluator is None:
        opt.chosen_by = otherwise
        print(f"the best checkpoint is chosen by {opt.chosen_by}")
        return None
    rows = np.linspace(0, len(clips) - 1, count).round().astype(int).tolist()
    fid = ValidationFid(evaluator, clips, rows, make, divide)
    opt.chosen_by = f"fid of {count} of {len(clips)} validation clips by {evaluator.source.folder.name}"  # no path
    print(f"the best checkpoint is chosen by {opt.chosen_by}: {evaluator.source}")
    if count <= (width := len(fid.real[0])):
        print(f"FID is biased upwards: {count} clips are too few for the {width} dimensions of the "
              "evaluator's embeddings; compare it only within this run")
    return fid
