"""A negative prompt replaces the empty text in guidance and changes nothing else."""
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data.dataset import dataset_spec
from models.text_to_motion import Sample, Sampling, TextToMotion
from storage.generation import load_text_to_motion

PLAIN = Sampling(time_steps=3, cond_scale=5000.0)  # text features of the toy model are small
AWAY = replace(PLAIN, negative_prompt="a person runs")


@pytest.fixture(scope="module")
def pipeline(toy_models: Path) -> TextToMotion:
    return load_text_to_motion("t2m", None, dataset_spec("t2m"), toy_models, res_name="res")[0]


@torch.no_grad()
def test_guidance_leads_from_the_negative_text_to_the_prompt(pipeline: TextToMotion) -> None:
    cond, away = pipeline.condition(["a person walks", "a person runs"]).split(1)
    ids, model = torch.full((1, 5), pipeline.transformer.mask_id), pipeline.transformer
    wanted, unwanted = model(ids, cond), model(ids, away)
    guided = model.guided_logits(ids, cond, None, 3.0, negative=away)
    torch.testing.assert_close(guided, unwanted + 3 * (wanted - unwanted), rtol=1e-4, atol=1e-5)

    model, layers, history = pipeline.residual, torch.tensor([1]), torch.randn(1, 5, 8)
    wanted, unwanted = (model.project(model(history, layers, text), layers) for text in (cond, away))
    guided = model.guided_logits(history, layers, cond, None, 3.0, negative=away)
    torch.testing.assert_close(guided, unwanted + 3 * (wanted - unwanted), rtol=1e-4, atol=1e-5)


def test_tokens_depend_on_it_only_where_there_is_guidance(pipeline: TextToMotion) -> None:
    samples = [Sample("a person walks", 1, 64), Sample("a person waves", 2, 80)]
    plain, away = pipeline.tokens(samples, PLAIN), pipeline.tokens(samples, AWAY)
    assert any(not torch.equal(a, b) for a, b in zip(plain, away, strict=True))
    unguided = {"cond_scale": 1.0, "res_cond_scale": 1.0}
    for a, b in zip(pipeline.tokens(samples, replace(PLAIN, **unguided)),
                    pipeline.tokens(samples, replace(AWAY, **unguided)), strict=True):
        assert torch.equal(a, b)
    torch.testing.assert_close(pipeline.tokens(samples[:1], AWAY)[0], away[0])
