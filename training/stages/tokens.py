"""The stages of the two token transformers: masked (base layer) and residual (other layers)."""
import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn

from data.text_motion import TextTokens
from evaluation.reconstruction import codes_of
from models.transformers.mask_transformer import MaskTransformer
from models.transformers.residual import ResidualTransformer
from models.transformers.trunk import FIXED_TABLE, TokenLoss
from storage.checkpoint import load_strictly
from storage.load_lamp import LoadedTokenizer
from training import distributed
from training.trainer import Stage
from utils.seeding import WHOLE, BatchSlice, stream_seed

UNIT = 12**0.5  # width of a uniform distribution with unit variance
VALIDATION_BATCH = 128
VALIDATION_DRAWS = 4  # random masks or layers per validation clip


class TokenStage(Stage):
    """Predict masked tokens from the visible ones and the caption's feature.

    Args:
        features: for "train" and "val" the text features (texts, c) by caption number.
        val_set: validation tokens.
        fid: FID of the model's motions, if it selects the best checkpoint.
        tokenizer: encodes training crops that come as motion instead of tokens.
    """

    def __init__(self, model: MaskTransformer | ResidualTransformer, opt: argparse.Namespace,
                 features: dict[str, Tensor], val_set: TextTokens,
                 fid: Callable[[nn.Module], float] | None = None, tokenizer: LoadedTokenizer | None = None) -> None:
        super().__init__(model)
        self.tokenizer = tokenizer  # not a module: neither trained nor saved
        self.choose_by_fid(fid)
        self.opt, self.val_set = opt, val_set
        self.spread = features["train"].std(0, correction=0) if opt.cond_noise else None
        self.features = dict(features)  # not buffers, which would be synchronised between processes

    def load_state(self, state: dict[str, Tensor], path: Path) -> None:
        """Load a state; bundled files lack the fixed position table."""
        load_strictly(self.model, state, path, optional=(FIXED_TABLE,))

    def forward(self, batch: dict[str, Any], generator: torch.Generator, batch_slice: BatchSlice) -> dict[str, Tensor]:
        """Loss and accuracy on tokens (b, 49, q), and the number of predicted positions per sample."""
        cond = self._conditions("train", batch["caption"])
        if self.opt.cond_noise:
            noise = UNIT * (batch_slice.rand(generator, *cond.shape) - 0.5).to(cond.device, non_blocking=True)
            self.spread = self.spread.to(cond.device)
            cond = cond + self.opt.cond_noise * self.spread * noise
        if "motion" in batch:
            batch = {**batch, "tokens": self._encoded(batch["motion"])}
        result = self._result(batch, cond, generator, batch_slice)
        return {"loss": result.loss, "acc": result.accuracy, "weight": result.count / len(batch["caption"])}

    def compiled_parts(self) -> list[nn.Module]:
        """The encoder layers."""
        return [self.model.seqTransEncoder]

    def layers_of(self, tokens: Tensor) -> Tensor:
        """The model's input layers of tokens (b, n, q)."""
        return tokens

    def _conditions(self, split: str, captions: Tensor) -> Tensor:
        """Features (b, c) of captions (b,) by index; the table moves to their device once."""
        self.features[split] = self.features[split].to(captions.device)
        return self.features[split][captions]

    @torch.no_grad()
    def _encoded(self, motion: Tensor) -> Tensor:
        """Tokens (b, 49, q) of crops (b, 196, d), in float32."""
        with torch.autocast(motion.device.type, enabled=False):
            return codes_of(self.tokenizer.model, motion).long()

    def _result(self, batch: dict[str, Any], cond: Tensor, generator: torch.Generator,
                batch_slice: BatchSlice = WHOLE) -> TokenLoss:
        tokens = self.layers_of(batch["tokens"])
        return self.model.loss(tokens, cond, batch["token_len"], generator, batch_slice=batch_slice)

    def validate(self) -> dict[str, float]:
        """Loss and accuracy over the validation clips with fixed random numbers, and FID if it is measured."""
        starts = range(0, len(self.val_set), VALIDATION_BATCH)
        passes = [(draw, start) for draw in range(VALIDATION_DRAWS) for start in starts]
        sums = np.sum(distributed.divide(passes, self._validate), 0)  # sums of loss, accuracy and clips
        return {"loss": float(sums[0] / sums[2]), "acc": float(sums[1] / sums[2])} | self.measured_fid()

    def _validate(self, passes: list[tuple[int, int]]) -> list[tuple[float, float, int]]:
        """Loss and accuracy, times the number of clips, and that number, for passes (mask seed, first clip)."""
        device, made = next(self.model.parameters()).device, []
        for draw, start in passes:
            items = [self.val_set[i] for i in range(start, min(start + VALIDATION_BATCH, len(self.val_set)))]
            batch = send_to_device(torch.utils.data.default_collate(items), device)
            generator = torch.Generator().manual_seed(stream_seed(self.opt.seed, draw, start))
            result = self._result(batch, self._conditions("val", batch["caption"]), generator)
            made.append((float(result.loss) * len(items), float(result.accuracy) * len(items), len(items)))
        return made


class MaskStage(TokenStage):
    """Masked prediction of the base layer."""

    name = "t2m"
    state_key = "t2m_transformer"
    optimizer_key = "opt_t2m_transformer"
    bests = {"net_best_loss": ("loss", "min"), "net_best_acc": ("acc", "max")}

    def layers_of(self, tokens: Tensor) -> Tensor:
        """The base layer (b, n)."""
        return tokens[..., 0]


class ResidualStage(TokenStage):
    """Prediction of each residual layer from the layers below."""

    name = "res"
    state_key = "res_transformer"
    optimizer_key = "opt_res_transformer"
    bests = {"net_best_loss": ("loss", "min")}
