"""Ablations of the paper on openmotion: LaMP's objectives, text encoder, attention and condition.

    python benchmarks/ablations.py --data_root DATA                     under an hour on one CPU core
    python benchmarks/ablations.py --data_root DATA --steps 20000 --lamp_steps 5000 --width 384 --layers 6 --gpu_id 0

DATA is openmotion without mirrored clips, and WORK is the folder --work. All runs use the tokenizer --vq_name;
all token transformers also use the LaMP model --lamp_name. Both are names of bundled models or of folders in WORK/t2m.
The table contains validation scores as mean and standard deviation over seeds. Repeat the command to resume. The CLIP
row needs CLIP's weights, from the Hugging Face hub or in WORK/clip-vit-base-patch32.
"""
import argparse
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from models.transformers.mask_transformer import CLIP_FILES, CLIP_NAME
from options.base import Parser, natural, positive_int
from storage.checkpoint import load_checkpoint
from utils import InputError, script
from utils.files import ROOT, fingerprint, model_folder, silent_transformers, write_text

VOCABULARY = ROOT / "pretrained" / "t2m" / "lamp_demo" / "vocab.txt"
COLUMNS = {"objectives": {"net_best_acc": ("R@1, %", 1)}}
TOKEN_COLUMNS = {"net_best_loss": ("loss", 1), "net_best_acc": ("accuracy, %", 100), "net_best_fid": ("FID", 1)}


@dataclass(frozen=True)
class Run:
    """A row of the table, with the flags that distinguish it from other rows."""

    group: str
    label: str
    flags: tuple[str, ...] = ()


OBJECTIVES = tuple(Run("objectives", " + ".join(names), ("--objectives", *names)) for names in (
    ("ptc",), ("ptc", "ptm"), ("ptc", "ptm", "lm"), ("ptc", "ptm", "lm", "gen")))
CLIP = Run("encoder", "CLIP", ("--text_encoder", "clip"))
ROWS = (
    *OBJECTIVES,
    Run("encoder", "LaMP"), CLIP,
    Run("attention", "full"),
    Run("attention", "causal (paper)", ("--attention", "causal")),
    Run("attention", "additive (released)", ("--attention", "additive")),
    Run("condition", "both"),
    Run("condition", "query (paper)", ("--condition", "query")),
    Run("condition", "cls", ("--condition", "cls")),
)
GROUPS = tuple(dict.fromkeys(run.group for run in ROWS))


def command(run: Run, opt: object, seed: int) -> list[str]:
    """Return the command line, without ``--name``, that trains the model of a table row with ``seed``."""
    steps = opt.lamp_steps if run in OBJECTIVES else opt.steps
    common = ["--data_root", opt.data_root, "--checkpoints_dir", opt.work, "--seed", seed, "--total_iter", steps,
              "--max_epoch", 10**6, "--eval_every_e", 10**6, "--log_every", 10**6, "--save_latest", 1 + steps // 4,
              "--warm_up_iter", steps // 10, "--batch_size", 32, "--lr", 5e-4, "--gpu_id", opt.gpu_id,
              "--vq_name", opt.vq_name, "--quiet"]
    if run in OBJECTIVES:
        size = ["--bert", bert_folder(opt), "--random_start", "--encoder_width", opt.width, "--embed_dim",
                opt.width, "--matching_rows", 8, "--attention_dropout", 0]
        return [*map(str, [ROOT / "train_lamp.py", *common, *size, *run.flags])]
    size = ["--latent_dim", opt.width, "--n_heads", 4, "--n_layers", opt.layers, "--ff_size", 2 * opt.width]
    flags = ["--lamp_name", opt.lamp_name, "--condition", "both", "--attention", "full", "--group_by_length",
             *([] if opt.fid else ["--fid_clips", 0])]
    return [*map(str, [ROOT / "train_t2m_transformer.py", *common, *size, *flags, *run.flags])]


def train(run: Run, opt: object, seed: int) -> dict[str, float]:
    """Train the model of a table row with ``seed``, or resume its run. Returns the final validation scores.

    Rows with the same flags share a run, whose name contains a hash of its command.
    """
    arguments = command(run, opt, seed)
    name = f"{re.sub(r'[^a-z0-9]+', '_', Path(arguments[0]).stem)}_{fingerprint(*arguments)[:10]}"
    latest = Path(opt.work) / "t2m" / name / "model" / "latest.tar"
    steps = int(arguments[arguments.index("--total_iter") + 1])
    start = time.perf_counter()
    content = load_checkpoint(latest) if latest.exists() else None
    if content is None or content["total_it"] < steps:
        resume = ["--is_continue"] if content else []
        done = subprocess.run([sys.executable, *arguments, "--name", name, *resume], check=False, cwd=opt.work,
                              capture_output=True, text=True)
        if done.returncode:
            lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
            raise InputError(f"{run.group}, {run.label}, seed {seed}: {lines[-1] if lines else 'failed'}")
        content = load_checkpoint(latest)
    numbers = ", ".join(f"{key} {value:.4f}" for key, value in content["best"].items())
    print(f"{run.group}, {run.label}, seed {seed}: {numbers} in {time.perf_counter() - start:.0f} s", flush=True)
    return content["best"]


