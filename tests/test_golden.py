"""The parity runner passes the published fixtures, and it can fail."""
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tests.golden.fill import fill
from tests.golden.runner import run
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
