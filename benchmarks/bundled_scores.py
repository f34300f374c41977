"""Evaluate the bundled models and print the tables in pretrained/README.md.

    python benchmarks/bundled_scores.py --data_root DATA
    python benchmarks/bundled_scores.py                    print the tables of earlier evaluations

DATA is openmotion without mirrored twins. Reports are written to checkpoints/t2m/<name>/eval/bundled.*.
"""
import json
import math
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from options.base import Parser, positive_int
from utils import InputError, script
from utils.files import ROOT, read_text

EXT = "bundled"
SCRIPTS = {"eval_t2m_vq.py": "vq_demo", "eval_t2m_trans_res.py": "t2m_demo", "eval_retrieval.py": "lamp_demo"}
# Headings of table columns, by their key in the report.
BY_EVALUATOR = {"fid": "FID", "fid_halves": "FID of halves", "R1": "R@1", "R2": "R@2", "R3": "R@3",
          "mm_dist": "matching distance", "diversity": "diversity"}
TOKENIZER = BY_EVALUATOR | {"mpjpe": "MPJPE, mm", "root": "root, mm", "codebook_use": "codes in use"}
GENERATED = BY_EVALUATOR | {"multimodality": "multimodality", "skating": "skating, m/s", "jerk": "jerk, m/s³"}
TO_MOTION, TO_TEXT = ({f"{way}_{rank}": f"{what} {name}" for rank, name in (
    ("R1", "R@1"), ("R2", "R@2"), ("R3", "R@3"), ("R5", "R@5"), ("R10", "R@10"), ("MedR", "median rank"))}
    for way, what in (("t2m", "to motion:"), ("m2t", "to text:")))
TABLES = {"eval_t2m_vq.py": (TOKENIZER,), "eval_t2m_trans_res.py": (GENERATED,),
          "eval_retrieval.py": (TO_MOTION, TO_TEXT)}


def cell(value: float | Mapping[str, float | None] | None) -> str:
    """Format a number, rounded to the first digit of its confidence interval. Returns "" for a missing number."""
    if value is None:
        return ""
    mean, interval = (value["mean"], value["interval"]) if isinstance(value, Mapping) else (value, None)
    if mean is None:
        return "not finite"
    if not interval:
        return f"{mean:.3g}" if mean < 1000 else f"{mean:.0f}"
    decimals = max(0, -math.floor(math.log10(interval)))
    return f"{mean:.{decimals}f} ± {interval:.{decimals}f}"


def markdown(results: Mapping[str, Mapping[str, object]], columns: Mapping[str, str]) -> list[str]:
    """Format a report as a markdown table. Rows and columns without numbers are omitted."""
    shown = {key: name for key, name in columns.items() if any(key in numbers for numbers in results.values())}
    rows = {row: numbers for row, numbers in results.items() if shown.keys() & numbers.keys()}
    return [f"| | {' | '.join(shown.values())} |", f"| --- {'| --- ' * len(shown)}|",
            *(f"| {row} | {' | '.join(cell(numbers.get(key)) for key in shown)} |" for row, numbers in rows.items())]


@script
def main() -> None:
    parser = Parser("Evaluate the bundled models and print their tables.")
    parser.add_argument("--data_root", help="openmotion without mirrored twins; default: print earlier results")
    parser.add_argument("--repeat_times", type=positive_int, default=20, help="repeats, for confidence intervals")
    parser.add_argument("--gpu_id", type=int, default=-1, help="CUDA device, or -1 for the CPU")
    parser.add_argument("--checkpoints_dir", default="checkpoints", help="folder of the reports")
    opt = parser.parse_args()
    for name, model in SCRIPTS.items():
        if opt.data_root:
            flags = ("--data_root", opt.data_root, "--repeat_times", opt.repeat_times, "--gpu_id", opt.gpu_id,
                     "--checkpoints_dir", opt.checkpoints_dir, "--ext", EXT)
            if subprocess.run([sys.executable, ROOT / name, *map(str, flags)], check=False).returncode:
                raise InputError(f"{name} failed")
        report = Path(opt.checkpoints_dir) / "t2m" / model / "eval" / f"{EXT}.json"
        content = json.loads(read_text(report, "the report (--data_root DATA creates it)"))
        settings = content["settings"]
        each = settings.get("seconds_per_sentence", settings.get("seconds_per_clip"))
        print(f"\n{settings['checkpoint']}: {settings['clips']} clips, {settings['repeat_times']} repeats; {each} s "
              f"each, one at a time, on {settings['hardware']}")
        for columns in TABLES[name]:
            print("", *markdown(content["results"], columns), sep="\n")


if __name__ == "__main__":
    main()
