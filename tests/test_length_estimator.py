"""The length estimator: parameter names, sizes, and the choice of a length."""
import pytest
import torch
from torch import Tensor

from models.text_to_motion import LengthEstimator
from models.transformers.trunk import sample_generators
from storage.released import length_estimator


def make(output_size: int = 12) -> LengthEstimator:
    torch.manual_seed(0)
    return LengthEstimator(8, output_size, (16, 8)).eval()


@torch.no_grad()
def with_logits(*logits: float) -> LengthEstimator:
    """An estimator with the same output for every text."""
    model = make(len(logits))
    model.output[-1].weight.zero_()
    model.output[-1].bias.copy_(torch.tensor(logits))
    return model


def texts(count: int) -> Tensor:
    return torch.randn(count, 8, generator=torch.Generator().manual_seed(0))


def test_published_sizes_have_the_published_names() -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in LengthEstimator().state_dict().items()}
    weights = {int(name.split(".")[1]): shape for name, shape in shapes.items() if name.endswith("weight")}
    assert weights == {0: (512, 512), 1: (512,), 4: (256, 512), 5: (256,), 8: (128, 256), 9: (128,), 11: (50, 128)}
    assert set(shapes) == {f"output.{index}.{kind}" for index in weights for kind in ("weight", "bias")}


def test_network_is_rebuilt_from_a_state_dict_in_any_order() -> None:
    torch.manual_seed(0)
    model = LengthEstimator(24, 17).eval()
    state = dict(sorted(model.state_dict().items()))  # output.11 comes before output.4
    rebuilt = length_estimator(state).eval()
    rebuilt.load_state_dict(state)
    x = torch.randn(3, 24)
    assert torch.equal(rebuilt(x), model(x))
    with pytest.raises(ValueError, match="no layers"):
        length_estimator({"output.0.bias": torch.zeros(3), "output.x.weight": torch.zeros(3, 3)})


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


def test_expected_is_the_rounded_mean() -> None:
    model = with_logits(0.0, 0.0, -30.0, -30.0, -30.0, 0.0)  # half 1 token, half 5
    assert model.expected(texts(1)).tolist() == [3]


def test_it_learns_lengths() -> None:
    model, lengths = make().train(), torch.tensor([3, 9, 6, 1])
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    first = model.loss(texts(4), lengths).item()
    for _ in range(150):
        loss = model.loss(texts(4), lengths)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < first / 3
    assert model.eval().expected(texts(4)).tolist() == lengths.tolist()
