"""Generation on CUDA matches the CPU, also in lower precision and compiled."""
from pathlib import Path

import numpy as np
import pytest
import torch

from data.dataset import dataset_spec
from models.text_to_motion import Sample, TextToMotion, speed_up
from storage.generation import load_text_to_motion

SAMPLES = [Sample("a person walks forward", 1, 120), Sample("someone waves with the right hand", 2, 80)]
SAME_TOKENS = 0.95  # a different summation order may change a sample and all samples after it


def load(name: str, toy_models: Path, device: torch.device | str) -> TextToMotion:
    residual = "res" if name == "t2m" else None
    return load_text_to_motion(name, None, dataset_spec("t2m"), toy_models, device, res_name=residual)[0]


@pytest.mark.parametrize("name", ["t2m", "t2m_demo"])
def test_motions_are_those_of_the_cpu(name: str, toy_models: Path, device: torch.device) -> None:
    here, there = load(name, toy_models, "cpu"), load(name, toy_models, device)
    torch.testing.assert_close(there.condition([SAMPLES[0].text]).cpu(), here.condition([SAMPLES[0].text]),
                               rtol=1e-3, atol=1e-3)
    tokens, others = here.tokens(SAMPLES), there.tokens(SAMPLES)
    for one, other in zip(tokens, others, strict=True):
        assert one.shape == other.shape
        assert (one[:, 0] == other[:, 0].cpu()).float().mean() >= SAME_TOKENS
    motions, same = here.features_of(tokens), there.features_of([one.to(device) for one in tokens])
    for motion, other in zip(motions, same, strict=True):
        np.testing.assert_allclose(motion, other, atol=1e-3 * np.abs(motion).max())


@pytest.mark.parametrize(("precision", "compiled"), [("bf16", False), ("fp32", True), ("bf16", True)])
def test_fast_motions_are_finite(precision: str, compiled: bool, toy_models: Path, device: torch.device) -> None:
    pipeline = load("t2m", toy_models, device)
    speed_up(pipeline.networks, precision, compiled)
    motions = pipeline.features(SAMPLES)
    assert [len(motion) for motion in motions] == [120, 80]
    assert all(np.isfinite(motion).all() for motion in motions)


def test_recorded_graphs_give_the_same_tokens_again_and_for_other_texts(toy_models: Path, device: torch.device) -> None:
    plain, recorded = load("t2m", toy_models, device), load("t2m", toy_models, device)
    speed_up(recorded.networks, "fp32", compiled=True)
    others = [Sample(sample.text + " slowly", sample.seed + 1, sample.m_len) for sample in SAMPLES]
    for samples in (SAMPLES, others, SAMPLES):
        for one, other in zip(plain.tokens(samples), recorded.tokens(samples), strict=True):
            assert (one == other).float().mean() >= SAME_TOKENS
