"""The parity runner passes the published fixtures, and it can fail."""
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tests.golden.fill import fill, fill_state_dict
from tests.golden.kinds import UnknownFixture, find_model_check, find_motion_check
from tests.golden.report import Report
from tests.golden.runner import MODELS, run
from tests.run_golden import main

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT.parent / "shared" / "golden"
RUNNER = ROOT / "tests" / "run_golden.py"
with_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="no folder ../shared/golden with the published fixtures")


def lines_of(*folders: Path) -> list[str]:
    """Lines of the runner for the fixtures of folders, run in this process."""
    lines: list[str] = []
    run(folders, lines.append)
    return lines


# Small fixtures, computed here with plain operations

def length_fixture(folder: Path, name: str = "fixture", model: str = "LengthEstimator, tiny") -> dict[str, np.ndarray]:
    """A length estimator of 16 features and 6 classes, computed with plain torch operations."""
    shapes = {"output.0": (8, 16), "output.1": (8,), "output.4": (4, 8), "output.5": (4,), "output.8": (4, 4),
              "output.9": (4,), "output.11": (6, 4)}
    weights = {}
    for layer, shape in shapes.items():
        for part, size in (("weight", shape), ("bias", shape[:1])):
            weights[f"{layer}.{part}"] = torch.from_numpy(fill(f"{layer}.{part}", size))

    def parts(layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        return weights[f"output.{layer}.weight"], weights[f"output.{layer}.bias"]

    text_emb = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    hidden = text_emb
    for linear, norm in ((0, 1), (4, 5), (8, 9)):
        hidden = F.linear(hidden, *parts(linear))
        hidden = F.leaky_relu(F.layer_norm(hidden, hidden.shape[-1:], *parts(norm)), 0.2)
    arrays = {"text_emb": text_emb.numpy(), "logits": F.linear(hidden, *parts(11)).numpy()}
    write_fixture(folder, name, arrays, {
        "model": model,
        "hyperparameters": {"input_size": 16, "output_size": 6, "hidden": [8, 4, 4], "leaky_slope": 0.2},
        "fill": {"skip": []},
        "arrays": {key: {"shape": list(array.shape), "dtype": str(array.dtype)} for key, array in arrays.items()},
        "parameters": [[key, list(tensor.shape), "float32"] for key, tensor in weights.items()]})
    return arrays


def metrics_fixture(folder: Path, name: str = "fixture") -> dict[str, np.ndarray]:
    """Poses and their errors, computed joint by joint."""
    rng = np.random.default_rng(0)
    pose_gt, pose_pred = rng.normal(size=(2, 5, 4, 3))
    mpjpe = [np.mean([np.linalg.norm(a - pred[0] - b + true[0]) for a, b in zip(pred, true, strict=True)])
             for pred, true in zip(pose_pred, pose_gt, strict=True)]
    arrays = {"pose_gt": pose_gt, "pose_pred": pose_pred, "mpjpe": np.array(mpjpe)}
    write_fixture(folder, name, arrays)
    return arrays


def write_fixture(folder: Path, name: str, arrays: dict[str, np.ndarray], manifest: dict | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / f"{name}.npz", **arrays)
    if manifest is not None:
        (folder / f"{name}.json").write_text(json.dumps(manifest), encoding="utf-8")


# The published fixtures

@with_golden
def test_every_published_fixture_passes():
    result = subprocess.run([sys.executable, RUNNER, GOLDEN], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.splitlines()[-1].endswith(" passed, 0 failed")


@with_golden
@pytest.mark.parametrize(("fixture", "array"), [
    ("models/ema_reset_quantizer", "code_sum2"), ("models/length_estimator", "logits"),
    ("models/t2m_evaluator", "motion_emb_truncated"), ("motion/metrics", "fid_few"), ("motion/mirror", "mirrored"),
    ("motion/process_t2m_1", "root_pos"), ("motion/rotations", "lerp"),
    ("motion/bvh/convert_run_active", "foot_locked")])
def test_one_array_off_by_a_per_cent_fails(tmp_path, fixture, array):
    arrays = dict(np.load(GOLDEN / f"{fixture}.npz"))
    arrays[array] = (arrays[array] * 1.01).astype(arrays[array].dtype)
    manifest = GOLDEN / f"{fixture}.json"
    write_fixture(tmp_path, "copy", arrays, json.loads(manifest.read_text()) if manifest.exists() else None)
    (line,) = lines_of(tmp_path)
    assert "FAIL" in line and array in line


# Fixtures created by the tests

def test_fixtures_are_found_by_content_wherever_they_lie_and_whatever_their_names(tmp_path):
    length_fixture(tmp_path / "deep" / "down", "metrics")
    metrics_fixture(tmp_path, "length_estimator")
    lines = lines_of(tmp_path, tmp_path / "deep")
    assert len(lines) == 2, "a fixture in two of the folders runs once"
    assert all("  ok  " in line for line in lines)


def status_of(monkeypatch: pytest.MonkeyPatch, folder: Path) -> int:
    monkeypatch.setattr(sys, "argv", ["run_golden.py", str(folder)])
    with pytest.raises(SystemExit) as stop:
        main()
    return stop.value.code


def test_the_command_ends_with_a_count_and_a_status(tmp_path, monkeypatch, capsys):
    assert status_of(monkeypatch, tmp_path / "none") == 2
    assert status_of(monkeypatch, tmp_path) == 1, "no fixture at all is no success"
    metrics_fixture(tmp_path, "a")
    assert status_of(monkeypatch, tmp_path) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "1 passed, 0 failed"


def test_the_command_runs_from_any_folder_and_goes_on_after_a_failure(tmp_path):
    write_fixture(tmp_path / "mixed", "a", {"nobody": np.zeros(3)})
    metrics_fixture(tmp_path / "mixed", "b")
    command = [sys.executable, RUNNER, "mixed"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout.splitlines()[-1]) == (1, "1 passed, 1 failed"), result.stderr


@pytest.mark.parametrize("make", [length_fixture, metrics_fixture])
def test_one_per_cent_in_any_array_fails(tmp_path, make):
    arrays = make(tmp_path)
    assert "  ok  " in lines_of(tmp_path)[0]
    for name, array in arrays.items():
        np.savez(tmp_path / "fixture.npz", **{**arrays, name: array * np.float32(1.01)})
        assert "FAIL" in lines_of(tmp_path)[0], name


def test_an_array_that_nothing_checks_fails(tmp_path):
    arrays = metrics_fixture(tmp_path)
    np.savez(tmp_path / "fixture.npz", **arrays, surprise=np.zeros(2))
    assert "nothing checks surprise" in lines_of(tmp_path)[0]


def test_a_fixture_with_inputs_alone_fails(tmp_path):
    arrays = length_fixture(tmp_path)
    manifest = json.loads((tmp_path / "fixture.json").read_text())
    del manifest["arrays"]
    write_fixture(tmp_path, "fixture", {"text_emb": arrays["text_emb"]}, manifest)
    assert "nothing to compare with" in lines_of(tmp_path)[0]


def change_manifest(folder: Path, **changes: object) -> str:
    path = folder / "fixture.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return lines_of(folder)[0]


def test_a_manifest_that_does_not_fit_fails(tmp_path):
    length_fixture(tmp_path)
    parameters = json.loads((tmp_path / "fixture.json").read_text())["parameters"]
    renamed = [["output.7.weight", *parameters[0][1:]], *parameters[1:]]
    assert "parameters missing: output.7.weight" in change_manifest(tmp_path, parameters=renamed)
    length_fixture(tmp_path)
    reshaped = [[name, [9] if name == "output.1.weight" else shape, kind] for name, shape, kind in parameters]
    assert "shape of output.1.weight" in change_manifest(tmp_path, parameters=reshaped)
    length_fixture(tmp_path)
    assert "logits: shape [3, 7]" in change_manifest(tmp_path, arrays={"logits": {"shape": [3, 7], "dtype": "float32"}})
    length_fixture(tmp_path)
    assert "no check for the model 'Nobody'" in change_manifest(tmp_path, model="Nobody")
    assert "no check for a manifest" in change_manifest(tmp_path, model=None) or "FAIL" in lines_of(tmp_path)[0]


@pytest.mark.parametrize(("name", "content"), [
    ("notes.json", b'{"some": "facts"}'), ("list.json", b"[1, 2]"), ("broken.json", b"{"), ("broken.npz", b"PK"),
    ("alone.npy", b""), ("broken.bvh", b"HIERARCHY"), ("alone.json", b'{"model": "LengthEstimator"}')])
def test_content_that_fits_nothing_fails_and_the_others_run_on(tmp_path, name, content):
    metrics_fixture(tmp_path, "zz")
    (tmp_path / name).write_bytes(content)
    first, second = lines_of(tmp_path)
    assert "FAIL" in first and name in first and "\n" not in first
    assert "  ok  " in second


# The parts

def test_fill_has_the_known_values():
    known = {("a.weight", (3, 2)): [-0.46050242, -0.794956, 0.15118766], ("norm.weight", (2,)): [0.9215701, 1.028201],
             ("a.bias", (3,)): [0.00996432, -0.18868332, 0.12908907], ("scale", ()): [0.03518152]}
    for (name, shape), values in known.items():
        filled = fill(name, shape)
        assert filled.shape == shape and filled.dtype == np.float32
        np.testing.assert_allclose(filled.ravel()[:3], values, rtol=1e-6)


def test_fill_keeps_integers_and_what_is_skipped():
    state = {"a.weight": torch.zeros(3, 2), "a.pe": torch.zeros(2), "ids": torch.zeros(2, dtype=torch.int64)}
    fill_state_dict(state, skip=[".pe"])
    assert state["a.weight"][0, 0] == pytest.approx(-0.46050242)
    assert not state["a.pe"].any() and not state["ids"].any()


def test_report_compares_shapes_values_and_tolerance():
    report = Report({"x": np.array([1.0, -200.0]), "n": np.array([1, 2])})
    report.close("x", torch.tensor([1.0, -200.5]), 1e-2, relative=True)
    report.exact("n", [1, 2])
    report.close("absent", [1.0], 0.0)
    report.finish()
    assert report.failures == [] and report.worst == pytest.approx(0.25)
    for wrong in ([1.0, -203], [[1.0, -200]], [1.0, np.nan], [np.inf, -200]):
        failing = Report({"x": report.arrays["x"]})
        failing.close("x", wrong, 1e-2, relative=True)
        assert len(failing.failures) == 1, wrong
    report.exact("n", [1, 3])
    assert report.failures == ["n: 1 of 2 values differ"]


def test_equal_infinities_are_close():
    report = Report({"x": np.array([-np.inf, 1.0])})
    report.close("x", [-np.inf, 1.0], 1e-6)
    assert report.failures == []


@pytest.mark.parametrize(("name", "parameter", "kind"), [
    ("LaMP MaskTransformer, KIT", "", "LaMP MaskTransformer"),
    ("MaskTransformer (KIT)", "Qformer.bert.x", "LaMP MaskTransformer"),
    ("MoMask Mask Transformer, KIT", "", "MoMask MaskTransformer"),
    ("MaskTransformer", "seqTransEncoder.layers.0.x", "MoMask MaskTransformer"),
    ("ResidualTransformer, 3 layers, share_weight=True", "", "MoMask ResidualTransformer"),
    ("LaMP pretraining (tiny)", "", "LaMP language-motion"),
    ("LaMP (KIT)", "motion_cls.weight", "LaMP language-motion"),
    ("RVQVAE, shared codebook", "", "MoMask RVQVAE"),
    ("VQ-VAE", "quantizer.layers.0.codebook", "MoMask RVQVAE"),
    ("HumanVQVAE kit", "", "LaMP HumanVQVAE"),
    ("EMA quantizer for a VQ-VAE", "codebook", "EMA-with-reset"),
    ("Q-Former, 4 layers", "", "Q-Former"),
    ("M2T front end", "", "M2T"),
    ("T2M evaluator kit", "", "T2M evaluator"),
    ("Motion to text, before the language model", "opt_proj.weight", "M2T"),
    ("BERT with queries", "bert.encoder.layer.0.crossattention.self.key.weight", "Q-Former"),
])
def test_a_model_with_another_name_is_recognised_by_words_and_parameters(name, parameter, kind):
    checks = {key: lambda *_, key=key: key for key in MODELS}
    found = find_model_check({"model": name, "parameters": [[parameter, [1], "float32"]]}, checks)
    assert found().startswith(kind)


@pytest.mark.parametrize("name", ["transformer", "MaskTransformer", "", "VQ-VAE"])
def test_a_model_that_name_and_parameters_leave_open_is_refused(name):
    with pytest.raises(UnknownFixture):
        find_model_check({"model": name}, MODELS)


def test_the_first_check_that_knows_one_of_the_arrays_is_taken():
    first, second = (lambda _: None), (lambda _: None)
    checks = [(("a", "b_*"), first), (("c",), second)]
    assert find_motion_check(["c", "d", "a"], checks) is first
    assert find_motion_check(["c", "b_7"], checks) is first
    assert find_motion_check(["c", "b"], checks) is second
    with pytest.raises(UnknownFixture):
        find_motion_check(["b", "d"], checks)


def test_an_array_that_the_manifest_names_need_not_be_stored(tmp_path):
    length_fixture(tmp_path)
    assert "  ok  " in change_manifest(tmp_path, arrays={"hidden": {"shape": [3, 8], "dtype": "float32"}})


def test_report_finds_the_part_of_a_result_that_a_fixture_kept():
    whole = torch.arange(24.0).view(2, 12)
    for part in (whole[:, :4], whole[:, ::3], whole[:, ::5], whole):
        report = Report({"x": part.numpy()})
        assert torch.equal(report.part("x", whole, 1), part)
    assert Report({}).part("x", whole, 1) is whole


def test_tolerance_grows_with_the_rounding_of_what_is_stored():
    values = np.array([3000.0, 1.0])
    for dtype, passes in ((np.float16, True), (np.float64, False)):
        report = Report({"x": values.astype(dtype)})
        report.close("x", values + 1, 1e-3)
        assert (report.failures == []) is passes
