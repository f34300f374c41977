"""The evaluator's networks and its caption input."""
import pickle

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from data.word_vectors import WORD_CLASSES, WordVectors, falls_back, sentence_layout, word_class
from models.config import EvaluatorConfig
from models.evaluator import Evaluator, published_order
from utils.errors import InputError

SMALL = EvaluatorConfig(dim_pose=23, dim_movement_enc_hidden=12, dim_movement_latent=10, dim_word=8, dim_pos_ohot=15,
                        dim_motion_hidden=14, dim_text_hidden=6, dim_coemb_hidden=9)


@pytest.fixture
def evaluator() -> Evaluator:
    torch.manual_seed(0)
    return Evaluator(SMALL).eval()


@pytest.fixture
def motion() -> tuple[torch.Tensor, torch.Tensor]:
    lengths = torch.tensor([24, 40, 32, 40])
    motion = torch.randn(4, 40, 23, generator=torch.Generator().manual_seed(1))
    for row, length in zip(motion, lengths, strict=True):
        row[length:] = 0
    return motion, lengths


@torch.no_grad()
def test_motion_rows_come_out_in_input_order_whatever_stands_beside_them(evaluator, motion):
    together = evaluator.encode_motion(*motion)
    assert together.shape == (4, 9)
    for row in range(4):
        alone = evaluator.encode_motion(motion[0][row:row + 1], motion[1][row:row + 1])
        torch.testing.assert_close(alone[0], together[row])


@torch.no_grad()
def test_text_rows_may_come_in_any_order_of_lengths(evaluator):
    words, classes, lengths = torch.randn(3, 22, 8), torch.randn(3, 22, 15), torch.tensor([5, 22, 9])
    order = torch.tensor([1, 2, 0])
    embeddings = evaluator.encode_text(words, classes, lengths)
    torch.testing.assert_close(evaluator.encode_text(words[order], classes[order], lengths[order]), embeddings[order])


@torch.no_grad()
def test_only_the_steps_of_a_clip_count(evaluator, motion):
    features, lengths = motion
    changed = features.clone()
    changed[0, 32:] += 1  # two steps behind the end of row 0, out of reach of its last convolutions
    changed[..., -4:] += 1  # foot contacts
    torch.testing.assert_close(evaluator.encode_motion(changed, lengths)[0], evaluator.encode_motion(*motion)[0])
    changed[0, 23, 0] += 1
    assert not torch.allclose(evaluator.encode_motion(changed, lengths)[0], evaluator.encode_motion(*motion)[0])


def _last_state(gru: torch.nn.GRU, steps: torch.Tensor, state: torch.Tensor, suffix: str) -> torch.Tensor:
    """State (h,) after the steps (n, h), gate by gate (Cho et al. 2014)."""
    parts = [getattr(gru, f"{part}_l0{suffix}") for part in ("weight_ih", "bias_ih", "weight_hh", "bias_hh")]
    for step in steps:
        given, kept = (F.linear(x, *pair).chunk(3) for x, pair in ((step, parts[:2]), (state, parts[2:])))
        reset, update = torch.sigmoid(given[0] + kept[0]), torch.sigmoid(given[1] + kept[1])
        state = (1 - update) * torch.tanh(given[2] + reset * kept[2]) + update * state
    return state


