"""Device of the CUDA tests: CUDA, or the CPU for a trial run (``CUDA_TESTS_DEVICE=cpu``)."""
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

STAND_IN = os.environ.get("CUDA_TESTS_DEVICE") == "cpu"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all tests in this folder, and skip them without a device."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.cuda)
            if not (STAND_IN or torch.cuda.is_available()):
                item.add_marker(pytest.mark.skip(reason="there is no CUDA device"))


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device("cpu") if STAND_IN else torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def traced_on_the_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU, trace graphs without compiling them, which takes minutes."""
    if STAND_IN:
        compiled: Callable[..., None] = nn.Module.compile
        monkeypatch.setattr(nn.Module, "compile", lambda module, **given: compiled(module, backend="eager", **given))
