"""The published way of computing, the baseline of benchmarks, gives the same results as ours."""
import pytest
import torch

from benchmarks import published
from models.lamp.lamp import Negatives
from models.transformers.mask_transformer import MaskTransformer
from models.transformers.trunk import draw_uniform, sample_generators
from models.vq.model import RVQVAE, VQConfig
from tests import test_lamp, test_mask_transformer, test_residual_transformer


@pytest.mark.parametrize("kind", ["additive", "causal", "full"])
def test_base_tokens_are_those_of_ours(kind: str) -> None:
    model: MaskTransformer = test_mask_transformer.make(kind)
    cond, lengths, steps = test_mask_transformer.texts(3), [12, 5, 9], 6
    ours = model.generate(cond, lengths, sample_generators(range(3)), timesteps=steps).ids
    noise = draw_uniform(sample_generators(range(3)), lengths, steps, (3, 12, model.config.num_tokens),
                         torch.device("cpu"))
    rounds = iter(noise.unbind(1))
    assert torch.equal(published.base_tokens(model, cond, lengths, steps, draw=lambda _: next(rounds)), ours)


@pytest.mark.parametrize("released", [True, False])
def test_residual_tokens_are_those_of_ours(released: bool) -> None:
    model = test_residual_transformer.make(published=released)
    cond, lengths, base = test_residual_transformer.texts(3), [8, 3, 6], test_residual_transformer.tokens(3, 8)[..., 0]
    ours = model.generate(base, cond, lengths, sample_generators(range(3)), cond_scale=2.0)
    noise = draw_uniform(sample_generators(range(3)), lengths, model.config.num_quantizers - 1,
                         (3, 8, model.config.num_tokens + released), torch.device("cpu"))
    rounds = iter(noise.unbind(1))
    theirs = published.all_tokens(model, base, cond, lengths, draw=lambda _: next(rounds))
    padding = ours[..., 0] < 0
    assert torch.equal(theirs.masked_fill(padding[..., None], -1), ours)


def test_codes_of_a_motion_are_those_of_ours() -> None:
    torch.manual_seed(0)
    model = RVQVAE(VQConfig(dim_pose=7, nb_code=16, code_dim=8, output_emb_width=8, width=8, depth=1)).eval()
    for quantizer in model.quantizers:
        quantizer.codebook.normal_()
    motion = torch.randn(2, 16, 7)
    ids, vectors = published.encode(model, motion)
    assert torch.equal(ids, model.encode(motion))
    torch.testing.assert_close(vectors, model.quantizer.lookup(ids).transpose(2, 3))


def test_the_loss_of_lamp_and_its_gradients_are_those_of_ours() -> None:
    model, generator = test_lamp.build(published=True), torch.Generator().manual_seed(1)
    motion = torch.randn(4, test_lamp.FRAMES, test_lamp.WIDTH, generator=generator)
    mask = torch.arange(7) < torch.tensor([[7], [4], [5], [6]])
    ids = torch.randint(1, 40, (4, 7), generator=generator) * mask
    negatives = Negatives(torch.tensor([1, 0, 3, 2]), torch.tensor([2, 3, 1, 0]))
    found = []
    for loss in (model(motion, ids, mask, negatives=negatives).loss,
                 published.lamp_loss(model, motion, ids, mask, negatives)):
        model.zero_grad()
        loss.backward()
        found.append((loss.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(found[0], found[1], atol=1e-4, rtol=1e-4)


def test_codes_are_drawn_with_the_same_chances() -> None:
    torch.manual_seed(0)
    model = RVQVAE(VQConfig(dim_pose=7, nb_code=4, code_dim=2, output_emb_width=2, width=8, depth=1))
    quantizer = model.quantizers[0]
    quantizer.codebook.normal_(std=0.3)
    rows, uniform = torch.zeros(4000, 2), torch.rand(4000)
    ours = torch.bincount(quantizer.sample(rows, 0.5, uniform), minlength=4) / 4000
    published.draw_by_gumbel(model)
    theirs = torch.bincount(quantizer.sample(rows, 0.5, uniform), minlength=4) / 4000
    assert ours.min() > 0.05
    torch.testing.assert_close(theirs, ours, atol=0.04, rtol=0)
