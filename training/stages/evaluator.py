"""Training stages of the evaluator: movement auto-encoder, then text-motion matching."""
import argparse

import numpy as np
import torch
from torch import Tensor

from data.dataset import DatasetSpec, Normalisation, read_features
from data.language import WordVectors
from data.text_motion import MotionWindows, Pair
from evaluation.retrieval import euclidean_similarity, steady_retrieval
from models.config import EvaluatorConfig
from models.evaluator import Evaluator, MovementAutoEncoder, matching_loss
from storage.evaluation import Embedder
from storage.released import NETWORKS
from training.optimization import warmup_milestones
from training.runs import divide, latest_checkpoint
from training.trainer import Stage, Trainer
from utils.runtime import BatchSlice


class MovementStage(Stage):
    """Training stage of the movement auto-encoder, which is trained on motion windows."""

    name = "movement"
    state_key = "movement_autoencoder"
    optimizer_key = "opt_movement_autoencoder"

    def __init__(self, model: MovementAutoEncoder, opt: argparse.Namespace, val_windows: Tensor) -> None:
        super().__init__(model)
        self.opt, self.val_windows = opt, val_windows

    def forward(self, batch: Tensor, *_: object) -> dict[str, Tensor]:
        """Compute the losses of motion windows (b, t, d)."""
        loss = self.model.loss(batch, self.opt.smoothness, self.opt.sparsity)
        return {"loss": loss.total, "rec": loss.reconstruction, "smooth": loss.smoothness, "sparse": loss.sparsity}

    def validate(self) -> dict[str, float]:
        return {key: float(value) for key, value in self(self.val_windows.to(self.device)).items()}


class MatchingStage(Stage):
    """Contrastive training stage of the evaluator. The movement encoder is frozen without --tune_movement."""

    name = "evaluator"
    state_key = NETWORKS
    optimizer_key = "opt_evaluator"
    bests = {"finest": ("t2m_R3", "max")}

    def __init__(self, model: Evaluator, opt: argparse.Namespace, normalisation: Normalisation, words: WordVectors,
                 val_pairs: list[Pair]) -> None:
        super().__init__(model)
        self.opt, self.val_pairs = opt, val_pairs
        self.embedder = Embedder(model, normalisation, words)
        model.movement_encoder.requires_grad_(opt.tune_movement)

    def forward(self, batch: dict[str, Tensor], _: object, batch_slice: BatchSlice) -> dict[str, Tensor]:
        """Compute the losses of a batch of ``MatchingPairs``, with negatives from all processes."""
        motion = self.model.encode_motion(batch["motion"], batch["m_len"])
        text = self.model.encode_text(batch["word_emb"], batch["pos_onehot"], batch["cap_len"])
        loss = matching_loss(text.float(), batch_slice.gather_with_gradient(motion.float()), self.opt.margin,
                             self.opt.negatives, first=batch_slice.rank * len(text))
        return {"loss": loss.total, "positive": loss.positive, "negative": loss.negative}

    def validate(self) -> dict[str, float]:
        """Compute the recall between whole clips and their first captions, in fixed random batches of 32."""
        texts = divide([pair.tokens[0] for pair in self.val_pairs], self.embedder.texts)
        motions = divide([pair.features for pair in self.val_pairs], self.embedder.motions)
        scores = steady_retrieval(euclidean_similarity(np.stack(texts), np.stack(motions)))
        return {key: value for key, value in scores.items() if key.endswith(("R1", "R3"))}

    def weights(self) -> dict[str, dict[str, Tensor]]:
        return self.model.checkpoint()


def train_movements(opt: argparse.Namespace, spec: DatasetSpec, normalisation: Normalisation,
                    config: EvaluatorConfig) -> MovementAutoEncoder:
    """Train the movement auto-encoder or, with --is_continue, resume its training."""
    windows, firsts = (MotionWindows(read_features(spec, split, opt.quiet), normalisation,
                                     opt.window_size) for split in ("train", "val"))
    starts = [0, *firsts.ends[:-1].tolist()]
    model = MovementAutoEncoder(config.dim_pose, config.dim_movement_enc_hidden, config.dim_movement_latent)
    stage = MovementStage(model, opt, torch.stack([firsts[start] for start in starts]))
    print(f"movements: {len(windows)} windows of {spec.root}")
    Trainer(stage, opt, windows, warmup_milestones(0, [], 1.0)).run()
    return model


def movement_options(opt: argparse.Namespace) -> argparse.Namespace:
    """Return the options of the movement auto-encoder's run, ``<name>_movement``."""
    return argparse.Namespace(**{
        **vars(opt), "name": f"{opt.name}_movement", "total_iter": opt.movement_iter, "max_epoch": opt.movement_iter,
        "batch_size": opt.movement_batch_size, "lr": opt.movement_lr, "ema": 0.0, "init_from": None})


def matching_options(opt: argparse.Namespace) -> argparse.Namespace:
    """Return the options of the matching run ``<name>``.

    If only the movement auto-encoder has a checkpoint, the matching run starts from scratch instead of resuming.
    """
    among_movements = latest_checkpoint(movement_options(opt)).is_file() and not latest_checkpoint(opt).is_file()
    return argparse.Namespace(**{**vars(opt), "is_continue": opt.is_continue and not among_movements})
