"""Two processes train like one, and runs resume exactly and start from other models."""
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from prepare.inspect_checkpoint import STATE_KEYS
from storage.checkpoint import find_source, load_checkpoint, read_options, read_state
from tests import toy
from tests.toy import TINY_EVALUATOR, TINY_LAMP, TINY_LENGTH, TINY_M2T, TINY_T2M, TINY_VQ
from tests.two_processes import without_dropout
from training.stages.vq import VQStage

# Only the order of sums may differ: float32 has 7 digits, and a loss has few terms.
CLOSE = {"rel": 2e-4, "abs": 1e-5}
SHARED = ("--gpu_id", "-1", "--log_every", "1", "--seed", "7")
STAGES = {
    "vq": ("train_vq", [*TINY_VQ, "--quantize_dropout_prob", "0.5"]),
    "lamp": ("train_lamp", [*TINY_LAMP, "--bert", "bert", "--vq_name", "vq_one", "--side_decoys",
                            "--attention_dropout", "0"]),
    "ptc": ("train_lamp", [*TINY_LAMP, "--bert", "bert", "--vq_name", "vq_one", "--objectives", "ptc",
                           "--attention_dropout", "0"]),
    "t2m": ("train_t2m_transformer", [*TINY_T2M, "--vq_name", "vq_one", "--lamp_name", "lamp_one", "--dropout", "0",
                                      "--cond_noise", "0.1"]),
    "res": ("train_res_transformer", [*TINY_T2M, "--vq_name", "vq_one", "--lamp_name", "lamp_one", "--dropout", "0",
                                      "--condition", "cls"]),
    "len": ("train_len_estimator", [*TINY_LENGTH, "--lamp_name", "lamp_one"]),
    "evaluator": ("train_evaluator", [*TINY_EVALUATOR, "--negatives", "3"]),
    "m2t": ("train_m2t", [*TINY_M2T, "--lamp_name", "lamp_one", "--pkeep", "0.7"]),
}
LOGS = {"ptc": "lamp"}


def job(stage: str, suffix: str, *more: str) -> list[str]:
    """Return a script and its arguments for the run ``<stage>_<suffix>``."""
    script, arguments = STAGES[stage]
    return [script, "--name", f"{stage}_{suffix}", "--data_root", "data", *SHARED, *arguments, *more]


def alone(folder: Path, line: list[str]) -> None:
    toy.run_here(importlib.import_module(line[0]).main, *line[1:], cwd=folder)


def in_two_processes(folder: Path, jobs: list[list[str]], devices: str = "") -> str:
    """Run training commands in two processes, on the CPU or on CUDA ``devices`` such as "0,1". Returns the output."""
    (folder / "jobs.json").write_text(json.dumps(jobs))
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
                "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
                "--main_process_port", "0"]
    made = subprocess.run([*launcher, str(toy.ROOT / "tests" / "two_processes.py"), str(folder / "jobs.json")],
                          env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": devices}, cwd=folder,
                          capture_output=True, text=True, timeout=600, check=False)
    assert made.returncode == 0, f"{made.stdout}\n{made.stderr}"
    return made.stdout


