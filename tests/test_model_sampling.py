"""Sampling settings come from flags, else from a model's opt.txt, else from the published defaults."""
from pathlib import Path

import numpy as np
import pytest

import gen_t2m
from data.dataset import dataset_spec
from models.config import BASE_SAMPLING, LENGTH_SAMPLING, RESIDUAL_SAMPLING, Sampling
from models.text_to_motion import TextToMotion
from options.generate import parse_generate_options
from options.train import parse_length_options, parse_res_options, parse_t2m_options
from storage import released
from storage.checkpoint import Source
from storage.generation import _own_sampling, load_text_to_motion
from tests.toy import run_here
from utils import InputError


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
        source = released.with_masked_sizes(Part({**options, "lamp_name": "lamp"}).source, {})
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
