"""Which evaluator judges a run, and the FID that training chooses its best checkpoint by."""
import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn
from torch.utils.data import default_collate

from data.specs import DatasetSpec
from data.text_motion import TextTokens
from evaluation.metrics import frechet_distance, mean_and_covariance
from evaluation.reconstruction import decode_clips
from models.text_to_motion import Sample, Sampling, TextToMotion
from models.transformers.residual import ResidualTransformer
from models.transformers.sampling import sample_generators
from storage.load import LoadedTokenizer
from storage.load_evaluator import LoadedEvaluator, load_evaluator
from storage.source import model_dirs
from training import distributed
from utils.errors import InputError
from utils.seeding import stream_seed

NO_EVALUATOR = "none"
PUBLISHED = "text_mot_match"
BUNDLED = "evaluator_demo"
FEWEST = 2  # clips that have a covariance
ROWS = 8    # motions of a pass

# Motions (T, d) in their own units that a model makes for some of the validation clips, by number.
Make = Callable[[nn.Module, Sequence[int]], Sequence[np.ndarray]]


def load_judge(name: str | None, spec: DatasetSpec, checkpoints_dir: str | Path,
               device: torch.device | str = "cpu") -> LoadedEvaluator | None:
    """The evaluator ``name``; ``none`` is none. By default the published one where it lies in the checkpoints, else the
    bundled one, else none."""
    if name == NO_EVALUATOR:
        return None
    if name is not None:
        return load_evaluator(name, spec, checkpoints_dir, device)
    for found in (PUBLISHED, BUNDLED):
        if model_dirs(found, spec.name, checkpoints_dir):
            try:
                return load_evaluator(found, spec, checkpoints_dir, device)
            except InputError as error:
                raise InputError(f"{error} (--evaluator NAME takes another evaluator, none does without)") from error
    return None


class ValidationFid:
    """FID of what a model makes for the same validation clips every time."""

    def __init__(self, evaluator: LoadedEvaluator, clips: Sequence[np.ndarray], rows: Sequence[int],
                 make: Make) -> None:
        self.evaluator, self.rows, self.make = evaluator, rows, make
        self.real = mean_and_covariance(evaluator.motions([clips[row] for row in rows]))

    @property
    def biased(self) -> bool:
        """Whether there are fewer clips than dimensions, which makes FID far too large."""
        return len(self.rows) <= len(self.real[0])

    def __call__(self, model: nn.Module) -> float:
        """FID; NaN, which is never the best, where a motion is not finite."""
        motions = distributed.divide(self.rows, lambda rows: self.make(model, rows))
        if not all(np.isfinite(motion).all() for motion in motions):
            return float("nan")
        return frechet_distance(*self.real, *mean_and_covariance(self.evaluator.motions(motions)))


def validation_fid(opt: argparse.Namespace, spec: DatasetSpec, device: torch.device | str, clips: Sequence[np.ndarray],
                   make: Make, otherwise: str) -> ValidationFid | None:
    """The FID that a run chooses its best checkpoint by, on ``opt.fid_clips`` of the validation clips, by default on
    all; None without an evaluator.

    Prints which it is, and keeps it in ``opt.chosen_by``, so that ``opt.txt`` and the checkpoints have it.
    """
    count = len(clips) if opt.fid_clips is None else min(opt.fid_clips, len(clips))
    evaluator = load_judge(opt.evaluator, spec, opt.checkpoints_dir, device) if count >= FEWEST else None
    if evaluator is None:
        opt.chosen_by = otherwise
        print(f"the best checkpoint is chosen by {opt.chosen_by}")
        return None
    rows = np.linspace(0, len(clips) - 1, count).round().astype(int).tolist()
    fid = ValidationFid(evaluator, clips, rows, make)
    opt.chosen_by = f"fid of {count} of {len(clips)} validation clips by {evaluator.source.folder.name}"  # no path
    print(f"the best checkpoint is chosen by {opt.chosen_by}: {evaluator.source}")
    if fid.biased:
        print(f"its FID is biased upwards: {count} clips are fewer than the {len(fid.real[0])} dimensions of the "
              "evaluator's embeddings need; compare it within this run only")
    return fid


def generates(tokenizer: LoadedTokenizer, spec: DatasetSpec, val_set: TextTokens, features: Tensor, seed: int) -> Make:
    """How a masked transformer in training makes motions: for the first caption of each clip, at its length, always
    from the same random streams. ``features`` (texts, c) are those of the captions by number."""
    device = next(tokenizer.model.parameters()).device

    def text(captions: Sequence[str]) -> Tensor:
        return features[[val_set.text_ids[caption] for caption in captions]].to(device)

    def make(model: nn.Module, rows: Sequence[int]) -> list[np.ndarray]:
        pipeline = TextToMotion(tokenizer.model, tokenizer.normalisation.invert, model, text, spec.skeleton)
        return pipeline.features([Sample(val_set.pairs[row].captions[0], stream_seed(seed, row),
                                         val_set.crop(row).length) for row in rows], Sampling(group_rows=ROWS))

    return make


def completes(tokenizer: LoadedTokenizer, val_set: TextTokens, features: Tensor, seed: int) -> Make:
    """How a residual transformer in training makes motions: the layers above the true base layer of each clip, so that
    no masked transformer is needed and nothing but these layers is judged. Captions, lengths and random streams are as
    in ``generates``."""
    device = next(tokenizer.model.parameters()).device

    def make(model: ResidualTransformer, rows: Sequence[int]) -> list[np.ndarray]:
        batch = send_to_device(default_collate([val_set[row] for row in rows]), device)
        lengths = batch["token_len"].tolist()
        cond = features[batch["caption"].to(features.device)].to(device)
        streams = sample_generators([stream_seed(seed, row) for row in rows])
        ids = model.generate(batch["tokens"][..., 0], cond, lengths, streams, cond_scale=Sampling.res_cond_scale,
                             temperature=Sampling.res_temperature, group_rows=ROWS)
        return decode_clips(tokenizer.model, [one[:length] for one, length in zip(ids, lengths, strict=True)],
                            tokenizer.normalisation)

    return make
