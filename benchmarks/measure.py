"""What every benchmark shares: jobs timed in turn beside a baseline, a table, and JSON output.

On a shared machine, wall time depends on other users. So every job is timed twice: processor time on one thread, which
others hardly affect, and wall time on all cores. Each round runs all jobs in turn, so that disturbances affect all of
them, and a matrix product that measures the machine's speed in that round.
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
YARDSTICK = 1024  # rows and columns of the matrices that are multiplied


@dataclass(frozen=True)
class Figure:
    """Seconds of one job: medians over the rounds, and the best round; where the published way of it ran in the same
    rounds, the medians of the ratio to that."""

    wall: float       # by the clock, all threads
    wall_best: float
    cpu: float        # of the processor, one thread
    cpu_best: float
    wall_ratio: float | None = None
    cpu_ratio: float | None = None


@dataclass(frozen=True)
class Yardstick:
    """Float32 GFLOP/s of a matrix product in the same rounds as the jobs, the best one."""

    one_thread: float
    all_threads: float


def benchmark_parser(description: str, repeats: int = 5) -> Parser:
    """A parser with the flags of every benchmark; it has ``--sizes`` where models are built."""
    parser = Parser(description)
    parser.add_argument("--sizes", choices=("bundled", "published"), default="bundled",
                        help="of the models: the bundled ones, or those of the paper with random weights, which run "
                             "beside the published way of computing on the CPU")
    parser.add_argument("--repeats", type=positive_int, default=repeats, help="rounds, after one that does not count")
    parser.add_argument("--threads", type=positive_int, default=usable_cores(),
                        help="of the rounds that are timed by the clock")
    parser.add_argument("--gpu_id", type=int, help="CUDA device; -1 is the CPU, and the default where there is no CUDA")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write all figures")
    parser.add_argument("--profile", action="store_true",
                        help="print what the jobs spend their time in, by kinds of operators, instead of timing them")
    return parser


def measure(jobs: Mapping[str, Job], repeats: int, threads: int, device: torch.device | str = "cpu",
            sums: Mapping[str, Sequence[str]] | None = None) -> tuple[dict[str, Figure], Yardstick]:
    """Time jobs in ``repeats`` rounds with one thread and as many with ``threads``, if these are more, each after one
    to warm up.

    ``sums`` names further figures, each the jobs of a round together. A job beside another of its name and ``WAY``
    has its ratio to that.
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
    return figures, Yardstick(one_flops, all_flops)


def _ratio(seconds: Sequence[float], others: Sequence[float]) -> float:
    """Median over the rounds."""
    return statistics.median(one / other for one, other in zip(seconds, others, strict=True))


def _rounds(jobs: Mapping[str, Job], repeats: int, threads: int,
            device: torch.device) -> tuple[dict[str, list[float]], dict[str, list[float]], float]:
    """Wall and processor seconds of each job by round, and the best GFLOP/s of the yardstick."""
    torch.set_num_threads(threads)
    left, right = torch.rand(2, YARDSTICK, YARDSTICK, device=device)
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
    return wall, cpu, 2 * YARDSTICK**3 / best / 1e9


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def run_benchmark(name: str, jobs: Mapping[str, Job], args: argparse.Namespace,
                  facts: Mapping[str, Any] | None = None,
                  sums: Mapping[str, Sequence[str]] | None = None) -> dict[str, Figure]:
    """Measure jobs as the flags of ``benchmark_parser`` say, print the table, and write JSON where it is asked for.

    Figures are known by ``<name>/<sizes>/<job>``; ``facts`` go into the file beside them; ``sums`` as in ``measure``.
    With ``--profile`` jobs are profiled instead, and there are no figures.
    """
    device = select_device(args.gpu_id)
    if args.profile:
        print(profile_table(jobs, measure({}, args.repeats, 1)[1].one_thread))
        return {}
    figures, yardstick = measure(jobs, args.repeats, args.threads, device, sums)
    named = {f"{name}/{args.sizes}/{job}": figure for job, figure in figures.items()}
    print(table(named, yardstick, args.threads))
    if args.out:
        report = {"hardware": hardware(device), "threads": args.threads, "repeats": args.repeats, **(facts or {}),
                  "gflops": asdict(yardstick), "figures": {key: asdict(figure) for key, figure in named.items()}}
        write_text(args.out, json.dumps(report, indent=1) + "\n")
    return named


def table(figures: Mapping[str, Figure], yardstick: Yardstick, threads: int) -> str:
    """Figures in lines, with their ratios to the published way."""
    width = max(map(len, figures), default=0)
    lines = [f"seconds, medians and (best); {threads} threads by the clock, 1 thread by processor time",
             f"yardstick: {yardstick.all_threads:.0f} GFLOP/s with {threads}, {yardstick.one_thread:.0f} with 1"]
    for name, figure in figures.items():
        line = (f"{name:{width}}  wall {figure.wall:7.3f} ({figure.wall_best:7.3f})  "
                f"cpu {figure.cpu:7.3f} ({figure.cpu_best:7.3f})")
        if figure.cpu_ratio is not None:
            line += f"  published way: wall x {figure.wall_ratio:.2f}, cpu x {figure.cpu_ratio:.2f}"
        lines.append(line)
    return "\n".join(lines)
