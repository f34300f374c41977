"""Tokenizers: shapes, round trips and codebook learning."""
import pytest
import torch
from torch.nn import functional as F

from models.vq.model import RVQVAE, HumanVQVAE, ResidualBlock, VQConfig, build_tokenizer
from models.vq.quantizer import EmaQuantizer, ResidualQuantizer
from utils.runtime import BatchSlice

DIM = 11
TINY = {"dim_pose": DIM, "nb_code": 16, "code_dim": 8, "output_emb_width": 8, "width": 12, "depth": 2}


def tokenizer(layers: int, **settings: object) -> HumanVQVAE | RVQVAE:
    """Return a tokenizer in eval mode with codebooks at the scale of its latents."""
    torch.manual_seed(0)
    model = build_tokenizer(VQConfig(**TINY | {"num_quantizers": layers} | settings)).eval()
    for quantizer in model.quantizers:
        quantizer.codebook.normal_(std=0.2)
        quantizer.seed_running_state()
    return model


def motion(batch: int = 3, frames: int = 24) -> torch.Tensor:
    return torch.randn(batch, frames, DIM, generator=torch.Generator().manual_seed(1))


def seeded(codes: int, dim: int, **settings: object) -> EmaQuantizer:
    """Return a quantizer in training mode with a random, initialised codebook."""
    quantizer = EmaQuantizer(codes, dim, **settings).train()
    quantizer.codebook.copy_(torch.randn(codes, dim, generator=torch.Generator().manual_seed(2)))
    quantizer.seed_running_state()
    return quantizer


@pytest.mark.parametrize(("norm", "eps"), [("LN", 1e-5), ("GN", 1e-6), ("BN", 1e-6)])
@pytest.mark.parametrize("activation", ["relu", "silu", "gelu"])
def test_a_block_is_its_formula(norm: str, eps: float, activation: str) -> None:
    block = ResidualBlock(VQConfig(width=32, vq_act=activation, vq_norm=norm, vq_dropout=0.5), 3).eval()
    assert block.norm1.eps == eps
    x = torch.randn(2, 32, 10)
    act = {"relu": F.relu, "silu": lambda h: h * h.sigmoid(), "gelu": lambda h: h * 0.5 * (1 + (h / 2**0.5).erf())}
    h = block.conv2(act[activation](block.norm2(block.conv1(act[activation](block.norm1(x))))))
    torch.testing.assert_close(block(x), x + h)


@pytest.mark.parametrize("layers", [1, 3])
def test_codes_decode_to_the_reconstruction_and_minus_one_adds_nothing(layers: int) -> None:
    model = tokenizer(layers)
    result, ids = model(motion()), model.encode(motion())
    assert result.motion.shape == motion().shape and result.codes.shape == (3, 6, layers)
    assert ids.shape == ((3, 6) if layers == 1 else (3, 6, layers)) and len(ids.unique()) > 4
    torch.testing.assert_close(ids.view(result.codes.shape), result.codes)
    for codes in (ids, result.codes):
        torch.testing.assert_close(model.forward_decoder(codes), result.motion)
    if layers > 1:
        without = torch.cat([ids[..., :2], -torch.ones_like(ids[..., 2:])], -1)
        torch.testing.assert_close(model.forward_decoder(without), model.forward_decoder(ids[..., :2]))


@pytest.mark.parametrize(("layers", "norm"), [(1, None), (3, "LN"), (2, "BN")])
def test_clips_of_different_lengths_decode_together_as_they_do_alone(layers: int, norm: str | None) -> None:
    model = tokenizer(layers, vq_norm=norm)
    for part in model.modules():  # norms and convolutions that map zero to non-zero values
        if getattr(part, "bias", None) is not None:
            torch.nn.init.normal_(part.bias)
    assert model.codebooks.shape == (layers, 16, 8)
    ids, lengths = model.encode(motion()), [6, 2, 5]
    together = model.forward_decoder(ids, torch.tensor(lengths))
    for row, length in enumerate(lengths):
        alone = model.forward_decoder(ids[row:row + 1, :length])[0]
        torch.testing.assert_close(together[row, :4 * length], alone, rtol=0, atol=1e-5)
    assert not torch.allclose(model.forward_decoder(ids)[1, :8], together[1, :8], atol=1e-3)


