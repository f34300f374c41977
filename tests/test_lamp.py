"""LaMP and its text encoders: objectives, attention masks, published behaviour, BERT's word pieces, and CLIP."""
import copy
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from models.lamp.bert import WordPieces, from_bert
from models.lamp.features import EncodedMotion, LaMPConfig
from models.lamp.lamp import OBJECTIVES, LaMP, MirroredNegatives, Negatives, freeze_motion, freeze_text
from models.lamp.objectives import contrastive_loss, distillation_loss, similarity
from models.lamp.qformer import QFormerConfig
from models.m2t import MotionPrefix
from models.transformers.mask_transformer import ClipText
from models.vq.model import VQConfig, build_tokenizer
from options.train import parse_lamp_options
from tests.toy import make_bert
from tests.toy_clip import LONGEST, VOCABULARY, make_clip
from training.stages.lamp import LaMPStage, same_subject
from utils import InputError
from utils.runtime import sample_columns

QUERIES, WIDTH, FRAMES = 6, 9, 24
CONFIG = LaMPConfig(
    QFormerConfig(hidden=16, layers=2, heads=2, intermediate=32, max_positions=24, vocab=41, encoder_width=12,
                  num_query_tokens=QUERIES),
    VQConfig(dim_pose=WIDTH, nb_code=8, code_dim=8, output_emb_width=8, width=8, depth=1, num_quantizers=2),
    embed_dim=10)
LENGTHS = torch.tensor([24, 12, 16, 8])
close = partial(torch.testing.assert_close, atol=2e-5, rtol=1e-4)


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
    """Motion, ids, mask and m_lens of four pairs with padding."""
    generator = torch.Generator().manual_seed(1)
    motion = torch.randn(4, FRAMES, WIDTH, generator=generator)
    motion = motion * (torch.arange(FRAMES) < LENGTHS[:, None])[..., None]
    mask = torch.arange(7) < torch.tensor([[7], [4], [5], [6]])
    ids = torch.randint(1, 40, (4, 7), generator=generator) * mask
    return motion, ids, mask, LENGTHS


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(5)


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


@torch.no_grad()
def test_padding_of_texts_and_motions_changes_no_loss(model, batch):
    motion, ids, mask, m_lens = batch
    cut = motion[1:, :16], ids[1:, :6], mask[1:, :6], m_lens[1:]
    shorter = model(*cut, generator=seeded())
    longer = model(motion[1:], ids[1:], mask[1:], m_lens[1:], generator=seeded())
    for name in OBJECTIVES:
        close(shorter.losses[name], longer.losses[name])


@torch.no_grad()
def test_text_is_written_from_the_motion_and_the_words_before(model, batch):
    ids, mask, states = *batch[1:3], torch.randn(4, 5, 12, generator=seeded())

    def written(ids: Tensor, states: Tensor) -> Tensor:
        return model.Qformer.language_model(ids, mask, model.Qformer.query(model.query_tokens, states).cache)

    changed = written(ids + (torch.arange(7) == 3), states), written(ids, -states)
    by_word, by_motion = ((written(ids, states) - other).abs().amax(-1) for other in changed)
    assert (by_word[:, :3] == 0).all() and (by_word[:, 3] > 1e-4).all() and (by_motion > 1e-4).all()


def draws(model: LaMP, ids: Tensor, scores: Tensor, times: int = 200) -> tuple[Tensor, Tensor]:
    uniform = torch.rand(2, times, len(ids), generator=seeded())
    return tuple(torch.stack([sample_columns(model.negative_probabilities(way, ids), row) for row in numbers])
                 for way, numbers in zip((scores, scores.T), uniform, strict=True))


def test_true_pairs_and_pairs_with_the_same_caption_are_no_negatives(model, batch):
    scores = 20 * torch.eye(4)  # so similar that they would always be sampled
    for drawn in draws(model, batch[1], scores):
        assert not (drawn == torch.arange(4)).any()
    for drawn in draws(build(published=True), batch[1], scores):
        assert (drawn == torch.arange(4)).any()
    ids = batch[1].clone()
    ids[2] = ids[0]
    for drawn in draws(model, ids, torch.zeros(4, 4)):
        assert not (drawn[:, 0] == 2).any() and not (drawn[:, 2] == 0).any()
    for drawn in draws(model, ids[:1].expand(3, -1), torch.zeros(3, 3)):  # nothing else to choose
        assert not (drawn == torch.arange(3)).any()


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


