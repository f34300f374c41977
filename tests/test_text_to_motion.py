"""The generation pipeline with the bundled models."""
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from data.dataset import dataset_spec
from models.layers import can_pack, pack_linears
from models.motion_edit import MotionEditor
from models.text_to_motion import Sample, TextToMotion, load
from storage.generation import load_text_to_motion
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
