"""CLIP text features of a tiny random CLIP."""
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.transformers.mask_transformer import ClipText
from tests.toy_clip import LONGEST, VOCABULARY, make_clip
from utils import InputError

pytest.importorskip("transformers", reason="CLIP text features need transformers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def damaged(folder: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return shutil.copytree(folder, tmp_path / "clip")


def test_features_are_the_projected_end_of_the_text(folder: Path) -> None:
    clip = ClipText(folder)
    features = clip(["walk", "walk a b"])
    assert (clip.dim, features.shape, features.dtype) == (10, (2, 10), torch.float32)
    assert not features.requires_grad
    start, walk, end = (VOCABULARY.index(piece) for piece in ("<|startoftext|>", "walk</w>", "<|endoftext|>"))
    states = clip.model.text_model(input_ids=torch.tensor([[start, walk, end]])).last_hidden_state
    torch.testing.assert_close(features[0], clip.model.text_projection(states[0, 2]))
    assert not torch.allclose(features[0], features[1], atol=0.01)
    cut = " ".join(["walk"] * (LONGEST - 2))  # long texts are cut
    torch.testing.assert_close(clip([f"{cut} a b c"]), clip([cut]))


def test_a_fingerprint_tells_which_weights_lie_in_a_folder(damaged: Path) -> None:
    state = load_file(damaged / "model.safetensors")
    made = [ClipText(damaged).fingerprint for _ in range(2)]
    save_file({name: 2 * tensor if tensor.is_floating_point() else tensor for name, tensor in state.items()},
              damaged / "model.safetensors", metadata={"format": "pt"})
    assert made[0] == made[1] != ClipText(damaged).fingerprint


def without_projection(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    state.pop("text_projection.weight")
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(("damage", "told"), [
    (lambda folder: (folder / "model.safetensors").write_bytes(b"short"), "cannot be loaded"),
    (lambda folder: (folder / "model.safetensors").unlink(), "cannot be loaded"),
    (lambda folder: (folder / "vocab.json").unlink(), "has no tokenizer"),
    (lambda folder: (folder / "config.json").write_text("{"), "config"),
    (without_projection, "no text_projection.weight")])
def test_a_damaged_model_is_named(damaged: Path, damage: Callable[[Path], None], told: str) -> None:
    damage(damaged)
    with pytest.raises(InputError, match=told) as caught:
        ClipText(damaged)
    assert str(damaged) in str(caught.value) and "\n" not in str(caught.value)
