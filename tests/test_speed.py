"""Accuracy of networks in lower precision and compiled."""
from functools import partialmethod

import numpy as np
import pytest
import torch

from data.dataset import dataset_spec
from models.config import MaskTransformerConfig
from models.text_to_motion import Sample, TextToMotion, speed_up
from models.transformers.mask_transformer import MaskTransformer
from models.transformers.trunk import sample_generators
from models.vq.model import VQConfig, build_tokenizer
from storage.generation import load_text_to_motion

TEXTS = ["a person walks forward and turns left", "someone waves with the right hand"]


def load() -> TextToMotion:
    return load_text_to_motion("t2m_demo", None, dataset_spec("t2m"), "no_checkpoints")[0]


@pytest.fixture(scope="module")
def plain() -> TextToMotion:
    return load()


@pytest.fixture(scope="module")
def bf16() -> TextToMotion:
    made = load()
    speed_up(made.networks, "bf16")
    return made


@pytest.fixture(scope="module")
def tokens(plain: TextToMotion) -> list[torch.Tensor]:
    """Tokens (n, q) of two motions, with n = 30 and 20."""
    return plain.tokens([Sample(TEXTS[0], 1, 120), Sample(TEXTS[1], 2, 80)])


@torch.no_grad()
def test_bf16_features_of_texts_and_motions_are_within_two_per_cent(plain: TextToMotion, bf16: TextToMotion,
                                                                    tokens: list[torch.Tensor]) -> None:
    motion = torch.as_tensor(plain.normalise(plain.features_of(tokens[:1])[0]))[None]
    for features in (lambda made: made.condition(TEXTS), lambda made: made.text.model.motion_features(motion)):
        one, other = features(plain), features(bf16)
        assert other.dtype == torch.float32
        assert 0 < (one - other).norm() < 0.02 * one.norm()


def test_bf16_decodes_to_the_same_motion_within_millimetres(plain: TextToMotion, bf16: TextToMotion,
                                                            tokens: list[torch.Tensor]) -> None:
    for one, other in zip(plain.features_of(tokens), bf16.features_of(tokens), strict=True):
        apart = np.abs(plain.joints(one) - plain.joints(other))
        assert 0 < apart.mean() < 0.002
        assert apart.max() < 0.02


def test_compiled_networks_give_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    compile_module = torch.nn.Module.compile
    # Skip the C++ compiler, which takes most of the time.
    monkeypatch.setattr(torch.nn.Module, "compile", partialmethod(compile_module, backend="aot_eager"))
    torch.manual_seed(0)
    model = MaskTransformer(MaskTransformerConfig(num_tokens=16, code_dim=8, cond_dim=6, latent_dim=16, n_heads=2,
                                                  n_layers=2, ff_size=16)).eval()
    tokenizer = build_tokenizer(VQConfig(dim_pose=5, nb_code=16, code_dim=8, output_emb_width=8, width=8, depth=1,
                                         num_quantizers=1)).eval()
    cond, lens = torch.randn(2, 6), [7, 12]

    def results() -> tuple[torch.Tensor, torch.Tensor]:
        ids = model.generate(cond, lens, sample_generators([1, 2]), timesteps=3).ids
        with torch.no_grad():
            return ids, tokenizer.forward_decoder(ids[1:])

    before = results()
    speed_up([model, tokenizer], compiled=True)
    ids, motion = results()
    assert torch.equal(ids, before[0])
    torch.testing.assert_close(motion, before[1], rtol=0, atol=1e-5)
