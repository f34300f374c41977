"""The captioning stage."""
import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from data.text_motion import TextMotion
from evaluation.caption_scores import ngram_scores, side_scores
from models.m2t.captioner import MotionCaptioner, Writing
from training.load_m2t import STATE_KEY, learned_state, load_learned
from training.stage import Stage, to_device, trainable
from utils.files import write_text
from utils.seeding import stream_seed

VALIDATION_BATCH = 64


class CaptionStage(Stage):
    """Predict the words of captions behind their motions; validate by captions that are written word by word."""

    name = "m2t"
    state_key = STATE_KEY
    optimizer_key = "opt_trans"
    bests = {"net_best_cider": ("cider", "max"), "net_best_loss": ("loss", "min")}

    def __init__(self, model: MotionCaptioner, opt: argparse.Namespace, val_set: TextMotion) -> None:
        super().__init__(model)
        model.freeze_queries(opt.qformer_lr == 0)
        self.opt, self.val_set, self.step = opt, val_set, 0

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Loss and accuracy of captions and motions (b, 196, d) with lengths."""
        # A generator a step: what is drawn follows from the seed and the step alone, and resumes with it.
        generator = torch.Generator().manual_seed(stream_seed(self.opt.seed, self.step))
        self.step += 1
        result = self.model.loss(batch["motion"], batch["m_len"], batch["caption"], self.opt.pkeep, generator)
        return {"loss": result.loss, "acc": result.accuracy}

    def validate(self) -> dict[str, float]:
        """Loss and accuracy of the clips' first captions; scores of captions written greedily against all of a clip's,
        which go to a file, too."""
        device = next(self.model.parameters()).device
        sums, captions = {"loss": 0.0, "acc": 0.0}, []
        for start in range(0, len(self.val_set), VALIDATION_BATCH):
            items = [self.val_set[i] for i in range(start, min(start + VALIDATION_BATCH, len(self.val_set)))]
            batch = to_device(default_collate(items), device)
            result = self.model.loss(batch["motion"], batch["m_len"], batch["caption"])
            sums["loss"] += float(result.loss) * len(items)
            sums["acc"] += float(result.accuracy) * len(items)
            captions += [made[0] for made in self.model.write(batch["motion"], batch["m_len"], Writing(num_beams=1))]
        references = [pair.captions for pair in self.val_set.pairs]
        lines = [f"{pair.name}: {made}  |  {' | '.join(pair.captions)}\n"
                 for pair, made in zip(self.val_set.pairs, captions, strict=True)]
        write_text(Path(self.opt.out_dir) / self.opt.name / "validation.txt", "".join(lines))
        return {**{key: value / len(captions) for key, value in sums.items()},
                **ngram_scores(captions, references), **side_scores(captions, references)}

    def state(self) -> dict[str, Tensor]:
        """All that learns; the rest lies in the LaMP model, and in the pretrained language model."""
        return learned_state(self.model)

    def load_state(self, state: dict[str, Tensor], path: Path) -> None:
        """Take up what ``state`` gave."""
        load_learned(self.model, state, path)

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """The decoder at the run's rate, and LaMP's part, where it learns, at its share of it."""
        queried = self.model.queried()
        own = {id(parameter) for parameter in queried}
        groups = [{"params": [p for p in trainable(self.model.parameters()) if id(p) not in own],
                   "weight_decay": weight_decay}]
        if self.opt.qformer_lr:
            groups.append({"params": queried, "weight_decay": weight_decay, "lr": self.opt.lr * self.opt.qformer_lr})
        return groups

    def extra_state(self) -> dict[str, Any]:
        """How many steps drew words."""
        return {"step": self.step}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Go on with the draws of the next step."""
        self.step = state["step"]
