"""Rank several samples of a prompt by LaMP's text match, physical faults and constraint errors."""
from collections.abc import Sequence

import numpy as np
import torch

from models.lamp.features import LaMPText, text_inputs
from models.text_to_motion import TextToMotion
from motion.body import bone_length_drift, floor_penetration, foot_skating, roughness

FAULTS = ("skating", "penetration", "jerk", "bone drift")
FAULT_WEIGHT = 0.5      # weight of all faults together, relative to the text match
LEAST_SPREAD = 0.1      # share of a fault's mean: smaller differences between samples do not count
LEAST_MATCH = 0.02      # the same for the cosine


def lamp_scores(pipeline: TextToMotion, text: str, motions: Sequence[np.ndarray]) -> np.ndarray:
    """Cosine (n,) between a text and motions, unnormalised features (T, d); the mean over parts for long motions.

    Raises ``ValueError`` if the pipeline's text features are not from a LaMP model.
    """
    encoder = pipeline.text
    if not isinstance(encoder, LaMPText):
        raise ValueError("ranking samples needs LaMP, but this transformer has another text encoder")
    model = encoder.model
    words = model.text_features(*text_inputs(model, encoder.pieces, [pipeline.clean(text)], encoder.max_text_len))[0]
    longest = model.config.qformer.num_query_tokens * model.config.vq.unit_length
    scores = []
    for motion in motions:
        parts = np.array_split(pipeline.normalise(motion), -(-len(motion) // longest))
        found = [model.motion_query_features(torch.as_tensor(part, dtype=torch.float32, device=words.device)[None])[0]
                 for part in parts]
        scores.append(float(np.mean([float((queries @ words).max()) for queries in found])))
    return np.array(scores)


def physical_faults(joints: np.ndarray, pipeline: TextToMotion, fps: float) -> list[float]:
    """The measures of ``FAULTS`` for joints (T, J, 3) in metres."""
    return [foot_skating(joints, pipeline.skeleton, fps), floor_penetration(joints), roughness(joints),
            bone_length_drift(joints, pipeline.skeleton)]


def total_scores(match: np.ndarray, faults: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Scores (n,), higher is better, from text match (n,), faults (n, f) and constraint errors (n,) in metres.

    Each measure is standardised over the samples of one prompt, so that only differences between these samples count.
    """
    def standing(values: np.ndarray, least: np.ndarray | float) -> np.ndarray:
        return (values - values.mean(0)) / np.maximum(values.std(0), least)

    physical = standing(faults, LEAST_SPREAD * faults.mean(0) + 1e-9).mean(1)
    return standing(match, LEAST_MATCH) - FAULT_WEIGHT * physical - standing(errors, 0.02)
