"""LaMP: its objectives, their masks, and the differences of the published behaviour."""
import argparse
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models.lamp.features import EncodedMotion, LaMPConfig
from models.lamp.lamp import OBJECTIVES, LaMP, MirroredNegatives, Negatives, freeze_text
from models.lamp.objectives import contrastive_loss, distillation_loss, similarity
from models.lamp.qformer import QFormerConfig
from models.m2t import MotionPrefix, MotionPrefixConfig
from models.vq.model import VQConfig, build_tokenizer
from options.train import parse_lamp_options
from training.stages.lamp import LaMPStage
from utils.errors import InputError
from utils.seeding import BatchSlice, sample_columns

QUERIES, WIDTH, FRAMES = 6, 9, 24
CONFIG = LaMPConfig(
    QFormerConfig(hidden=16, layers=2, heads=2, intermediate=32, max_positions=24, vocab=41, encoder_width=12,
                  num_query_tokens=QUERIES),
    VQConfig(dim_pose=WIDTH, nb_code=8, code_dim=8, output_emb_width=8, width=8, depth=1, num_quantizers=2),
    embed_dim=10)
LENGTHS = torch.tensor([24, 12, 16, 8])


def build(published: bool = False, seed: int = 0) -> LaMP:
    torch.manual_seed(seed)
    tokenizer = build_tokenizer(CONFIG.vq)
    for quantizer in tokenizer.quantizers:
        quantizer.codebook.normal_()
    model = LaMP(replace(CONFIG, published=published), tokenizer)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and name != "temp":  # large weights, so that every term matters
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.fixture
def model() -> LaMP:
    return build()


