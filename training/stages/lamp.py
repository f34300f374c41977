"""Training stage of LaMP."""
import argparse
import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.text import mirror_text
from data.text_motion import TextMotion
from evaluation.retrieval import steady_retrieval
from models.lamp.bert import WordPieces
from models.lamp.features import text_inputs
from models.lamp.lamp import OBJECTIVES, AlsoTrue, LaMP, MirroredNegatives
from models.lamp.objectives import contrastive_loss, distillation_loss, same_caption, similarity
from models.lamp.qformer import PAD_ID
from storage.checkpoint import load_strictly
from storage.generation import LAMP_OPTIONAL
from training.runs import divide
from training.trainer import VALIDATION_BATCH, Stage
from utils.runtime import BatchSlice

CONDITION_ROWS = 64  # samples per micro-batch for --keep_condition, which needs a pass of all queries
LEAST_VARIANCE = 0.01  # a few per cent of the variance over different texts
SIDES = 3  # classes per content of the language bank: left, right, no side


class LaMPStage(Stage):
    """Training stage of LaMP, validated by retrieval in both directions."""

    name = "lamp"
    state_key = "motion_qformer"
    optimizer_key = "opt_qformer"
    bests = {"net_best_acc": ("mean_R1", "max")}

    def __init__(self, model: LaMP, opt: argparse.Namespace, pieces: WordPieces, val_set: TextMotion,
                 start: LaMP | None = None) -> None:
        """Create the stage. ``start`` is the model whose text features --keep_condition preserves."""
        super().__init__(model)
        self.opt, self.pieces, self.val_set = opt, pieces, val_set
        self.find_unused = set(opt.objectives) != set(OBJECTIVES)
        # In lists, so that they are not submodules: the original models are neither trained nor saved.
        self.teacher = [copy.deepcopy(model.Qformer).eval().requires_grad_(False)] if opt.distill else []
        self.start = [] if start is None else [start]

    def forward(self, batch: dict[str, Any], generator: torch.Generator, batch_slice: BatchSlice) -> dict[str, Tensor]:
        """Compute the losses and accuracies of a batch of captions and motions."""
        motion, m_lens = batch["motion"], batch["m_len"]
        text = self.encode_text(batch["caption"])
        result = self.model(motion, *text, m_lens, objectives=self.opt.objectives,
                            matching_rows=self.opt.matching_rows or None, generator=generator,
                            mirrored=self.mirrored(batch["caption"], motion.device) if self.opt.side_decoys else None,
                            also_true=also_true(batch, batch_slice) if "text_class" in batch else None,
                            batch_slice=batch_slice)
        accuracies = {f"{name}_acc": value for name, value in result.accuracies.items()}
        extra = {}
        if self.opt.text_pairs:
            extra["text_pairs"] = self.text_pairs(batch, *text, result.text)
        if self.teacher:
            extra["distill"] = self.distillation(*text, result.text)
        if self.start:
            extra["keep_condition"] = self.condition_change(*(some[:CONDITION_ROWS] for some in text))
        loss = result.loss + sum(getattr(self.opt, name) * value for name, value in extra.items())
        return {"loss": loss, **result.losses, **extra, **accuracies}

    def text_pairs(self, batch: dict[str, Any], ids: Tensor, mask: Tensor, hidden: Tensor | None) -> Tensor:
        """Compute the contrastive loss between texts ``ids`` (b, t) and other texts of the same clips.

        Pairs of texts that may describe the same motion are not negatives. ``hidden`` is as in ``distillation``.
        """
        own = self.model.project_text(self.model.Qformer.text(ids, mask) if hidden is None else hidden)
        other_ids, other_mask = self.encode_text(batch["other"])
        other = self.model.project_text(self.model.Qformer.text(other_ids, other_mask))
        scores = self.model.scaled(similarity(own, other))
        width = max(ids.shape[1], other_ids.shape[1])
        excluded = same_caption(*(F.pad(some, (0, width - some.shape[1]), value=PAD_ID) for some in (ids, other_ids)))
        if "text_class" in batch:
            excluded = excluded | same_subject(batch)
        return (contrastive_loss(scores, excluded) + contrastive_loss(scores.T, excluded.T)) / 2

    def distillation(self, ids: Tensor, mask: Tensor, hidden: Tensor | None) -> Tensor:
        """Compute the ``distillation_loss`` of LaMP's text features, with the original BERT as teacher.

        ``hidden`` (b, t, h) are LaMP's hidden states of the texts ``ids`` (b, t). If it is None, they are computed.
        """
        teacher = self.teacher[0] = self.teacher[0].to(ids.device)
        features = self.model.project_text(self.model.Qformer.text(ids, mask) if hidden is None else hidden)
        with torch.no_grad():
            words = mask.unsqueeze(-1).float()
            original = (teacher.text(ids, mask).float() * words).sum(1) / words.sum(1)
        return distillation_loss(features, F.normalize(original, dim=-1))

    def condition_change(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Compute the mean squared change of the text condition since the start, relative to its variance.

        The variance is over the texts, and at least ``LEAST_VARIANCE``: they may all be equal.
        """
        start = self.start[0] = self.start[0].to(ids.device)
        original = start.condition(ids, mask, "both")
        variance = original.var(0, correction=0).mean().clamp(min=LEAST_VARIANCE)
        return F.mse_loss(self.model.make_condition(ids, mask, "both"), original) / variance

    def encode_text(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        """Encode captions to word pieces and their mask, both (b, t)."""
        return text_inputs(self.model, self.pieces, captions, self.opt.max_text_len)

    def mirrored(self, captions: list[str], device: torch.device) -> MirroredNegatives | None:
        """Swap left and right in the captions that name a side. Returns None if no caption names one."""
        others = [mirror_text(caption) for caption in captions]
        rows = [row for row, (one, other) in enumerate(zip(captions, others, strict=True)) if one != other]
        if not rows:
            return None
        ids, mask = self.encode_text([others[row] for row in rows])
        return MirroredNegatives(ids, mask, torch.tensor(rows).to(device, non_blocking=True))

    def compiled_parts(self) -> list[nn.Module]:
        return [*self.model.Qformer.bert.encoder.layer]

    def _features(self, start: int) -> tuple[Tensor, Tensor]:
        """Compute the retrieval features of a batch of validation clips, texts (n, e) and motions (n, e)."""
        batch = self.batch(self.val_set, start, VALIDATION_BATCH)
        motion = self.model.motion_features(batch["motion"], batch["m_len"])
        return self.model.text_features(*self.encode_text(batch["caption"])).cpu(), motion.cpu()

    def validate(self) -> dict[str, float]:
        """Compute the recall at 1, 3, 5 and 10 and the median rank in both directions, in fixed random batches of 32.

        ``mean_R1`` is the mean of both recalls at 1.
        """
        starts = range(0, len(self.val_set), VALIDATION_BATCH)
        texts, motions = map(torch.cat, zip(*divide(starts, lambda own: list(map(self._features, own))), strict=True))
        scores = steady_retrieval(similarity(texts, motions).numpy())
        shown = {key: value for key, value in scores.items() if not key.endswith("R2")}
        firsts = [value for key, value in scores.items() if key.endswith("R1")]
        return {**shown, "mean_R1": sum(firsts) / len(firsts)}

    def start_from(self, state: dict[str, Tensor], path: Path) -> None:
        """Initialise all weights from another model, except those of the tokenizer."""
        kept = ("vq_model.",) if self.model.config.published else ("vq_model.", "motion_encoder.")
        own = {key: tensor for key, tensor in self.model.state_dict().items() if key.startswith(kept)}
        load_strictly(self.model, state | own, path, optional=LAMP_OPTIONAL)

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        separate = None if self.opt.text_lr == 1 else self.opt.lr * self.opt.text_lr  # None keeps older runs resumable
        return self.model.parameter_groups(weight_decay, self.opt.lr, separate)


def also_true(batch: dict[str, Any], batch_slice: BatchSlice) -> AlsoTrue:
    """Find sentences of a batch that also describe other clips."""
    classes, contents = batch["text_class"], batch["contents"]
    return AlsoTrue(true_of(classes, batch_slice.gather(contents)), true_of(batch_slice.gather(classes), contents).T)


def true_of(classes: Tensor, contents: Tensor) -> Tensor:
    """Return a mask (n, m) that is True where sentence i describes clip j.

    ``classes`` (n,) are the classes of the sentences, -1 for captions, which describe no other clip. ``contents`` (m,
    c) is True for the classes of a clip.
    """
    return contents.T[classes.clamp_min(0)] & (classes >= 0)[:, None]


def same_subject(batch: dict[str, Any]) -> Tensor:
    """Return a mask (b, b) that is True where ``caption`` i and ``other`` j of a batch may describe the same motion.

    - Two sentences: they have the same class, or the same content and one of them names no side.
    - A sentence and a caption: the sentence describes the clip of the caption, or shares a content with that clip
      and one of the two texts names no side.
    - Two captions: their clips have the same, non-empty set of contents.
    """
    contents = batch["contents"]
    one, other = (_subjects(batch[key], contents) for key in ("text_class", "other_class"))
    captions = (batch["text_class"] < 0)[:, None] & (batch["other_class"] < 0)
    equal = (contents[:, None] == contents).all(-1)
    # Sentences that name no side describe both sides of their content, but have the class of one side.
    sided = [torch.tensor([text != mirror_text(text) for text in batch[key]]).to(contents.device)
             for key in ("caption", "other")]
    same_content = _overlap(*(some.unflatten(1, (-1, SIDES)).any(2) for some in (one, other)))
    sideless = ~(sided[0][:, None] & sided[1])
    return (_overlap(one, other) | same_content & sideless) & (equal | ~captions)


def _overlap(one: Tensor, other: Tensor) -> Tensor:
    """Return a mask (b, n), True where rows of ``one`` (b, c) and ``other`` (n, c) have a True column in common."""
    return one.float() @ other.float().T > 0


def _subjects(classes: Tensor, contents: Tensor) -> Tensor:
    """Return a mask (b, c) of the classes that each text describes: its own or, for a caption (-1), all of its clip."""
    own = F.one_hot(classes.clamp_min(0), contents.shape[1]).bool()
    return torch.where((classes < 0)[:, None], contents, own)