def test_weights_of_objectives_come_from_the_command_line():
    flags = ["--name", "a", "--vq_name", "vq", "--objectives"]
    assert parse_lamp_options(flags[:-1]).objectives == dict.fromkeys(OBJECTIVES, 1.0)
    assert parse_lamp_options([*flags, "ptc", "lm=0.5"]).objectives == {"ptc": 1.0, "lm": 0.5}
    for wrong in ("all", "ptc=much", "ptc=-1"):
        with pytest.raises(InputError, match="--objectives"):
            parse_lamp_options([*flags, wrong])


def test_motion_encoder_is_the_frozen_one_of_the_tokenizer_unless_published(batch):
    model = build().train()
    assert model.motion_encoder is model.vq_model.motion_encoder
    first, second = (model.encode_motion(batch[0]) for _ in range(2))
    assert torch.equal(first.latents, second.latents)
    assert not any(parameter.requires_grad for parameter in model.motion_encoder.parameters())
    released = build(published=True).state_dict()
    with pytest.raises(InputError, match="published_behaviour"):
        build().load_state_dict(released)
    build(published=True, seed=3).load_state_dict(released)
    own = build(seed=3).state_dict()
    model = build()
    model.load_state_dict(own)
    assert torch.equal(model.motion_encoder.model[0].weight, own["motion_encoder.model.0.weight"])


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


def test_bfloat16_autocast_gives_float32_losses_and_finite_gradients(batch):
    model = build().train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = model(*batch, matching_rows=3, generator=seeded())
    assert all(loss.dtype == torch.float32 for loss in result.losses.values())
    result.loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
        assert parameter.grad is not None or not parameter.requires_grad, name


def test_captioning_does_not_start_from_a_lamp_that_lacks_weights(model):
    for name in ("query_tokens", "motion_projection", "Qformer.bert.embeddings.LayerNorm.weight",
                 "motion_encoder.model.0.weight"):
        given = {key: value for key, value in model.state_dict().items() if key != name}
        lamp = SimpleNamespace(config=model.config, state_dict=lambda given=given: given)
        with pytest.raises(RuntimeError, match=f"LaMP model lacks {name}"):
            MotionPrefix(model.config, 20).take(lamp)


def test_queries_can_tell_what_came_first_unless_published(batch):
    """Latents in another order are another motion, but the published queries ignore the order."""
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


def test_texts_that_may_describe_the_same_are_not_compared():
    # Classes: 0 left, 1 right, 2 no side of a first content, 3 to 5 of a second.
    contents = torch.tensor([[1, 0, 0, 0, 1, 0], [1, 0, 0, 0, 1, 0], [0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0]]).bool()
    batch = {"contents": contents, "text_class": torch.tensor([4, -1, -1, -1]),
             "other_class": torch.tensor([4, 0, -1, -1]), "caption": ["right", "left", "right", "left"],
             "other": ["right", "left", "right", "left"]}
    assert same_subject(batch).tolist() == [
        [True, False, True, False],    # class 4: itself, not class 0, a caption of a clip that shows it
        [True, True, False, False],    # captions of other contents are compared
        [True, False, True, False],
        [False, False, False, False],  # a clip without contents
    ]
    # A sentence that names no side describes both sides.
    batch = {"contents": torch.eye(6)[:3].bool(), "text_class": torch.tensor([0, 1, 3]),
             "other_class": torch.tensor([0, 1, 3]), "caption": ["walk straight", "turn right", "jump"],
             "other": ["go ahead", "turn to the right", "hop"]}
    assert same_subject(batch).tolist() == [[True, True, False], [True, True, False], [False, False, True]]
    batch |= {"caption": ["turn left", "turn right", "jump"], "other": ["turn to the left", "go right", "hop"]}
    assert same_subject(batch).tolist() == torch.eye(3).bool().tolist()


