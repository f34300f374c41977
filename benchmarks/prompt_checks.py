"""Check whether generated motions follow their prompts, with physical checks over prompts and seeds.

    python benchmarks/prompt_checks.py [--name NAME] [--seeds 5] [--out FILE.json] [--strips DIR] [--save DIR]
    python benchmarks/prompt_checks.py --joints DIR        # existing motions: DIR/<prompt>_<seed>.npy
    python benchmarks/prompt_checks.py --seeds 3 --failures docs/failures.webp

A motion passes if it passes all checks of its prompt. Confidence intervals are over the seeds. A left/right pair is
distinguished if more than half of the motions of each prompt show the side that the prompt names. With ``--data_root``,
results are also split by whether the training captions contain all words of the prompt. ``check_calibration.py``
measures the reliability of the checks.
"""
import argparse
import json
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.physical_checks import CHECKS, SIDES
from benchmarks.physical_measures import measures
from data.dataset import dataset_spec, read_ids, require
from data.text import read_captions
from evaluation.report import Estimate
from motion.skeleton import T2M
from options.base import Parser, add_speed, positive_int
from options.generate import add_models, add_sampling
from storage.checkpoint import model_names
from utils import InputError, script
from utils.files import read_text, save_npy, write_text
from visualization.video import strip


@dataclass(frozen=True)
class CheckedPrompt:
    """A prompt and the checks that its motion must pass."""

    text: str
    group: str                  # kind of motion
    checks: tuple[str, ...]     # names in ``CHECKS``, all of which must pass
    pair: str | None = None     # name shared by two prompts that differ only in left and right
    measure: str | None = None  # name in ``SIDES`` that distinguishes the two prompts of a pair
    side: str | None = None     # "left" or "right" if in a pair


@dataclass(frozen=True)
class Verdict:
    """Results of the checks on one motion."""

    seed: int
    checks: dict[str, bool]
    shown: str | None           # "left", "right" or "neither" if the prompt is in a pair
    measures: dict[str, float]

    @property
    def passed(self) -> bool:
        """Whether all checks passed."""
        return all(self.checks.values())


def read_prompts(path: str | Path) -> list[CheckedPrompt]:
    """Read prompts from a JSON list. Raises ``InputError`` for an invalid file or pair or an unknown check."""
    try:
        prompts = [CheckedPrompt(**entry | {"checks": tuple(entry["checks"])})
                   for entry in json.loads(read_text(path, "prompts"))]
    except (json.JSONDecodeError, TypeError, KeyError) as error:
        raise InputError(f"{path} is not a list of prompts: {error}") from error
    pairs = defaultdict(list)
    for prompt in prompts:
        unknown = [name for name in prompt.checks if name not in CHECKS]
        if unknown or not prompt.checks:
            raise InputError(f"{path}: {prompt.text!r} has {f'no check {unknown[0]}' if unknown else 'no checks'}; "
                             f"expected some of {', '.join(CHECKS)}")
        if prompt.pair:
            pairs[prompt.pair].append(prompt)
    for name, members in pairs.items():
        measured = {prompt.measure for prompt in members}
        if sorted(str(prompt.side) for prompt in members) != ["left", "right"] or len(measured) > 1:
            raise InputError(f"{path}: pair {name} needs one prompt for left and one for right with the same measure")
        if not measured <= set(SIDES):
            raise InputError(f"{path}: pair {name} has no measure {members[0].measure}; choose from {', '.join(SIDES)}")
    return prompts


def check_motion(prompt: CheckedPrompt, joints: np.ndarray, seed: int = 0) -> Verdict:
    """Check a motion (T, 22, 3) in metres that was generated for ``prompt`` with ``seed``."""
    return Verdict(seed, {name: bool(CHECKS[name](joints)) for name in prompt.checks},
                   SIDES[prompt.measure].shown(joints) if prompt.measure else None, measures(joints))


