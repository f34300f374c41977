"""Benchmarks: what they share, and that each of them runs."""
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

from benchmarks import bench_evaluate, compare
from benchmarks.measure import benchmark_parser, measure, run_benchmark
from models import layers
from tests.toy import run_here


def test_jobs_run_in_turns_with_one_thread_and_with_all() -> None:
    calls = []
    before = torch.get_num_threads()
    jobs = {name: lambda name=name: calls.append((name, torch.get_num_threads())) for name in "ab"}
    figures, matmul_rate = measure(jobs, 2, 2)
    assert calls == [("a", 1), ("b", 1)] * 3 + [("a", 2), ("b", 2)] * 3
    assert torch.get_num_threads() == before
    assert figures.keys() == jobs.keys()
    both, _ = measure(jobs, 2, 1, sums={"a + b": ("a", "b")})
    assert both["a + b"].wall_best >= both["a"].wall_best + both["b"].wall_best
    assert all(0 <= figure.wall_best <= figure.wall for figure in figures.values())
    assert matmul_rate.one_thread > 0


def test_a_benchmark_writes_its_figures(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    run_benchmark("toy", {"job": lambda: sum(range(10000))}, benchmark_parser("").parse_args(
        ["--repeats", "1", "--threads", "1", "--gpu_id", "-1", "--out", str(out)]), {"colour": "red"})
    written = json.loads(out.read_text())
    assert written["colour"] == "red"
    assert written["figures"]["toy/bundled/job"]["wall_best"] > 0


def test_ours_and_the_published_way_run_in_turn(capsys: pytest.CaptureFixture) -> None:
    calls = []
    jobs = tuple(lambda name=name: calls.append((name, layers._kind)) for name in "abc")
    compare.compare("row", jobs, "onednn", 2)
    layers.use_linear("mkl")
    assert calls == [("a", "mkl"), ("b", "onednn"), ("c", "onednn")] * 3
    assert len(capsys.readouterr().out.split()) == 1 + 3 + 2


def test_the_busy_program_ends_with_the_measurement() -> None:
    with compare.busy_machine() as program:
        assert program.poll() is None
    assert program.poll() is not None


@pytest.mark.parametrize(("benchmark", "flags", "figures"), [
    (bench_evaluate, ["--clips", "32"], {"embed 32 motions", "embed 32 captions", "a repeat over 32 motions"}),
])
def test_a_benchmark_runs_on_the_bundled_models(benchmark: ModuleType, flags: list[str], figures: set[str],
                                                tmp_path: Path) -> None:
    flags = [*flags, "--repeats", "1", "--threads", "1", "--gpu_id", "-1", "--out", tmp_path / "figures.json"]
    run_here(benchmark.main, *flags, cwd=tmp_path)
    written = json.loads((tmp_path / "figures.json").read_text())
    assert {name.rpartition("/")[2] for name in written["figures"]} == figures
    assert all(figure["wall_best"] > 0 for figure in written["figures"].values())