@pytest.mark.parametrize("labelled", [False, True])
def test_text_pairs_draw_the_texts_of_a_clip_together(model, labelled):
    opt = SimpleNamespace(objectives=["ptc"], distill=0.0, text_pairs=1.0, max_text_len=8)
    stage = LaMPStage(model, opt, None, None)
    hidden = torch.eye(4, model.config.qformer.hidden)[:, None]  # one word each
    stage.encode_text = lambda texts: (torch.tensor([[int(text)] for text in texts]), None)
    model.Qformer.text = lambda ids, _: hidden[ids[:, 0]]
    batch = {"caption": list("abcd"), "other": ["0", "1", "2", "3"]}
    if labelled:
        classes = 3 * torch.arange(4)
        batch |= {"contents": torch.eye(12)[classes].bool(), "text_class": classes, "other_class": classes}
    ids = torch.arange(4)[:, None]
    right = stage.text_pairs(batch, ids, None, None)
    wrong = stage.text_pairs(batch, ids.flip(0), None, None)
    assert float(right) < float(wrong)
    # Nothing is left to compare if all texts are equal, or about the same.
    assert float(stage.text_pairs({**batch, "other": ["0"] * 4}, ids * 0, None, None)) == pytest.approx(0, abs=1e-6)
    if labelled:
        same = {**batch, "text_class": torch.zeros(4).long(), "other_class": torch.zeros(4).long()}
        assert float(stage.text_pairs(same, ids, None, None)) == pytest.approx(0, abs=1e-6)


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


def test_freezing_text_leaves_the_last_layers_and_the_new_parts(model):
    freeze_text(model, words=False, trained_layers=1)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    last = model.config.qformer.layers - 1
    assert f"Qformer.bert.encoder.layer.{last}.intermediate.dense.weight" in trained
    assert "Qformer.bert.encoder.layer.0.intermediate.dense.weight" not in trained
    assert "Qformer.bert.encoder.layer.0.intermediate_query.dense.weight" in trained
    assert {"text_proj.weight", "query_tokens"} <= trained
    freeze_motion(model)
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} < trained


def test_training_the_text_side_alone_keeps_the_motion_features(model, batch):
    start, (motion, ids, mask, m_lens) = copy.deepcopy(model), batch
    freeze_motion(model)
    with torch.no_grad():
        for parameter in (parameter for parameter in model.parameters() if parameter.requires_grad):
            parameter.add_(torch.randn_like(parameter))
    assert torch.equal(model.motion_query_features(motion, m_lens), start.motion_query_features(motion, m_lens))
    assert not torch.allclose(model.text_features(ids, mask), start.text_features(ids, mask), atol=0.1)
    opt = SimpleNamespace(objectives=["ptc"], distill=0.0)
    change = LaMPStage(model, opt, None, None, start).condition_change(ids, mask)
    assert float(change) > 0.1 and float(LaMPStage(start, opt, None, None, start).condition_change(ids, mask)) == 0
    equal = LaMPStage(model, opt, None, None, start).condition_change(ids[:1].expand(4, -1), mask[:1].expand(4, -1))
    assert equal.isfinite()
    change.backward()
    assert any(parameter.grad is not None for parameter in model.parameters())
    assert all(parameter.grad is None for parameter in start.parameters())


BERT = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32,
        "max_position_embeddings": 24, "vocab_size": 40}


def library_bert(folder: Path) -> torch.nn.Module:
    torch.manual_seed(4)
    bert = transformers.BertModel(transformers.BertConfig(**BERT)).eval()
    for parameter in bert.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    bert.save_pretrained(folder)
    return bert


