"""The length estimator: parameter names, sizes, and the sampling of lengths."""
import pytest
import torch
from torch import Tensor

from models.text_to_motion import LengthEstimator
from models.transformers.trunk import sample_generators


@torch.no_grad()
def with_logits(*logits: float) -> LengthEstimator:
    """Return an estimator with the same output for every text."""
    model = LengthEstimator(8, len(logits), (16, 8)).eval()
    model.output[-1].weight.zero_()
    model.output[-1].bias.copy_(torch.tensor(logits))
    return model


def texts(count: int) -> Tensor:
    return torch.randn(count, 8, generator=torch.Generator().manual_seed(0))


def test_an_empty_motion_is_never_chosen() -> None:
    model = with_logits(50.0, 0.0, 1.0, 0.5)
    assert model.sample(texts(40), sample_generators(range(40))).min() >= 1
    assert model.expected(texts(2)).tolist() == [2, 2]


def test_samples_follow_the_distribution_and_their_seeds() -> None:
    logits = (3.0, 0.0, 1.0, -1.0)
    model, count = with_logits(*logits), 3000
    drawn = model.sample(texts(count), sample_generators(range(count)))
    share = torch.bincount(drawn, minlength=4)[1:] / count
    torch.testing.assert_close(share, torch.tensor(logits[1:]).softmax(0), rtol=0, atol=0.03)
    assert torch.equal(drawn[:50], model.sample(texts(50), sample_generators(range(50))))
    assert model.loss(texts(2), torch.tensor([0, 2])).item() == pytest.approx(
        -torch.tensor(logits).log_softmax(0)[[0, 2]].mean().item())
