"""Flags that several stages share, declared once."""
import argparse
import math
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import MISSING, fields
from typing import Any, NoReturn

from data.specs import DATASETS
from motion.orientation import UP_AXES
from options.flag_file import expand_flag_files
from utils.errors import InputError


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, except for flags that are off or unset."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None or action.default is False else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """An argument parser that shows defaults in its help, reads ``@FILE`` as the flags in a file, and raises
    ``InputError`` for bad flags."""

    def __init__(self, description: str) -> None:
        super().__init__(description=description, formatter_class=_Formatter)
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

    def add_argument_group(self, title: str, *args: Any, **named: Any) -> argparse._ArgumentGroup:
        """The group of this title, created once, whose flags are spelled like the parser's."""
        for group in self._action_groups:
            if group.title == title:
                return group
        group = super().add_argument_group(title, *args, **named)
        plain = group.add_argument
        group.add_argument = lambda *flags, **settings: plain(*self.spellings(flags), **settings)
        return group

    def add_argument(self, *flags: str, **settings: Any) -> argparse.Action:
        """Add a flag under all of its ``spellings``."""
        return super().add_argument(*self.spellings(flags), **settings)

    def spellings(self, flags: Sequence[str]) -> Sequence[str]:
        """All spellings of a flag; the first one names the option."""
        return flags

    def format_help(self) -> str:
        """The help text, with a short usage line if all arguments are flags."""
        if all(action.option_strings for action in self._actions):
            needed = "".join(f" {action.option_strings[0]} ..." for action in self._actions if action.required)
            self.usage = f"%(prog)s{needed} [flags]"
        return super().format_help()

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
    """Flags of every script: device, folders, seed, verbosity."""
    parser.add_argument("--dataset_name", default="t2m", choices=tuple(DATASETS), help="HumanML3D or KIT-ML layout")
    parser.add_argument("--gpu_id", type=int, help="CUDA device; -1 is the CPU, the default without CUDA")
    parser.add_argument("--cpu_linear", choices=("auto", "mkl", "onednn"), default="auto",
                        help="library of linear layers on the CPU; auto measures once which is faster on this CPU")
    parser.add_argument("--checkpoints_dir", default="checkpoints", help="folder of runs and models")
    parser.add_argument("--seed", type=bounded(int, 0, 2**63 - 1), default=3407, help="random seed")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def accept_seed(parser: argparse.ArgumentParser) -> None:
    """Take ``--seed`` without listing it, in a script in which nothing is random."""
    parser.add_argument("--seed", type=int, default=3407, help=argparse.SUPPRESS)


def add_speed(parser: argparse.ArgumentParser) -> None:
    """Precision and compilation of trained networks."""
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16", "auto"), default="fp32",
                        help="of the networks: bf16 on GPUs and CPUs that have it, fp16 on GPUs; auto is bf16 where "
                             "the hardware has it, else fp32")
    parser.add_argument("--compile", action="store_true",
                        help="compile the networks first, which takes a minute and needs a C++ compiler")


def add_data(parser: argparse.ArgumentParser) -> None:
    """Flags of scripts that read a data set."""
    parser.add_argument_group("data").add_argument(
        "--data_root", help="data set folder, instead of dataset/HumanML3D or dataset/KIT-ML")


def add_up(parser: argparse._ActionsContainer) -> None:
    """The axis of motions from outside."""
    parser.add_argument("--up", choices=UP_AXES,
                        help="axis that is up in joints and BVH (write --up=-y); found from the body if not given")


def add_balance(parser: argparse.ArgumentParser) -> None:
    """Sampling of rare actions."""
    parser.add_argument_group("data").add_argument("--balance", type=share, default=0.0,
                        help="sample rare actions more often: 0 is uniform over clips, 1 over actions")


def add_group_by_length(parser: argparse.ArgumentParser) -> None:
    """Batches of similar length."""
    parser.add_argument_group("data").add_argument("--group_by_length", action="store_true",
                        help="batch clips of similar length, which saves padding on the CPU")


def add_paraphrases(parser: argparse.ArgumentParser) -> None:
    """Paraphrases of training captions."""
    parser.add_argument_group("data").add_argument("--paraphrases", type=natural, default=0, metavar="N",
                        help="add N paraphrases of every caption (assets/paraphrases.txt)")


