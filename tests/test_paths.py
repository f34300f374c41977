"""Model names in messages."""
from pathlib import Path

import pytest

from storage.checkpoint import PRETRAINED, model_names


def test_models_are_listed_by_name_and_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    bundled = PRETRAINED / "t2m" / "t2m_demo" / "model" / "net_best_loss.safetensors"
    own = Path("checkpoints/t2m/mine/model/latest.tar")
    elsewhere = tmp_path.parent / "more" / "t2m" / "other" / "model" / "finest.tar"
    assert model_names([bundled, own]) == "t2m_demo/net_best_loss (bundled), mine/latest (checkpoints/t2m)"
    assert model_names([own.absolute()]) == model_names([own])
    assert model_names([elsewhere]) == f"other/finest ({elsewhere.parents[2]})"