@pytest.fixture(scope="module")
def runs(toy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder in which every stage was trained by one process and by two processes."""
    folder = shutil.copytree(toy_folder, tmp_path_factory.mktemp("ranks"), dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.Dropout, "forward", nn.Dropout.forward)  # so that it comes back
        without_dropout()
        for stage in STAGES:
            alone(folder, job(stage, "one"))
        for stage in ("vq", "t2m"):
            alone(folder, job(stage, "parts", "--grad_accum", "2"))
        alone(folder, job("vq", "begun_alone", "--total_iter", "3"))
        output = in_two_processes(folder, [
            *(job(stage, "two") for stage in STAGES), job("vq", "begun_alone", "--is_continue"),
            job("vq", "begun_by_two", "--total_iter", "3")])
        (folder / "output.txt").write_text(output)
        alone(folder, job("vq", "begun_by_two", "--is_continue"))
    return folder


def curve(folder: Path, stage: str, suffix: str, part: str = "train") -> dict[str, list[float]]:
    """Return the values of a run by name, one per step."""
    log = EventAccumulator(str(folder / "log" / LOGS.get(stage, stage) / "t2m" / f"{stage}_{suffix}"))
    log.Reload()
    return {key: [event.value for event in log.Scalars(key)] for key in log.Tags()["scalars"] if key.startswith(part)}


def latest(folder: Path, run: str) -> dict:
    return load_checkpoint(folder / "checkpoints" / "t2m" / run / "model" / "latest.tar")


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("part", ["train", "val"])
def test_two_processes_have_the_numbers_of_one(runs: Path, stage: str, part: str) -> None:
    one, two = (curve(runs, stage, suffix, part) for suffix in ("one", "two"))
    assert one.keys() == two.keys()
    assert f"{part}/loss" in one or stage in ("lamp", "ptc", "evaluator")
    for key, values in one.items():
        assert two[key] == pytest.approx(values, **CLOSE), key


@pytest.mark.parametrize("stage", ["vq", "t2m"])
def test_a_batch_in_parts_has_the_gradient_of_the_batch(runs: Path, stage: str) -> None:
    """For ``vq`` in the first step only, because its codebook starts with rows of the first part."""
    one, parts = (curve(runs, stage, suffix) for suffix in ("one", "parts"))
    steps = slice(None) if stage == "t2m" else slice(1)
    assert parts["train/loss"][steps] == pytest.approx(one["train/loss"][steps], **CLOSE)


@pytest.mark.parametrize("run", ["vq_begun_alone", "vq_begun_by_two"])
def test_a_run_resumes_with_another_number_of_processes(runs: Path, run: str) -> None:
    whole, resumed = latest(runs, "vq_one"), latest(runs, run)
    assert resumed["total_it"] == whole["total_it"] == 6
    for name, tensor in whole["vq_model"].items():
        torch.testing.assert_close(resumed["vq_model"][name], tensor, rtol=1e-3, atol=1e-4)


def test_the_main_process_alone_speaks_and_writes(runs: Path) -> None:
    text = (runs / "output.txt").read_text()
    assert text.count("training clips") == 3  # as many runs as there are of train_vq.py
    assert len(list((runs / "log" / "vq" / "t2m" / "vq_two").iterdir())) == 1


assert_equal = partial(torch.testing.assert_close, rtol=0, atol=0)  # also of nested dicts and lists


def test_an_interrupted_run_resumes_exactly(toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ("--data_root", str(toy_folder / "data"), *TINY_VQ, "--num_quantizers", "1", "--evaluator", "none",
             "--total_iter", "30", "--save_latest", "7", "--seed", "5", "--gpu_id", "-1")
    step, steps = VQStage.forward, []

    def interrupted(*given: object) -> dict[str, torch.Tensor]:
        steps.append(given)
        if len(steps) == 20:
            raise RuntimeError
        return step(*given)

    alone(tmp_path, ["train_vq", "--name", "whole", *flags])
    monkeypatch.setattr(VQStage, "forward", interrupted)
    with pytest.raises(RuntimeError):
        alone(tmp_path, ["train_vq", "--name", "parts", *flags])
    assert latest(tmp_path, "parts")["total_it"] == 14
    alone(tmp_path, ["train_vq", "--name", "parts", *flags, "--is_continue"])
    whole, parts = latest(tmp_path, "whole"), latest(tmp_path, "parts")
    assert parts["total_it"] == whole["total_it"] == 30
    assert read_options(tmp_path / "checkpoints" / "t2m" / "parts" / "opt.txt")["chosen_by"] == "mpjpe_mm"
    for part in ("vq_model", "extra", "opt_vq_model"):
        assert_equal(parts[part], whole[part])


STARTED = ("vq", "lamp", "t2m", "res", "len", "m2t")


def start(folder: Path, stage: str, *more: str) -> None:
    """Start a run of one step without changes from the model ``<stage>_one``."""
    tokenizer = () if stage in ("vq", "len") else ("--vq_name", "vq_one")
    alone(folder, [STAGES[stage][0], "--name", f"{stage}_next", "--data_root", "data", "--init_from", f"{stage}_one",
                   "--lr", "0", "--batch_size", "8", "--total_iter", "1", "--gpu_id", "-1", "--quiet", *tokenizer,
                   *more])


@pytest.fixture(scope="module")
def started(runs: Path) -> Path:
    """Folder in which every stage started from a trained model, on data with other statistics."""
    for file in ("Mean.npy", "Std.npy"):
        np.save(runs / "data" / file, 1.5 * np.load(runs / "data" / file))
    options = runs / "checkpoints" / "t2m" / "res_one" / "opt.txt"  # as if it belonged to another run
    options.write_text(options.read_text().replace("n_heads: 2", "n_heads: 1"))
    for stage in STARTED:
        start(runs, stage, *(("--n_heads", "1") if stage == "t2m" else ()))
    return runs


@pytest.mark.parametrize("stage", STARTED)
def test_every_stage_starts_from_another_model_by_its_name_alone(started: Path, stage: str) -> None:
    first = read_state(find_source(f"{stage}_one", "t2m", started / "checkpoints").file, STATE_KEYS)
    content = latest(started, f"{stage}_next")
    second = next(content[key] for key in STATE_KEYS if key in content)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        if not name.endswith("codebook"):  # running means follow the data at any learning rate
            torch.testing.assert_close(second[name], tensor.to(second[name].dtype), rtol=0, atol=0)


def test_fine_tuning_the_text_side_of_lamp_changes_no_other_weight(runs: Path) -> None:
    start(runs, "lamp", "--name", "lamp_text", "--text_only", "--keep_condition", "1", "--objectives", "ptc",
          "--lr", "1")
    before = read_state(find_source("lamp_one", "t2m", runs / "checkpoints").file, STATE_KEYS)
    after = latest(runs, "lamp_text")["motion_qformer"]
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name].to(tensor))}
    assert {"text_proj.weight", "Qformer.bert.encoder.layer.0.intermediate.dense.weight"} <= changed
    assert all(re.search(r"^text_proj\.|layer\.\d+\.(intermediate|output)\.", name) for name in changed)


def test_settings_are_those_of_the_model_unless_they_are_given(started: Path) -> None:
    home = started / "checkpoints" / "t2m"
    assert (home / "lamp_one" / "vocab.txt").read_text() == (home / "lamp_next" / "vocab.txt").read_text()
    heads = [read_options(home / run / "opt.txt")["qformer_heads"] for run in ("lamp_one", "lamp_next")]
    assert heads[0] == heads[1]
    residual = read_options(home / "res_next" / "opt.txt")
    assert (residual["n_heads"], residual["condition"], residual["lamp_name"]) == (2, "cls", "lamp_one")
    assert residual["warm_up_iter"] != 2  # no setting of the model
    assert read_options(home / "t2m_next" / "opt.txt")["n_heads"] == 1


@pytest.mark.parametrize("stage", ["vq", "lamp"])
def test_a_run_resumes_without_the_model_that_it_started_from(started: Path, stage: str) -> None:
    first = started / "checkpoints" / "t2m" / f"{stage}_one"
    hidden = first.rename(first.with_name("hidden"))
    try:
        start(started, stage, "--is_continue")
    finally:
        hidden.rename(first)
    assert latest(started, f"{stage}_next")["total_it"] == 1
