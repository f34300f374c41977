"""The generation pipeline with the bundled models."""
from collections.abc import Sequence
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from data.specs import dataset_spec
from models.lamp.features import text_inputs
from models.layers import can_pack, is_packed, pack_linears
from models.motion_edit import MotionEditor
from models.text_to_motion import Sample, TextToMotion, _Features, load
from models.transformers.trunk import static_batches
from motion.features import features_to_joints
from motion.skeleton import T2M
from storage.load import load_text_to_motion
from utils.device import listening
from utils.errors import InputError

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
def test_two_hundred_prompts_have_the_same_tokens_alone_and_among_others(packed: TextToMotion) -> None:
    samples = [Sample(f"a person {verb} {count} times", 10 * count + number, 4 * (2 + (count + number) % 9))
               for count in range(20) for number, verb in enumerate(VERBS)]
    assert len(samples) == 200
    quick = packed.sampling.changed({"time_steps": 3})
    among = packed.tokens(samples, quick)
    alone = [packed.tokens([sample], quick)[0] for sample in samples]
    assert all(torch.equal(one, other) for one, other in zip(among, alone, strict=True))
    together = packed.features_of(among[:20])
    for motion, tokens in zip(together, alone, strict=False):
        apart = packed.joints(motion) - packed.joints(packed.features_of([tokens])[0])
        assert np.abs(apart).max() < 1e-4


@pytest.mark.skipif(not can_pack(), reason="this torch has no packed linear maps")
def test_both_kinds_of_linear_map_give_the_same_tokens(pipeline: TextToMotion, packed: TextToMotion) -> None:
    both = [made.tokens(OTHERS) for made in (pipeline, packed)]
    same = sum(int((one == other).sum()) for one, other in zip(*both, strict=True))
    assert same >= 0.99 * sum(tokens.numel() for tokens in both[0])  # rounding may change a choice
    assert len(static_batches([20] * 4, packed.device, independent=is_packed(packed.transformer))) == 1


def test_same_prompt_same_motion_whatever_the_batch(pipeline: TextToMotion) -> None:
    sample = Sample("a person walks forward and turns left", 7, 100)
    alone = pipeline.generate([sample])[0]
    among = pipeline.generate([*OTHERS[:9], sample, *OTHERS[9:]])[9]
    assert alone.shape == (100, 22, 3)
    np.testing.assert_array_equal(alone, among)
    other_seed = pipeline.generate([Sample(sample.text, 8, 100)])[0]
    assert np.abs(alone - other_seed).max() > 0.01


@pytest.mark.parametrize("rows", [None, 4])
def test_same_text_same_feature_whatever_else_is_encoded(pipeline: TextToMotion, rows: int | None) -> None:
    texts = ["a man bows", "someone waves", "a person kicks twice", *(sample.text for sample in OTHERS)]
    among = pipeline.condition(texts, rows)
    assert torch.equal(pipeline.condition(texts[::-1], rows).flip(0), among)
    for text, feature in zip(texts[:4], among, strict=False):
        assert torch.equal(pipeline.condition([text], rows)[0], feature)
    torch.testing.assert_close(among, pipeline.condition(texts), atol=1e-5, rtol=1e-5)  # of passes of other shapes


def test_no_text_is_padded_beyond_what_a_model_reads(pipeline: TextToMotion) -> None:
    text = pipeline.text
    ids, mask = text_inputs(text.model, text.pieces, ["walks " * 50], text.max_text_len, text.max_text_len + 1)
    assert ids.shape == mask.shape == (1, text.max_text_len)


def test_texts_that_share_a_pass_are_of_like_length() -> None:
    asked = []

    class Encoder:
        def lengths(self, texts: Sequence[str]) -> list[int]:
            return [len(text) for text in texts]

        def __call__(self, texts: Sequence[str], width: int) -> torch.Tensor:
            asked.append((texts, width))
            return torch.tensor([[float(len(text))] for text in texts])

    features = _Features(torch.device("cpu"), 2)
    assert features(Encoder(), ["walk", "r", "sit", "leaps", "walk"]).flatten().tolist() == [4, 1, 3, 5, 4]
    assert asked == [(["r", "sit"], 3), (["walk", "leaps"], 6)]


def test_the_bundled_models_raise_the_prompted_hand(pipeline: TextToMotion) -> None:
    sides = {"left": 20, "right": 21}
    for side, wrist in sides.items():
        other = sides["right" if side == "left" else "left"]
        motions = pipeline.generate([Sample(f"a person raises the {side} hand", seed, 80) for seed in range(3)])
        higher = [motion[:, wrist, 1].max() > motion[:, other, 1].max() + 0.2 for motion in motions]
        assert sum(higher) >= 2, f"{side}: {higher}"


def test_features_are_those_of_the_motion(pipeline: TextToMotion) -> None:
    samples = [Sample("a person walks forward", 3, 60), Sample("a person bows", 4, 42)]
    features = pipeline.features(samples)
    assert [x.shape for x in features] == [(60, 263), (40, 263)]
    for made, joints in zip(features, pipeline.generate(samples), strict=True):
        np.testing.assert_allclose(features_to_joints(torch.from_numpy(made), T2M).numpy(), joints, atol=1e-5)
    once = pipeline.sampling.changed({"time_steps": 1})
    assert not np.array_equal(pipeline.features(samples[:1], once)[0], features[0])


def test_motions_made_in_groups_are_those_made_one_by_one(pipeline: TextToMotion) -> None:
    grouped = pipeline.features(OTHERS, pipeline.sampling.changed({"group_rows": 4}))
    alone = pipeline.features(OTHERS)
    assert [len(x) for x in grouped] == [len(x) for x in alone] == [sample.m_len for sample in OTHERS]
    same = [np.allclose(one, other, atol=1e-3) for one, other in zip(grouped, alone, strict=True)]
    assert sum(same) >= len(OTHERS) - 2  # rounding may change a choice between two tokens
    among = pipeline.features([*OTHERS[5:], OTHERS[0]], pipeline.sampling.changed({"group_rows": 4}))[-1]
    np.testing.assert_array_equal(among, grouped[0])


def test_punctuation_and_capitals_do_not_matter(pipeline: TextToMotion) -> None:
    one, other = pipeline.generate([Sample("a person bows", 1, 60), Sample("A PERSON bows!", 1, 60)])
    np.testing.assert_array_equal(one, other)


def test_a_length_is_cut_to_whole_tokens_and_chosen_where_there_is_none(pipeline: TextToMotion) -> None:
    cut, chosen = pipeline.generate([Sample("a person bows", 1, 63), Sample("a person bows", 1)])
    assert len(cut) == 60
    assert len(chosen) % 4 == 0
    assert 20 <= len(chosen) <= 196
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
