"""The evaluator: networks, caption input, training, and loading of published and invalid files."""
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import prepare.bundle_model
import train_evaluator
from data.dataset import Normalisation, dataset_spec
from data.language import WORD_CLASSES, WordVectors, sentence_layout
from data.text_motion import load_pairs
from models.config import EvaluatorConfig
from models.evaluator import Evaluator, MovementAutoEncoder, matching_loss
from storage.checkpoint import save_checkpoint, write_options
from storage.evaluation import load_evaluator
from tests.test_resume import assert_equal, latest
from tests.toy import TINY_EVALUATOR, refusal, run_here, run_script
from utils import InputError


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


def test_a_bad_vocabulary_is_reported_in_one_line(tmp_path):
    with pytest.raises(InputError, match="download_glove"):
        WordVectors.load(tmp_path)
    np.save(tmp_path / "our_vab_data.npy", np.arange(8, dtype=np.float32).reshape(4, 2))
    (tmp_path / "our_vab_idx.pkl").write_bytes(pickle.dumps({"unk": 0}))
    for words, told in ((["unk", "walk"], "do not belong"), (np.array(["unk"]), "not a plain pickle")):  # runs code
        (tmp_path / "our_vab_words.pkl").write_bytes(pickle.dumps(words))
        with pytest.raises(InputError, match=told):
            WordVectors.load(tmp_path)


TINY = EvaluatorConfig(dim_movement_enc_hidden=12, dim_movement_latent=10, dim_word=8, dim_motion_hidden=14,
                        dim_text_hidden=6, dim_coemb_hidden=9)


@torch.no_grad()
def test_an_embedding_depends_on_its_own_frames_and_words_alone() -> None:
    torch.manual_seed(0)
    model, lengths = Evaluator(TINY).eval(), torch.tensor([24, 40, 32])
    motion = torch.randn(3, 40, 263) * (torch.arange(40) < lengths[:, None])[..., None]
    words, tags, cap_lens = torch.randn(3, 7, 8), torch.randn(3, 7, 15), torch.tensor([4, 7, 5])
    motions, texts = model.encode_motion(motion, lengths), model.encode_text(words, tags, cap_lens)
    for row in range(3):
        own, kept = slice(row, row + 1), slice(0, int(cap_lens[row]))
        torch.testing.assert_close(model.encode_motion(motion[own], lengths[own]), motions[own])
        torch.testing.assert_close(model.encode_text(words[own, kept], tags[own, kept], cap_lens[own]), texts[own])
    motion[0, 32:] += 1  # out of reach of the last convolutions of row 0
    motion[..., -4:] += 1  # foot contacts
    torch.testing.assert_close(model.encode_motion(motion, lengths)[0], motions[0])
    for changed in (0, 23):
        other = motion + 2 * (torch.arange(40) == changed)[:, None]
        assert not torch.allclose(model.encode_motion(other, lengths)[0], motions[0], atol=1e-3)
    for one, two in ((words.flip(1), tags), (words, tags.flip(1))):
        assert not torch.allclose(model.encode_text(one, two, cap_lens)[1], texts[1], atol=1e-3)
    with torch.enable_grad():
        (model.encode_motion(motion, lengths) + model.encode_text(words, tags, cap_lens)).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


FLAGS = ("--data_root", "data", "--glove", "glove", "--gpu_id", "-1", *TINY_EVALUATOR)


@pytest.fixture
def train(toy_copy: Path) -> Callable[..., None]:
    """Function that runs the training script in a copy of the toy folder."""
    return lambda name, *flags: run_here(train_evaluator.main, "--name", name, *FLAGS, *flags, cwd=toy_copy)


def test_own_motions_are_pulled_and_others_pushed_to_the_margin() -> None:
    text = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 4.0]])
    motion = torch.tensor([[3.0, 4.0], [10.0, 1.0], [0.0, 4.0]])
    loss = matching_loss(text, motion, margin=10.0, shifts=1)
    assert float(loss.positive) == pytest.approx((25 + 1 + 0) / 3)
    # text 0 with motion 1, text 1 with motion 2, text 2 with motion 0: 10.05, 10.77 and 3 apart
    assert float(loss.negative) == pytest.approx(7**2 / 3)
    assert float(loss.total) == pytest.approx(float(loss.positive + loss.negative))
    many = matching_loss(text, motion, margin=10.0, shifts=50)  # and text 0 with 2: 4; 1 with 0: 8.06; 2 with 1: 10.44
    assert float(many.negative) == pytest.approx((7**2 + 6**2 + (10 - 65**0.5)**2) / 6)


