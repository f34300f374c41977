"""The residual transformer: history embeddings, codebook tables, loss, generation."""
import pytest
import torch
from torch import Tensor

from models.config import ResidualTransformerConfig
from models.transformers.residual import ResidualTransformer
from models.transformers.trunk import padding_of, sample_generators
from tests.test_mask_transformer import liven, stream, texts

K, Q, COND = 64, 5, 6
SIZES = {"num_tokens": K, "code_dim": 8, "cond_dim": COND, "latent_dim": 16, "n_heads": 2, "n_layers": 2, "ff_size": 32,
         "num_quantizers": Q}


def make(**changes: float) -> ResidualTransformer:
    torch.manual_seed(0)
    model = ResidualTransformer(ResidualTransformerConfig(**{**SIZES, **changes})).eval()
    liven(model)
    return model


def tokens(count: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(K, (count, length, Q), generator=stream(seed))


@torch.no_grad()
def test_padding_changes_nothing_and_layer_and_text_do() -> None:
    model, ids, layers = make(), tokens(2, 9), torch.tensor([2, 3])
    history, cond = model.history_of(ids, layers), texts(2)
    alone = model(history[:, :5], layers, cond)
    padded = model(history, layers, cond, padding_of(torch.tensor([5, 5]), 9))[:, :5]
    torch.testing.assert_close(alone, padded, rtol=0, atol=1e-5)
    assert not torch.allclose(alone, model(history[:, :5], torch.tensor([1, 4]), cond), atol=1e-2)
    assert not torch.allclose(alone, model(history[:, :5], layers, cond.flip(0)), atol=1e-2)


def test_training_draws_every_layer_and_low_ones_more_often() -> None:
    counts = torch.bincount(make().draw_layers(4000, stream()), minlength=Q)
    assert len(counts) == Q and counts[0] == 0 and (counts[1:] > 0).all()
    assert counts[1] > counts[Q - 1]


def test_loss_is_of_the_layer_above_and_of_real_tokens_only() -> None:
    model, ids, lens, layers = make(), tokens(3, 8), torch.tensor([8, 3, 5]), torch.tensor([1, 2, 4])
    loss = model.loss(ids, texts(3), lens, stream(), layers)
    behind = torch.where(padding_of(lens, 8)[..., None], tokens(3, 8, seed=1), ids)
    assert model.loss(behind, texts(3), lens, stream(), layers).loss == loss.loss
    above = ids.clone()
    above[0, :, 2:], above[1, :, 3:] = 0, 0
    assert model.loss(above, texts(3), lens, stream(), layers).loss == loss.loss
    above[0, 3, 1] = (above[0, 3, 1] + 1) % K
    assert model.loss(above, texts(3), lens, stream(), layers).loss != loss.loss


LENS = [5, 12, 1, 9, 30, 7]


@pytest.mark.parametrize("group_rows", [None, 4])
def test_same_sample_same_layers_whatever_the_batch(group_rows: int | None) -> None:
    model, cond, base = make(), texts(6), tokens(6, 30)[..., 0]

    def run(rows: list[int]) -> Tensor:
        return model.generate(base[rows], cond[rows], [LENS[row] for row in rows],
                              sample_generators([50 + row for row in rows]), group_rows=group_rows)

    together = run(list(range(6)))
    for row in range(6):
        assert torch.equal(run([row])[0], together[row])


@torch.no_grad()
def test_pad_class_is_drawn_in_published_mode_only() -> None:
    for published in (False, True):
        model = make(share_weight=False, published=published)
        model.output_proj_bias[:, K] = 1e4
        ids = model.generate(tokens(1, 6)[..., 0], texts(1), [6], sample_generators([0]))
        assert (ids[0, :, 1:] == -1).all() if published else (ids >= 0).all()


def test_seeds_repeat_and_differ_and_known_tokens_stay() -> None:
    model, base, cond = make(), tokens(1, 12)[..., 0].expand(3, -1), texts(1).expand(3, -1)
    ids = model.generate(base, cond, [12] * 3, sample_generators([1, 2, 1]))
    assert torch.equal(ids[0], ids[2]) and not torch.equal(ids[0], ids[1])
    known = torch.full((3, 12, Q), -1)
    known[:, 2:5] = tokens(3, 3, seed=4)
    kept = model.generate(base, cond, [12] * 3, sample_generators([1, 2, 1]), known=known)
    assert torch.equal(kept[:, 2:5, 1:], known[:, 2:5, 1:])
    assert torch.equal(kept[..., 0], base)
