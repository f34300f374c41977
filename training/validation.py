"""FID on the validation split, which selects the best checkpoint."""
import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn
from torch.utils.data import default_collate

from data.dataset import DatasetSpec
from evaluation.metrics import decode_clips, frechet_distance, mean_and_covariance
from models.text_to_motion import Sample, Sampling, TextToMotion
from models.transformers.residual import ResidualTransformer
from models.transformers.trunk import sample_generators
from storage.evaluation import LoadedEvaluator, find_evaluator
from training.runs import divide
from training.stages.tokens import TokenData
from utils.seeding import stream_seed

FEWEST = 2  # minimum number of clips for a covariance
ROWS = 8    # motions generated per batch

# Generates unnormalised motions (T, d) with a model for validation clips, given by their indices.
Make = Callable[[nn.Module, Sequence[int]], Sequence[np.ndarray]]


class ValidationFid:
    """FID of a model's motions for a fixed set of validation clips."""

    def __init__(self, evaluator: LoadedEvaluator, clips: Sequence[np.ndarray], rows: Sequence[int],
                 make: Make) -> None:
        self.evaluator, self.rows, self.make = evaluator, rows, make
        self.real = mean_and_covariance(evaluator.motions([clips[row] for row in rows]))

    @property
    def biased(self) -> bool:
        """Whether there are fewer clips than dimensions, which biases FID upwards."""
        return len(self.rows) <= len(self.real[0])

    def __call__(self, model: nn.Module) -> float:
        """FID; NaN, which is never the best, if a motion is not finite."""
        motions = divide(self.rows, lambda rows: self.make(model, rows))
        if not all(np.isfinite(motion).all() for motion in motions):
            return float("nan")
        return frechet_distance(*self.real, *mean_and_covariance(self.evaluator.motions(motions)))


def validation_fid(opt: argparse.Namespace, spec: DatasetSpec, device: torch.device | str, clips: Sequence[np.ndarray],
                   make: Make, otherwise: str) -> ValidationFid | None:
    """The FID that selects a run's best checkpoint, on ``opt.fid_clips`` validation clips, by default all; None without
    an evaluator.

    Prints the criterion and stores it as ``opt.chosen_by``, for ``opt.txt`` and the checkpoints.
    """
    count = len(clips) if opt.fid_clips is None else min(opt.fid_clips, len(clips))
    evaluator = find_evaluator(opt.evaluator, spec, opt.checkpoints_dir, device) if count >= FEWEST else None
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
              "evaluator's embeddings; compare it within this run only")
    return fid


def token_fid(opt: argparse.Namespace, data: TokenData, device: torch.device,
              make: Callable[[TokenData, argparse.Namespace], Make], otherwise: str) -> ValidationFid | None:
    """``validation_fid`` for a token transformer; ``make`` is ``generates`` or ``completes``."""
    clips = [pair.features[:data.val.crop(row).length] for row, pair in enumerate(data.val.pairs)]
    return validation_fid(opt, data.spec, device, clips, make(data, opt), otherwise)


def generates(data: TokenData, opt: argparse.Namespace) -> Make:
    """Generation with a masked transformer, for the first caption and the length of each clip, from fixed random
    streams."""
    tokenizer, val_set, features = data.tokenizer, data.val, data.features["val"]
    device = next(tokenizer.model.parameters()).device
    sampling = replace(Sampling.from_options(vars(opt)), group_rows=ROWS)

    def text(captions: Sequence[str]) -> Tensor:
        return features[[val_set.text_ids[caption] for caption in captions]].to(device)

    def make(model: nn.Module, rows: Sequence[int]) -> list[np.ndarray]:
        pipeline = TextToMotion(tokenizer.model, tokenizer.normalisation.invert, model, text, data.spec.skeleton)
        return pipeline.features([Sample(val_set.pairs[row].captions[0], stream_seed(opt.seed, row),
                                         val_set.crop(row).length) for row in rows], sampling)

    return make


def completes(data: TokenData, opt: argparse.Namespace) -> Make:
    """Generation with a residual transformer, on the ground-truth base layer of each clip, so that only the residual
    layers differ. Captions, lengths and random streams as in ``generates``."""
    tokenizer, val_set, features = data.tokenizer, data.val, data.features["val"]
    device = next(tokenizer.model.parameters()).device
    sampling = replace(Sampling.from_options(vars(opt)), group_rows=ROWS)

    def make(model: ResidualTransformer, rows: Sequence[int]) -> list[np.ndarray]:
        batch = send_to_device(default_collate([val_set[row] for row in rows]), device)
        lengths = batch["token_len"].tolist()
        cond = features[batch["caption"].to(features.device)].to(device)
        streams = sample_generators([stream_seed(opt.seed, row) for row in rows])
        ids = model.generate(batch["tokens"][..., 0], cond, lengths, streams, cond_scale=sampling.res_cond_scale,
                             temperature=sampling.res_temperature, group_rows=ROWS)
        return decode_clips(tokenizer.model, [one[:length] for one, length in zip(ids, lengths, strict=True)],
                            tokenizer.normalisation)

    return make
