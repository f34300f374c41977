"""Shared fixtures."""
from pathlib import Path

import pytest


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to an empty working folder. Returns the folder of its run "run"."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "checkpoints" / "t2m" / "run"
