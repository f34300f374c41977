"""LaMP as a second evaluator of generated motions (LaMP, Li et al. 2024, table 2)."""
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from data.specs import DatasetSpec
from evaluation.language import motion_vectors, text_vectors
from storage.load import LoadedLaMP, load_lamp
from storage.load_evaluator import LoadedEvaluator, find_evaluator
from utils.errors import InputError

PREFIX = "lamp:"
NOTE = "lamp_R1, lamp_mm_dist: the same metrics with LaMP's normalised features"


@dataclass(frozen=True)
class LampSpace:
    """Embedding space of a LaMP model's normalised features, where Euclidean distance and cosine rank alike."""

    lamp: LoadedLaMP

    def texts(self, captions: Sequence[str]) -> np.ndarray:
        """Embeddings (n, e) of cleaned captions."""
        return text_vectors(captions, self.lamp.text_features).cpu().numpy()

    def motions(self, motions: Sequence[np.ndarray]) -> np.ndarray:
        """Embeddings (n, e) of motions (T, d), not normalised."""
        if not motions:
            return np.zeros((0, self.lamp.model.config.embed_dim), np.float32)
        clips = [self.lamp.normalisation.apply(motion) for motion in motions]
        return motion_vectors(clips, self.lamp.motion_features, quiet=True)


def find_evaluators(names: str | None, spec: DatasetSpec, checkpoints_dir: str | Path,
                    device: torch.device | str = "cpu") -> tuple[LoadedEvaluator | None, LampSpace | None]:
    """Load the evaluators of ``NAME``, ``lamp:NAME`` or ``NAME,lamp:NAME``: the evaluator, and a LaMP model if named.

    ``lamp:NAME`` alone leaves the evaluator at its default (``find_evaluator``). Raises ``InputError`` for more names.
    """
    parts = names.split(",") if names is not None else []
    lamps = [part for part in parts if part.startswith(PREFIX)]
    others = [part for part in parts if not part.startswith(PREFIX)]
    if len(lamps) > 1 or len(others) > 1 or PREFIX in lamps or "" in others:
        raise InputError(f"--evaluator {names}: expected NAME, {PREFIX}NAME, or NAME,{PREFIX}NAME")
    judge = find_evaluator(others[0] if others else None, spec, checkpoints_dir, device)
    return judge, LampSpace(load_lamp(lamps[0].removeprefix(PREFIX), spec, checkpoints_dir, device)) if lamps else None
