"""Captioning models: motion input, trainable parameters, and generation."""
from pathlib import Path

import pytest
import torch
from torch import Tensor

from data.dataset import dataset_spec
from models.m2t import DecoderConfig, MotionCaptioner, Writing
from storage.evaluation import build_captioner, learned_state, load_learned
from storage.generation import LoadedLaMP, load_lamp
from tests.toy import make_llm
from tests.toy_models import M2T
from utils import InputError

FRAMES = 64
CAPTIONS = ["a person walks forward", "a person bows"]


@pytest.fixture(scope="module")
def lamp(toy_models: Path) -> LoadedLaMP:
    loaded = load_lamp("lamp", dataset_spec("t2m"), toy_models)
    for parameter in loaded.model.Qformer.parameters():  # an untrained model hardly depends on the motion
        if parameter.dim() > 1:
            parameter *= 10
    return loaded


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llm(tmp_path_factory.mktemp("llm") / "opt")


@pytest.fixture(params=["gpt", "opt"])
def model(request: pytest.FixtureRequest, lamp: LoadedLaMP, llm: Path) -> MotionCaptioner:
    torch.manual_seed(0)
    return build_captioner(settings(request.param, llm), lamp).eval()


def settings(decoder: str, llm: Path | None = None) -> DecoderConfig:
    return DecoderConfig.from_options(M2T | {"decoder": decoder, "llm": str(llm), "drop_out_rate": 0.0,
                                             "lora_dropout": 0.0})


def motions(count: int = 2) -> tuple[Tensor, Tensor]:
    """Motions (b, 64, 263) that an untrained encoder can distinguish, and their lengths."""
    generator = torch.Generator().manual_seed(3)
    motion = torch.randn(count, 1, 263, generator=generator) * torch.linspace(0, 120, FRAMES)[None, :, None]
    return motion, torch.tensor([FRAMES, 40] * count)[:count]


def fit(model: MotionCaptioner, steps: int, rate: float) -> float:
    """Overfit to two motions with their captions. Returns the last loss."""
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=rate)
    for _ in range(steps):
        result = model.train().loss(*motions(), CAPTIONS)
        optimizer.zero_grad()
        result.loss.backward()
        optimizer.step()
    model.eval()
    return float(result.loss.detach())


def test_captions_learned_by_heart_are_written(lamp: LoadedLaMP) -> None:
    torch.manual_seed(0)
    model = build_captioner(settings("gpt"), lamp)
    assert fit(model, 60, 2e-2) < 0.1
    for beams in (1, 3):
        assert model.write(*motions(), Writing(num_beams=beams)) == [[caption] for caption in CAPTIONS]
    assert model.loss(*motions(), CAPTIONS).accuracy == 1
    assert model.loss(*motions(), CAPTIONS[::-1]).loss > 1


def test_adapters_learn_what_a_frozen_language_model_says(lamp: LoadedLaMP, llm: Path) -> None:
    torch.manual_seed(0)
    model = build_captioner(settings("opt", llm), lamp)
    frozen = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    before = float(model.loss(*motions(), CAPTIONS).loss.detach())
    assert fit(model, 10, 3e-2) < before - 0.05
    assert all(torch.equal(frozen[name], p) for name, p in model.named_parameters() if name in frozen)


@torch.no_grad()
def test_company_and_padding_change_nothing(model: MotionCaptioner) -> None:
    motion, m_lens = motions(3)
    motion[1, 40:] = 0
    for writing in (Writing(num_captions=2, num_beams=2), Writing(top_p=0.9, seed=5)):
        together = model.write(motion, m_lens, writing)
        longer = torch.nn.functional.pad(motion[1:2, :40], (0, 0, 0, 100))
        assert model.write(longer, m_lens[1:2], writing) == together[1:2]
    alone = model.loss(longer, m_lens[1:2], ["a person bows"]).loss
    torch.testing.assert_close(model.loss(motion[1:2, :40], m_lens[1:2], ["a person bows"]).loss, alone)


@torch.no_grad()
def test_tokens_of_padding_are_hidden_from_the_queries(model: MotionCaptioner) -> None:
    motion, _ = motions(1)
    full, short = (model.prefix(motion, torch.tensor([frames])) for frames in (FRAMES, 20))
    assert (full - short).abs().max() > 1e-4
    motion[:, 40:] += 1  # outside the receptive field of a convolution at frame 20
    torch.testing.assert_close(model.prefix(motion, torch.tensor([4])), model.prefix(motions(1)[0], torch.tensor([4])))


def test_nucleus_captions_follow_their_seed_and_captions_begin_with_the_prompt(model: MotionCaptioner) -> None:
    first, again, other = (model.write(*motions(), Writing(3, top_p=0.95, seed=seed)) for seed in (1, 1, 2))
    assert first == again != other
    assert [len(captions) for captions in first] == [3, 3]
    captions, = model.write(*motions(1), Writing(num_captions=2, num_beams=2, prompt="a person"))
    assert len(captions) == 2
    assert all(caption.startswith("a person") for caption in captions)


def test_the_decoder_alone_learns_or_all_that_the_queries_depend_on(model: MotionCaptioner) -> None:
    def with_gradient() -> set[str]:
        model.zero_grad()
        model.loss(*motions(), CAPTIONS).loss.backward()
        return {name for name, p in model.named_parameters() if p.grad is not None}

    def learning() -> set[str]:
        return {name for name, p in model.named_parameters() if p.requires_grad}

    frozen = with_gradient()
    assert frozen == learning()
    assert all(name.startswith(("opt_proj.", "llm.")) for name in frozen)
    model.freeze_queries(False)
    assert with_gradient() == learning()
    assert {name.split(".")[0] for name in learning() - frozen} == {"query_tokens", "motion_projection", "Qformer"}
    assert not any("word_embeddings" in name or "cls." in name for name in learning() if name.startswith("Qformer"))


def test_what_learned_is_enough_to_come_back(model: MotionCaptioner, lamp: LoadedLaMP, llm: Path,
                                             tmp_path: Path) -> None:
    fit(model, 2, 1e-2)
    state = learned_state(model)
    torch.manual_seed(9)
    other = build_captioner(settings("opt" if any("lora" in name for name in state) else "gpt", llm), lamp).eval()
    with torch.no_grad():
        assert other.loss(*motions(), CAPTIONS).loss != model.loss(*motions(), CAPTIONS).loss
        load_learned(other, state, tmp_path)
        torch.testing.assert_close(other.loss(*motions(), CAPTIONS).loss, model.loss(*motions(), CAPTIONS).loss)
    state.pop("opt_proj.bias")
    with pytest.raises(InputError, match="missing: opt_proj.bias"):
        load_learned(other, state, tmp_path)
