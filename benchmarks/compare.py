"""Compare the speed of generation, tokenizer and training steps with the published implementation.

Networks have published sizes and random weights. Each round runs the published computation (``benchmarks.published``,
with torch's linear layers), this implementation, and this implementation in bfloat16. Results are medians over rounds.
"""
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import utils  # noqa: F401 (sets the thread policy before torch is loaded)

# isort: split
import torch

from benchmarks import published
from benchmarks.train_jobs import PUBLISHED, SPEC, make_pipeline, published_jobs, stage_jobs
from data.dataset import MAX_MOTION_LENGTH, MAX_TOKENS
from evaluation.report import hardware
from models.layers import choose_linear, use_linear
from models.text_to_motion import Sample, Sampling, TextToMotion, speed_up
from models.transformers.trunk import sample_generators
from options.base import Parser, positive_int
from utils import script

Job = Callable[[], object]
CPU, ROWS = torch.device("cpu"), ("text", "base", "residual", "codec", "one prompt", "prompt file")
STEPS = {"LaMP step": ("lamp", 8), "masked step": ("t2m", 64), "residual step": ("res", 64), "VQ step": ("vq", 64)}
LOADED = 12  # number of prompts in the test on a busy machine
TEXTS = [f"a person walks forward {number} steps and then turns around to sit down" for number in range(64)]
BUSY = "import torch\nx = torch.rand(512, 512)\nprint(flush=True)\nwhile True: x @ x"


def generation_jobs(pipeline: TextToMotion, batch: int) -> dict[str, Job]:
    """Return the generation jobs of this implementation, for ``batch`` motions of the maximum length."""
    texts, lengths, sampling = TEXTS[:batch], [MAX_TOKENS] * batch, Sampling()
    cond, motion = pipeline.condition(texts), torch.randn(batch, MAX_MOTION_LENGTH, SPEC.dim_pose)
    samples = [Sample(text, number, MAX_MOTION_LENGTH) for number, text in enumerate(texts)]

    def base() -> torch.Tensor:
        return pipeline.transformer.generate(cond, lengths, sample_generators(range(batch)), group_rows=batch,
                                             cond_scale=sampling.cond_scale, timesteps=sampling.time_steps).ids

    ids = base()
    return {
        "text": lambda: pipeline.condition(texts),
        "base": base,
        "residual": lambda: pipeline.residual.generate(ids, cond, lengths, sample_generators(range(batch)),
                                                       cond_scale=sampling.res_cond_scale, group_rows=batch),
        "codec": lambda: pipeline.tokenizer.forward_decoder(pipeline.tokenizer.encode(motion)),
        "one prompt": lambda: pipeline.generate(samples[:1]),
        "prompt file": lambda: pipeline.generate(samples)}


def published_generation(pipeline: TextToMotion, batch: int) -> dict[str, Job]:
    """Return the jobs of ``generation_jobs`` for the published implementation."""
    texts, motion = TEXTS[:batch], torch.randn(batch, MAX_MOTION_LENGTH, SPEC.dim_pose)
    cond, lengths = pipeline.text(texts), [MAX_TOKENS] * batch
    ids = published.base_tokens(pipeline.transformer, cond, lengths)

    def whole(count: int) -> list[object]:
        cond = pipeline.text(texts[:count])
        ids = published.base_tokens(pipeline.transformer, cond, lengths[:count])
        ids = published.all_tokens(pipeline.residual, ids, cond, lengths[:count])
        return [pipeline.joints(features) for features in pipeline.tokenizer.forward_decoder(ids)]

    return {"text": lambda: pipeline.text(texts),
            "base": lambda: published.base_tokens(pipeline.transformer, cond, lengths),
            "residual": lambda: published.all_tokens(pipeline.residual, ids, cond, lengths),
            "codec": lambda: pipeline.tokenizer.forward_decoder(published.encode(pipeline.tokenizer, motion)[0]),
            "one prompt": lambda: whole(1), "prompt file": lambda: whole(batch)}


def training_jobs(stage: str, batch: int) -> tuple[Job, Job, Job]:
    """Return a training step of the published implementation, of this implementation, and of the latter in bfloat16.

    For the token transformers, the first is this implementation with an optimizer that is not fused.
    """
    ours = stage_jobs(PUBLISHED)[stage](batch)
    theirs = published_jobs(PUBLISHED)[stage](batch) if stage in ("vq", "lamp") else ours
    return theirs.step(fused=False), ours.step(), ours.step(half=True)


def timed(job: Job, linear: str) -> float:
    """Return the wall time of a job in seconds with the given kind of linear layers."""
    use_linear(linear)
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


def compare(name: str, jobs: tuple[Job, Job, Job], kind: str, rounds: int) -> None:
    """Print the median seconds of three jobs (published, ours, ours in bfloat16) and their ratios to the first."""
    taken = [[timed(job, linear) for job, linear in zip(jobs, ("mkl", kind, kind), strict=True)]
             for _ in range(rounds + 1)][1:]
    seconds = [statistics.median(column) for column in zip(*taken, strict=True)]
    ratios = [statistics.median(row[column] / row[0] for row in taken) for column in (1, 2)]
    print(f"{name:14}", *(f"{each:9.3f}" for each in seconds), *(f"{each:7.2f}" for each in ratios), flush=True)


@contextmanager
def busy_machine() -> Iterator[subprocess.Popen]:
    """Context manager that runs a second program, to keep all cores busy."""
    with subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE, env={"PATH": ""}) as program:
        try:
            program.stdout.readline()
            yield program
        finally:
            program.kill()


def loaded_row(job: Job, rounds: int) -> None:
    """Print the time of a job alone and next to a busy program."""
    alone = statistics.median(timed(job, "mkl") for _ in range(rounds + 1))
    with busy_machine():
        loaded = statistics.median(timed(job, "mkl") for _ in range(rounds))
    print(f"{LOADED} prompts{alone:13.3f} alone{loaded:10.3f} next to a busy program, ratio {loaded / alone:.2f}")


@script
def main() -> None:
    parser = Parser(__doc__.splitlines()[0])
    names = [*ROWS, *STEPS, "loaded"]
    parser.add_argument("--rows", nargs="+", choices=names, default=names, help="jobs to time")
    parser.add_argument("--batch", type=int, choices=range(1, 65), metavar="N", default=32, help="motions per batch")
    parser.add_argument("--rounds", type=positive_int, default=3, help="timed rounds, after one warm-up round")
    args = parser.parse_args()
    kind = choose_linear()
    print(f"{hardware(CPU)}; linear: {kind}\n{'seconds':14} published      ours ours bf16   ratio    bf16")
    if {*ROWS, "loaded"} & {*args.rows}:
        plain, ours, half = (make_pipeline("published", CPU) for _ in range(3))
        speed_up(ours.networks, cpu_linear=kind)
        speed_up(half.networks, "bf16", cpu_linear=kind)
        made = published_generation(plain, args.batch), *(generation_jobs(each, args.batch) for each in (ours, half))
        for name in [name for name in ROWS if name in args.rows]:
            with torch.no_grad():
                compare(name, tuple(jobs[name] for jobs in made), kind, args.rounds)
        if "loaded" in args.rows:
            samples = [Sample(text, 0, MAX_MOTION_LENGTH) for text in TEXTS[:LOADED]]
            loaded_row(lambda: ours.generate(samples), args.rounds)
    for name in [name for name in STEPS if name in args.rows]:
        compare(name, training_jobs(*STEPS[name]), kind, args.rounds)


if __name__ == "__main__":
    main()