def distinguished(left: list[Verdict], right: list[Verdict]) -> bool:
    """Return whether, for both prompts of a pair, more than half of the motions show the side that the prompt names."""
    return all(sum(verdict.shown == side for verdict in verdicts) > len(verdicts) / 2
               for side, verdicts in (("left", left), ("right", right)))


def _passed(verdicts: list[list[Verdict]]) -> dict[str, float | int | None]:
    """Return the number and the fraction of motions that pass, with a confidence interval over the seeds."""
    passed = np.array([[verdict.passed for verdict in found] for found in verdicts], bool)  # (prompts, seeds)
    interval = Estimate.of(passed.mean(0)).interval if passed.size else None
    return {"passed": int(passed.sum()), "motions": passed.size, "share": float(passed.mean()) if passed.size else 0.0,
            "interval": interval}


def summarise(prompts: list[CheckedPrompt], verdicts: list[list[Verdict]],
              known: Collection[str] | None = None) -> dict:
    """Summarise verdicts for JSON: overall, by group, by pair and by prompt.

    ``verdicts[i]`` belong to ``prompts[i]``, one per seed. If ``known``, the words of a training set, is given, results
    are also split by whether a prompt has unknown words.
    """
    judged = list(zip(prompts, verdicts, strict=True))

    def passed_where(condition: Callable[[CheckedPrompt], bool]) -> dict[str, float | int | None]:
        return _passed([found for prompt, found in judged if condition(prompt)])

    pairs = defaultdict(dict)
    for prompt, found in judged:
        if prompt.pair:
            pairs[prompt.pair][prompt.side] = found
    summary = {"overall": _passed(verdicts)}
    if known is not None:
        summary |= {"seen_words": passed_where(lambda prompt: words(prompt.text) <= set(known)),
                    "unseen_words": passed_where(lambda prompt: not words(prompt.text) <= set(known))}
    return summary | {
        "groups": {group: passed_where(lambda prompt, group=group: prompt.group == group)
                   for group in dict.fromkeys(prompt.group for prompt in prompts)},
        "pairs": {name: {
            "distinguished": distinguished(found["left"], found["right"]),
            "left_shown": [verdict.shown for verdict in found["left"]],
            "right_shown": [verdict.shown for verdict in found["right"]],
        } for name, found in pairs.items()},
        "prompts": [{"text": prompt.text, "group": prompt.group, **_passed([found]),
                     "verdicts": [asdict(verdict) | {"passed": verdict.passed} for verdict in found]}
                    for prompt, found in judged],
    }


def words(text: str) -> set[str]:
    """Return the lower-case words of a text."""
    return set(re.findall(r"[a-z']+", text.lower()))


def training_words(data_root: Path) -> set[str]:
    """Return all words in the training captions."""
    spec = dataset_spec("t2m", data_root)
    texts = require(spec.root / "texts", "the preparation of the data set")
    return {word for name in read_ids(spec, "train") for caption in read_captions(texts / f"{name}.txt")
            for word in words(caption.text)}


PROMPTS = Path(__file__).with_name("prompts.json")
FAILURES = 8  # number of groups in the picture of failures


