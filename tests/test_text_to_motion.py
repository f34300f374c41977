"""Generation: bundled models, lengths, sampling settings and negative prompts."""
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import Tensor

import gen_t2m
from data.dataset import dataset_spec
from models.config import BASE_SAMPLING, LENGTH_SAMPLING, RESIDUAL_SAMPLING, Sampling
from models.layers import can_pack, pack_linears
from models.motion_edit import MotionEditor
from models.text_to_motion import LengthEstimator, Sample, TextToMotion, load
from models.transformers.trunk import sample_generators
from options.generate import parse_generate_options
from options.train import parse_length_options, parse_res_options, parse_t2m_options
from storage import released
from storage.checkpoint import Source
from storage.generation import _own_sampling, load_text_to_motion
from tests.toy import run_here
from utils import InputError
from utils.runtime import listening

OTHERS = [Sample(f"a person waves {count} times", seed, 40 + 8 * count) for count in range(1, 9) for seed in (1, 2)]
VERBS = ["waves", "jumps", "kicks", "bows", "turns left", "walks on", "sits down", "claps", "squats", "leans back"]


def load_bundled() -> TextToMotion:
    made, files = load_text_to_motion("t2m_demo", "len_demo", dataset_spec("t2m"), "no_checkpoints")
    assert all("pretrained" in str(file) for file in files)
    return made


@pytest.fixture(scope="module")
def pipeline() -> TextToMotion:
    return load_bundled()


@pytest.fixture(scope="module")
def packed() -> TextToMotion:
    made = load_bundled()
    for network in dict.fromkeys(made.networks):
        pack_linears(network)
    return made


@pytest.mark.skipif(not can_pack(), reason="this torch has no packed linear maps")
def test_eighty_prompts_have_the_same_tokens_alone_and_among_others(packed: TextToMotion) -> None:
    samples = [Sample(f"a person {verb} {count} times", 10 * count + number, 4 * (2 + (count + number) % 9))
               for count in range(8) for number, verb in enumerate(VERBS)]
    quick = packed.sampling.changed({"time_steps": 3})
    among = packed.tokens(samples, quick)
    alone = [packed.tokens([sample], quick)[0] for sample in samples]
    assert all(torch.equal(one, other) for one, other in zip(among, alone, strict=True))
    together = packed.features_of(among[:20])
    for motion, tokens in zip(together, alone, strict=False):
        apart = packed.joints(motion) - packed.joints(packed.features_of([tokens])[0])
        assert np.abs(apart).max() < 1e-4


def test_same_prompt_same_motion_whatever_the_batch(pipeline: TextToMotion) -> None:
    sample = Sample("a person walks forward and turns left", 7, 100)
    alone = pipeline.generate([sample])[0]
    among = pipeline.generate([*OTHERS[:9], sample, *OTHERS[9:]])[9]
    assert alone.shape == (100, 22, 3)
    np.testing.assert_array_equal(alone, among)
    other_seed = pipeline.generate([Sample(sample.text, 8, 100)])[0]
    assert np.abs(alone - other_seed).max() > 0.01


def test_the_bundled_models_raise_the_prompted_hand(pipeline: TextToMotion) -> None:
    for side, wrist, other in (("left", 20, 21), ("right", 21, 20)):
        motions = pipeline.generate([Sample(f"a person raises the {side} hand", seed, 80) for seed in range(3)])
        higher = [motion[:, wrist, 1].max() > motion[:, other, 1].max() + 0.2 for motion in motions]
        assert sum(higher) >= 2, f"{side}: {higher}"


def test_a_length_is_cut_to_whole_tokens_and_chosen_where_there_is_none(pipeline: TextToMotion) -> None:
    cut, chosen = pipeline.generate([Sample("a person bows", 1, 63), Sample("a person bows", 1)])
    assert len(cut) == 60 and len(chosen) % 4 == 0 and 20 <= len(chosen) <= 196
    with pytest.raises(ValueError, match="at least 4 frames"):
        pipeline.generate([Sample("a person bows", 1, 3)])


def test_one_call_loads_a_model_and_another_makes_a_motion() -> None:
    model = load("t2m_demo", checkpoints_dir="no_checkpoints", gpu_id=-1)
    joints = model.generate("a person waves", m_len=42)
    assert (joints.shape, joints.dtype) == ((40, 22, 3), np.float32)
    sampled, = model.generate([Sample("a person waves", 3407, 40)])
    assert np.array_equal(joints, sampled)
    assert model.generate("a person waves", seed=5).shape[1:] == (22, 3)
    with pytest.raises(ValueError, match="no words"):
        model.generate(" .. ")
    with pytest.raises(InputError, match="no model named 'nothing'"):
        load("nothing", checkpoints_dir="no_checkpoints")


