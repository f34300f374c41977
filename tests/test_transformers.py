"""The masked and the residual transformer: masks, corruption, generation, and the residual stage."""
import argparse
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from data.dataset import dataset_spec
from data.text_motion import Pair, TextCrops, TextTokens
from evaluation.metrics import codes_of, reconstruct_clips
from models.config import ATTENTION_KINDS, MaskTransformerConfig, ResidualTransformerConfig, Sampling
from models.transformers.mask_transformer import MaskTransformer
from models.transformers.residual import ResidualTransformer
from models.transformers.trunk import draw_uniform, padding_of, sample_generators, sample_tokens
from storage.generation import load_tokenizer
from tests.toy_published import live
from training.stages.tokens import ResidualStage, TokenData, completes, tokenize_pairs

K, COND = 64, 6
SIZES = {"num_tokens": K, "code_dim": 8, "cond_dim": COND, "latent_dim": 16, "n_heads": 2, "n_layers": 2, "ff_size": 32}


def make(attention: str = "causal", **changes: float) -> MaskTransformer:
    torch.manual_seed(0)
    return live(MaskTransformer(MaskTransformerConfig(**{**SIZES, "attention": attention, **changes})).eval(), 1.0)


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def texts(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, COND, generator=stream(seed))


def tokens(count: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(K, (count, length), generator=stream(seed))


@torch.no_grad()
def test_causal_attention_hides_the_future_and_the_others_do_not() -> None:
    ids = tokens(2, 9)
    changed = ids.clone()
    changed[:, 5] = (changed[:, 5] + 1) % K
    for kind in ("causal", "additive", "full"):
        model = make(kind)
        moved = (model(ids, texts(2)) - model(changed, texts(2))).abs().amax((0, 2))
        assert (moved[5:] > 1e-4).all()
        assert (moved[:5] > 1e-4).all() if kind != "causal" else (moved[:5] == 0).all(), kind
        assert not torch.allclose(model(ids, texts(2)), model(ids, texts(2).flip(0)), atol=1e-2)


@torch.no_grad()
def test_padding_changes_nothing_unless_published() -> None:
    ids, lens = tokens(2, 12), torch.tensor([5, 5])
    for kind in ("causal", "full", "additive"):
        model = make(kind)
        alone = model(ids[:, :5], texts(2))
        padded = model(ids, texts(2), padding_of(lens, 12))[:, :5]
        same = torch.allclose(alone, padded, atol=1e-5)
        assert same == (kind != "additive"), kind


def test_text_is_dropped_for_whole_samples_in_training_only() -> None:
    model, cond = make(cond_drop_prob=0.3), texts(2000) + 10
    assert torch.equal(model.drop_condition(cond, stream()), cond)
    dropped = (model.train().drop_condition(cond, stream()) == 0)
    assert (dropped.all(1) == dropped.any(1)).all()
    assert dropped[:, 0].float().mean() == pytest.approx(0.3, abs=0.04)


def test_corruption_follows_the_recipe() -> None:
    model = make(num_tokens=512)
    ids, lens = torch.randint(512, (4000, 30), generator=stream()), torch.full((4000,), 30)
    batch = model.corrupt(ids, lens, stream(1))
    asked = batch.labels != model.mask_id
    assert torch.equal(batch.labels[asked], ids[asked])
    assert torch.equal(batch.ids[~asked], ids[~asked])
    masked = batch.ids[asked] == model.mask_id
    replaced = ~masked & (batch.ids[asked] != ids[asked])
    assert masked.float().mean() == pytest.approx(0.9 * 0.88, abs=0.01)
    assert replaced.float().mean() == pytest.approx(0.1, abs=0.01)
    counts = asked.sum(1)
    assert counts.min() == 1 and counts.max() == 30
    assert counts.float().mean() == pytest.approx(30 * 2 / math.pi, rel=0.03)
    assert asked.float().mean(0).std() < 0.02  # no favourite position


def test_loss_does_not_see_what_lies_behind_a_clip() -> None:
    model, ids, lens = make("full"), tokens(4, 10), torch.tensor([10, 3, 7, 1])
    other = torch.where(padding_of(lens, 10), tokens(4, 10, seed=5), ids)
    assert not torch.equal(ids, other)
    one, two = (model.loss(x, texts(4), lens, stream()) for x in (ids, other))
    assert one.loss == two.loss and one.accuracy == two.accuracy


@pytest.mark.parametrize("kind", ATTENTION_KINDS)
def test_gradients_without_text_are_finite_at_initialisation_and_train_every_parameter(kind: str) -> None:
    torch.manual_seed(0)
    model = MaskTransformer(MaskTransformerConfig(**SIZES | {"n_layers": 8}, attention=kind, cond_drop_prob=1.0))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    for step in range(2):
        optimizer.zero_grad()
        model.loss(tokens(6, 12, step), texts(6), torch.full((6,), 12), stream(step)).loss.backward()
        optimizer.step()
    largest = {name: float(parameter.grad.abs().max()) for name, parameter in model.named_parameters()}
    assert max(largest.values()) < 10, largest
    assert all(state["exp_avg_sq"].isfinite().all() for state in optimizer.state.values())
    assert all(parameter.any() for parameter in model.parameters())  # biases are no longer zero


LENS = [5, 12, 1, 9, 30, 7, 7, 22, 3, 16, 2, 11, 28, 4, 19, 6, 13]


@pytest.mark.parametrize(("kind", "group_rows"), [
    ("causal", None), ("causal", 4), ("full", None), ("full", 4), ("additive", 1), ("additive", 4)])
@pytest.mark.parametrize("gumbel", [True, False])
def test_same_prompt_same_tokens_whatever_the_batch(kind: str, gumbel: bool, group_rows: int | None) -> None:
    model, cond, seeds = make(kind), texts(len(LENS)), [1000 + k for k in range(len(LENS))]

    def run(rows: list[int]) -> list[Tensor]:
        lens = [LENS[row] for row in rows]
        ids = model.generate(cond[rows], lens, sample_generators([seeds[row] for row in rows]),
                             Sampling(time_steps=6, gumbel_sample=gumbel, group_rows=group_rows)).ids
        return [line[:length] for line, length in zip(ids, lens, strict=True)]

    together = run(list(range(len(LENS))))
    assert len({tuple(line[:1].tolist()) for line in together}) > 3
    for row in (0, 2, 4, 16):
        assert torch.equal(run([row])[0], together[row])
    backwards = run(list(reversed(range(len(LENS)))))
    assert all(torch.equal(a, b) for a, b in zip(together, reversed(backwards), strict=True))


def test_each_step_masks_the_least_certain_tokens_by_the_schedule_and_never_a_kept_one() -> None:
    model, lens, timesteps = make(), torch.tensor([24, 7, 1, 15]), 8
    result = model.generate(texts(4), lens.tolist(), sample_generators(range(4)),
                            Sampling(time_steps=timesteps, cond_scale=1))
    masked = result.steps == model.mask_id
    for step in range(timesteps):
        ratio = math.cos(math.pi / 2 * step / (timesteps - 1))
        assert masked[step].sum(1).tolist() == [max(1, round(ratio * length)) for length in lens.tolist()]
    assert not (masked[1:] & ~masked[:-1]).any()
    real = ~padding_of(lens, 24)
    kept = real & ~masked[-1]
    assert torch.equal(result.ids[kept], result.steps[-1][kept])
    assert (result.steps[:, ~real] == model.pad_id).all() and (result.ids[~real] == -1).all()
    assert ((result.ids >= 0) & (result.ids < K))[real].all()
    logits = model(result.steps[0][:1], texts(4)[:1]).float()  # (1, 24, K)
    drawn = sample_tokens(logits, 0.9, 1.0, True, noise(sample_generators([0]), [24], (1, 24, K)))
    certainty = logits.softmax(-1).gather(-1, drawn[..., None])[0, :, 0]
    assert certainty[masked[1, 0]].max() <= certainty[~masked[1, 0]].min()


def test_known_tokens_stay_and_shape_the_rest() -> None:
    model = make("full")
    known = torch.full((2, 10), -1)
    known[0, :4] = torch.tensor([3, 1, 4, 1])
    known[1] = tokens(1, 10)[0]
    result = model.generate(texts(2), [10, 8], sample_generators([0, 1]), known=known)
    assert result.ids[0, :4].tolist() == [3, 1, 4, 1] and (result.ids[0] >= 0).all()
    assert torch.equal(result.ids[1, :8], known[1, :8]) and (result.ids[1, 8:] == -1).all()
    free = (result.steps[:, 0] == model.mask_id).sum(1)
    assert free[0] == 6 and free[-1] == 1
    known[0, :4] = torch.tensor([7, 60, 23, 42])
    others = model.generate(texts(2), [10, 8], sample_generators([0, 1]), known=known).ids
    assert not torch.equal(others[0, 4:], result.ids[0, 4:])


def test_generation_refuses_what_cannot_work() -> None:
    model = make()
    for one in (model, make(attention="additive")):
        with pytest.raises(ValueError, match="at least one token, not 0"):
            one.generate(texts(2), [3, 0], sample_generators([0, 1]))
    with pytest.raises(ValueError, match="2 text features, 2 lengths and 1 generators"):
        model.generate(texts(2), [3, 3], sample_generators([0]))
    with pytest.raises(RuntimeError, match="eval mode"):
        model.train().generate(texts(1), [3], sample_generators([0]))


def noise(generators: list[torch.Generator], lengths: list[int], size: tuple[int, ...]) -> Tensor:
    return draw_uniform(generators, lengths, 1, size, torch.device("cpu"))[:, 0]


@pytest.mark.parametrize("gumbel", [True, False])
def test_draws_follow_the_softmax_at_the_temperature(gumbel: bool) -> None:
    logits, count = torch.tensor([0.0, 1.0, 2.0, -math.inf, 0.5]), 20000
    size = (1, count, 5) if gumbel else (1, count)
    drawn = sample_tokens(logits.expand(1, count, 5), 0.0, 0.7, gumbel, noise(sample_generators([0]), [count], size))
    share = torch.bincount(drawn[0], minlength=5) / count
    torch.testing.assert_close(share, (logits / 0.7).softmax(0), rtol=0, atol=0.015)
    assert share[3] == 0
    cold = sample_tokens(logits.expand(1, 50, 5), 0.0, 0.0, gumbel,
                         noise(sample_generators([0]), [50], (1, 50, *size[2:])))
    assert (cold == 2).all()


def test_training_begins_with_the_codes_as_embeddings_about_as_strong_as_positions() -> None:
    torch.manual_seed(0)
    model = MaskTransformer(MaskTransformerConfig(**{**SIZES, "code_dim": 64, "latent_dim": 64}))
    codebooks = 3 + 0.1 * torch.randn(2, K, 64)
    before = model.input_process.poseEmbedding(model.token_emb(torch.arange(K))).std()
    model.initialise_from(codebooks)
    table = model.token_emb.weight.detach()
    spread = (codebooks[0] - codebooks[0].mean(0)).std()
    torch.testing.assert_close(table[:K] - table[0], (codebooks[0] - codebooks[0, 0]) / spread, rtol=1e-3, atol=1e-3)
    shown = model.input_process.poseEmbedding(model.token_emb(torch.arange(K + 2)))
    assert before < 0.02 and 0.8 < shown[:K].std() < 1.25 and 0.5 < shown[K:].std() < 2
    weight = model.output_process.poseFinal.weight.detach()
    classes = torch.corrcoef(torch.stack([torch.pdist(table[:K]), torch.pdist(weight)]))[0, 1]
    assert classes > 0.5 and 0.03 < weight.std() < 0.07  # similar codes have similar class weights


Q = 5


def make_residual(**changes: float) -> ResidualTransformer:
    torch.manual_seed(0)
    return live(ResidualTransformer(ResidualTransformerConfig(**SIZES | {"num_quantizers": Q} | changes)).eval(), 1.0)


def layers_of_tokens(count: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(K, (count, length, Q), generator=stream(seed))


@torch.no_grad()
def test_a_layer_is_predicted_from_the_layers_below_the_text_and_real_tokens_alone() -> None:
    model, ids, lens, layers = make_residual(), layers_of_tokens(3, 8), torch.tensor([8, 3, 5]), torch.tensor([1, 2, 4])

    def loss(ids: Tensor, cond: Tensor | None = None) -> float:
        return float(model.loss(ids, texts(3) if cond is None else cond, lens, stream(), layers).loss)

    true, above, below, wanted = loss(ids), ids.clone(), ids.clone(), ids.clone()
    assert loss(torch.where(padding_of(lens, 8)[..., None], layers_of_tokens(3, 8, seed=1), ids)) == true
    above[0, :, 2:], above[1, :, 3:] = 0, 0
    assert loss(above) == true
    below[2, 1, 3], wanted[0, 3, 1] = (ids[2, 1, 3] + 1) % K, (ids[0, 3, 1] + 1) % K
    others = [loss(below), loss(wanted), loss(ids, cond=texts(3).flip(0))]
    assert min(abs(other - true) for other in others) > 1e-3
    history = model.history_of(ids, layers)
    alone, padded = model(history[:, :5], layers, texts(3)), model(history, layers, texts(3), padding_of(lens, 8))
    torch.testing.assert_close(alone[2], padded[2, :5], rtol=0, atol=1e-5)
    assert not torch.allclose(alone, model(history[:, :5], layers.flip(0), texts(3)), atol=1e-2)


def test_training_draws_every_layer_and_low_ones_more_often() -> None:
    counts = torch.bincount(make_residual().draw_layers(4000, stream()), minlength=Q)
    assert len(counts) == Q and counts[0] == 0 and (counts[1:] > 0).all()
    assert counts[1] > counts[Q - 1]


@pytest.mark.parametrize("group_rows", [None, 4])
def test_same_sample_same_layers_whatever_the_batch(group_rows: int | None) -> None:
    model, cond, base, lens = make_residual(), texts(6), layers_of_tokens(6, 30)[..., 0], [5, 12, 1, 9, 30, 7]

    def run(rows: list[int]) -> Tensor:
        return model.generate(base[rows], cond[rows], [lens[row] for row in rows],
                              sample_generators([50 + row for row in rows]), Sampling(group_rows=group_rows))

    together = run(list(range(6)))
    for row in range(6):
        assert torch.equal(run([row])[0], together[row])


@torch.no_grad()
def test_padding_shapes_no_generated_layer() -> None:
    model, base, cond = make_residual(), layers_of_tokens(2, 9)[..., 0], texts(2)
    before = model.generate(base, cond, [9, 5], sample_generators([0, 1]), Sampling(group_rows=2))
    for table in (model.token_embed_weight_, model.embed_proj_shared_weight):
        table[:, model.pad_id] = 10 * torch.randn(8, generator=stream())
    assert torch.equal(model.generate(base, cond, [9, 5], sample_generators([0, 1]), Sampling(group_rows=2)), before)


@torch.no_grad()
def test_pad_class_is_drawn_in_published_mode_only() -> None:
    for published in (False, True):
        model = make_residual(share_weight=False, published=published)
        model.output_proj_bias[:, K] = 1e4
        ids = model.generate(layers_of_tokens(1, 6)[..., 0], texts(1), [6], sample_generators([0]))
        assert (ids[0, :, 1:] == -1).all() if published else (ids >= 0).all()


def test_seeds_repeat_and_differ_and_known_tokens_stay() -> None:
    model, base, cond = make_residual(), layers_of_tokens(1, 12)[..., 0].expand(3, -1), texts(1).expand(3, -1)
    ids = model.generate(base, cond, [12] * 3, sample_generators([1, 2, 1]))
    assert torch.equal(ids[0], ids[2]) and not torch.equal(ids[0], ids[1])
    known = torch.full((3, 12, Q), -1)
    known[:, 2:5] = layers_of_tokens(3, 3, seed=4)
    kept = model.generate(base, cond, [12] * 3, sample_generators([1, 2, 1]), known=known)
    assert torch.equal(kept[:, 2:5, 1:], known[:, 2:5, 1:])
    assert torch.equal(kept[..., 0], base)


class Knowing:
    def __init__(self, tokens: list[torch.Tensor]) -> None:
        self.tokens = tokens

    def generate(self, base: torch.Tensor, cond: torch.Tensor, lengths: list[int], streams: list[torch.Generator],
                 sampling: Sampling) -> torch.Tensor:
        assert sampling.group_rows > 1
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
