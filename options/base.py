"""Flags that several stages share, declared once."""
import argparse
import math
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import MISSING, fields
from typing import NoReturn

from data.specs import DATASETS
from motion.orientation import UP_AXES
from options.flag_file import expand_flag_files
from utils.errors import InputError


class Parser(argparse.ArgumentParser):
    """An argument parser that shows defaults in its help, reads ``@FILE`` as the flags in a file, and raises
    ``InputError`` for bad flags."""

    def __init__(self, description: str) -> None:
        super().__init__(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        self._inherited: set[str] = set()

    def inherit(self, keys: Collection[str]) -> None:
        """With --init_from, take the options ``keys`` from that model unless the command line gives them."""
        self._inherited |= set(keys)

    def take_defaults(self, config: type, only: Collection[str] | None = None) -> None:
        """Take the defaults of the flags that are fields of the dataclass ``config``, all or ``only`` some, so that a
        default stands in one place."""
        flags = {action.dest for action in self._actions} & set(only or [field.name for field in fields(config)])
        self.set_defaults(**{field.name: field.default for field in fields(config)
                             if field.name in flags and field.default is not MISSING})

    def parse_args(self, args: Sequence[str] | None = None,
                   namespace: argparse.Namespace | None = None) -> argparse.Namespace:
        """Parse as usual. With --init_from, ``inherited`` maps each option to take from that model to its choices."""
        args = expand_flag_files(sys.argv[1:] if args is None else args, self._option_string_actions)
        opt = super().parse_args(args, namespace)
        if getattr(opt, "init_from", None) is not None:
            absent = object()
            given = super().parse_args(args, argparse.Namespace(**dict.fromkeys(vars(opt), absent)))
            opt.inherited = {action.dest: action.choices for action in self._actions
                             if action.dest in self._inherited and getattr(given, action.dest) is absent}
        return opt

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (--help lists the flags)")


def bounded(kind: type, low: float, high: float = math.inf) -> Callable[[str], float]:
    """An argparse type: a finite number of ``kind`` in [low, high]."""

    def parse(text: str) -> float:
        value = kind(text)
        if not low <= value <= high or value == math.inf:
            limit = f"at least {low}" if high == math.inf else f"from {low} to {high}"
            raise argparse.ArgumentTypeError(f"must be {limit}, not {text}")
        return value

    parse.__name__ = kind.__name__
    return parse


def plain_name(text: str) -> str:
    """An argparse type: a name of one file or folder, which lies where it is made."""
    if text in ("", ".", "..") or set(text) & set("/\\"):
        raise argparse.ArgumentTypeError(f"must be a plain name, not {text!r}")
    return text


positive_int = bounded(int, 1)
natural = bounded(int, 0)
non_negative = bounded(float, 0.0)
share = bounded(float, 0.0, 1.0)


def add_common(parser: argparse.ArgumentParser) -> None:
    """Flags of every script: where it runs, where models lie, how much it says."""
    parser.add_argument("--dataset_name", default="t2m", choices=tuple(DATASETS), help="HumanML3D or KIT-ML layout")
    parser.add_argument("--gpu_id", type=int, help="CUDA device; -1 is the CPU, and the default where there is no CUDA")
    parser.add_argument("--cpu_linear", choices=("auto", "mkl", "onednn"), default="auto",
                        help="library of linear layers on the CPU; auto measures once which is faster on this CPU")
    parser.add_argument("--checkpoints_dir", default="checkpoints", help="where runs and their models lie")
    parser.add_argument("--seed", type=bounded(int, 0, 2**63 - 1), default=3407, help="of every random stream")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def accept_seed(parser: argparse.ArgumentParser) -> None:
    """Take ``--seed`` without listing it, in a script in which nothing is random."""
    parser.add_argument("--seed", type=int, default=3407, help=argparse.SUPPRESS)


def add_speed(parser: argparse.ArgumentParser) -> None:
    """How trained networks run."""
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16", "auto"), default="fp32",
                        help="of the networks: bf16 on GPUs and CPUs that have it, fp16 on GPUs; auto is bf16 where "
                             "the hardware has it, else fp32")
    parser.add_argument("--compile", action="store_true",
                        help="compile the networks first, which takes a minute and needs a C++ compiler")


def add_data(parser: argparse.ArgumentParser) -> None:
    """Flags of scripts that read a data set."""
    parser.add_argument("--data_root", help="data set folder, instead of dataset/HumanML3D or dataset/KIT-ML")


def add_up(parser: argparse._ActionsContainer) -> None:
    """The axis of motions from outside."""
    parser.add_argument("--up", choices=UP_AXES,
                        help="axis that is up in joints and BVH (write --up=-y); found from the body if not given")


def add_balance(parser: argparse.ArgumentParser) -> None:
    """How evenly actions are sampled."""
    parser.add_argument("--balance", type=share, default=0.0,
                        help="sample by the rarity of actions: 0 every clip alike, 1 every action alike")


