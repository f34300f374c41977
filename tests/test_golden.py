"""The parity runner passes the published fixtures and can fail."""
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.run_golden import main
from tests.toy import GOLDEN, needs, run_script


def write_fixture(path: Path) -> None:
    """Write a fixture of poses and their errors, computed joint by joint."""
    pose_gt, pose_pred = np.random.default_rng(0).normal(size=(2, 5, 4, 3))
    mpjpe = [np.mean([np.linalg.norm(a - pred[0] - b + true[0]) for a, b in zip(pred, true, strict=True)])
             for pred, true in zip(pose_pred, pose_gt, strict=True)]
    np.savez(path, pose_gt=pose_gt, pose_pred=pose_pred, mpjpe=np.array(mpjpe))


@needs(GOLDEN)
def test_every_published_fixture_passes(tmp_path):
    told = run_script("tests/run_golden.py", GOLDEN, cwd=tmp_path).stdout
    assert told.splitlines()[-1].endswith(" passed, 0 failed")


def status_of(monkeypatch: pytest.MonkeyPatch, folder: Path) -> int:
    monkeypatch.setattr(sys, "argv", ["run_golden.py", str(folder)])
    with pytest.raises(SystemExit) as stop:
        main()
    return stop.value.code


def test_the_command_ends_with_a_count_and_a_status(tmp_path, monkeypatch, capsys):
    assert status_of(monkeypatch, tmp_path / "none") == 2
    assert status_of(monkeypatch, tmp_path) == 1, "no fixture at all is no success"
    write_fixture(tmp_path / "a.npz")
    assert status_of(monkeypatch, tmp_path) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "1 passed, 0 failed"