def test_steps_of_a_generation_are_reported_and_may_stop_it(pipeline: TextToMotion) -> None:
    steps = []
    with listening(lambda *step: steps.append(step)):
        pipeline.generate("a person waves", m_len=40)
        assert steps == [*(("tokens", step, 10) for step in range(1, 11)),
                         *(("residual layers", layer, 5) for layer in range(1, 6))]
        steps.clear()
        MotionEditor(pipeline, 49).generate([("a person waves", 60)], 1, pipeline.sampling.changed({"time_steps": 1}))
    assert [step for step in steps if step[0].endswith("motions")][-1] == ("tokens of long motions", 60, 60)
    with pytest.raises(InterruptedError), listening(Mock(side_effect=InterruptedError)):
        pipeline.generate("a person waves", m_len=40)


@torch.no_grad()
def with_logits(*logits: float) -> LengthEstimator:
    """Return an estimator with the same output for every text."""
    model = LengthEstimator(8, len(logits), (16, 8)).eval()
    model.output[-1].weight.zero_()
    model.output[-1].bias.copy_(torch.tensor(logits))
    return model


def texts(count: int) -> Tensor:
    return torch.randn(count, 8, generator=torch.Generator().manual_seed(0))


def test_an_empty_motion_is_never_chosen() -> None:
    model = with_logits(50.0, 0.0, 1.0, 0.5)
    assert model.sample(texts(40), sample_generators(range(40))).min() >= 1
    assert model.expected(texts(2)).tolist() == [2, 2]


def test_samples_follow_the_distribution_and_their_seeds() -> None:
    logits = (3.0, 0.0, 1.0, -1.0)
    model, count = with_logits(*logits), 3000
    drawn = model.sample(texts(count), sample_generators(range(count)))
    share = torch.bincount(drawn, minlength=4)[1:] / count
    torch.testing.assert_close(share, torch.tensor(logits[1:]).softmax(0), rtol=0, atol=0.03)
    assert torch.equal(drawn[:50], model.sample(texts(50), sample_generators(range(50))))
    assert model.loss(texts(2), torch.tensor([0, 2])).item() == pytest.approx(
        -torch.tensor(logits).log_softmax(0)[[0, 2]].mean().item())


PLAIN = Sampling(time_steps=3, cond_scale=5000.0)  # text features of the toy model are small
AWAY = replace(PLAIN, negative_prompt="a person runs")


@pytest.fixture(scope="module")
def toy_pipeline(toy_models: Path) -> TextToMotion:
    return load_text_to_motion("t2m", None, dataset_spec("t2m"), toy_models, res_name="res")[0]


@torch.no_grad()
def test_guidance_leads_from_the_negative_text_to_the_prompt(toy_pipeline: TextToMotion) -> None:
    cond, away = toy_pipeline.condition(["a person walks", "a person runs"]).split(1)
    ids, model = torch.full((1, 5), toy_pipeline.transformer.mask_id), toy_pipeline.transformer
    wanted, unwanted = model(ids, cond), model(ids, away)
    guided = model.guided_logits(ids, cond, None, 3.0, negative=away)
    torch.testing.assert_close(guided, unwanted + 3 * (wanted - unwanted), rtol=1e-4, atol=1e-5)

    model, layers, history = toy_pipeline.residual, torch.tensor([1]), torch.randn(1, 5, 8)
    wanted, unwanted = (model.project(model(history, layers, text), layers) for text in (cond, away))
    guided = model.guided_logits(history, layers, cond, None, 3.0, negative=away)
    torch.testing.assert_close(guided, unwanted + 3 * (wanted - unwanted), rtol=1e-4, atol=1e-5)


def test_tokens_depend_on_it_only_where_there_is_guidance(toy_pipeline: TextToMotion) -> None:
    samples = [Sample("a person walks", 1, 64), Sample("a person waves", 2, 80)]
    plain, away = toy_pipeline.tokens(samples, PLAIN), toy_pipeline.tokens(samples, AWAY)
    assert any(not torch.equal(a, b) for a, b in zip(plain, away, strict=True))
    unguided = {"cond_scale": 1.0, "res_cond_scale": 1.0}
    for a, b in zip(toy_pipeline.tokens(samples, replace(PLAIN, **unguided)),
                    toy_pipeline.tokens(samples, replace(AWAY, **unguided)), strict=True):
        assert torch.equal(a, b)
    torch.testing.assert_close(toy_pipeline.tokens(samples[:1], AWAY)[0], away[0])


