"""Shared fixtures."""
from pathlib import Path

import pytest

from tests.toy_models import make_models


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to an empty working folder and return the folder of the run "run"."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "checkpoints" / "t2m" / "run"


@pytest.fixture(scope="session")
def toy_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of untrained toy models, for tests that only read them."""
    return make_models(tmp_path_factory.mktemp("toy_models"))
