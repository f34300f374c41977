"""The residual transformer, its training stage, and its layers in generation."""
import argparse
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from data.dataset import dataset_spec
from data.text_motion import Pair, TextCrops, TextTokens
from evaluation.metrics import codes_of, reconstruct_clips
from models.config import ResidualTransformerConfig
from models.text_to_motion import Sample, Sampling, TextToMotion
from models.transformers.residual import ResidualTransformer
from models.transformers.trunk import padding_of, sample_generators
from storage.generation import load_text_to_motion, load_tokenizer
from tests.test_mask_transformer import liven, stream, texts
from training.stages.tokens import ResidualStage, TokenData, completes, tokenize_pairs

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


SAMPLES = [Sample("a person walks", 5, 40), Sample("a person bows", 6, 23), Sample("a person walks", 7, 96)]
FIRM = Sampling(time_steps=3, topkr=0.5)


def pipeline(toy_models: Path, res_name: str | None) -> TextToMotion:
    made, files = load_text_to_motion("t2m", None, dataset_spec("t2m"), toy_models, res_name=res_name)
    assert any("/res/" in str(file) for file in files) == (res_name == "res")
    return made


def test_the_base_layer_is_the_same_with_and_without_the_layers_above(toy_models: Path) -> None:
    both, alone = pipeline(toy_models, "res"), pipeline(toy_models, "none")
    assert (both.layers, alone.layers) == (2, 1)
    for ids, base in zip(both.tokens(SAMPLES, FIRM), alone.tokens(SAMPLES, FIRM), strict=True):
        assert ids.shape == (len(base), 2)
        assert torch.equal(ids[:, 0], base)
        assert int(ids.min()) >= 0
    assert not np.array_equal(both.generate(SAMPLES, FIRM)[0], alone.generate(SAMPLES, FIRM)[0])


class Knowing:
    """Residual model that returns given tokens and records its arguments."""

    def __init__(self, tokens: list[torch.Tensor]) -> None:
        self.tokens = tokens

    def generate(self, base: torch.Tensor, cond: torch.Tensor, lengths: list[int], streams: list[torch.Generator],
                 group_rows: int, **_: float) -> torch.Tensor:
        assert group_rows > 1
        self.base, self.cond, self.draws = base, cond, [torch.rand(1, generator=one).item() for one in streams]
        return pad_sequence([tokens[:length] for tokens, length in zip(self.tokens, lengths, strict=True)], True, -1)


def test_a_crop_that_is_encoded_alone_has_the_tokens_of_the_padded_crop(toy_models: Path) -> None:
    tokenizer = load_tokenizer("vq", dataset_spec("t2m"), toy_models)
    clip = np.random.default_rng(0).normal(size=(96, 263)).astype(np.float32)
    pairs, device = [Pair("0", clip, ("a caption",))], torch.device("cpu")
    crops = TextCrops(pairs, tokenizer.normalisation, training=True, seed=1)
    whole = TextTokens(pairs, tokenize_pairs(tokenizer, pairs, device), training=True, seed=1)
    epoch = next(epoch for epoch in range(99) if (crops.set_epoch(epoch), crops.crop(0).length < 96)[1])
    whole.set_epoch(epoch)
    crop, item = crops.crop(0), crops[0]
    stage = ResidualStage(torch.nn.Linear(1, 1), argparse.Namespace(cond_noise=0), {}, whole, tokenizer=tokenizer)
    tokens = stage._encoded(item["motion"][None])[0]
    alone = np.zeros((1, 196, 263), np.float32)
    alone[0, :crop.length] = tokenizer.normalisation.apply(clip[crop.start:crop.start + crop.length])
    assert torch.equal(tokens, codes_of(tokenizer.model, torch.from_numpy(alone))[0])
    assert item["token_len"] == whole[0]["token_len"] == crop.length // 4
    assert not torch.equal(tokens[:item["token_len"]], whole[0]["tokens"][:item["token_len"]])


def test_in_training_the_layers_above_are_judged_on_top_of_the_true_base_layer(toy_models: Path) -> None:
    tokenizer = load_tokenizer("vq", dataset_spec("t2m"), toy_models)
    clips = [np.random.default_rng(rows).normal(size=(rows, 263)).astype(np.float32) for rows in (40, 96, 42)]
    pairs = [Pair(str(row), clip, (f"caption {2 - row}",)) for row, clip in enumerate(clips)]
    val_set = TextTokens(pairs, tokenize_pairs(tokenizer, pairs, torch.device("cpu")), training=False)
    features, rows = torch.arange(3.0)[:, None], [2, 1]
    model = Knowing([val_set[row]["tokens"] for row in rows])
    opt = argparse.Namespace(seed=4)
    make = completes(TokenData(dataset_spec("t2m"), tokenizer, val_set, val_set, {"val": features}), opt)
    expected = reconstruct_clips(tokenizer.model, [clips[row] for row in rows], tokenizer.normalisation)
    for motion, clip in zip(make(model, rows), expected, strict=True):
        np.testing.assert_allclose(motion, clip, atol=1e-5)
    assert torch.equal(model.base, torch.stack([val_set[row]["tokens"][:, 0] for row in rows]))
    assert model.cond.flatten().tolist() == [0, 1]  # captions are numbered by their order
    first = model.draws
    make(model, rows)
    assert model.draws == first and len(set(first)) == 2
