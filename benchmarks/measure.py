"""Shared by all benchmarks: time jobs in interleaved rounds, print a table, write JSON.

On a shared machine, wall time depends on other users. Every job is therefore timed twice: processor time on one thread,
which others hardly affect, and wall time on all cores. Each round runs all jobs in turn, so that disturbances affect
all of all of them, and a matrix product that measures the machine's speed in that round.
"""
import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.profiling import profile_table
from benchmarks.published import WAY
from evaluation.report import hardware
from options.base import Parser, positive_int
from utils.cpu import usable_cores
from utils.device import select_device
from utils.files import write_text

Job = Callable[[], object]
MATMUL_SIZE = 1024  # rows and columns of the square matrices in the product


@dataclass(frozen=True)
class Figure:
    """Seconds of one job: median and best over the rounds, and the median ratio to the published way if that ran in the
    same rounds."""

    wall: float       # wall time, all threads
    wall_best: float
    cpu: float        # processor time, one thread
    cpu_best: float
    wall_ratio: float | None = None
    cpu_ratio: float | None = None


@dataclass(frozen=True)
class MatmulRate:
    """Best float32 GFLOP/s of a matrix product that runs in the same rounds as the jobs."""

    one_thread: float
    all_threads: float


def benchmark_parser(description: str, repeats: int = 5) -> Parser:
    """A parser with the flags shared by all benchmarks."""
    parser = Parser(description)
    parser.add_argument("--sizes", choices=("bundled", "published"), default="bundled",
                        help="models to time: the bundled ones, or the paper's sizes with random weights; the latter "
                             "are compared with the published way of computing on the CPU")
    parser.add_argument("--repeats", type=positive_int, default=repeats, help="timed rounds, after one warm-up round")
    parser.add_argument("--threads", type=positive_int, default=usable_cores(),
                        help="threads of the rounds that measure wall time")
    parser.add_argument("--gpu_id", type=int, help="CUDA device; -1 is the CPU, and the default where there is no CUDA")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write all figures as JSON as JSON")
    parser.add_argument("--profile", action="store_true",
                        help="profile the jobs by kind of operator instead of timing them")
    return parser


def measure(jobs: Mapping[str, Job], repeats: int, threads: int, device: torch.device | str = "cpu",
            sums: Mapping[str, Sequence[str]] | None = None) -> tuple[dict[str, Figure], MatmulRate]:
    """Time jobs in ``repeats`` rounds with one thread, then in as many with ``threads`` if that is more than one. Each
    series starts with a warm-up round.

    ``sums`` defines further figures as sums of jobs. If a job named ``<job>`` + ``WAY`` exists, the figure of ``<job>``
    has the ratio to it.
    """
    device = torch.device(device)
    before = torch.get_num_threads()
    try:
        wall, cpu, one_flops = _rounds(jobs, repeats, 1, device)
        all_flops = one_flops
        if threads > 1:
            wall, _, all_flops = _rounds(jobs, repeats, threads, device)
    finally:
        torch.set_num_threads(before)
    for name, parts in (sums or {}).items():
        for taken in (wall, cpu):
            taken[name] = [sum(one) for one in zip(*(taken[part] for part in parts), strict=True)]
    figures = {name: Figure(statistics.median(wall[name]), min(wall[name]), statistics.median(cpu[name]),
                            min(cpu[name])) for name in wall}
    for name in figures:
        if name + WAY in figures:
            figures[name] = replace(figures[name], wall_ratio=_ratio(wall[name], wall[name + WAY]),
                                    cpu_ratio=_ratio(cpu[name], cpu[name + WAY]))
    return figures, MatmulRate(one_flops, all_flops)


def _ratio(seconds: Sequence[float], others: Sequence[float]) -> float:
    """Median ratio over the rounds."""
    return statistics.median(one / other for one, other in zip(seconds, others, strict=True))


def _rounds(jobs: Mapping[str, Job], repeats: int, threads: int,
            device: torch.device) -> tuple[dict[str, list[float]], dict[str, list[float]], float]:
    """Wall and processor seconds of each job by round, and the best GFLOP/s of the matrix product."""
    torch.set_num_threads(threads)
    left, right = torch.rand(2, MATMUL_SIZE, MATMUL_SIZE, device=device)
    everything = {**jobs, "": lambda: left @ right}
    wall: dict[str, list[float]] = {name: [] for name in everything}
    cpu: dict[str, list[float]] = {name: [] for name in everything}
    for number in range(repeats + 1):
        for name, job in everything.items():
            _wait(device)
            start, start_cpu = time.perf_counter(), time.process_time()
            job()
            _wait(device)
            if number:
                cpu[name].append(time.process_time() - start_cpu)
                wall[name].append(time.perf_counter() - start)
    best = min(cpu.pop("") if threads == 1 and device.type == "cpu" else wall[""])
    wall.pop("")
    return wall, cpu, 2 * MATMUL_SIZE**3 / best / 1e9


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def run_benchmark(name: str, jobs: Mapping[str, Job], args: argparse.Namespace,
                  facts: Mapping[str, Any] | None = None,
                  sums: Mapping[str, Sequence[str]] | None = None) -> dict[str, Figure]:
    """Measure jobs by the flags of ``benchmark_parser``, print the table, and write JSON if ``--out`` is given.

    Figures are named ``<name>/<sizes>/<job>``. ``facts`` are added to the file; ``sums`` as in ``measure``.
    With ``--profile`` jobs are profiled instead, and there are no figures.
    """
    device = select_device(args.gpu_id)
    if args.profile:
        print(profile_table(jobs, measure({}, args.repeats, 1)[1].one_thread))
        return {}
    figures, matmul_rate = measure(jobs, args.repeats, args.threads, device, sums)
    named = {f"{name}/{args.sizes}/{job}": figure for job, figure in figures.items()}
    print(table(named, matmul_rate, args.threads))
    if args.out:
        report = {"hardware": hardware(device), "threads": args.threads, "repeats": args.repeats, **(facts or {}),
                  "gflops": asdict(matmul_rate), "figures": {key: asdict(figure) for key, figure in named.items()}}
        write_text(args.out, json.dumps(report, indent=1) + "\n")
    return named


def table(figures: Mapping[str, Figure], matmul_rate: MatmulRate, threads: int) -> str:
    """One line per figure, with its ratio to the published way."""
    width = max(map(len, figures), default=0)
    lines = [f"seconds, median and (best): wall time with {threads} threads, processor time with 1 thread",
             f"matmul: {matmul_rate.all_threads:.0f} GFLOP/s with {threads}, {matmul_rate.one_thread:.0f} with 1"]
    for name, figure in figures.items():
        line = (f"{name:{width}}  wall {figure.wall:7.3f} ({figure.wall_best:7.3f})  "
                f"cpu {figure.cpu:7.3f} ({figure.cpu_best:7.3f})")
        if figure.cpu_ratio is not None:
            line += f"  published way: wall x {figure.wall_ratio:.2f}, cpu x {figure.cpu_ratio:.2f}"
        lines.append(line)
    return "\n".join(lines)
