"""What several test files start from."""
from pathlib import Path

import pytest


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder; gives the folder of the run "run" in it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "checkpoints" / "t2m" / "run"
