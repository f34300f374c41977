"""Argument parser with flag files (``@FILE``), argument types, and flags shared by several scripts."""
import argparse
import math
import shlex
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, NoReturn

from motion.skeleton import UP_AXES
from utils import InputError, usable_cores
from utils.files import read_text

MARK = "@"


def expand_flag_files(args: Sequence[str], known: Mapping[str, argparse.Action]) -> list[str]:
    """Replace each argument ``@FILE`` with the flags in that file, unless it is the value of a flag.

    ``known`` maps flags to actions. Raises ``InputError`` for an invalid flag file.
    """
    expanded: list[str] = []
    for before, argument in zip(["", *args], args, strict=False):
        takes_value = before in known and known[before].nargs != 0
        is_file = argument.startswith(MARK) and len(argument) > 1 and not takes_value
        expanded += read_flag_file(argument[1:], known) if is_file else [argument]
    return expanded


def read_flag_file(path: str | Path, known: Mapping[str, argparse.Action]) -> list[str]:
    """Read the arguments in a flag file, which has one ``--flag value`` per line and comments after ``#``.

    Raises ``InputError`` for a line that does not start with one of the ``known`` flags.
    """
    arguments: list[str] = []
    for number, line in enumerate(read_text(path, "flag file").splitlines(), 1):
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            raise InputError(f"{path}:{number}: {error} in {line.strip()!r}") from error
        if not words:
            continue
        flag = words[0].partition("=")[0]
        if not flag.startswith("--"):
            raise InputError(f"{path}:{number}: expected '--flag value', not {line.strip()!r}")
        if flag not in known:
            raise InputError(f"{path}:{number}: this script has no flag {flag}")
        arguments += words
    return arguments


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Help formatter that shows defaults, except False and None."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None or action.default is False else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """Argument parser that accepts flag files (``@FILE``) and raises ``InputError`` for invalid flags."""

    def __init__(self, description: str) -> None:
        super().__init__(description=description, formatter_class=_Formatter)
        self._inherited: set[str] = set()

    def inherit(self, keys: Collection[str]) -> None:
        """Mark options that are copied from the --init_from model, unless they are on the command line."""
        self._inherited |= set(keys)

    def take_defaults(self, config: type, only: Collection[str] | None = None, inherit: bool = True) -> None:
        """Set the defaults of flags from the fields of the dataclass ``config``, or from those in ``only``.

        With ``inherit``, these options are also passed to the method ``inherit``.
        """
        flags = {action.dest for action in self._actions} & set(only or [field.name for field in fields(config)])
        if inherit:
            self.inherit(flags)
        self.set_defaults(**{field.name: field.default for field in fields(config)
                             if field.name in flags and field.default is not MISSING})

    def parse_args(self, args: Sequence[str] | None = None,
                   namespace: argparse.Namespace | None = None) -> argparse.Namespace:
        """Parse the command line. With --init_from, the keys of ``opt.inherited`` are the options to copy.

        Each value holds the choices of the option, or None if any value is allowed.
        """
        args = expand_flag_files(sys.argv[1:] if args is None else args, self._option_string_actions)
        opt = super().parse_args(args, namespace)
        if getattr(opt, "init_from", None) is not None:
            absent = object()
            given = super().parse_args(args, argparse.Namespace(**dict.fromkeys(vars(opt), absent)))
            opt.inherited = {action.dest: action.choices for action in self._actions
                             if action.dest in self._inherited and getattr(given, action.dest) is absent}
        return opt

    def add_argument_group(self, title: str, *args: Any, **named: Any) -> argparse._ArgumentGroup:
        """Return the group with this title, creating it if needed. Flags added to it have all ``spellings``."""
        for group in self._action_groups:
            if group.title == title:
                return group
        group = super().add_argument_group(title, *args, **named)
        plain = group.add_argument
        group.add_argument = lambda *flags, **settings: plain(*self.spellings(flags), **settings)
        return group

    def add_argument(self, *flags: str, **settings: Any) -> argparse.Action:
        """Add a flag with all of its ``spellings``."""
        return super().add_argument(*self.spellings(flags), **settings)

    def spellings(self, flags: Sequence[str]) -> Sequence[str]:
        """Return all spellings of a flag. The first one is the name of the option."""
        return flags

    def format_help(self) -> str:
        """Format the help text, with a short usage line if all arguments are flags."""
        if all(action.option_strings for action in self._actions):
            needed = "".join(f" {action.option_strings[0]} ..." for action in self._actions if action.required)
            self.usage = f"%(prog)s{needed} [flags]"
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (--help lists the flags)")


PUBLIC_NAMES = {"--name": "--exp-name", "--dataset_name": "--dataname", "--milestones": "--lr-scheduler",
                "--init_from": "--resume-trans"}
# Settings of the tokenizer that are also flags of the published commands.
TOKENIZER_FACTS = ("nb_code", "down_t", "depth", "dilation_growth_rate", "vq_act")


class DashedParser(Parser):
    """Parser that accepts flags with dashes or underscores, and the flag names of the published commands."""

    def spellings(self, flags: Sequence[str]) -> Sequence[str]:
        return [*dict.fromkeys([*flags, *(PUBLIC_NAMES.get(flag, flag.replace("_", "-")) for flag in flags)])]


def bounded(kind: type, low: float, high: float = math.inf) -> Callable[[str], float]:
    """Return an argparse type for finite numbers of type ``kind`` in [low, high]."""

    def parse(text: str) -> float:
        value = kind(text)
        if not low <= value <= high or value == math.inf:
            limit = f"at least {low}" if high == math.inf else f"from {low} to {high}"
            raise argparse.ArgumentTypeError(f"must be {limit}, not {text}")
        return value

    parse.__name__ = kind.__name__
    return parse


def plain_name(text: str) -> str:
    """Argparse type for the name of a file or folder without a path."""
    if text in ("", ".", "..") or set(text) & set("/\\"):
        raise argparse.ArgumentTypeError(f"must be a plain name, not {text!r}")
    return text


positive_int = bounded(int, 1)
natural = bounded(int, 0)
non_negative = bounded(float, 0.0)
share = bounded(float, 0.0, 1.0)


def add_common(parser: argparse.ArgumentParser) -> None:
    """Add the flags of most scripts: data set, device, CPU library, checkpoint folder, seed and progress bars."""
    from data.dataset import DATASETS  # needs packages that Blender's Python lacks

    parser.add_argument("--dataset_name", default="t2m", choices=tuple(DATASETS), help="t2m: HumanML3D; kit: KIT-ML")
    parser.add_argument("--gpu_id", type=int, help="CUDA device; -1: CPU; default: 0, or the CPU without CUDA")
    parser.add_argument("--cpu_linear", choices=("auto", "mkl", "onednn"), default="auto",
                        help="CPU library for linear layers; auto runs a short benchmark and uses the faster one")
    parser.add_argument("--checkpoints_dir", default="checkpoints", help="folder of training runs and models")
    parser.add_argument("--seed", type=bounded(int, 0, 2**63 - 1), default=3407, help="random seed")
    parser.add_argument("--quiet", action="store_true", help="hide progress bars")


def accept_seed(parser: argparse.ArgumentParser) -> None:
    """Accept and ignore ``--seed`` (hidden), so that scripts without random numbers take it too."""
    parser.add_argument("--seed", type=int, default=3407, help=argparse.SUPPRESS)


def add_workers(parser: argparse.ArgumentParser) -> None:
    """Add the flags ``--workers`` and ``--quiet``, and a hidden ``--seed`` that is ignored."""
    parser.add_argument("--workers", type=positive_int, default=usable_cores(), help="number of processes")
    accept_seed(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def add_speed(parser: argparse.ArgumentParser) -> None:
    """Add the flags for inference precision and compilation."""
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16", "auto"), default="fp32",
                        help="precision of the networks; fp16 needs a GPU; auto uses bf16 if the hardware supports it, "
                             "else fp32")
    parser.add_argument("--compile", action="store_true",
                        help="compile the networks, and on CUDA record the sampling loops as graphs; takes up to a "
                             "minute and needs a C++ compiler")


_DATA: dict[str, dict[str, Any]] = {
    "data_root": {"help": "data set folder; default: dataset/HumanML3D or dataset/KIT-ML"},
    "balance": {"type": share, "default": 0.0,
                "help": "sample rare actions more often; 0: uniform over clips; 1: uniform over actions"},
    "balance_by": {"choices": ("family", "content"), "default": "family",
                   "help": "action of a clip for --balance with --bank: its family or its rarest content"},
    "group_by_length": {"action": "store_true",
                        "help": "batch clips of similar length, which reduces padding and speeds up CPU training"},
    "paraphrases": {"type": natural, "default": 0, "metavar": "N",
                    "help": "add N paraphrases of each caption (assets/paraphrases.txt)"},
    "bank": {"action": "store_true", "help": "replace half of the captions with sentences from assets/language, for "
                                             "clips listed in DATA_ROOT/contents.json"},
}


def add_data(parser: argparse.ArgumentParser, *more: str) -> None:
    """Add ``--data_root``, the folder of the data set, and the flags ``more`` about training data."""
    group = parser.add_argument_group("data")
    for name in ("data_root", *more):
        group.add_argument(f"--{name}", **_DATA[name])


def add_up(parser: argparse._ActionsContainer) -> None:
    """Add ``--up``, the vertical axis of motion files."""
    parser.add_argument("--up", choices=UP_AXES,
                        help="vertical axis of joints and BVH files (write --up=-y); default: detected from the body")


def add_evaluator(parser: argparse.ArgumentParser, metavar: str = "NAME|none", more: str = "") -> None:
    """Add ``--evaluator``, with ``more`` appended to its help text."""
    parser.add_argument("--evaluator", metavar=metavar,
                        help="evaluator that embeds texts and motions; default: text_mot_match if it exists, else the "
                             f"bundled one, else none{more}")


def add_bert_score(parser: argparse._ActionsContainer, model: str | None = None) -> None:
    """Add the flags of BERTScore, with ``model`` as the default model."""
    parser.add_argument("--bert_score_model", "--bert-score-model", default=model,
                        help="BERTScore model: a Hugging Face name or a folder")
    parser.add_argument("--bert_score_layer", "--bert-score-layer", type=positive_int,
                        help="hidden layer to compare; required for models that bert-score does not know")
    parser.add_argument("--bert_score_rescale", "--bert-score-rescale", action=argparse.BooleanOptionalAction,
                        default=False, help="rescale BERTScore with bert-score's baseline for the model")


def add_chosen_by_fid(parser: argparse.ArgumentParser) -> None:
    """Add the flags that select the best checkpoint by FID."""
    add_evaluator(parser)
    parser.add_argument("--fid_clips", type=natural,
                        help="number of validation clips for the FID that selects the best checkpoint; default: all, "
                             "as FID is biased upwards on few clips; 0: select by validation loss")


def add_training(parser: argparse.ArgumentParser, *, batch_size: int, max_epoch: int, lr: float, warm_up_iter: int,
                 weight_decay: float, gamma: float | None = None, milestones: Sequence[int] = ()) -> None:
    """Add the flags of the training loop, with the given defaults. Without ``gamma``, there is no ``--milestones``."""
    run = parser.add_argument_group("run")
    optim = parser.add_argument_group("optimisation")
    speed = parser.add_argument_group("speed")
    run.add_argument("--name", required=True, help="run name; files go to checkpoints/<dataset_name>/<name>")
    optim.add_argument("--batch_size", type=positive_int, default=batch_size, help="samples per step")
    optim.add_argument("--max_epoch", type=positive_int, default=max_epoch, help="epochs to train")
    optim.add_argument("--total_iter", type=natural, default=0, help="stop after this many steps; 0: after --max_epoch")
    optim.add_argument("--lr", type=non_negative, default=lr, help="learning rate after warm-up")
    optim.add_argument("--warm_up_iter", type=natural, default=warm_up_iter, help="steps of linear warm-up")
    if gamma is not None:
        optim.add_argument("--milestones", type=natural, nargs="*", default=list(milestones),
                            help="steps at which the learning rate is multiplied by gamma")
        optim.add_argument("--gamma", type=non_negative, default=gamma, help="factor at each milestone")
    optim.add_argument("--weight_decay", type=non_negative, default=weight_decay, help="AdamW's weight decay")
    optim.add_argument("--betas", type=bounded(float, 0.0, 0.99999), nargs=2, default=[0.9, 0.99],
                        metavar=("BETA1", "BETA2"), help="AdamW betas")
    optim.add_argument("--ema", type=share, default=0.0, metavar="DECAY",
                        help="decay, such as 0.999, of an exponential moving average of weights and codebooks, which "
                              "is validated and saved; 0: off")
    optim.add_argument("--grad_accum", type=positive_int, default=1, metavar="PARTS",
                        help="split each batch into PARTS micro-batches to save memory; LaMP's contrastive and "
                             "matching losses compare pairs within one micro-batch only")
    speed.add_argument("--compile", action="store_true", help="compile the networks: slower start, faster steps")
    speed.add_argument("--mixed_precision", choices=("no", "bf16", "fp16"), default="no",
                        help="precision of the forward pass; bf16 is faster on hardware that supports it")
    run.add_argument("--init_from", metavar="NAME",
                        help="initialise weights and model sizes from this run or bundled model")
    run.add_argument("--is_continue", action="store_true", help="resume the run from its model/latest.tar")
    speed.add_argument("--num_workers", type=natural, default=0,
                       help="data loader processes; 0: load in the main process")
    run.add_argument("--log_every", type=positive_int, default=50, help="steps between log lines")
    run.add_argument("--save_latest", type=positive_int, default=500, help="steps between writes of latest.tar")
    run.add_argument("--eval_every_e", type=positive_int, default=1, help="epochs between validations")


def add_writing(parser: argparse.ArgumentParser, default: str | None = argparse.SUPPRESS) -> None:
    """Add flags for the fields of ``Writing``. By default, flags that are not given are absent from the options."""
    writing = parser.add_argument_group("decoding", "Defaults: the model's opt.txt, else the published values.")
    writing.add_argument("--num_beams", "--num-beams", type=positive_int, default=default,
                         help="width of the beam search; 1: greedy decoding")
    writing.add_argument("--top_p", "--top-p", type=bounded(float, 0.01, 1.0), default=default,
                         help="below 1: nucleus sampling with this probability mass, instead of beam search")
    writing.add_argument("--temperature", type=bounded(float, 0.01), default=default,
                         help="temperature of nucleus sampling")
    writing.add_argument("--prompt", default=default, help="words at the start of every caption")
    writing.add_argument("--prompt_in_caption", "--prompt-in-caption", action=argparse.BooleanOptionalAction,
                         default=default, help="include the prompt in captions; published scores exclude it")


def add_caption_tokenizer(parser: argparse.ArgumentParser) -> None:
    """Add the tokenizer flags of the published captioning commands."""
    tokenizer = parser.add_argument_group("tokenizer",
                                          "Settings come from the tokenizer's opt.txt; differences are reported.")
    tokenizer.add_argument("--resume-pth", help="tokenizer of LaMP: a name, a folder or a checkpoint")
    tokenizer.add_argument("--vq-name", "--vq_name", help="tokenizer name, without --resume-pth")
    for flag in ("--nb-code", "--down-t", "--depth", "--dilation-growth-rate"):
        tokenizer.add_argument(flag, type=positive_int, help="expected value")
    tokenizer.add_argument("--vq-act", help="expected activation")
    tokenizer.add_argument("--quantizer", choices=("ema_reset",), default="ema_reset", help=argparse.SUPPRESS)
