"""Networks of the evaluator, and its caption input."""
import pickle

import numpy as np
import pytest
import torch

from data.language import WORD_CLASSES, WordVectors, sentence_layout
from models.config import EvaluatorConfig
from models.evaluator import Evaluator
from utils import InputError

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
def test_only_the_steps_of_a_clip_count(evaluator, motion):
    features, lengths = motion
    changed = features.clone()
    changed[0, 32:] += 1  # two steps behind the end of row 0, out of reach of its last convolutions
    changed[..., -4:] += 1  # foot contacts
    torch.testing.assert_close(evaluator.encode_motion(changed, lengths)[0], evaluator.encode_motion(*motion)[0])
    changed[0, 23, 0] += 1
    assert not torch.allclose(evaluator.encode_motion(changed, lengths)[0], evaluator.encode_motion(*motion)[0])


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


def test_a_sentence_has_22_positions_with_the_vectors_and_classes_of_its_words():
    for tokens, cap_len in ((0, 2), (3, 5), (19, 21), (20, 22), (35, 22)):
        words = [f"word{number}/NOUN" for number in range(tokens)]
        layout = ["sos/OTHER", *words[:20], "eos/OTHER", *["unk/OTHER"] * (20 - tokens)]
        assert sentence_layout(words) == (layout, cap_len)
    sentence = WordVectors(["unk", "sos", "eos", "walk"], np.arange(12).reshape(4, 3)).sentence(
        ["walk/NOUN", "zebra/NOUN"])
    assert sentence.word_emb.shape == (22, 3) and sentence.pos_onehot.shape == (22, 15) and sentence.cap_len == 4
    assert sentence.word_emb[:4].tolist() == [[3, 4, 5], [9, 10, 11], [0, 1, 2], [6, 7, 8]]
    assert sentence.pos_onehot.sum() == 22
    assert WORD_CLASSES[sentence.pos_onehot[1].argmax()] == "Act_VIP"


def _write_vocabulary(folder, words, rows):
    np.save(folder / "our_vab_data.npy", np.arange(8, dtype=np.float32).reshape(4, 2))
    (folder / "our_vab_words.pkl").write_bytes(pickle.dumps(words))
    (folder / "our_vab_idx.pkl").write_bytes(pickle.dumps(rows))


def test_a_bad_vocabulary_is_reported_in_one_line(tmp_path):
    with pytest.raises(InputError, match="download_glove"):
        WordVectors.load(tmp_path)
    for words, rows, told in ((["unk", "walk"], {"unk": 0}, "do not belong"), (["walk"], {"walk": 0}, "no word unk"),
                              (np.array(["unk"]), {"unk": 0}, "not a plain pickle")):  # it would run code
        _write_vocabulary(tmp_path, words, rows)
        with pytest.raises(InputError, match=told):
            WordVectors.load(tmp_path)
