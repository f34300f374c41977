"""A killed run resumes exactly."""
import subprocess
import sys
import time
from pathlib import Path

import torch

import train_vq
from storage.checkpoint import load_checkpoint
from tests.toy import ROOT, TINY_VQ, make_dataset, run_here

STEPS = ("--total_iter", "120", "--save_latest", "7", "--seed", "5", "--gpu_id", "-1")


def flags(data: Path, name: str) -> list[str]:
    return ["--data_root", str(data), "--name", name, *TINY_VQ, *STEPS]


def test_a_killed_tokenizer_run_continues_to_the_same_weights(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data")
    run_here(train_vq.main, *flags(data, "whole"), cwd=tmp_path)

    killed = tmp_path / "checkpoints" / "t2m" / "killed" / "model" / "latest.tar"
    process = subprocess.Popen([sys.executable, str(ROOT / "train_vq.py"), *flags(data, "killed")], cwd=tmp_path,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not killed.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    stopped_at = load_checkpoint(killed)["total_it"]
    assert 0 < stopped_at < 120

    run_here(train_vq.main, *flags(data, "killed"), "--is_continue", cwd=tmp_path)
    whole = load_checkpoint(tmp_path / "checkpoints" / "t2m" / "whole" / "model" / "latest.tar")
    resumed = load_checkpoint(killed)
    assert resumed["total_it"] == whole["total_it"] == 120
    for part in ("vq_model", "extra", "opt_vq_model"):
        assert_equal(resumed[part], whole[part])


def assert_equal(one: object, other: object) -> None:
    """Assert that nested dicts and lists of tensors and numbers are bitwise equal."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal(one[key], other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            assert_equal(*pair)
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other
