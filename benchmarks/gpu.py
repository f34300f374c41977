"""Measure seconds per prompt, training samples per second and peak memory on a GPU, and write them as JSON.

Networks have random weights, except that the bundled models are loaded for generation. Rows are measured in order
until the time budget is used up. The remaining rows are listed as skipped. Failed rows are listed with their errors.
"""
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import utils  # noqa: F401 (sets the thread policy before torch is loaded)

# isort: split
import torch

from benchmarks.train_jobs import BUNDLED, PUBLISHED, TEXTS, TOY, Sizes, make_pipeline, stage_jobs
from data.dataset import MAX_MOTION_LENGTH
from evaluation.report import hardware
from models.text_to_motion import Sample, compile_layers, speed_up
from options.base import Parser, positive_int
from utils import script
from utils.files import write_text
from utils.runtime import peak_gib, select_device

BATCHES = {"vq": 256, "lamp": 64, "t2m": 128, "res": 64, "len": 64, "evaluator": 32, "m2t": 32}  # published, on one GPU
TOY_BATCH = 4
MODES = (("float32", "fp32", False), ("bf16", "bf16", False), ("float32 compiled", "fp32", True),
         ("bf16 compiled", "bf16", True))
SENTENCES = (1, 32)


@dataclass(frozen=True)
class Measurement:
    """Something to measure. ``prepare`` returns a job that processes ``count`` prompts or samples."""

    kind: str    # generation or training
    what: str    # sizes and stage
    mode: str
    count: int
    prepare: Callable[[], Callable[[], object]]

    @property
    def name(self) -> str:
        return f"{self.kind}, {self.what}, {self.mode}, batch {self.count}"


def generation_rows(sizes: str, device: torch.device) -> Iterator[Measurement]:
    """Yield measurements of generating motions of the maximum length, for every mode and batch size."""
    def job(precision: str, compiled: bool, batch: int) -> Callable[[], object]:
        pipeline = make_pipeline(sizes, device)
        speed_up(pipeline.networks, precision, compiled)
        samples = [Sample(text, number, MAX_MOTION_LENGTH) for number, text in enumerate(TEXTS[:batch])]
        return lambda: pipeline.features(samples)

    for mode, precision, compiled in MODES:
        for batch in SENTENCES:
            yield Measurement("generation", sizes, mode, batch,
                      lambda batch=batch, precision=precision, compiled=compiled: job(precision, compiled, batch))


def training_rows(name: str, sizes: Sizes, device: torch.device, batches: dict[str, int]) -> Iterator[Measurement]:
    """Yield measurements of a training step, for every stage and mode."""
    def job(stage: str, half: bool, compiled: bool) -> Callable[[], object]:
        made = stage_jobs(sizes, device)[stage](batches[stage])
        if compiled:
            compile_layers(made.model)
        return made.step(half)

    for mode, precision, compiled in MODES:
        for stage in batches:
            yield Measurement("training", f"{name} {stage}", mode, batches[stage],
                      lambda stage=stage, half=precision == "bf16", compiled=compiled: job(stage, half, compiled))


def measure(row: Measurement, device: torch.device, rounds: int) -> dict[str, Any]:
    """Measure the median seconds of a job after a warm-up run, its rate, and the peak memory in GiB."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    torch._dynamo.reset()
    start = time.perf_counter()
    job = row.prepare()
    taken = [_timed(job, device) for _ in range(rounds + 1)]
    seconds = statistics.median(taken[1:])
    rate = ({"seconds_per_sentence": seconds / row.count} if row.kind == "generation"
            else {"samples_per_second": row.count / seconds})
    return {"kind": row.kind, "what": row.what, "mode": row.mode, "batch": row.count, **rate, "seconds": seconds,
            "first_seconds": taken[0], "total_seconds": time.perf_counter() - start, "peak_gib": peak_gib(device)}


def _timed(job: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    job()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def rows_of(toy: bool, device: torch.device) -> list[Measurement]:
    """Return the measurements to run, the most important first, because the time budget may run out."""
    if toy:
        batches = dict.fromkeys(BATCHES, TOY_BATCH)
        rows = [*generation_rows("bundled", device), *training_rows("toy", TOY, device, batches)]
        rows = [row for row in rows if "compiled" not in row.mode]
    else:
        rows = [row for name, sizes in (("published", PUBLISHED), ("bundled", BUNDLED))
                for row in (*generation_rows(name, device), *training_rows(name, sizes, device, BATCHES))]
    return sorted(rows, key=lambda row: ("compiled" in row.mode, row.what.startswith("bundled")))


@script
def main() -> None:
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("--gpu_id", type=int, help="CUDA device, or -1 for the CPU")
    parser.add_argument("--toy", action="store_true", help="trial run at toy size without compilation")
    parser.add_argument("--rounds", type=positive_int, default=5, help="timed runs, after one warm-up run")
    parser.add_argument("--budget", type=positive_int, default=330, help="seconds after which no new row starts")
    parser.add_argument("--only", metavar="TEXT", default="", help="measure only rows with TEXT in their name")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.json", help="output file")
    args = parser.parse_args()
    device, start = select_device(args.gpu_id), time.perf_counter()
    report: dict[str, Any] = {"hardware": hardware(device), "toy": args.toy, "rows": [], "failed": {}, "skipped": []}
    for row in (row for row in rows_of(args.toy, device) if args.only in row.name):
        if time.perf_counter() - start > args.budget:
            report["skipped"].append(row.name)
            continue
        try:
            figures = measure(row, device, args.rounds)
        except RuntimeError as error:  # out of memory or compilation failed; measure the other rows
            report["failed"][row.name] = str(error).splitlines()[0]
            print(f"{row.name}: {report['failed'][row.name]}", flush=True)
        else:
            report["rows"].append(figures)
            print(f"{row.name}: {figures['seconds']:.4f} s, peak {figures['peak_gib']:.2f} GiB", flush=True)
        write_text(args.out, json.dumps(report, indent=1) + "\n")
    write_text(args.out, json.dumps(report, indent=1) + "\n")
    print(f"{len(report['rows'])} rows, {len(report['failed'])} failed, {len(report['skipped'])} skipped -> {args.out}")


if __name__ == "__main__":
    main()