@pytest.fixture
def batch() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Motion, ids, mask, m_lens of four pairs with padding."""
    generator = torch.Generator().manual_seed(1)
    motion = torch.randn(4, FRAMES, WIDTH, generator=generator)
    motion = motion * (torch.arange(FRAMES) < LENGTHS[:, None])[..., None]
    mask = torch.arange(7) < torch.tensor([[7], [4], [5], [6]])
    ids = torch.randint(1, 40, (4, 7), generator=generator) * mask
    return motion, ids, mask, LENGTHS


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=2e-5, rtol=1e-4)


def test_loss_is_the_weighted_sum_of_the_objectives_asked_for(model, batch):
    every = model(*batch, generator=seeded())
    assert tuple(every.losses) == tuple(every.accuracies) == OBJECTIVES
    close(every.loss, sum(every.losses.values()))
    some = model(*batch, objectives={"gen": 0.5, "ptc": 2.0})
    assert set(some.losses) == {"gen", "ptc"}
    close(some.loss, 0.5 * every.losses["gen"] + 2 * every.losses["ptc"])
    assert all(0 <= share <= 1 for share in every.accuracies.values())


@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_each_objective_stands_alone(objective, published, batch):
    model = build(published).train()
    result = model(*batch, objectives=[objective], generator=seeded())
    result.loss.backward()
    assert result.loss.isfinite()
    assert model.query_tokens.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in model.vq_model.parameters())


def test_a_mirrored_caption_is_one_more_wrong_text_of_its_motion_alone(model, batch):
    motion, ids, mask, m_lens = batch
    mirrored = MirroredNegatives(ids[[1, 3]].flip(1), torch.ones(2, 7, dtype=torch.bool), torch.tensor([1, 3]))
    plain = model(*batch, objectives=["ptc"]).loss
    mirrored_loss = model(*batch, objectives=["ptc"], mirrored=mirrored).loss

    text = model.text_features(ids, mask)
    motions = model.motion_query_features(motion, m_lens)
    scores = model.scaled(similarity(text, motions)).T  # (motions, texts)
    wrong = model.scaled(similarity(model.text_features(mirrored.ids, mirrored.mask), motions))
    rows = torch.full((4, 1), float("-inf"))
    rows[1], rows[3] = wrong[0, 1], wrong[1, 3]
    shares = torch.cat([scores, rows], 1).log_softmax(1)
    count = torch.tensor([4, 5, 4, 5])
    per_row = 0.9 * shares.diagonal() + 0.1 * shares.masked_fill(shares.isinf(), 0).sum(1) / count
    close(mirrored_loss, (contrastive_loss(scores.T) - per_row.mean()) / 2)
    assert mirrored_loss > plain


def test_unknown_objectives_are_refused(model, batch):
    for wrong in ([], ["ptc", "itc"]):
        with pytest.raises(ValueError, match="objectives"):
            model(*batch, objectives=wrong)


def test_motion_may_come_encoded(model, batch):
    motion, ids, mask, m_lens = batch
    encoded = model.encode_motion(motion, m_lens)
    close(model(encoded, ids, mask, generator=seeded()).loss, model(*batch, generator=seeded()).loss)


@torch.no_grad()
def test_padding_of_texts_and_motions_changes_no_loss(model, batch):
    motion, ids, mask, m_lens = batch
    cut = motion[1:, :16], ids[1:, :6], mask[1:, :6], m_lens[1:]
    shorter = model(*cut, generator=seeded())
    longer = model(motion[1:], ids[1:], mask[1:], m_lens[1:], generator=seeded())
    for name in OBJECTIVES:
        close(shorter.losses[name], longer.losses[name])


@torch.no_grad()
def test_tokens_of_padding_are_neither_seen_nor_predicted(model, batch):
    motion, ids, mask, m_lens = batch
    encoded = model.encode_motion(motion, m_lens)
    hidden = ~encoded.mask
    other = replace(encoded, latents=encoded.latents + 5 * hidden[..., None],
                    ids=torch.where(hidden, (encoded.ids + 1) % 8, encoded.ids))
    close(model(other, ids, mask, generator=seeded()).loss, model(encoded, ids, mask, generator=seeded()).loss)
    published = build(published=True)
    first, second = (published(replace(given, mask=None), ids, mask, generator=seeded()).losses["gen"]
                     for given in (other, encoded))
    assert not torch.allclose(first, second)


def test_tokens_are_those_of_the_tokenizer(model, batch):
    motion = batch[0]
    for built in (model, build(published=True)):
        assert torch.equal(built.encode_motion(motion).ids, built.vq_model.encode(motion)[..., 0])


def test_features_do_not_depend_on_the_rest_of_the_batch(model, batch):
    motion, ids, mask, m_lens = batch
    texts, motions = model.text_features(ids, mask), model.motion_features(motion, m_lens)
    conditions = model.condition(ids, mask, "both")
    for row in range(4):
        words, frames = slice(0, int(mask[row].sum())), slice(0, int(m_lens[row]))
        own = slice(row, row + 1)
        close(model.text_features(ids[own, words], mask[own, words]), texts[own])
        close(model.motion_features(motion[own, frames]), motions[own])
        close(model.condition(ids[own, words], mask[own, words], "both"), conditions[own])


@torch.no_grad()
def test_similarity_of_features_is_what_training_compares(model, batch):
    motion, ids, mask, m_lens = batch
    scores = similarity(model.text_features(ids, mask), model.motion_query_features(motion, m_lens))
    scaled = scores * model.temp.exp()
    expected = (contrastive_loss(scaled) + contrastive_loss(scaled.T)) / 2
    close(model(*batch, objectives=["ptc"]).loss, expected)
    pairs = torch.einsum("te,mqe->tmq", model.text_features(ids, mask), model.motion_query_features(motion, m_lens))
    close(scores, pairs.amax(-1))
    norms = model.motion_features(motion, m_lens).norm(dim=-1)
    close(norms, torch.ones(4))


def test_published_retrieval_vectors_have_any_length(model, batch):
    motion, ids, mask, m_lens = batch
    close(F.normalize(model.text_embedding(ids, mask), dim=-1), model.text_features(ids, mask))
    assert not torch.allclose(model.text_embedding(ids, mask).norm(dim=-1), torch.ones(4))
    assert model.motion_embedding(motion, m_lens).shape == (4, 10)


def draws(model: LaMP, ids: Tensor, scores: Tensor, times: int = 200) -> tuple[Tensor, Tensor]:
    uniform = torch.rand(2, times, len(ids), generator=seeded())
    return tuple(torch.stack([sample_columns(model.negative_probabilities(way, ids), row) for row in numbers])
                 for way, numbers in zip((scores, scores.T), uniform, strict=True))


def test_true_pair_is_never_a_hard_negative(model, batch):
    scores = 20 * torch.eye(4)  # so similar that they would always be sampled
    own = torch.arange(4)
    for drawn in draws(model, batch[1], scores):
        assert not (drawn == own).any()
    for drawn in draws(build(published=True), batch[1], scores):
        assert (drawn == own).any()


def test_motion_with_the_same_caption_is_no_negative(model, batch):
    ids = batch[1].clone()
    ids[2] = ids[0]
    for drawn in draws(model, ids, torch.zeros(4, 4)):
        assert not (drawn[:, 0] == 2).any()
        assert not (drawn[:, 2] == 0).any()
    for drawn in draws(model, ids[:1].expand(3, -1), torch.zeros(3, 3)):  # nothing else to choose
        assert not (drawn == torch.arange(3)).any()


def test_alike_pairs_are_drawn_more_often(model, batch):
    scores = torch.zeros(4, 4)
    scores[0, 3] = 3.0  # text 0 is like motion 3
    motion, text = draws(model, batch[1], scores)
    assert (motion[:, 0] == 3).float().mean() > 0.7
    assert (text[:, 3] == 0).float().mean() > 0.7


def test_same_captions_do_not_count_as_wrong_answers():
    scores = torch.tensor([[4.0, 9.0, 1.0], [9.0, 4.0, 1.0], [0.0, 0.0, 2.0]])
    same = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]]).bool()
    assert contrastive_loss(scores, same) < contrastive_loss(scores) - 1
    expected = F.cross_entropy(scores, torch.arange(3), label_smoothing=0.1)
    close(contrastive_loss(scores), expected)


def test_single_pair_has_nothing_to_contrast_or_match(model, batch):
    one = tuple(part[:1] for part in batch)
    for objective in ("ptc", "ptm"):
        with pytest.raises(ValueError, match="pair"):
            model(*one, objectives=[objective])
    assert model(*one, objectives=["lm", "gen"]).loss.isfinite()


@torch.no_grad()
def test_matching_limited_to_rows_is_matching_of_those_rows(model, batch):
    motion, ids, mask, m_lens = batch
    negatives = Negatives(torch.tensor([3, 2]), torch.tensor([1, 3]))
    encoded = model.encode_motion(motion, m_lens)
    logits, targets = model.matching(model.motion_states(encoded), encoded.mask, ids, mask, negatives)
    assert targets.tolist() == [1, 1, 0, 0, 0, 0]
    states = model.motion_states(encoded)
    alone = model.match_logits(states[3:4], encoded.mask[3:4], ids[:1], mask[:1])  # motion 3 with text 0
    close(logits[2:3], alone)
    close(model(*batch, objectives=["ptm"], negatives=negatives).loss, F.cross_entropy(logits, targets))
    drawn = model(*batch, objectives=["ptm"], matching_rows=1, generator=seeded())
    assert drawn.accuracies["ptm"].item() * 3 == pytest.approx(round(drawn.accuracies["ptm"].item() * 3))


@torch.no_grad()
def test_rows_of_matching_are_spread_over_the_parts_of_a_batch(model, batch):
    """Two of eight rows: one in each half of the batch."""
    for first in (0, 4):
        part = model(*batch, objectives=["ptm"], matching_rows=2, generator=seeded(), batch_slice=BatchSlice(first, 8))
        assert part.accuracies["ptm"].item() * 3 == pytest.approx(round(part.accuracies["ptm"].item() * 3))
    whole = model(*batch, objectives=["ptm"], matching_rows=4, generator=seeded(), batch_slice=BatchSlice(0, 4))
    close(model(*batch, objectives=["ptm"], generator=seeded()).losses["ptm"], whole.losses["ptm"])


def test_scale_is_exp_of_temp_and_published_temp_itself():
    for published, scale in ((False, 1 / 0.07), (True, 2.6592600)):
        model = build(published)
        assert model.scaled(torch.ones(())).item() == pytest.approx(scale, rel=1e-5)
    model = build()
    model.temp.data.fill_(50.0)
    assert model.scaled(torch.ones(())).item() == pytest.approx(100.0)


def test_weights_of_objectives_come_from_the_command_line():
    flags = ["--name", "a", "--vq_name", "vq", "--objectives"]
    assert parse_lamp_options(flags[:-1]).objectives == dict.fromkeys(OBJECTIVES, 1.0)
    assert parse_lamp_options([*flags, "ptc", "lm=0.5"]).objectives == {"ptc": 1.0, "lm": 0.5}
    for wrong in ("all", "ptc=much", "ptc=-1"):
        with pytest.raises(InputError, match="--objectives"):
            parse_lamp_options([*flags, wrong])


def test_a_run_without_a_rate_for_bert_resumes_the_two_groups_of_older_runs(model):
    stage = LaMPStage(model, argparse.Namespace(objectives=OBJECTIVES, text_lr=1.0, lr=1e-4, distill=0.0), None, None)
    assert [group.keys() for group in stage.parameter_groups(0.05)] == [{"params", "weight_decay"}] * 2
    stage.opt.text_lr = 0.1
    assert {group["lr"] for group in stage.parameter_groups(0.05)} == {1e-4, 1e-4 * 0.1}


def test_only_matrices_decay_and_published_temp():
    for published in (False, True):
        model = build(published)
        decayed, plain = model.parameter_groups(0.05)
        assert decayed["weight_decay"] == 0.05
        assert plain["weight_decay"] == 0
        assert all(parameter.dim() > 1 or parameter is model.temp for parameter in decayed["params"])
        assert any(parameter is model.temp for parameter in decayed["params"]) == published
        trained = {parameter for parameter in model.parameters() if parameter.requires_grad}
        assert trained == {*decayed["params"], *plain["params"]}


def test_motion_encoder_is_the_tokenizers_and_quiet_in_training(batch):
    model = build().train()
    assert model.motion_encoder is model.vq_model.motion_encoder
    first, second = (model.encode_motion(batch[0]) for _ in range(2))
    assert torch.equal(first.latents, second.latents)
    assert not any(parameter.requires_grad for parameter in model.motion_encoder.parameters())


def test_published_motion_encoder_is_its_own_and_noisy_in_training(batch):
    model = build(published=True).train()
    assert not torch.equal(model.motion_encoder.model[0].weight, model.vq_model.motion_encoder.model[0].weight)
    first, second = (model.encode_motion(batch[0]) for _ in range(2))
    assert not torch.equal(first.latents, second.latents)
    assert torch.equal(first.ids, second.ids)


def test_weights_with_another_motion_encoder_need_the_published_switch():
    released = build(published=True).state_dict()
    with pytest.raises(InputError, match="published_behaviour"):
        build().load_state_dict(released)
    build(published=True, seed=3).load_state_dict(released)
    own = build(seed=3).state_dict()
    model = build()
    model.load_state_dict(own)
    assert torch.equal(model.motion_encoder.model[0].weight, own["motion_encoder.model.0.weight"])


def test_options_of_a_released_model_mean_the_published_behaviour():
    released = LaMPConfig.from_options({"batch_size": 64, "lr": 0.0001}, VQConfig(num_quantizers=1))
    assert released == LaMPConfig(published=True)
    for published in (False, True):
        config = replace(CONFIG, published=published)
        assert LaMPConfig.from_options(config.to_options(), CONFIG.vq) == config


def test_condition_is_frozen_and_has_the_width_of_its_kind(model, batch):
    _, ids, mask, _ = batch
    model.train()
    query, cls, both = (model.condition(ids, mask, kind) for kind in ("query", "cls", "both"))
    assert model.training
    assert not both.requires_grad
    close(both, torch.cat([query, cls], -1))
    close(query, model.condition(ids, mask))
    model.eval()
    close(cls, model.Qformer.text(ids, mask)[:, 0])
    with pytest.raises(ValueError, match="not one of"):
        model.condition(ids, mask, "mean")


def test_condition_ignores_padding_but_not_where_published(batch):
    _, ids, mask, _ = batch
    longer = F.pad(ids, (0, 5)), F.pad(mask, (0, 5))
    model, published = build(), build(published=True)
    close(model.condition(*longer), model.condition(ids, mask))
    assert not torch.allclose(published.condition(*longer), published.condition(ids, mask))


@torch.no_grad()
def test_condition_is_what_gen_was_trained_on(model, batch):
    _, ids, mask, _ = batch
    hidden = model.query_text(model.Qformer.text(ids, mask), mask).hidden
    close(model.condition(ids, mask), hidden.mean(1))
    close(model.generation_logits(model.Qformer.text(ids, mask), mask), model.motion_cls(hidden))


def test_gen_needs_the_tokenizer_and_features_do_not(model, batch):
    motion, ids, mask, m_lens = batch
    small = LaMP(CONFIG).eval()
    small.load_state_dict({name: tensor for name, tensor in model.state_dict().items()
                           if not name.startswith("vq_model.")})
    close(small.text_features(ids, mask), model.text_features(ids, mask))
    close(small.motion_features(motion, m_lens), model.motion_features(motion, m_lens))
    assert small(*batch, objectives=["ptc", "ptm", "lm"]).loss.isfinite()
    with pytest.raises(ValueError, match="tokenizer"):
        small(*batch, objectives=["gen"])


def test_parts_of_other_sizes_are_refused():
    tokenizer = build_tokenizer(replace(CONFIG.vq, nb_code=4))
    with pytest.raises(ValueError, match="tokenizer"):
        LaMP(CONFIG, tokenizer)


def test_motion_longer_than_the_queries_is_refused(model):
    with pytest.raises(InputError, match="28 frames"):
        model.encode_motion(torch.zeros(1, 28, WIDTH))


@pytest.mark.parametrize("published", [False, True])
def test_bfloat16_autocast_gives_float32_losses_and_finite_gradients(published, batch):
    model = build(published).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = model(*batch, matching_rows=3, generator=seeded())
    assert all(loss.dtype == torch.float32 for loss in result.losses.values())
    result.loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
        assert parameter.grad is not None or not parameter.requires_grad, name


def test_training_learns_captions_motions_and_which_belong_together(batch):
    torch.manual_seed(0)
    _, ids, mask, m_lens = batch
    model = LaMP(CONFIG, build_tokenizer(CONFIG.vq)).train()
    encoded = EncodedMotion(2 * torch.randn(4, QUERIES, 8), torch.randint(8, (4, QUERIES)),
                            torch.arange(QUERIES) < m_lens[:, None] // 4)
    optimizer = torch.optim.AdamW(model.parameter_groups(0.0), lr=1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        model(encoded, ids, mask, objectives=["ptc", "lm", "gen"]).loss.backward()
        optimizer.step()
    learned = model.eval()(encoded, ids, mask, objectives=["ptc", "lm", "gen"]).accuracies
    assert learned["ptc"] == 1
    assert learned["lm"] > 0.8
    assert learned["gen"] > 0.8


def test_captioning_starts_from_what_lamp_learned(model, batch):
    motion, _, _, m_lens = batch
    prefix = MotionPrefix(MotionPrefixConfig.of_lamp(model, 20)).eval()
    prefix.take(model)
    encoded = model.encode_motion(motion, m_lens)
    close(prefix.query_motion(prefix.motion_states(motion), encoded.mask), model.query_motion(encoded).hidden)
    assert prefix(motion, encoded.mask).shape == (4, QUERIES, 20)
    assert not any(parameter.requires_grad for parameter in prefix.motion_encoder.parameters())


@pytest.mark.parametrize("name", ["query_tokens", "motion_projection", "Qformer.bert.embeddings.LayerNorm.weight",
                                  "motion_encoder.model.0.weight"])
def test_captioning_does_not_start_from_a_lamp_that_lacks_weights(model, name):
    """A mismatched name would leave this part of the prefix random."""
    given = model.state_dict()
    given[f"{name}_renamed"] = given.pop(name)
    lamp = SimpleNamespace(config=model.config, state_dict=lambda: given)
    with pytest.raises(RuntimeError, match=f"LaMP lacks {name}"):
        MotionPrefix(MotionPrefixConfig.of_lamp(model, 20)).take(lamp)


def test_queries_can_tell_what_came_first_unless_published(batch):
    """Reordered latents are a different motion; published queries see a set."""
    motion, ids, mask, m_lens = batch
    for published, differs in ((False, True), (True, False)):
        model = build(published)
        encoded = model.encode_motion(motion, m_lens)
        swapped = EncodedMotion(encoded.latents[:, [1, 0, *range(2, QUERIES)]], encoded.ids, encoded.mask)
        same = torch.allclose(model.motion_features(encoded), model.motion_features(swapped), atol=1e-5)
        assert same is not differs


def test_distillation_compares_the_similarities_of_two_models():
    generator = torch.Generator().manual_seed(0)
    features, others = (F.normalize(torch.randn(5, 8, generator=generator), dim=-1) for _ in range(2))
    rotation = torch.linalg.qr(torch.randn(8, 8, generator=generator)).Q
    assert float(distillation_loss(features, features @ rotation)) == pytest.approx(0, abs=1e-5)
    leaf = others.clone().requires_grad_()
    loss = distillation_loss(leaf, features)
    loss.backward()
    assert float(loss.detach()) > 0.1
    assert leaf.grad.isfinite().all()
    assert float(distillation_loss(others[:1], features[:1])) == 0


def test_freezing_text_leaves_the_last_layers_and_the_new_parts(model):
    freeze_text(model, words=False, trained_layers=1)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    last = model.config.qformer.layers - 1
    assert f"Qformer.bert.encoder.layer.{last}.intermediate.dense.weight" in trained
    assert "Qformer.bert.encoder.layer.0.intermediate.dense.weight" not in trained
    assert "Qformer.bert.encoder.layer.0.intermediate_query.dense.weight" in trained
    assert {"text_proj.weight", "query_tokens"} <= trained
