"""Training stage of the captioning model."""
import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.text_motion import TextMotion
from evaluation.caption_scores import ngram_scores, side_scores
from models.config import Writing
from models.m2t import MotionCaptioner
from storage.evaluation import STATE_KEY, learned_state, load_learned
from training.optimization import trainable
from training.runs import divide, is_main
from training.trainer import VALIDATION_BATCH, Stage
from utils.files import write_text
from utils.runtime import BatchSlice


class CaptionStage(Stage):
    """Training stage of the captioning model, validated with generated captions."""

    name = "m2t"
    state_key = STATE_KEY
    optimizer_key = "opt_trans"
    bests = {"net_best_cider": ("cider", "max"), "net_best_loss": ("loss", "min")}

    def __init__(self, model: MotionCaptioner, opt: argparse.Namespace, val_set: TextMotion) -> None:
        super().__init__(model)
        model.freeze_queries(opt.qformer_lr == 0)
        self.opt, self.val_set = opt, val_set

    def forward(self, batch: dict[str, Any], generator: torch.Generator, batch_slice: BatchSlice) -> dict[str, Tensor]:
        """Compute the loss and accuracy of a batch of captions and motions, weighted by the number of words."""
        result = self.model.loss(batch["motion"], batch["m_len"], batch["caption"], self.opt.pkeep, generator,
                                 batch_slice)
        return {"loss": result.loss, "acc": result.accuracy, "weight": result.words / len(batch["caption"])}

    def validate(self) -> dict[str, float]:
        """Compute loss and accuracy on the first captions of all clips. Also generate, score and save new captions."""
        made = divide(range(0, len(self.val_set), VALIDATION_BATCH), lambda starts: [
            self._validate(start) for start in starts])
        loss, accuracy = (sum(part[number] for part in made) / len(self.val_set) for number in (0, 1))
        captions = [caption for part in made for caption in part[2]]
        references = [pair.captions for pair in self.val_set.pairs]
        lines = [f"{pair.name}: {made}  |  {' | '.join(pair.captions)}\n"
                 for pair, made in zip(self.val_set.pairs, captions, strict=True)]
        if is_main():
            write_text(Path(self.opt.out_dir) / self.opt.name / "validation.txt", "".join(lines))
        return {"loss": loss, "acc": accuracy, **ngram_scores(captions, references),
                **side_scores(captions, references)}

    def _validate(self, start: int) -> tuple[float, float, list[str]]:
        """Compute the summed loss and accuracy of a batch of clips, and generate their captions."""
        batch = self.batch(self.val_set, start, VALIDATION_BATCH)
        result = self.model.loss(batch["motion"], batch["m_len"], batch["caption"])
        captions = self.model.write(batch["motion"], batch["m_len"], Writing(num_beams=1))
        count = len(captions)
        return float(result.loss) * count, float(result.accuracy) * count, [made[0] for made in captions]

    def state(self) -> dict[str, Tensor]:
        return learned_state(self.model)

    def load_state(self, state: dict[str, Tensor], path: Path) -> None:
        load_learned(self.model, state, path)

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Return the parameter groups: the decoder and, if it is trained, the Q-Former with its own learning rate."""
        queried = self.model.queried()
        own = {id(parameter) for parameter in queried}
        groups = [{"params": [p for p in trainable(self.model.parameters()) if id(p) not in own],
                   "weight_decay": weight_decay}]
        if self.opt.qformer_lr:
            groups.append({"params": queried, "weight_decay": weight_decay, "lr": self.opt.lr * self.opt.qformer_lr})
        return groups