class Part:
    """A loaded model with a source only."""

    def __init__(self, options: dict[str, object], has_settings: bool = False) -> None:
        self.source = Source(Path("run"), options, Path("run/model/latest.tar"), has_settings)


def own(dataset: str = "t2m", base: Part | None = None, residual: Part | None = None,
        length: Part | None = None) -> Sampling:
    return _own_sampling(dataset_spec(dataset), (base, BASE_SAMPLING), (residual, RESIDUAL_SAMPLING),
                         (length, LENGTH_SAMPLING))


@pytest.fixture(scope="module")
def bundled() -> TextToMotion:
    return load_text_to_motion("t2m_demo", "len_demo", dataset_spec("t2m"), "checkpoints")[0]


def test_bundled_models_bring_the_sampling_that_suits_them(bundled: TextToMotion) -> None:
    assert bundled.sampling == Sampling(10, 4.0, 1.0, 0.9, True, res_cond_scale=2.0, res_temperature=0.1, length="mean")


def test_each_model_states_its_part_alone() -> None:
    sampling = own(base=Part({"cond_scale": 3, "res_cond_scale": 9.0}), residual=Part({"res_temperature": 0.5}))
    assert (sampling.cond_scale, sampling.res_cond_scale, sampling.res_temperature) == (3, 5.0, 0.5)
    for options, message in (({"cond_scale": "wide"}, "cond_scale cannot be 'wide'"),
                             ({"length": "longest"}, "length 'longest' is not one of sample, mean")):
        with pytest.raises(InputError, match=message):
            own(base=Part(options))


def test_the_gumbel_option_of_published_training_does_not_count_in_generation() -> None:
    theirs, ours = {"gumbel_sample": False}, {"gumbel_sample": False, "time_steps": 10}
    for options, expected in ((theirs, True), (ours, False)):
        source = released.with_masked_options(Part({**options, "lamp_name": "lamp"}).source, {})
        assert source.options.get("gumbel_sample", True) is expected


def test_flags_change_only_what_they_name(bundled: TextToMotion) -> None:
    opt = parse_generate_options(["--text_prompt", "a", "--res_temperature", "0.7", "--no-gumbel_sample"])
    changed = bundled.sampling.changed(vars(opt))
    assert changed == Sampling(gumbel_sample=False, res_cond_scale=2.0, res_temperature=0.7, length="mean")


def test_training_writes_sampling_into_the_options() -> None:
    base = vars(parse_t2m_options(["--name", "a", "--vq_name", "vq", "--cond_scale", "2"]))
    residual = vars(parse_res_options(["--name", "a", "--vq_name", "vq"]))
    length = vars(parse_length_options(["--name", "a", "--length", "mean"]))
    assert own(base=Part(base), residual=Part(residual), length=Part(length)) == Sampling(cond_scale=2.0, length="mean")


@pytest.mark.parametrize("more", [(), ("--loop",)], ids=["plain", "directed"])
def test_each_prompt_of_a_file_has_its_random_stream(toy_models: Path, tmp_path: Path, more: tuple[str, ...]) -> None:
    """The toy vocabulary has no digits, so these texts have equal features and differ only in their noise."""
    def motions(name: str, *texts: str) -> list[np.ndarray]:
        (tmp_path / f"{name}.txt").write_text("".join(f"{text}#40\n" for text in texts))
        run_here(gen_t2m.main, "--name", "t2m", "--res_name", "res", "--len_name", "len", "--time_steps", 3, "--ext",
                 name, "--text_path", f"{name}.txt", "--gpu_id", -1, "--no_video", "--no_bvh", "--no_html", "--quiet",
                 "--checkpoints_dir", toy_models, *more, cwd=tmp_path)
        folder = tmp_path / "generation" / name / "joints"
        return [np.load(folder / str(number) / f"sample{number}_repeat0_len40.npy") for number in range(len(texts))]

    one, two, again = motions("file", "a person 1", "a person 2", "a person 1")
    (alone,) = motions("alone", "a person 2")
    assert np.abs(one - two).max() > 0.01
    assert np.abs(one - again).max() < 1e-4
    assert np.abs(two - alone).max() < 1e-4
