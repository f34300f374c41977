"""ONNX export, and generation from the graphs without torch."""
from pathlib import Path

import numpy as np
import pytest

from data.dataset import dataset_spec
from models.text_to_motion import Sample
from prepare import export_onnx
from storage.generation import load_text_to_motion
from tests.toy import WITHOUT_TORCH, run_here, run_script
from tests.toy_models import make_models


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with toy models and, in ``onnx``, their export."""
    for package in export_onnx.PACKAGES:
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp("export")
    make_models(folder / "checkpoints")
    run_here(export_onnx.main, "--name", "t2m", "--res_name", "res", cwd=folder)
    return folder


def test_graphs_give_torchs_numbers_at_other_sizes_than_they_were_traced_with(exported: Path) -> None:
    # The export compares them too, at other sizes.
    assert {path.name for path in (exported / "onnx").iterdir()} == {
        "text_encoder.onnx", "masked_step.onnx", "residual_step.onnx", "decoder.onnx", "tokenizer.json",
        "settings.json"}
    pipeline, _ = load_text_to_motion("t2m", None, dataset_spec("t2m"), exported / "checkpoints", res_name="res")
    for name, graph in export_onnx.graphs_of(pipeline, batch=1, tokens=49).items():
        assert export_onnx.difference(exported / "onnx" / f"{name}.onnx", graph) < 1e-4, name


def test_a_seed_gives_the_same_motion_without_torch(exported: Path) -> None:
    text, frames, seed = "A person waves, with the left hand!", 66, 2**33 + 5
    run_script("prepare/generate_onnx.py", "onnx", text, frames, "--seed", seed, "--out", "motion.npy", cwd=exported,
               options=WITHOUT_TORCH)
    made = np.load(exported / "motion.npy")
    pipeline, _ = load_text_to_motion("t2m", None, dataset_spec("t2m"), exported / "checkpoints", res_name="res")
    expected = pipeline.generate([Sample(text, seed, frames)])[0]
    assert made.shape == expected.shape == (64, 22, 3)
    np.testing.assert_allclose(made, expected, atol=1e-4)
    other = pipeline.generate([Sample(text, seed + 1, frames)])[0]
    assert np.abs(made - other).max() > 1e-2


def test_every_setting_of_sampling_counts_without_torch_as_it_does_with_it(exported: Path) -> None:
    from prepare.generate_onnx import Generator

    sample = Sample("a person waves", 7, 64)
    pipeline, _ = load_text_to_motion("t2m", None, dataset_spec("t2m"), exported / "checkpoints", res_name="res")
    generator = Generator(exported / "onnx")
    usual = pipeline.generate([sample])[0]
    # The logits of toy models are nearly equal, so they decide over the noise only at a low temperature.
    for how in ({"res_temperature": 1e-6, "res_cond_scale": 9.0}, {"temperature": 1e-6, "cond_scale": 9.0},
                {"topkr": 0.0}):
        expected = pipeline.generate([sample], pipeline.sampling.changed(how))[0]
        np.testing.assert_allclose(generator(sample.text, sample.m_len, sample.seed, **how), expected, atol=1e-4)
        assert np.abs(expected - usual).max() > 1e-2, how