def add_bank(parser: argparse.ArgumentParser) -> None:
    """Sentences of the language bank."""
    parser.add_argument_group("data").add_argument("--bank", action="store_true",
                        help="half of the time train on sentences of assets/language instead of captions, for clips "
                             "that DATA_ROOT/contents.json describes")


def add_evaluator(parser: argparse.ArgumentParser, metavar: str = "NAME|none", more: str = "") -> None:
    """The evaluator of motions."""
    parser.add_argument("--evaluator", metavar=metavar,
                        help="evaluator; by default text_mot_match if it is among the checkpoints, else the bundled "
                             f"one, else none{more}")


def add_bert_score(parser: argparse._ActionsContainer, model: str | None = None) -> None:
    """The model of BERTScore."""
    parser.add_argument("--bert_score_model", "--bert-score-model", default=model,
                        help="BERTScore by this model: a name on the hub, or a folder")
    parser.add_argument("--bert_score_layer", "--bert-score-layer", type=positive_int,
                        help="layer of it whose states are compared; known for usual names")
    parser.add_argument("--bert_score_rescale", "--bert-score-rescale", action=argparse.BooleanOptionalAction,
                        default=False, help="rescale BERTScore by the baseline that bert-score has for the model")


def add_chosen_by_fid(parser: argparse.ArgumentParser) -> None:
    """How the best checkpoint is chosen."""
    add_evaluator(parser)
    parser.add_argument("--fid_clips", type=natural,
                        help="validation clips whose FID chooses the best checkpoint; all of them by default, for "
                             "FID is biased upwards on few clips; 0 chooses by the losses")


def add_training(parser: argparse.ArgumentParser, *, batch_size: int, max_epoch: int, lr: float, warm_up_iter: int,
                 weight_decay: float, gamma: float | None = None, milestones: Sequence[int] = ()) -> None:
    """Flags of the training loop in groups, with a stage's defaults; without ``gamma`` no schedule of milestones."""
    run = parser.add_argument_group("run")
    optim = parser.add_argument_group("optimisation")
    speed = parser.add_argument_group("speed")
    run.add_argument("--name", required=True, help="run name: checkpoints/<dataset_name>/<name>")
    optim.add_argument("--batch_size", type=positive_int, default=batch_size, help="samples per step")
    optim.add_argument("--max_epoch", type=positive_int, default=max_epoch, help="epochs to train")
    optim.add_argument("--total_iter", type=natural, default=0, help="stop after this many steps; 0: never")
    optim.add_argument("--lr", type=non_negative, default=lr, help="learning rate after warm-up")
    optim.add_argument("--warm_up_iter", type=natural, default=warm_up_iter, help="steps of linear warm-up")
    if gamma is not None:
        optim.add_argument("--milestones", type=natural, nargs="*", default=list(milestones),
                            help="steps at which the learning rate is multiplied by gamma")
        optim.add_argument("--gamma", type=non_negative, default=gamma, help="factor at each milestone")
    optim.add_argument("--weight_decay", type=non_negative, default=weight_decay, help="AdamW's weight decay")
    optim.add_argument("--betas", type=bounded(float, 0.0, 0.99999), nargs=2, default=[0.9, 0.99],
                        metavar=("BETA1", "BETA2"), help="AdamW's decay of its running means of "
                        "gradients and of their squares")
    optim.add_argument("--ema", type=share, default=0.0, metavar="DECAY",
                        help="validate and save an exponential moving average of weights and codebooks, such as 0.999; "
                              "0: off")
    optim.add_argument("--grad_accum", type=positive_int, default=1, metavar="PARTS",
                        help="process each batch in PARTS parts, one after another, to save memory; LaMP's contrastive "
                             "and matching losses compare the pairs of one part")
    speed.add_argument("--compile", action="store_true", help="compile the networks: slow to start, faster steps")
    speed.add_argument("--mixed_precision", choices=("no", "bf16", "fp16"), default="no",
                        help="bf16 is faster on recent GPUs and on CPUs that have it")
    run.add_argument("--init_from", metavar="NAME",
                        help="initialise from this model, a run or a bundled one, with its sizes")
    run.add_argument("--is_continue", action="store_true", help="resume from model/latest.tar of the same name")
    speed.add_argument("--num_workers", type=natural, default=0, help="data loader processes; 0: none")
    run.add_argument("--log_every", type=positive_int, default=50, help="steps between log lines")
    run.add_argument("--save_latest", type=positive_int, default=500, help="steps between writes of latest.tar")
    run.add_argument("--eval_every_e", type=positive_int, default=1, help="epochs between validations")