@torch.no_grad()
def test_text_pass_is_the_library_bert_also_from_an_old_weight_file(tmp_path, batch):
    bert = library_bert(tmp_path)
    _, ids, mask, _ = batch
    expected = bert(ids, attention_mask=mask.long()).last_hidden_state[mask]
    close(from_bert(tmp_path, encoder_width=12, num_query_tokens=5).eval().text(ids, mask)[mask], expected)
    old = {f"bert.{name}".replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"):
           value for name, value in bert.state_dict().items()}
    torch.save(old, tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    close(from_bert(tmp_path).eval().text(ids, mask)[mask], expected)


def test_start_says_what_is_wrong_with_a_folder(tmp_path):
    library_bert(tmp_path)
    with pytest.raises(InputError, match="has 3 layers, fewer than the requested 9"):
        from_bert(tmp_path, layers=9)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    for content, told in ((config | {"intermediate_size": 30}, r"is \(32, 16\) instead of \(30, 16\)"),
                          (config | {"hidden_act": "relu"}, "only gelu"), ({}, "not the config of a BERT")):
        file.write_text(json.dumps(content))
        with pytest.raises(InputError, match=told):
            from_bert(tmp_path)
    file.write_text(json.dumps(config))
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"no model\.safetensors or pytorch_model\.bin"):
        from_bert(tmp_path)


def test_word_pieces_are_those_of_the_library_and_a_model_keeps_its_own_copy(tmp_path):
    pieces = WordPieces(make_bert(tmp_path / "bert"))
    library = transformers.BertTokenizer.from_pretrained(pieces.path.parent)
    texts = ["A person walks FORWARD!", "someone turns left, then waves zyx", ""]
    for length in (32, 6):
        expected = library(texts, padding="longest", truncation=True, max_length=length, return_tensors="pt")
        own = pieces.encode(texts, length)
        assert torch.equal(own.ids, expected["input_ids"])
        assert torch.equal(own.mask.long(), expected["attention_mask"])

    vocabulary = pieces.path.read_text().splitlines()
    assert pieces.dec_id == len(vocabulary) == len(pieces) - 1
    pieces.save(tmp_path / "model")
    copy = WordPieces(tmp_path / "model")
    assert torch.equal(copy.encode(texts).ids, pieces.encode(texts).ids)
    assert pieces.decode([pieces.dec_id, *pieces.encode(["a person waves"]).ids[0].tolist()]) == "a person waves"


@pytest.fixture
def clip_folder(tmp_path: Path) -> Path:
    return make_clip(tmp_path / "clip")


def test_features_are_the_projected_end_of_the_text(clip_folder: Path) -> None:
    clip = ClipText(clip_folder)
    features = clip(["walk", "walk a b"])
    assert (clip.dim, features.shape, features.dtype) == (10, (2, 10), torch.float32)
    assert not features.requires_grad
    start, walk, end = (VOCABULARY.index(piece) for piece in ("<|startoftext|>", "walk</w>", "<|endoftext|>"))
    states = clip.model.text_model(input_ids=torch.tensor([[start, walk, end]])).last_hidden_state
    torch.testing.assert_close(features[0], clip.model.text_projection(states[0, 2]))
    assert not torch.allclose(features[0], features[1], atol=0.01)
    cut = " ".join(["walk"] * (LONGEST - 2))  # long texts are cut
    torch.testing.assert_close(clip([f"{cut} a b c"]), clip([cut]))


def test_a_fingerprint_identifies_the_weights_and_a_damaged_model_is_named(clip_folder: Path) -> None:
    weights = clip_folder / "model.safetensors"
    state = load_file(weights)
    made = [ClipText(clip_folder).fingerprint for _ in range(2)]
    state["text_projection.weight"] *= 2
    save_file(state, weights, metadata={"format": "pt"})
    assert made[0] == made[1] != ClipText(clip_folder).fingerprint

    del state["text_projection.weight"]
    save_file(state, weights, metadata={"format": "pt"})
    for damage, told in ((lambda: None, "no text_projection.weight"),
                         (lambda: weights.write_bytes(b"short"), "cannot be loaded"),
                         (lambda: weights.unlink(), "cannot be loaded"),
                         (lambda: (clip_folder / "config.json").write_text("{"), "config"),
                         (lambda: (clip_folder / "vocab.json").unlink(), "has no tokenizer")):
        damage()
        with pytest.raises(InputError, match=told) as caught:
            ClipText(clip_folder)
        assert str(clip_folder) in str(caught.value) and "\n" not in str(caught.value)
