"""Runs resume exactly, also after being killed, and start from another model."""
import argparse
import importlib
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import train_vq
from options.train import parse_t2m_options
from prepare.inspect_checkpoint import STATE_KEYS
from storage.checkpoint import find_source, load_checkpoint, read_options, read_state, save_checkpoint, write_options
from tests.toy import ROOT, TINY_LAMP, TINY_LENGTH, TINY_M2T, TINY_T2M, TINY_VQ, make_bert, make_dataset, run_here
from training.runs import inherit_settings

STEPS = ("--total_iter", "120", "--save_latest", "7", "--seed", "5", "--gpu_id", "-1",
         "--num_quantizers", "1", "--evaluator", "none")


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
    assert read_options(killed.parents[1] / "opt.txt")["chosen_by"] == "mpjpe_mm"
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


STAGES = {"vq": "vq", "lamp": "lamp", "t2m": "t2m_transformer", "res": "res_transformer", "len": "len_estimator",
          "m2t": "m2t"}
FEW = ("--batch_size", 8, "--total_iter", 1, "--quiet", "--gpu_id", -1)


def model(options: dict[str, object]) -> None:
    """A model whose settings are in its checkpoint. Its ``opt.txt`` belongs to another run."""
    path = Path("checkpoints/t2m/first/opt.txt")
    write_options(path, {key: value if key.endswith("_name") else 1 for key, value in options.items()})
    save_checkpoint(Path("checkpoints/t2m/first/model/latest.tar"), {"settings": options})


def parsed(parse: Callable[[list[str]], argparse.Namespace], *flags: str) -> argparse.Namespace:
    opt = parse(["--name", "second", *flags])
    inherit_settings(opt)
    return opt


@pytest.mark.usefixtures("home")
def test_sizes_are_those_of_the_model_unless_they_are_given() -> None:
    model({"latent_dim": 64, "n_heads": 4, "attention": "causal", "condition": "cls", "lamp_name": "words", "lr": 9.0})
    opt = parsed(parse_t2m_options, "--vq_name", "vq", "--init_from", "first", "--n_heads", "2")
    assert (opt.latent_dim, opt.n_heads, opt.attention) == (64, 2, "causal")
    assert (opt.condition, opt.lamp_name) == ("cls", "words")
    fresh = parsed(parse_t2m_options, "--vq_name", "vq")
    assert (opt.lr, fresh.latent_dim) == (fresh.lr, 512)


def train(stage: str, *flags: object, cwd: Path) -> None:
    run_here(importlib.import_module(f"train_{stage}").main, *flags, cwd=cwd)


def latest(home: Path, name: str) -> dict[str, torch.Tensor]:
    content = load_checkpoint(home / "checkpoints" / "t2m" / name / "model" / "latest.tar")
    return next(content[key] for key in STATE_KEYS if key in content)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("chain")
    data = ("--data_root", make_dataset(home / "data"))
    bert = make_bert(home / "bert")
    tiny = {"vq": TINY_VQ, "lamp": ("--bert", bert, *TINY_LAMP), "t2m": (*TINY_T2M, "--attention", "causal"),
            "res": TINY_T2M, "len": TINY_LENGTH, "m2t": TINY_M2T}
    on_vq = {name: () if name in ("vq", "len") else ("--vq_name", "vq") for name in STAGES}
    for name, script in STAGES.items():
        train(script, "--name", name, *data, *on_vq[name], *tiny[name], "--gpu_id", -1, cwd=home)
    for file in ("Mean.npy", "Std.npy"):
        np.save(home / "data" / file, 1.5 * np.load(home / "data" / file))
    for name, script in STAGES.items():
        train(script, "--name", f"{name}2", *data, *on_vq[name], "--init_from", name, "--lr", 0, *FEW, cwd=home)
    return home


def assert_not_moved(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    for entry, tensor in first.items():
        if not entry.endswith("codebook"):  # running means follow the data at any learning rate
            torch.testing.assert_close(second[entry], tensor.to(second[entry].dtype), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["vq", "lamp", "t2m", "res", "len", "m2t"])
def test_every_stage_starts_from_another_model_by_its_name_alone(chain: Path, name: str) -> None:
    first = read_state(find_source(name, "t2m", chain / "checkpoints").file, STATE_KEYS)
    second = latest(chain, f"{name}2")
    assert first.keys() == second.keys()
    assert_not_moved(first, second)


@pytest.mark.parametrize("name", ["vq", "lamp"])
def test_a_run_resumes_without_the_model_that_it_started_from(chain: Path, name: str) -> None:
    first, hidden = (chain / "checkpoints" / "t2m" / folder for folder in (name, f"{name}.hidden"))
    flags = ("--data_root", chain / "data", *(("--vq_name", "vq") if name == "lamp" else ()))
    first.rename(hidden)
    try:
        train(name, "--name", f"{name}2", *flags, "--init_from", name, "--is_continue", "--lr", 0, *FEW, cwd=chain)
    finally:
        hidden.rename(first)
    assert load_checkpoint(chain / "checkpoints" / "t2m" / f"{name}2" / "model" / "latest.tar")["total_it"] == 1


def test_word_pieces_and_what_tensors_do_not_tell_are_kept(chain: Path) -> None:
    first, second = (chain / "checkpoints" / "t2m" / name for name in ("lamp", "lamp2"))
    assert (first / "vocab.txt").read_text() == (second / "vocab.txt").read_text()
    assert read_options(second / "opt.txt")["qformer_heads"] == read_options(first / "opt.txt")["qformer_heads"]
    assert read_options(second.parent / "t2m2" / "opt.txt")["attention"] == "causal"
    assert read_options(second.parent / "t2m2" / "opt.txt")["lamp_name"] == "lamp"