def test_quantizer_dropout_skips_the_last_layers_in_training_alone() -> None:
    torch.manual_seed(0)
    quantizer = ResidualQuantizer(3, 8, 4, dropout_prob=1.0)
    latent = torch.randn(2, 4, 20)
    layers_run = set()
    for _ in range(30):
        codes = quantizer.train()(latent).codes
        run = int((codes[0, 0] >= 0).sum())
        assert (codes[..., :run] >= 0).all()
        assert (codes[..., run:] == -1).all()
        layers_run.add(run)
    assert layers_run == {1, 2, 3}
    assert (quantizer.eval()(latent).codes >= 0).all()


def test_noise_draws_codes_by_their_distance() -> None:
    torch.manual_seed(0)
    quantizer = seeded(3, 2)
    quantizer.codebook.copy_(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.5]]))
    row = torch.tensor([[0.3, 0.2]])
    ids = quantizer.sample(row.expand(200_000, 2), 0.5, torch.rand(200_000))
    share = torch.bincount(ids, minlength=3) / len(ids)
    expected = torch.softmax(-(row - quantizer.codebook).square().sum(1) / 0.5, 0)
    torch.testing.assert_close(share, expected, atol=0.005, rtol=0)
    assert set(quantizer.nearest(row.expand(100, 2)).tolist()) == {0}


def test_dead_codes_become_distinct_rows_and_their_sums_restart() -> None:
    torch.manual_seed(0)
    quantizer = seeded(8, 2)
    quantizer.codebook[1:] += 100  # only code 0 is near anything
    quantizer.code_count.fill_(0.5)
    rows = torch.randn(50, 2)
    quantizer(rows.T[None])
    fresh = quantizer.codebook[1:]
    matches = (fresh[:, None] == rows[None]).all(-1)  # (codes, rows)
    assert matches.any(1).all()
    assert len(fresh.unique(dim=0)) == len(fresh)
    assert not torch.equal(fresh, rows[1:8])
    torch.testing.assert_close(quantizer.code_sum[1:], fresh)
    torch.testing.assert_close(quantizer.code_count[1:], torch.ones(7))


def zipf_batches(steps: int) -> list[torch.Tensor]:
    """Yield latents (8, 4, 80) around 256 centres, of which the k-th is used 1/k as often as the first."""
    draws = torch.Generator().manual_seed(6)
    centres = torch.randn(256, 4, generator=draws)
    shares = 1 / torch.arange(1, 257, dtype=torch.float)
    kinds = [torch.multinomial(shares, 8 * 80, True, generator=draws) for _ in range(steps)]
    return [(centres[kind] + 0.05 * torch.randn(640, 4, generator=draws)).view(8, 80, 4).transpose(1, 2)
            for kind in kinds]


@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("parts", [2, 4])
def test_a_batch_in_parts_updates_codebooks_as_the_whole_does(parts: int, published: bool) -> None:
    codebooks = []
    for pieces in (1, parts):
        torch.manual_seed(0)
        model = ResidualQuantizer(3, 64, 4, dropout_prob=0.3, published=published).train()
        for layer in model.layers:
            layer.codebook.normal_()
            layer.seed_running_state()
        for step, batch in enumerate(zipf_batches(4)):
            for number, part in enumerate(batch.chunk(pieces)):
                batch_slice = BatchSlice(number * len(part), len(batch), last=number == pieces - 1)
                model(part, generator=torch.Generator().manual_seed(step), batch_slice=batch_slice)
        codebooks.append(torch.stack([layer.codebook for layer in model.layers]))
    torch.testing.assert_close(*codebooks, rtol=0, atol=1e-4)


def test_gradients_of_the_latent_and_the_commitment_reach_the_encoder() -> None:
    quantizer = seeded(8, 4).eval()
    latent = torch.randn(2, 4, 10, requires_grad=True)
    slope = torch.randn(2, 4, 10)
    (quantizer(latent).latent * slope).sum().backward()
    torch.testing.assert_close(latent.grad, slope)
    latent.grad = None
    result = quantizer(latent)
    result.commitment.backward()
    torch.testing.assert_close(latent.grad, 2 * (latent - result.latent).detach() / latent.numel())


def test_quantizing_is_exact_inside_mixed_precision() -> None:
    quantizer, latent = seeded(1000, 2).eval(), torch.randn(2, 2, 40)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = quantizer(latent)
    assert mixed.latent.dtype == torch.float32
    assert torch.equal(mixed.codes, quantizer(latent).codes)
