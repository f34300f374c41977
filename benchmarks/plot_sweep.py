"""Plot scores of evaluations against a setting, with 95 % confidence intervals, as a PDF or SVG for papers.

    for scale in 1 2 3 4 6; do python eval_t2m_trans_res.py --cond_scale $scale --ext scale_$scale; done
    python benchmarks/plot_sweep.py checkpoints/t2m/t2m_demo/eval/scale_*.json --out guidance.pdf
"""
import json
import sys
from collections import defaultdict
from pathlib import Path

from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from options.base import Parser
from utils import InputError, script
from utils.files import atomic_path, read_text


def curves(reports: list[dict], setting: str, metric: str) -> dict[str, list[tuple[float, float, float]]]:
    """Return sorted points (setting, mean, half interval) of every row that has ``metric`` in two or more reports."""
    rows = defaultdict(list)
    for report in reports:
        for row, scores in report["results"].items():
            score, x = scores.get(metric), report["settings"].get(setting)
            if isinstance(score, dict) and None not in (x, score["mean"]):
                rows[row].append((x, score["mean"], score["interval"] or 0.0))
    return {row: sorted(points) for row, points in rows.items() if len(points) > 1}


@script
def main() -> None:
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("reports", nargs="+", type=Path, metavar="FILE.json", help="reports of eval_t2m_trans_res.py")
    parser.add_argument("--setting", default="cond_scale", help="setting on the x axis, for example time_steps")
    parser.add_argument("--metrics", nargs="+", default=["fid", "R3"], help="columns of the reports")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help=".pdf, .svg or .png")
    opt = parser.parse_args()
    reports = [json.loads(read_text(path, "report")) for path in opt.reports]
    names = list(dict.fromkeys(row for report in reports for row in report["results"]))
    figure = Figure((3.4 * len(opt.metrics), 2.6), layout="constrained")
    for axes, metric in zip(figure.subplots(1, len(opt.metrics), squeeze=False)[0], opt.metrics, strict=True):
        for row, points in curves(reports, opt.setting, metric).items():
            axes.errorbar(*zip(*points, strict=True), color=f"C{names.index(row)}", label=row, marker=".", capsize=2)
        if not axes.containers:
            raise InputError(f"no row has {metric} and {opt.setting} in two or more of these reports")
        axes.set(xlabel=opt.setting, ylabel=metric)
        axes.legend(frameon=False, fontsize="small")
    with atomic_path(opt.out) as temporary:
        figure.savefig(temporary, dpi=200)


if __name__ == "__main__":
    main()