@torch.no_grad()
def test_embeddings_are_those_of_the_formulas(evaluator, motion):
    network, (features, lengths) = evaluator.motion_encoder, motion
    hidden = features[2:3, :, :-4].transpose(1, 2)
    for conv in (evaluator.movement_encoder.main[0], evaluator.movement_encoder.main[3]):
        hidden = F.leaky_relu(F.conv1d(hidden, conv.weight, conv.bias, stride=2, padding=1), 0.2)
    steps = network.input_emb(evaluator.movement_encoder.out_net(hidden[0].T))[: lengths[2] // 4]
    last = [_last_state(network.gru, steps, network.hidden[0, 0], ""),
            _last_state(network.gru, steps.flip(0), network.hidden[1, 0], "_reverse")]
    first, norm, _, second = network.output_net
    hidden = F.leaky_relu(F.layer_norm(first(torch.cat(last)), (14,), norm.weight, norm.bias), 0.2)
    torch.testing.assert_close(evaluator.encode_motion(features, lengths)[2], second(hidden))


def test_one_movement_stands_for_four_frames(evaluator, motion):
    assert evaluator.movements(motion[0]).shape == (4, 10, 10)


def test_a_clip_without_one_step_is_refused(evaluator, motion):
    with pytest.raises(ValueError, match="3 frames"):
        evaluator.encode_motion(motion[0], torch.tensor([24, 3, 32, 40]))


def test_published_order_is_descending_with_ties_reversed():
    assert published_order(torch.tensor([24, 40, 32, 40])).tolist() == [3, 1, 2, 0]


def test_a_checkpoint_rebuilds_the_evaluator_and_reports_what_does_not_match(evaluator, motion):
    checkpoint = evaluator.checkpoint() | {"epoch": 3, "opt_text_encoder": {}}
    other = Evaluator(SMALL).eval()
    other.load_checkpoint(checkpoint)
    torch.testing.assert_close(other.encode_motion(*motion), evaluator.encode_motion(*motion))
    renamed = {name.replace("gru", "rnn"): tensor for name, tensor in checkpoint["text_encoder"].items()}
    with pytest.raises(RuntimeError, match="rnn"):
        other.load_checkpoint(checkpoint | {"text_encoder": renamed})
    with pytest.raises(KeyError, match="motion_encoder"):
        other.load_checkpoint({key: checkpoint[key] for key in ("movement_encoder", "text_encoder")})


def test_linear_layers_start_without_bias_and_settings_come_from_options(evaluator):
    assert not evaluator.text_encoder.pos_emb.bias.any() and not evaluator.movement_encoder.main[0].bias.any()
    assert EvaluatorConfig.from_options({"dim_pose": 251, "name": "evaluator"}) == EvaluatorConfig(dim_pose=251)


@pytest.mark.parametrize(("token", "name", "unknown"), [
    ("man/NOUN", "NOUN", False),
    ("left/VERB", "Loc_VIP", False),      # a VIP word, regardless of its tag
    ("slowly/ADV", "Desc_VIP", False),
    ("and/CCONJ", "OTHER", False),        # a tag outside the table
    ("zebra/NOUN", "OTHER", True),
    ("walk/NOUN", "OTHER", True),         # a VIP word without a vector
    ("Man/NOUN", "OTHER", True),
    ("unk/OTHER", "OTHER", True),
])
def test_word_classes(token, name, unknown):
    known = {"sos", "eos", "unk", "man", "left", "slowly", "and"}
    assert WORD_CLASSES[word_class(token, known)] == name
    assert falls_back(token, known) == unknown


@pytest.mark.parametrize(("tokens", "cap_len"), [(0, 2), (3, 5), (19, 21), (20, 22), (35, 22)])
def test_a_sentence_has_22_positions(tokens, cap_len):
    layout, length = sentence_layout([f"word{number}/NOUN" for number in range(tokens)])
    assert length == cap_len and len(layout) == 22
    assert layout[0] == "sos/OTHER" and layout[cap_len - 1] == "eos/OTHER"
    assert layout[1:cap_len - 1] == [f"word{number}/NOUN" for number in range(min(tokens, 20))]
    assert set(layout[cap_len:]) <= {"unk/OTHER"}


def _vectors() -> WordVectors:
    return WordVectors(["unk", "sos", "eos", "walk"], np.arange(12).reshape(4, 3))


def test_a_sentence_has_the_vectors_and_classes_of_its_words():
    sentence = _vectors().sentence(["walk/NOUN", "zebra/NOUN"])
    assert sentence.word_emb.shape == (22, 3) and sentence.pos_onehot.shape == (22, 15) and sentence.cap_len == 4
    assert sentence.word_emb[:4].tolist() == [[3, 4, 5], [9, 10, 11], [0, 1, 2], [6, 7, 8]]
    assert sentence.pos_onehot.sum() == 22
    assert WORD_CLASSES[sentence.pos_onehot[1].argmax()] == "Act_VIP"


def _write_vocabulary(folder, words, rows):
    np.save(folder / "our_vab_data.npy", np.arange(8, dtype=np.float32).reshape(4, 2))
    (folder / "our_vab_words.pkl").write_bytes(pickle.dumps(words))
    (folder / "our_vab_idx.pkl").write_bytes(pickle.dumps(rows))


def test_a_vocabulary_is_read_from_its_three_files(tmp_path):
    _write_vocabulary(tmp_path, ["unk", "walk"], {"walk": 3, "unk": 1})
    vectors = WordVectors.load(tmp_path)
    assert vectors.dim == 2 and "walk" in vectors and "run" not in vectors
    assert vectors.vector("walk").tolist() == [6, 7] and vectors.vector("run").tolist() == [2, 3]


def test_a_bad_vocabulary_is_reported_in_one_line(tmp_path):
    with pytest.raises(InputError, match="download_glove"):
        WordVectors.load(tmp_path)
    _write_vocabulary(tmp_path, ["unk", "walk"], {"unk": 0})
    with pytest.raises(InputError, match="do not belong"):
        WordVectors.load(tmp_path)
    _write_vocabulary(tmp_path, ["walk"], {"walk": 0})
    with pytest.raises(InputError, match="no word unk"):
        WordVectors.load(tmp_path)


def test_a_vocabulary_that_would_run_code_is_refused(tmp_path):
    _write_vocabulary(tmp_path, np.array(["unk"]), {"unk": 0})
    with pytest.raises(InputError, match="not a plain pickle"):
        WordVectors.load(tmp_path)
