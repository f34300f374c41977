"""Benchmarks: what they share, and that each of them runs."""
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

from benchmarks import bench_codec, bench_evaluate, bench_generate
from benchmarks.measure import Figure, Yardstick, benchmark_parser, measure, read_reference, run_benchmark, table
from tests.toy import ROOT, run_here
from utils.errors import InputError


def test_jobs_run_in_turns_with_one_thread_and_with_all() -> None:
    calls = []
    before = torch.get_num_threads()
    jobs = {name: lambda name=name: calls.append((name, torch.get_num_threads())) for name in "ab"}
    figures, yardstick = measure(jobs, 2, 2)
    assert calls == [("a", 1), ("b", 1)] * 3 + [("a", 2), ("b", 2)] * 3
    assert torch.get_num_threads() == before
    assert figures.keys() == jobs.keys()
    both, _ = measure(jobs, 2, 1, sums={"a + b": ("a", "b")})
    assert both["a + b"].wall_best >= both["a"].wall_best + both["b"].wall_best
    assert all(0 <= figure.wall_best <= figure.wall for figure in figures.values())
    assert yardstick.one_thread > 0


def test_what_a_benchmark_writes_is_a_reference_for_the_next(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    first = tmp_path / "first.json"
    flags = ["--repeats", "1", "--threads", "1", "--gpu_id", "-1"]
    run_benchmark("toy", {"job": lambda: sum(range(10000))}, benchmark_parser("").parse_args(
        [*flags, "--out", str(first)]), {"colour": "red"})
    written = json.loads(first.read_text())
    assert written["colour"] == "red"
    assert read_reference(first) == {"toy/bundled/job": written["figures"]["toy/bundled/job"]["wall_best"]}
    assert "reference" not in capsys.readouterr().out
    run_benchmark("toy", {"job": lambda: sum(range(10000))}, benchmark_parser("").parse_args(
        [*flags, "--reference", str(first)]))
    assert "toy/bundled/job" in (shown := capsys.readouterr().out)
    assert "reference" in shown


def test_ratios_are_of_the_best_round_and_of_processor_time_spread_over_the_threads() -> None:
    figures = {"a": Figure(wall=3.0, wall_best=2.0, cpu=3.5, cpu_best=3.0), "b": Figure(1.0, 1.0, 1.0, 1.0)}
    lines = table(figures, Yardstick(80.0, 150.0), 2, {"a": 4.0}).splitlines()
    assert "wall x 0.50, cpu / 2 x 0.38" in lines[-2]
    assert "reference" not in lines[-1]


@pytest.mark.parametrize("text", ["[]", "{", '{"figures": {"a": {}}}', '{"figures": {"a": 3}}'])
def test_a_file_without_figures_is_told_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "figures.json"
    path.write_text(text)
    with pytest.raises(InputError, match="figures.json holds no figures"):
        read_reference(path)


def test_the_committed_reference_is_one() -> None:
    assert min(read_reference(ROOT / "benchmarks" / "reference.json").values()) > 0


@pytest.mark.parametrize(("benchmark", "flags", "figures"), [
    (bench_generate, ["--batches", "1"], {"text of 1", "base of 1", "residual of 1", "decode of 1", "outputs of 1",
                                          "text + base of 1"}),
    (bench_codec, ["--batch", "2"], {"encode 2 x 196", "decode 2 x 196", "encode + decode 2 x 196"}),
    (bench_evaluate, ["--clips", "32"], {"embed 32 motions", "embed 32 captions", "a repeat over 32 motions"}),
])
def test_a_benchmark_runs_on_the_bundled_models(benchmark: ModuleType, flags: list[str], figures: set[str],
                                                tmp_path: Path) -> None:
    flags = [*flags, "--repeats", "1", "--threads", "1", "--gpu_id", "-1", "--out", tmp_path / "figures.json"]
    run_here(benchmark.main, *flags, cwd=tmp_path)
    written = json.loads((tmp_path / "figures.json").read_text())
    assert {name.rpartition("/")[2] for name in written["figures"]} == figures
    assert all(figure["wall_best"] > 0 for figure in written["figures"].values())
