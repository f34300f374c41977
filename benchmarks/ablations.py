"""Ablations of the paper on openmotion: LaMP's objectives, the text encoder, attention and condition.

    python benchmarks/ablations.py --data_root DATA                      takes minutes on a CPU
    python benchmarks/ablations.py --data_root DATA --steps 5000 --width 384 --seeds 1 2 3 --clip

DATA is openmotion without mirrored clips. All runs share one tokenizer (--vq_name), and all token transformers share
one LaMP model (--lamp_name). The table has the mean and standard deviation over seeds.
"""
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from options.base import Parser, natural, positive_int
from storage.checkpoint import load_checkpoint
from utils.errors import InputError, script
from utils.files import ROOT, write_text

VOCABULARY = ROOT / "pretrained" / "t2m" / "lamp_demo" / "vocab.txt"


@dataclass(frozen=True)
class Run:
    """One row of the table: its label and the flags that differ from the other rows."""

    group: str
    label: str
    flags: tuple[str, ...]


LAMP = tuple(Run("objectives", " + ".join(names), ("--objectives", *names)) for names in (
    ("ptc",), ("ptc", "ptm"), ("ptc", "ptm", "lm"), ("ptc", "ptm", "lm", "gen")))
TOKENS = (
    Run("attention", "full", ()),
    Run("attention", "causal (paper)", ("--attention", "causal")),
    Run("attention", "additive (released)", ("--attention", "additive")),
    Run("condition", "query (paper)", ("--condition", "query")),
    Run("condition", "cls", ("--condition", "cls")),
)
CLIP = Run("text encoder", "CLIP", ("--text_encoder", "clip"))
SAME = {"condition": "both", "text encoder": "LaMP"}  # rows that repeat the run "full" of the attention group


def command(run: Run, opt: object, seed: int, name: str) -> list[str]:
    """Command line that trains a row with one seed."""
    common = ["--name", name, "--data_root", opt.data_root, "--checkpoints_dir", opt.work, "--seed", seed,
              "--total_iter", opt.steps, "--max_epoch", 10**6, "--eval_every_e", 10**6, "--log_every", 10**6,
              "--warm_up_iter", opt.steps // 10, "--gpu_id", opt.gpu_id, "--vq_name", opt.vq_name, "--quiet"]
    if run in LAMP:
        size = ["--bert", Path(opt.work) / "bert", "--random_start", "--encoder_width", opt.width, "--embed_dim",
                opt.width]
        return [*map(str, [ROOT / "train_lamp.py", *common, *size, "--batch_size", 32, "--lr", 5e-4, *run.flags])]
    size = ["--latent_dim", opt.width, "--n_heads", 4, "--n_layers", opt.layers, "--ff_size", 2 * opt.width]
    flags = ["--lamp_name", opt.lamp_name, "--condition", "both", "--attention", "full", "--fid_clips", 0,
             "--batch_size", 32, "--group_by_length", "--lr", 5e-4]
    return [*map(str, [ROOT / "train_t2m_transformer.py", *common, *size, *flags, *run.flags])]


def train(run: Run, opt: object, seed: int, number: int) -> dict[str, float]:
    """Train a row with a seed. Returns the validation metrics that select its best checkpoints."""
    name = f"{run.group.split()[0]}_{number}_{seed}"
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *command(run, opt, seed, name)], check=False, cwd=opt.work,
                          capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"{run.group}, {run.label}: {(done.stderr.strip() or done.stdout.strip()).splitlines()[-1]}")
    best = load_checkpoint(Path(opt.work) / "t2m" / name / "model" / "latest.tar")["best"]
    print(f"{run.group}, {run.label}, seed {seed}: "
          f"{', '.join(f'{key} {value:.4f}' for key, value in best.items())} in {time.perf_counter() - start:.0f} s")
    return best


def small_bert(folder: Path, opt: object) -> None:
    """A randomly initialised BERT with the vocabulary of the bundled LaMP model; it sets the model sizes."""
    from transformers import BertConfig, BertModel

    words = len(VOCABULARY.read_text(encoding="utf-8").splitlines())
    config = BertConfig(vocab_size=words, hidden_size=opt.width, num_hidden_layers=opt.layers, num_attention_heads=4,
                        intermediate_size=2 * opt.width, max_position_embeddings=128)
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    shutil.copy(VOCABULARY, folder / "vocab.txt")


def table(results: Mapping[Run, Sequence[Mapping[str, float]]]) -> list[str]:
    """One markdown table for each kind of model."""
    lines = []
    for runs, columns in ((LAMP, {"net_best_acc": ("R@1, %", 1)}),
                          ((*TOKENS, CLIP), {"net_best_loss": ("loss", 1), "net_best_acc": ("accuracy, %", 100)})):
        rows = {run: results[run] for run in runs if run in results}
        if not rows:
            continue
        lines += [f"| | | {' | '.join(name for name, _ in columns.values())} |",
                  "| --- | --- " + "| --- " * len(columns) + "|"]
        for run, draws in rows.items():
            lines.append(_line(run.group, run.label, draws, columns))
            if run == TOKENS[0]:
                shared = [group for group in SAME if any(other.group == group for other in rows)]
                lines += [_line(group, SAME[group], draws, columns) for group in shared]
        lines.append("")
    return lines


def _line(group: str, label: str, draws: Sequence[Mapping[str, float]], columns: Mapping[str, tuple[str, int]]) -> str:
    cells = []
    for key, (_, factor) in columns.items():
        values = [factor * draw[key] for draw in draws]
        spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
        cells.append(f"{statistics.mean(values):.2f}{spread}")
    return f"| {group} | {label} | {' | '.join(cells)} |"


@script
def main() -> None:
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("--data_root", required=True, help="prepared openmotion, without mirrored clips")
    parser.add_argument("--work", default="output/ablations", help="folder of the runs")
    parser.add_argument("--steps", type=positive_int, default=120, help="optimizer steps of every run")
    parser.add_argument("--width", type=positive_int, default=128, help="of every model")
    parser.add_argument("--layers", type=positive_int, default=3, help="of every model")
    parser.add_argument("--seeds", type=natural, nargs="+", default=[1, 2], help="a run per row and seed")
    parser.add_argument("--vq_name", default="vq_demo", help="tokenizer shared by all runs")
    parser.add_argument("--lamp_name", default="lamp_demo", help="LaMP model of the token transformers")
    parser.add_argument("--groups", nargs="+", choices=("objectives", "attention", "condition"),
                        default=["objectives", "attention", "condition"], help="groups of rows to run")
    parser.add_argument("--clip", action="store_true", help="also condition on CLIP, whose weights must be local")
    parser.add_argument("--gpu_id", type=int, default=-1, help="CUDA device; -1 is the CPU")
    opt = parser.parse_args()
    opt.data_root, opt.work = str(Path(opt.data_root).resolve()), str(Path(opt.work).resolve())
    small_bert(Path(opt.work) / "bert", opt)
    runs = [run for run in (*LAMP, *TOKENS) if run.group in opt.groups] + ([CLIP] if opt.clip else [])
    results = {run: [train(run, opt, seed, number) for seed in opt.seeds] for number, run in enumerate(runs)}
    lines = table(results)
    print("\n".join(["", *lines]))
    write_text(Path(opt.work) / "ablations.md", "\n".join(lines))


if __name__ == "__main__":
    main()