def add_group_by_length(parser: argparse.ArgumentParser) -> None:
    """What is spent on padding."""
    parser.add_argument("--group_by_length", action="store_true",
                        help="clips of like length share a batch: steps on a CPU take as long as their clips")


def add_paraphrases(parser: argparse.ArgumentParser) -> None:
    """How many wordings a stage learns from."""
    parser.add_argument("--paraphrases", type=natural, default=0, metavar="N",
                        help="learn from N more wordings of every caption (assets/paraphrases.txt) too")


def add_bank(parser: argparse.ArgumentParser) -> None:
    """Sentences of the language bank."""
    parser.add_argument("--bank", action="store_true",
                        help="half of the time train on sentences of assets/language instead of captions, for clips "
                             "that DATA_ROOT/contents.json describes")


def add_evaluator(parser: argparse.ArgumentParser) -> None:
    """Who judges motions."""
    parser.add_argument("--evaluator", metavar="NAME|none",
                        help="evaluator to measure with; by default text_mot_match where it is among the checkpoints, "
                             "else the bundled one, else none")


def add_bert_score(parser: argparse._ActionsContainer, model: str | None = None) -> None:
    """What BERTScore is computed by."""
    parser.add_argument("--bert_score_model", "--bert-score-model", default=model,
                        help="BERTScore by this model: a name on the hub, or a folder")
    parser.add_argument("--bert_score_layer", "--bert-score-layer", type=positive_int,
                        help="layer of it whose states are compared; known for usual names")
    parser.add_argument("--bert_score_rescale", "--bert-score-rescale", action=argparse.BooleanOptionalAction,
                        default=False, help="rescale BERTScore by the baseline that bert-score has for the model")


def add_chosen_by_fid(parser: argparse.ArgumentParser) -> None:
    """What the best checkpoint is chosen by."""
    add_evaluator(parser)
    parser.add_argument("--fid_clips", type=natural,
                        help="validation clips whose FID chooses the best checkpoint; all of them by default, for "
                             "FID is biased upwards on few clips; 0 chooses by the losses")


def add_training(parser: argparse.ArgumentParser, *, batch_size: int, max_epoch: int, lr: float, warm_up_iter: int,
                 weight_decay: float, gamma: float | None = None, milestones: Sequence[int] = ()) -> None:
    """Flags of the training loop, with a stage's own defaults; without ``gamma`` none of a schedule of milestones."""
    parser.add_argument("--name", required=True, help="run name: checkpoints/<dataset_name>/<name>")
    parser.add_argument("--batch_size", type=positive_int, default=batch_size, help="samples a step, all processes")
    parser.add_argument("--max_epoch", type=positive_int, default=max_epoch, help="epochs to train")
    parser.add_argument("--total_iter", type=natural, default=0, help="stop after so many steps; 0: at max_epoch")
    parser.add_argument("--lr", type=non_negative, default=lr, help="learning rate after warm-up")
    parser.add_argument("--warm_up_iter", type=natural, default=warm_up_iter, help="steps of linear warm-up")
    if gamma is not None:
        parser.add_argument("--milestones", type=natural, nargs="*", default=list(milestones),
                            help="steps at which the rate is multiplied by gamma")
        parser.add_argument("--gamma", type=non_negative, default=gamma, help="factor at each milestone")
    parser.add_argument("--weight_decay", type=non_negative, default=weight_decay, help="AdamW's decoupled decay")
    parser.add_argument("--betas", type=bounded(float, 0.0, 0.99999), nargs=2, default=[0.9, 0.99],
                        metavar=("BETA1", "BETA2"), help="AdamW's decay of its running means of "
                        "gradients and of their squares")
    parser.add_argument("--ema", type=share, default=0.0, metavar="DECAY",
                        help="validate and keep a running mean of the weights (and codebooks), such as 0.999; 0: none")
    parser.add_argument("--grad_accum", type=positive_int, default=1, metavar="PARTS",
                        help="process each batch in PARTS parts, one after another, to save memory; LaMP's contrastive "
                             "and matching losses compare the pairs of one part")
    parser.add_argument("--compile", action="store_true", help="compile the networks: slow to start, faster steps")
    parser.add_argument("--mixed_precision", choices=("no", "bf16", "fp16"), default="no",
                        help="bf16 is faster on recent GPUs and on CPUs that have it")
    parser.add_argument("--init_from", metavar="NAME",
                        help="start from the weights of this model, a run's or a bundled one, with its sizes")
    parser.add_argument("--is_continue", action="store_true", help="resume from model/latest.tar of the same name")
    parser.add_argument("--num_workers", type=natural, default=0, help="loader processes; 0 loads in the main one")
    parser.add_argument("--log_every", type=positive_int, default=50, help="steps between log lines")
    parser.add_argument("--save_latest", type=positive_int, default=500, help="steps between latest.tar")
    parser.add_argument("--eval_every_e", type=positive_int, default=1, help="epochs between validations")
