"""Residual layers in training and in the generation pipeline."""
import argparse
from pathlib import Path

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from data.dataset import dataset_spec
from data.text_motion import Pair, TextCrops, TextTokens
from evaluation.metrics import codes_of, reconstruct_clips
from models.text_to_motion import Sample, Sampling, TextToMotion
from storage.generation import load_text_to_motion, load_tokenizer
from training.stages.tokens import ResidualStage, TokenData, completes, tokenize_pairs

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