def build_parser() -> Parser:
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=Path, default=PROMPTS, help="JSON list of prompts with their checks")
    add_models(parser)
    add_sampling(parser, lengths=True)
    add_speed(parser)
    parser.add_argument("--checkpoints_dir", default="checkpoints", help="folder of your models")
    parser.add_argument("--data_root", type=Path, metavar="DIR",
                        help="data set whose training captions define the known words")
    parser.add_argument("--gpu_id", type=int, help="CUDA device, or -1 for the CPU")
    parser.add_argument("--seeds", type=positive_int, default=5, help="motions per prompt, with seeds 0, 1, ...")
    parser.add_argument("--joints", type=Path, metavar="DIR",
                        help="check existing motions DIR/<prompt>_<seed>.npy, with prompts numbered from 0")
    parser.add_argument("--save", type=Path, metavar="DIR", help="write the motions to this folder, for --joints")
    parser.add_argument("--strips", type=Path, metavar="DIR", help="write a picture per prompt with a row per seed")
    parser.add_argument("--failures", type=Path, metavar="FILE.webp",
                        help=f"draw one failed motion from each of the {FAILURES} groups with the lowest pass rates, "
                             "and print a table")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write all verdicts and measures as JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def generate(args: argparse.Namespace, texts: list[str]) -> list[list[np.ndarray]]:
    """Generate motions (T, 22, 3), one per text and seed, with lengths sampled from the length estimator."""
    # Imported here so that existing motions can be checked without torch.
    from models.text_to_motion import Sample, speed_up
    from storage.generation import load_text_to_motion
    from utils.runtime import select_device

    pipeline, files = load_text_to_motion(args.name, args.len_name, dataset_spec("t2m"), args.checkpoints_dir,
                                          select_device(args.gpu_id), args.which_epoch, args.res_name)
    speed_up(pipeline.networks, args.precision, args.compile)
    print(f"models: {model_names(files)}")
    sampling = pipeline.sampling.changed(vars(args))
    by_seed = [pipeline.generate([Sample(text, seed) for text in texts], sampling)
               for seed in tqdm(range(args.seeds), desc="seeds", disable=args.quiet or None, leave=False)]
    return [[motions[index] for motions in by_seed] for index in range(len(texts))]


def joints_path(folder: Path, prompt: int, seed: int) -> Path:
    """Return the path of the motion for a prompt (numbered from 0) and a seed."""
    return folder / f"{prompt:02d}_{seed}.npy"


def read_motions(folder: Path, prompts: int, seeds: int) -> list[list[np.ndarray]]:
    """Read the motions of each prompt and seed. Raises ``InputError`` if a file is missing or not a motion."""
    def read(path: Path) -> np.ndarray:
        try:
            joints = np.load(path)
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"cannot read the motion {path}: {error}") from error
        if joints.ndim != 3 or len(joints) < 2 or joints.shape[1:] != (len(T2M), 3) or not np.isfinite(joints).all():
            raise InputError(f"{path} has shape {joints.shape}, expected finite joints (frames, {len(T2M)}, 3)")
        return joints

    return [[read(joints_path(folder, prompt, seed)) for seed in range(seeds)] for prompt in range(prompts)]


def write_strips(folder: Path, prompts: list[CheckedPrompt], motions: list[list[np.ndarray]],
                 verdicts: list[list[Verdict]]) -> None:
    """Draw a picture per prompt, with a row per seed that names the failed checks."""
    for index, (prompt, made, found) in enumerate(zip(prompts, motions, verdicts, strict=True)):
        captions = [f"{prompt.text} | seed {verdict.seed} | {outcome(verdict)}" for verdict in found]
        strip(folder / f"{index:02d}.png", made, captions)


def outcome(verdict: Verdict) -> str:
    """Describe the failed checks of a motion, or return "passed" if there are none."""
    failed = [name for name, said_yes in verdict.checks.items() if not said_yes]
    return f"not {', '.join(failed)}".replace("_", " ") if failed else "passed"


def worst(prompts: list[CheckedPrompt], verdicts: list[list[Verdict]], count: int = FAILURES) -> list[tuple[int, int]]:
    """Select one failed motion, as (prompt, seed), from each of the ``count`` groups with the lowest pass rates."""
    shares = {group: numbers["share"] for group, numbers in summarise(prompts, verdicts)["groups"].items()}
    chosen = []
    for group in sorted(shares, key=shares.get)[:count]:
        failed = {index: [verdict.seed for verdict in found if not verdict.passed]
                  for index, (prompt, found) in enumerate(zip(prompts, verdicts, strict=True)) if prompt.group == group}
        index = max(failed, key=lambda index: len(failed[index]))
        chosen += [(index, failed[index][0])] if failed[index] else []
    return chosen


