"""Benchmarks and estimates of training: the jobs learn, and what is counted is what runs."""
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks import estimate_training, gpu
from benchmarks.estimate_training import CLIPS, Cost, count, table
from benchmarks.train_jobs import Sizes, stage_jobs
from models.config import MaskTransformerConfig, ResidualTransformerConfig
from models.evaluator import EvaluatorConfig
from models.lamp.qformer import QFormerConfig
from models.vq.model import VQConfig

TINY = Sizes(
    VQConfig(code_dim=8, output_emb_width=8, width=8, depth=1, nb_code=16, num_quantizers=2),
    QFormerConfig(hidden=16, layers=2, heads=2, intermediate=32, vocab=41, encoder_width=12), 8,
    MaskTransformerConfig(16, 8, 16, 16, 2, 1, 32), ResidualTransformerConfig(16, 8, 16, 16, 2, 1, 32),
    EvaluatorConfig(263, 16, 16, 6, 15, 16, 16, 8), (1, 16, 2), 41)


@pytest.mark.parametrize("stage", estimate_training.RECIPES)
def test_a_step_of_each_stage_changes_its_network(stage: str) -> None:
    torch.manual_seed(0)
    job = stage_jobs(TINY)[stage](2)
    before = [parameter.detach().clone() for parameter in job.model.parameters() if parameter.requires_grad]
    job.step()()
    after = [parameter for parameter in job.model.parameters() if parameter.requires_grad]
    assert any(not torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_operations_of_a_linear_network_are_counted_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """The length estimator: products of matrices alone, each forward, and twice backward but for the first input."""
    monkeypatch.setattr(estimate_training, "PUBLISHED", TINY)
    widths = [16, 512, 256, 128, 50]
    products = [2 * a * b for a, b in zip(widths, widths[1:], strict=False)]
    cost = count("len")
    assert cost.flops == 3 * sum(products) - products[0]
    assert cost.trained == sum(a * b + b for a, b in zip(widths, widths[1:], strict=False)) + 2 * sum(widths[1:4])
    assert cost.activations > 4 * sum(widths[1:4])


def test_more_gpus_take_less_time_but_no_less_than_their_share() -> None:
    cost = Cost(flops=1e11, activations=10**8, trained=10**8, frozen=0)
    hours = [cost.hours(1e7, 64 * gpus, gpus) for gpus in (1, 8, 64)]
    assert hours == sorted(hours, reverse=True)
    assert hours[0] / 8 <= hours[1]
    assert hours[1] / 8 <= hours[2]
    assert cost.gigabytes(64, 1) == pytest.approx(1.6 + 3.2)
    rows = table(dict.fromkeys(estimate_training.RECIPES, cost), 1).splitlines()
    assert len(rows) == 2 + 7 + 1
    assert f"{200 * CLIPS / 1e6:.1f} M" in rows[3]


def test_gpu_figures_name_what_failed_and_what_was_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("out of memory\nat a line")

    def row(stage: str, prepare: Callable[[], Callable[[], object]]) -> gpu.Row:
        return gpu.Row("training", stage, "float32", 2, prepare)

    jobs = stage_jobs(TINY)
    rows = [row("len", lambda: jobs["len"](2).step()), row("vq", lambda: broken), row("t2m", lambda: broken)]
    clock = iter([0.0, 0.0, 0.0, 1.0, 3.0, 3.0, 5.0, 5.0, 5.0, 5.0, 5.0, 99.0])
    monkeypatch.setattr(gpu, "rows_of", lambda *_: rows)
    monkeypatch.setattr(gpu.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--gpu_id", "-1", "--rounds", "1", "--out", str(tmp_path / "gpu.json"),
                                      "--budget", "50"])
    gpu.main()
    report = json.loads((tmp_path / "gpu.json").read_text())
    (measured,) = report["rows"]
    assert (measured["first_seconds"], measured["seconds"], measured["samples_per_second"]) == (2, 2, 1)
    assert report["failed"] == {"training, vq, float32, batch 2": "out of memory"}
    assert report["skipped"] == ["training, t2m, float32, batch 2"]
