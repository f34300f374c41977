"""Shared fixtures."""
import shutil
from pathlib import Path

import pytest

from tests.toy import make_bert, make_dataset, make_glove, make_llm
from tests.toy_models import make_captioner, make_models


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to an empty working folder and return the folder of the run "run"."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "checkpoints" / "t2m" / "run"


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with toy data, language models, word vectors and untrained models, for tests that only read them."""
    folder = tmp_path_factory.mktemp("toy")
    make_dataset(folder / "data")
    make_bert(folder / "bert")
    make_glove(folder / "glove")
    make_llm(folder / "llm")
    make_captioner(make_models(folder / "checkpoints"))
    return folder


@pytest.fixture(scope="session")
def toy_models(toy_folder: Path) -> Path:
    return toy_folder / "checkpoints"


@pytest.fixture
def toy_copy(toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to a copy of the toy folder, whose files may be changed."""
    shutil.copytree(toy_folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path