@torch.no_grad()
def test_the_auto_encoder_weighs_reconstruction_change_and_size_of_movements() -> None:
    model, motion = MovementAutoEncoder(23, 8, 6).eval(), torch.randn(2, 16, 23)
    movements, loss = model.encoder(motion[..., :-4]), model.loss(motion, 0.5, 0.25)
    penalties = 0.5 * movements.diff(dim=1).abs().mean() + 0.25 * movements.abs().mean()
    torch.testing.assert_close(loss.total, loss.reconstruction + penalties)


def test_a_run_leaves_the_published_layout_with_its_normalisation_and_words(train: Callable[..., None]) -> None:
    train("new")
    content, movement = latest(Path(), "new"), latest(Path(), "new_movement")
    assert {"movement_encoder", "text_encoder", "motion_encoder", "opt_evaluator"} <= content.keys()
    assert movement["total_it"] == 3 and content["total_it"] == 4
    learned = {name.removeprefix("encoder."): tensor for name, tensor in movement["movement_autoencoder"].items()
               if name.startswith("encoder.")}
    assert_equal(content["movement_encoder"], learned)  # matching leaves the movements as they are
    spec = dataset_spec("t2m", "data")
    loaded = load_evaluator("new", spec, "checkpoints")
    assert loaded.source.file.name == "finest.tar" and loaded.words.dim == 6
    published = Normalisation.load(spec.root / "Mean.npy", spec.root / "Std.npy", spec.dim_pose)
    np.testing.assert_allclose(loaded.normalisation.std[0], published.std[0] / 5, rtol=1e-5)
    pairs = load_pairs(spec, "val")
    assert loaded.motions([pair.features for pair in pairs]).shape == (len(pairs), 8)
    assert loaded.texts([pair.tokens[0] for pair in pairs]).shape == (len(pairs), 8)


def test_a_stopped_run_resumes_to_the_same_weights(train: Callable[..., None]) -> None:
    train("whole")
    train("parts", "--total_iter", 2)
    train("parts", "--is_continue")
    whole, parts = latest(Path(), "whole"), latest(Path(), "parts")
    assert parts["total_it"] == 4
    for part in ("movement_encoder", "text_encoder", "motion_encoder", "opt_evaluator"):
        assert_equal(parts[part], whole[part])


def test_a_run_in_half_precision_can_be_packed(toy_copy: Path) -> None:
    run_script("train_evaluator.py", "--name", "new", *FLAGS, "--mixed_precision", "bf16", cwd=toy_copy)
    spec = dataset_spec("t2m", "data")
    whole, pairs = load_evaluator("new", spec, "checkpoints"), load_pairs(spec, "val")
    run_here(prepare.bundle_model.main, "new", "--out", "packed", cwd=toy_copy)
    assert {path.relative_to("packed/t2m/new").as_posix() for path in Path("packed").rglob("*") if path.is_file()} == {
        "opt.txt", "meta/mean.npy", "meta/std.npy", "glove/our_vab_data.npy", "glove/our_vab_words.txt",
        "model/finest.safetensors"}
    packed = load_evaluator("new", spec, "packed")
    motions, tokens = [pair.features for pair in pairs], [pair.tokens[0] for pair in pairs]
    np.testing.assert_allclose(packed.motions(motions), whole.motions(motions), atol=0.02)
    np.testing.assert_allclose(packed.texts(tokens), whole.texts(tokens), atol=0.02)


def test_a_checkpoint_without_its_settings_is_not_packed(tmp_path: Path) -> None:
    released = tmp_path / "checkpoints" / "t2m" / "released"
    save_checkpoint(released / "model" / "latest.tar", {"vq_model": {"weight": torch.zeros(1)}})
    write_options(released / "opt.txt", {"name": "released"})
    line = refusal(prepare.bundle_model.main, "released", "--out", "packed", cwd=tmp_path)
    assert "does not contain its settings" in line
