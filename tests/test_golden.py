"""The parity runner passes the published fixtures and can fail."""
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.run_golden import main

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT.parent / "shared" / "golden"
RUNNER = ROOT / "tests" / "run_golden.py"
with_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="no folder ../shared/golden with the published fixtures")


# Small fixtures, computed here with plain operations


def metrics_fixture(folder: Path, name: str = "fixture") -> dict[str, np.ndarray]:
    """Write a fixture of poses and their errors, computed joint by joint."""
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


# Fixtures created by the tests


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
