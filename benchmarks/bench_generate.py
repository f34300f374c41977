"""How long a generation takes, part by part: text, base layer, residual layers, decoding, files.

    python benchmarks/bench_generate.py --sizes published --reference benchmarks/reference.json
"""
import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import utils  # noqa: F401 (sets the thread policy before torch is loaded)

# isort: split
import torch

from benchmarks import published
from benchmarks.measure import Job, benchmark_parser, run_benchmark
from benchmarks.networks import SPEC, make_pipeline
from data.specs import MAX_TOKENS
from models.speed import speed_up
from models.text_to_motion import Sampling, TextToMotion
from models.transformers.sampling import sample_generators
from options.base import add_speed, positive_int
from utils.device import select_device
from utils.errors import script
from visualization.outputs import Formats, write_motion


def texts_of(count: int) -> list[str]:
    """As many texts, all different."""
    return [f"a person walks forward {number} steps and then turns around to sit down" for number in range(count)]


def jobs_of(pipeline: TextToMotion, count: int, rows: int | None, folder: Path) -> dict[str, Job]:
    """The parts of making ``count`` motions of ``MAX_TOKENS`` tokens; files of the first of them alone."""
    texts, lengths, sampling = texts_of(count), [MAX_TOKENS] * count, Sampling()
    cond, streams = pipeline.condition(texts, rows), sample_generators(range(count))

    def base() -> torch.Tensor:
        return pipeline.transformer.generate(cond, lengths, streams, timesteps=sampling.time_steps,
                                             cond_scale=sampling.cond_scale, group_rows=rows).ids

    ids = base()

    def residual() -> torch.Tensor:
        return pipeline.residual.generate(ids, cond, lengths, streams, cond_scale=sampling.res_cond_scale,
                                          temperature=sampling.res_temperature, group_rows=rows)

    layers = list(residual())
    jobs = {"text": lambda: pipeline.condition(texts, rows), "base": base, "residual": residual,
            "decode": lambda: pipeline.features_of(layers, rows)}
    if count == 1:
        joints = pipeline.joints(pipeline.features_of(layers)[0])
        jobs["outputs"] = lambda: write_motion(folder, 0, 0, joints, texts[0], SPEC, Formats())
    return {f"{name} of {count}": job for name, job in jobs.items()}


def published_jobs(pipeline: TextToMotion, count: int) -> dict[str, Job]:
    """The same parts the published way, but for decoding, which is a part of the tokenizer's benchmark."""
    texts, lengths, sampling = texts_of(count), [MAX_TOKENS] * count, Sampling()
    cond = pipeline.text(texts)
    ids = published.base_tokens(pipeline.transformer, cond, lengths)
    jobs = {"text": lambda: pipeline.text(texts),
            "base": lambda: published.base_tokens(pipeline.transformer, cond, lengths, sampling.time_steps,
                                                  sampling.cond_scale, sampling.topkr),
            "residual": lambda: published.all_tokens(pipeline.residual, ids, cond, lengths)}
    return {f"{name} of {count}{published.WAY}": job for name, job in jobs.items()}


@script
def main() -> None:
    parser = benchmark_parser(__doc__.splitlines()[0], repeats=3)
    parser.add_argument("--batches", type=positive_int, nargs="+", default=[1, 32], help="motions made at once")
    parser.add_argument("--rows", type=positive_int,
                        help="texts and samples of a pass; by default 1 on the CPU and 64 elsewhere")
    add_speed(parser)
    run(parser.parse_args())


def run(args: argparse.Namespace) -> None:
    """Build what is timed, and time it; at published sizes on the CPU beside the published way."""
    device = select_device(args.gpu_id)
    pipeline = make_pipeline(args.sizes, device)
    speed_up(pipeline.networks, args.precision, args.compile)
    rows = args.rows or (1 if device.type == "cpu" else None)
    with tempfile.TemporaryDirectory() as folder:
        jobs = {name: job for count in args.batches
                for name, job in jobs_of(pipeline, count, rows, Path(folder)).items()}
        ways = [""]
        if args.sizes == "published" and device.type == "cpu":
            plain = make_pipeline(args.sizes, device)
            jobs |= {name: job for count in args.batches for name, job in published_jobs(plain, count).items()}
            ways.append(published.WAY)
        sums = {f"text + base of {count}{way}": (f"text of {count}{way}", f"base of {count}{way}")
                for count in args.batches for way in ways}
        facts = {"precision": args.precision, "compile": args.compile, "rows": rows}
        run_benchmark("generate", jobs, args, facts, sums)


if __name__ == "__main__":
    main()
