"""Losses and training stages of the evaluator."""
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import prepare.bundle_model
import train_evaluator
from data.dataset import Normalisation, dataset_spec
from data.text_motion import load_pairs
from models.evaluator import MovementAutoEncoder, matching_loss
from storage.checkpoint import load_checkpoint, save_checkpoint, write_options
from storage.evaluation import load_evaluator
from tests.test_resume import assert_equal
from tests.toy import TINY_EVALUATOR, make_dataset, make_glove, refusal, run_here, run_script
from utils import InputError

FLAGS = ("--data_root", "data", "--glove", "glove", "--gpu_id", "-1", *TINY_EVALUATOR)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a toy data set and word vectors."""
    folder = tmp_path_factory.mktemp("data")
    make_dataset(folder / "data")
    make_glove(folder / "glove")
    return folder


@pytest.fixture
def train(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Function that runs the training script in an empty folder with the data."""
    for name in ("data", "glove"):
        (tmp_path / name).symlink_to(data / name)
    monkeypatch.chdir(tmp_path)

    def run(name: str, *flags: object) -> None:
        monkeypatch.setattr(sys, "argv", ["train_evaluator.py", "--name", name, *FLAGS, *map(str, flags)])
        train_evaluator.main()

    return run


def latest(name: str) -> dict:
    """Return the content of a run's latest checkpoint."""
    return load_checkpoint(Path("checkpoints/t2m") / name / "model" / "latest.tar")


def test_own_motions_are_pulled_and_others_pushed_to_the_margin() -> None:
    text = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 4.0]])
    motion = torch.tensor([[3.0, 4.0], [10.0, 1.0], [0.0, 4.0]])
    loss = matching_loss(text, motion, margin=10.0, shifts=1)
    assert float(loss.positive) == pytest.approx((25 + 1 + 0) / 3)
    # text 0 with motion 1, text 1 with motion 2, text 2 with motion 0: 10.05, 10.77 and 3 apart
    assert float(loss.negative) == pytest.approx(7**2 / 3)
    assert float(loss.total) == pytest.approx(float(loss.positive + loss.negative))
    both = matching_loss(text, motion, margin=10.0, shifts=2)  # and text 0 with 2: 4; 1 with 0: 8.06; 2 with 1: 10.44
    assert float(both.negative) == pytest.approx((7**2 + 6**2 + (10 - 65**0.5)**2) / 6)
    assert float(matching_loss(text, motion, 10.0, shifts=50).negative) == float(both.negative)


@torch.no_grad()
def test_the_auto_encoder_weighs_reconstruction_change_and_size_of_movements() -> None:
    torch.manual_seed(0)
    model = MovementAutoEncoder(23, 8, 6).eval()
    motion = torch.randn(2, 16, 23)
    movements = model.encoder(motion[..., :-4])
    assert movements.shape == (2, 4, 6)
    loss = model.loss(motion, 0.5, 0.25)
    torch.testing.assert_close(loss.sparsity, movements.abs().mean())
    torch.testing.assert_close(loss.smoothness, (movements[:, 1:] - movements[:, :-1]).abs().mean())
    torch.testing.assert_close(loss.total, loss.reconstruction + 0.5 * loss.smoothness + 0.25 * loss.sparsity)
    motion[..., -4:] += 100  # foot contacts, which it does not read
    torch.testing.assert_close(model.loss(motion, 0.5, 0.25).total, loss.total)


def test_a_run_leaves_the_published_layout_with_its_normalisation_and_words(train: Callable[..., None]) -> None:
    train("new")
    content, movement = latest("new"), latest("new_movement")
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
    whole, parts = latest("whole"), latest("parts")
    assert parts["total_it"] == 4
    for part in ("movement_encoder", "text_encoder", "motion_encoder", "opt_evaluator"):
        assert_equal(parts[part], whole[part])


def test_a_run_in_half_precision_can_be_packed(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ("--data_root", data / "data", "--glove", data / "glove", "--mixed_precision", "bf16")
    run_script("train_evaluator.py", "--name", "new", *FLAGS, *flags, cwd=tmp_path)
    spec = dataset_spec("t2m", data / "data")
    whole, pairs = load_evaluator("new", spec, "checkpoints"), load_pairs(spec, "val")
    run_here(prepare.bundle_model.main, "new", "--out", "packed", cwd=tmp_path)
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
    assert not (tmp_path / "packed").exists()


def test_kit_trains_too(train: Callable[..., None]) -> None:
    kit = make_dataset(Path("kit"), "kit")
    train("new", "--dataset_name", "kit", "--data_root", kit)
    loaded = load_evaluator("new", dataset_spec("kit"), "checkpoints")
    assert loaded.model.config.dim_pose == 251
    with pytest.raises(InputError, match="251 features, but those of t2m have 263"):
        load_evaluator("checkpoints/kit/new", dataset_spec("t2m"), "checkpoints")
