"""Benchmarks: what they share, and that each of them runs."""
import json
from pathlib import Path

import pytest
import torch

from benchmarks.measure import Figure, Yardstick, benchmark_parser, measure, read_reference, run_benchmark, table
from tests.toy import ROOT
from utils.errors import InputError


def test_jobs_run_in_turns_with_one_thread_and_with_all() -> None:
    calls = []
    before = torch.get_num_threads()
    jobs = {name: lambda name=name: calls.append((name, torch.get_num_threads())) for name in "ab"}
    figures, yardstick = measure(jobs, 2, 2)
    assert calls == [("a", 1), ("b", 1)] * 3 + [("a", 2), ("b", 2)] * 3
    assert torch.get_num_threads() == before
    assert figures.keys() == jobs.keys()
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