def write_failures(path: Path, prompts: list[CheckedPrompt], motions: list[list[np.ndarray]],
                   verdicts: list[list[Verdict]]) -> list[str]:
    """Draw the ``worst`` motions, one per row. Returns a markdown table of their groups."""
    groups = summarise(prompts, verdicts)["groups"]
    lines = ["| kind | passed | prompt in the picture | failed checks |", "| --- | --- | --- | --- |"]
    chosen = worst(prompts, verdicts)
    for index, seed in chosen:
        counts = groups[prompts[index].group]
        lines.append(f"| {prompts[index].group} | {counts['passed']} of {counts['motions']} | {prompts[index].text} | "
                     f"{outcome(verdicts[index][seed]).removeprefix('not ')} |")
    if chosen:
        captions = [f"{prompts[index].text} | {outcome(verdicts[index][seed])}" for index, seed in chosen]
        strip(path, [motions[index][seed] for index, seed in chosen], captions, height=180)
    return lines


def report(summary: dict) -> str:
    """Format the summary as a table."""
    def passed(counts: dict) -> str:
        interval = "" if counts["interval"] is None else f" ±{100 * counts['interval']:4.1f}"
        return f"{counts['passed']:4d} of {counts['motions']:4d}  {100 * counts['share']:5.1f} %{interval}"

    lines = []
    for index, prompt in enumerate(summary["prompts"]):
        missed = [name for motion in prompt["verdicts"] for name, said_yes in motion["checks"].items() if not said_yes]
        reasons = ", ".join(f"{name} {missed.count(name)}x" for name in dict.fromkeys(missed))
        lines.append(f"{index:03d} {passed(prompt | {'interval': None})}  {prompt['text']}"
                     f"{'  [not ' + reasons + ']' if missed else ''}")
    lines.append("")
    lines += [f"{group:26s}{passed(counts)}" for group, counts in summary["groups"].items()]
    lines.append("")
    for name, pair in summary["pairs"].items():
        apart = "distinguished" if pair["distinguished"] else "NOT distinguished"
        shown = (f"{side} {pair[f'{side}_shown'].count(side)} of {len(pair[f'{side}_shown'])}"
                 for side in ("left", "right"))
        lines.append(f"{name:28s}{apart:20s}{', '.join(shown)}")
    motions = [motion["measures"] for prompt in summary["prompts"] for motion in prompt["verdicts"]]
    skating, rough = (np.mean([motion[name] for motion in motions]) for name in ("foot_skating", "roughness"))
    lines += ["", f"feet skate at {100 * skating:.1f} cm/s, jerk {1000 * rough:.1f} mm per frame (means)"]
    lines += [f"{title:14s}{passed(summary[key])}" for key, title in (("seen_words", "known words"),
                                                                     ("unseen_words", "new words")) if key in summary]
    low = [group for group, counts in summary["groups"].items() if counts["share"] < 0.5]
    apart = sum(pair["distinguished"] for pair in summary["pairs"].values())
    lines += [f"kinds below 50 %: {', '.join(low) or 'none'} ({len(low)} of {len(summary['groups'])})",
              f"overall: {passed(summary['overall']).strip()} passed, "
              f"{apart} of {len(summary['pairs'])} left/right pairs distinguished"]
    return "\n".join(lines)


@script
def main() -> None:
    args = build_parser().parse_args()
    prompts = read_prompts(args.prompts)
    motions = (read_motions(args.joints, len(prompts), args.seeds) if args.joints
               else generate(args, [prompt.text for prompt in prompts]))
    verdicts = [[check_motion(prompt, joints, seed) for seed, joints in enumerate(made)]
                for prompt, made in zip(prompts, motions, strict=True)]
    if args.save:
        for index, made in enumerate(motions):
            for seed, joints in enumerate(made):
                save_npy(joints_path(args.save, index, seed), joints.astype(np.float32))
    if args.strips:
        write_strips(args.strips, prompts, motions, verdicts)
    summary = summarise(prompts, verdicts, training_words(args.data_root) if args.data_root else None)
    print(report(summary))
    if args.failures:
        print("", *write_failures(args.failures, prompts, motions, verdicts), sep="\n")
    if args.out:
        write_text(args.out, json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    main()
