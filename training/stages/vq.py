"""Training stage of the motion tokenizer."""
import argparse
from collections.abc import Callable
from math import radians
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data.dataset import DatasetSpec, Normalisation
from evaluation.metrics import score_reconstruction
from models.vq.model import RVQVAE, HumanVQVAE, tokenizer_loss
from motion.features import add_turn, features_to_joints, time_warp
from training.runs import divide
from training.trainer import Stage
from utils.runtime import BatchSlice


class VQStage(Stage):
    """Training stage of the tokenizer, which is trained on motion windows and validated on whole clips."""

    name = "vq"
    state_key = "vq_model"
    optimizer_key = "opt_vq_model"
    bests = {"net_best_mpjpe": ("mpjpe_mm", "min"), "net_best_loss": ("loss", "min")}

    def __init__(self, model: HumanVQVAE | RVQVAE, opt: argparse.Namespace, spec: DatasetSpec,
                 normalisation: Normalisation, val_clips: list[np.ndarray],
                 fid: Callable[[nn.Module], float] | None = None) -> None:
        """Create the stage. ``fid`` measures the FID of reconstructions, to select the best checkpoint."""
        super().__init__(model)
        self.choose_by_fid(fid)
        self.opt, self.spec, self.normalisation, self.val_clips = opt, spec, normalisation, val_clips
        if opt.decoder_only:
            model.motion_encoder.requires_grad_(False)

    def train(self, mode: bool = True) -> "VQStage":
        """Set the mode. With --decoder_only, encoder and codebooks stay in eval mode."""
        super().train(mode)
        if self.opt.decoder_only:
            for part in (self.model.motion_encoder, *self.model.quantizers):
                part.eval()
        return self

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Return all parameters, frozen or not, so that --is_continue can switch to --decoder_only."""
        return [{"params": list(self.model.parameters()), "weight_decay": weight_decay}]

    def forward(self, batch: Tensor, generator: torch.Generator, batch_slice: BatchSlice) -> dict[str, Tensor]:
        """Compute the losses of normalised motion windows ``batch`` (b, t, d)."""
        if self.opt.time_warp or self.opt.add_turn:
            batch = self._augmented(batch, generator, batch_slice)
        result = self.model(batch, generator, batch_slice)
        with torch.autocast(batch.device.type, enabled=False):
            parts = tokenizer_loss(result, batch, self.spec.joints_num, self.opt.recons_loss, self.opt.loss_vel,
                                   self.opt.commit)
            losses = {"loss": parts.total, "rec": parts.reconstruction, "vel": parts.local_positions,
                      "commit": parts.commitment, "perplexity": result.perplexity}
            if self.opt.loss_joint > 0 or self.opt.loss_jerk > 0:
                error = self._joint_errors(result.motion, batch)
                losses["joint"], losses["jerk"] = _mean_length(error), _mean_length(error.diff(n=3, dim=1))
                losses["loss"] = (losses["loss"] + self.opt.loss_joint * losses["joint"]
                                  + self.opt.loss_jerk * losses["jerk"])
        return losses

    def _joint_errors(self, made: Tensor, true: Tensor) -> Tensor:
        """Compute the differences (b, t, J, 3), in decimetres, between the joints of reconstructed and true windows.

        Unlike feature losses, they include the accumulated errors of the root velocity.
        """
        joints = [features_to_joints(self.normalisation.invert(x), self.spec.skeleton) for x in (made, true)]
        return 10 * self.spec.metres * (joints[0] - joints[1])

    def _augmented(self, batch: Tensor, generator: torch.Generator, batch_slice: BatchSlice) -> Tensor:
        """Augment windows (b, t, d) with random speeds (``time_warp``) and turns (``add_turn``).

        Returns (b, window_size, d).
        """
        features = self.normalisation.invert(batch)
        if self.opt.time_warp:
            speed = 1 + self.opt.time_warp * (2 * batch_slice.rand(generator, len(batch)) - 1)
            features = time_warp(features, speed.to(batch.device), self.opt.window_size)
        if self.opt.add_turn:
            rate = radians(self.opt.add_turn) / self.spec.fps * (2 * batch_slice.rand(generator, len(batch)) - 1)
            features = add_turn(features, rate.to(batch.device))
        return self.normalisation.apply_tensor(features)

    def compiled_parts(self) -> list[nn.Module]:
        return [part for name, part in self.model.named_modules() if name.endswith(("encoder", "decoder"))]

    def averaged_buffers(self) -> list[Tensor]:
        """Return the codebooks and batch norm statistics, which must match the averaged weights."""
        names = ("codebook", "running_mean", "running_var")
        return [buffer for name, buffer in self.model.named_buffers() if name.endswith(names)]

    def validate(self) -> dict[str, float]:
        """Compute the position errors of whole clips, and FID if there is an evaluator."""
        scores = score_reconstruction(self.model, self.val_clips, self.normalisation, self.spec, divide=divide)
        return {"mpjpe_mm": scores["mpjpe"], "root_mm": scores["root"], "codebook_use": scores["codebook_use"],
                "loss": scores["feature_loss"], **self.measured_fid()}

    def start_from(self, state: dict[str, Tensor], path: Path) -> None:
        super().start_from(state, path)
        for quantizer in self.model.quantizers:
            quantizer.seed_running_state()

    def extra_state(self) -> dict[str, Any]:
        return {"quantizers": [quantizer.running_state() for quantizer in self.model.quantizers]}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        for quantizer, saved in zip(self.model.quantizers, state["quantizers"], strict=True):
            quantizer.load_running_state(saved)


def _mean_length(vectors: Tensor) -> Tensor:
    """Compute the mean length of ``vectors`` (..., 3), with a finite gradient at zero."""
    return vectors.square().sum(-1).add(1e-8).sqrt().mean()
