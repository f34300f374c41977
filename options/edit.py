"""Options of editing a motion."""
import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from options.base import Parser, add_common, add_up, positive_int
from options.control import add_control
from options.generate import add_models, add_output, add_sampling
from utils.errors import InputError


@dataclass(frozen=True)
class Section:
    """Start and end of a part to regenerate, in tokens or in shares of its length."""

    start: float
    stop: float
    shares: bool

    def tokens(self, count: int) -> tuple[int, int]:
        """Token range [start, stop) in a motion of ``count`` tokens. Raises ``InputError`` for an empty section and
        for one that starts beyond the end of the motion."""
        start, stop = (round(end * count) if self.shares else int(end) for end in (self.start, self.stop))
        if not start < stop or start > count:
            raise InputError(f"--mask_edit_section {self}: tokens {start} to {stop} of a motion of {count} tokens")
        return start, stop

    def __str__(self) -> str:
        return f"{self.start},{self.stop}" if self.shares else f"{int(self.start)},{int(self.stop)}"


def section(text: str) -> Section:
    """Argparse type for a section: ``0.3,0.6`` are fractions of the motion, ``20,40`` are tokens."""
    try:
        start, stop = map(float, text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be like 0.3,0.6 or 20,40, not {text}") from error
    shares = "." in text
    if not 0 <= start < stop < (1.0 + 1e-9 if shares else float("inf")):
        raise argparse.ArgumentTypeError(f"must grow{' and lie from 0.0 to 1.0' if shares else ''}, not {text}")
    return Section(start, stop, shares)


def parse_edit_options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line of ``edit_t2m.py``."""
    parser = Parser("Regenerate parts of a motion from a text and keep the rest.")
    add_common(parser)
    what = parser.add_argument_group("what to edit")
    what.add_argument("--source_motion", required=True,
                      help=".npy of features (T, 263 or 251) or joints (T, 22 or 21, 3), .bvh or .amc")
    add_up(what)
    what.add_argument("--mask_edit_section", type=section, nargs="+", metavar="A,B",
                      help="parts to regenerate: shares of the motion such as 0.3,0.6, or tokens (of 4 frames) such as "
                      "20,40; tokens past the end extend it")
    what.add_argument("--text_prompt", help="what happens in these parts")
    what.add_argument("--repeat_times", type=positive_int, default=1, help="motions, each with its own seed")
    add_output(parser, ext="edit")
    add_control(parser)
    add_models(parser, lengths=False)
    add_sampling(parser)
    opt = parser.parse_args(argv)
    controlled = opt.constraints or opt.path or opt.end
    if not controlled and (opt.mask_edit_section is None or opt.text_prompt is None):
        raise InputError("give --mask_edit_section and --text_prompt, or constraints (--constraints, --path, --end)")
    if (opt.mask_edit_section is None) != (opt.text_prompt is None):
        raise InputError("--mask_edit_section and --text_prompt go together")
    return opt