def bert_folder(opt: object) -> Path:
    """Return the folder to which ``small_bert`` writes a BERT with the sizes in ``opt``."""
    return Path(opt.work) / f"bert_{opt.width}_{opt.layers}"


def small_bert(opt: object) -> None:
    """Write a small BERT with random weights and the vocabulary of the bundled LaMP model, unless it exists."""
    folder = bert_folder(opt)
    if (folder / "vocab.txt").is_file():
        return
    from transformers import BertConfig, BertModel

    words = len(VOCABULARY.read_text(encoding="utf-8").splitlines())
    config = BertConfig(vocab_size=words, hidden_size=opt.width, num_hidden_layers=opt.layers, num_attention_heads=4,
                        intermediate_size=2 * opt.width, max_position_embeddings=128)
    with silent_transformers():
        BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    shutil.copy(VOCABULARY, folder / "vocab.txt")


def clip_is_there(work: Path) -> bool:
    """Look for CLIP in ``work``, else download it. Returns False and prints the reason if CLIP is not available."""
    folder = work / Path(CLIP_NAME).name
    try:
        model_folder(folder if folder.is_dir() else CLIP_NAME, "CLIP", CLIP_FILES)
    except InputError as error:
        print(f"encoder, CLIP: skipped: {error}")
        return False
    return True


def table(results: Mapping[Run, Sequence[Mapping[str, float]]]) -> list[str]:
    """Format results as two markdown tables, for LaMP and for token transformers, with mean and std over seeds."""
    lines = []
    for rows in ([run for run in results if run in OBJECTIVES], [run for run in results if run not in OBJECTIVES]):
        if not rows:
            continue
        known = COLUMNS.get(rows[0].group, TOKEN_COLUMNS)
        columns = {key: column for key, column in known.items() if all(key in one for one in results[rows[0]])}
        lines += [f"| | | {' | '.join(name for name, _ in columns.values())} |",
                  "| --- | --- " + "| --- " * len(columns) + "|",
                  *(_line(run, results[run], columns) for run in rows), ""]
    return lines


def _line(run: Run, draws: Sequence[Mapping[str, float]], columns: Mapping[str, tuple[str, int]]) -> str:
    cells = []
    for key, (_, factor) in columns.items():
        values = [factor * draw[key] for draw in draws]
        spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
        cells.append(f"{statistics.mean(values):.2f}{spread}")
    return f"| {run.group} | {run.label} | {' | '.join(cells)} |"


@script
def main() -> None:
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("--data_root", required=True, help="prepared openmotion, without mirrored clips")
    parser.add_argument("--work", default="output/ablations", help="folder of the runs, and of your models in WORK/t2m")
    parser.add_argument("--steps", type=positive_int, default=800, help="training steps of token transformers")
    parser.add_argument("--lamp_steps", type=positive_int, default=200, help="training steps of LaMP models")
    parser.add_argument("--width", type=positive_int, default=128, help="width of every model")
    parser.add_argument("--layers", type=positive_int, default=3, help="layers of every model")
    parser.add_argument("--seeds", type=natural, nargs="+", default=[1, 2, 3],
                        help="seeds; each row is trained once per seed")
    parser.add_argument("--vq_name", default="vq_demo", help="tokenizer of all runs")
    parser.add_argument("--lamp_name", default="lamp_demo", help="LaMP model of the token transformers")
    parser.add_argument("--groups", nargs="+", choices=GROUPS, default=GROUPS, help="groups of rows to run")
    parser.add_argument("--fid", action=argparse.BooleanOptionalAction, default=True,
                        help="measure FID of the base layer on the validation clips")
    parser.add_argument("--gpu_id", type=int, default=-1, help="CUDA device, or -1 for the CPU")
    opt = parser.parse_args()
    work = Path(opt.work).resolve()
    opt.data_root, opt.work = str(Path(opt.data_root).resolve()), str(work)
    small_bert(opt)
    runs = [run for run in ROWS if run.group in opt.groups and (run != CLIP or clip_is_there(work))]
    made = {(run, seed): train(run, opt, seed) for seed in opt.seeds for run in runs}
    lines = table({run: [made[run, seed] for seed in opt.seeds] for run in runs})
    print("\n".join(["", *lines]))
    write_text(work / "ablations.md", "\n".join(lines))


if __name__ == "__main__":
    main()
