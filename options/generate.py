"""Options of text-to-motion generation, control and editing."""
import argparse
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.constraints import FARTHEST, LAST, Entry
from models.config import LENGTH_SAMPLING, LENGTHS, Sampling
from options.base import (
    Parser,
    add_common,
    add_speed,
    add_up,
    bounded,
    natural,
    non_negative,
    plain_name,
    positive_int,
    share,
)
from utils import InputError

MAX_SECONDS = 600.0


def add_output(parser: argparse.ArgumentParser, ext: str) -> argparse._ArgumentGroup:
    """Add the flags for output files. Returns their group."""
    output = parser.add_argument_group("output")
    output.add_argument("--ext", type=plain_name, default=ext, help="results go to <output_dir>/<ext>")
    output.add_argument("--output_dir", default="generation", help="folder of all results")
    output.add_argument("--no_video", action="store_true", help="write no .mp4")
    output.add_argument("--gif", action="store_true", help="also write .gif")
    output.add_argument("--strip", nargs="?", const="png", choices=("png", "pdf", "svg"),
                        help="also write contact_sheet.png, eight poses per motion, or .pdf or .svg for papers")
    output.add_argument("--fps", type=bounded(float, 1, 60),
                        help="frame rate of videos, with interpolated poses; default: frame rate of the motion")
    output.add_argument("--no_bvh", action="store_true", help="write no .bvh")
    output.add_argument("--glb", action="store_true", help="also write .glb, an animated figure for 3-D programs")
    output.add_argument("--foot_locking", choices=("ours", "published"), default="ours",
                        help="foot locking of the _ik files: ours keeps bone lengths and supports stairs; published is "
                             "for comparison")
    output.add_argument("--no_html", action="store_true", help="write no index.html (player page)")
    output.add_argument("--in_place", action="store_true",
                        help="keep the body over the origin; a root bone in .bvh and .glb stores the trajectory")
    output.add_argument("--root_motion", action="store_true",
                        help="add a root bone on the ground to .bvh and .glb, with position and heading")
    output.add_argument("--npz", action="store_true",
                        help="also write .npz in AMASS layout: poses, trans, mocap_frame_rate")
    return output


def add_models(parser: argparse.ArgumentParser, lengths: bool = True) -> None:
    """Add the flags that select the models, including the length estimator if ``lengths`` is True."""
    models = parser.add_argument_group("models")
    models.add_argument("--name", default="t2m_demo", help="masked transformer; its opt.txt names the tokenizer and "
                        "LaMP model")
    models.add_argument("--res_name", help="residual transformer, or none for the base layer alone; default: the "
                        "bundled one with a bundled masked transformer, else none")
    if lengths:
        models.add_argument("--len_name", default="len_demo", help="length estimator")
    models.add_argument("--which_epoch", help="checkpoint of the masked transformer; default: the best one")


_SAMPLING: dict[str, dict[str, Any]] = {
    "time_steps": {"type": positive_int, "help": "iterations of unmasking"},
    "cond_scale": {"type": non_negative, "help": "classifier-free guidance scale; 1: no guidance"},
    "res_cond_scale": {"type": non_negative, "help": "guidance scale of the residual layers"},
    "temperature": {"type": non_negative, "help": "sampling temperature of the base layer"},
    "res_temperature": {"type": non_negative, "help": "sampling temperature of the residual layers"},
    "topkr": {"type": share, "help": "fraction of the codes that is never sampled: the least probable ones"},
    "text_noise": {"type": non_negative, "help": "noise on the text features of the base layer, relative to their "
                   "rms: makes motions of one text more varied"},
    "gumbel_sample": {"action": argparse.BooleanOptionalAction, "help": "sample with the Gumbel-max trick"},
    "length": {"choices": LENGTHS, "help": "sample: sample from the estimated distribution of lengths; mean: its mean"},
}


def add_sampling(parser: argparse.ArgumentParser, lengths: bool = False) -> None:
    """Add flags for the fields of ``Sampling``. Flags that are not on the command line are absent from the options.

    ``lengths`` adds the flags for sampling lengths.
    """
    group = parser.add_argument_group("sampling", "Defaults come from the models' opt.txt, else the published values.")
    for name, settings in _SAMPLING.items():
        if lengths or name not in LENGTH_SAMPLING:
            group.add_argument(f"--{name}", default=argparse.SUPPRESS, **settings)


def add_model_sampling(parser: Parser, names: Sequence[str]) -> None:
    """Add flags for the fields ``names`` of ``Sampling`` to a training script, which saves them with the model."""
    group = parser.add_argument_group("sampling", "Saved in opt.txt as the defaults of generation and evaluation.")
    for name in names:
        group.add_argument(f"--{name}", **_SAMPLING[name])
    parser.take_defaults(Sampling, only=names)


def parse_generate_options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line of ``gen_t2m.py``."""
    parser = Parser("Generate motions from text. Writes joints, BVH, video and a player page to generation/<ext>.")
    add_common(parser)
    prompt = parser.add_argument_group("prompt")
    prompt.add_argument("--text_prompt", help="one prompt")
    prompt.add_argument("--text_path", help="file with one text#length per line; text#NA: estimated length")
    prompt.add_argument("--motion_length", type=int,
                        help="length of --text_prompt in frames (20 fps, kit 12.5), 4 to 196; default: estimated")
    prompt.add_argument("--repeat_times", type=positive_int, default=1,
                        help="motions per prompt, with different seeds")
    prompt.add_argument("--seconds", type=bounded(float, 0.2, MAX_SECONDS),
                        help="length of --text_prompt in seconds; may exceed the models' maximum length")
    prompt.add_argument("--timeline", action="store_true",
                        help="join all prompts of --text_path into one motion")
    add_output(parser, ext="text2motion").add_argument(
        "--side_by_side", action="store_true",
        help="also write one .mp4 per prompt with all its --repeat_times motions side by side, feet locked")
    add_control(parser)
    add_direction(parser)
    add_models(parser)
    add_sampling(parser, lengths=True)
    add_speed(parser)
    prompt.add_argument("--strict", action="store_true",
                        help="refuse prompts that are unlike the training texts or exceed the text length limit")
    parser.add_argument("--group_rows", type=positive_int,
                        help="maximum prompts per pass; default: 32 on CPUs with --cpu_linear onednn, else 1, so that "
                             "a motion does not depend on the other prompts; 64 is faster for many prompts on a GPU")
    opt = parser.parse_args(argv)
    if (opt.text_prompt is None) == (opt.text_path is None):
        raise InputError("give either --text_prompt or --text_path")
    if opt.motion_length is not None and opt.text_path is not None:
        raise InputError("--motion_length goes with --text_prompt; a prompt file has its lengths in the lines")
    if opt.seconds is not None and (opt.text_path is not None or opt.motion_length is not None):
        raise InputError("--seconds goes with --text_prompt, in place of --motion_length")
    if opt.timeline and opt.text_path is None:
        raise InputError("--timeline goes with --text_path")
    if opt.side_by_side and opt.repeat_times < 2:
        raise InputError("--side_by_side goes with --repeat_times 2 or more")
    check_direction(opt)
    return opt


def _numbers(count: int, form: str) -> Callable[[str], tuple[float, ...]]:
    def parse(text: str) -> tuple[float, ...]:
        try:
            values = tuple(map(float, text.split(",")))
        except ValueError:
            values = ()
        if len(values) != count or not all(math.isfinite(value) and abs(value) <= FARTHEST for value in values):
            raise argparse.ArgumentTypeError(f"must be like {form}, not {text!r}")
        return values

    return parse


def add_control(parser: argparse.ArgumentParser) -> None:
    """Add the flags for spatial constraints, shared by generation and editing."""
    # By default, argparse reads "-1,2" as a flag.
    parser._negative_number_matcher = re.compile(r"^-\d|^-\.\d")
    control = parser.add_argument_group("control")
    control.add_argument("--constraints", type=Path, metavar="FILE.json",
                         help="file of paths, waypoints, headings, joints, poses, ground heights and contacts; "
                              "see docs/control.md")
    control.add_argument("--path", type=_numbers(2, "1.5,2"), nargs="+", metavar="X,Z",
                         help="ground points to walk through, in metres; the motion starts at 0,0 facing +z, with +x "
                              "to the left")
    control.add_argument("--end", type=_numbers(3, "1.5,2,90"), metavar="X,Z,DEGREES",
                         help="final position and heading; positive degrees turn left")
    control.add_argument("--control_steps", type=natural, default=60, help="optimisation steps for constraints")


def add_direction(parser: argparse.ArgumentParser) -> None:
    """Add the flags for upper-body prompts, loops, negative prompts and best-of-N sampling."""
    direction = parser.add_argument_group("direction")
    direction.add_argument("--upper_body", metavar="TEXT", help="prompt for arms, trunk and head; --text_prompt "
                           "then describes the legs")
    direction.add_argument("--upper_body_path", type=Path, metavar="FILE",
                           help="with --timeline: file of text#length lines for the upper body; -#length keeps the "
                                "upper body of the main timeline")
    direction.add_argument("--loop", action="store_true", help="make a seamless loop")
    direction.add_argument("--negative_prompt", metavar="TEXT", help="text to steer away from with guidance")
    direction.add_argument("--best_of", type=positive_int, default=1, metavar="N",
                           help="generate N samples and keep the one with the best text match and fewest faults")


def flag_entries(opt: argparse.Namespace) -> list[Entry]:
    """Create the constraints given by --path and --end."""
    entries = []
    if opt.path is not None:
        entries.append(Entry("path", {"points": [list(point) for point in opt.path]}, "--path"))
    if opt.end is not None:
        x, z, degrees = opt.end
        last = {"frame": (LAST, LAST)}
        entries.append(Entry("waypoint", {"point": [x, z], **last}, "--end"))
        entries.append(Entry("heading", {"degrees": degrees, **last}, "--end"))
    return entries


def check_direction(opt: argparse.Namespace) -> None:
    """Raise ``InputError`` for flags that cannot be combined."""
    if opt.upper_body is not None and (opt.text_prompt is None or opt.timeline):
        raise InputError("--upper_body goes with --text_prompt; a timeline takes --upper_body_path")
    if opt.upper_body_path is not None and not opt.timeline:
        raise InputError("--upper_body_path goes with --timeline")
    if opt.path is not None and opt.text_path is not None and not opt.timeline:
        raise InputError("--path goes with --text_prompt or --timeline; --constraints has paths for every prompt")
    if opt.end is not None and opt.text_path is not None and not opt.timeline:
        raise InputError("--end goes with --text_prompt or --timeline; --constraints has waypoints for every prompt")
    if opt.loop and (opt.path is not None or opt.end is not None):
        raise InputError("--loop cannot be combined with --path or --end: a loop ends as it starts")
    if opt.negative_prompt is not None and not re.search(r"\w", opt.negative_prompt):
        raise InputError("--negative_prompt: the prompt has no words")
    if (opt.upper_body or opt.in_place or opt.root_motion or opt.npz) and opt.dataset_name != "t2m":
        raise InputError(f"--npz, --upper_body, --in_place and --root_motion need --dataset_name t2m, "
                         f"not {opt.dataset_name}")


def is_directed(opt: argparse.Namespace) -> bool:
    """Return whether a flag requires controlled generation (``data.directions``)."""
    return bool(opt.constraints or opt.path or opt.end or opt.upper_body or opt.upper_body_path or opt.loop
                or opt.best_of > 1)


@dataclass(frozen=True)
class Section:
    """Part of a motion to regenerate."""

    start: float
    stop: float
    shares: bool  # whether ``start`` and ``stop`` are fractions of the motion, not tokens

    def tokens(self, count: int) -> tuple[int, int]:
        """Return the first token of the section and its end (exclusive), in a motion of ``count`` tokens.

        Raises ``InputError`` if the section is empty or starts after the end of the motion.
        """
        start, stop = (round(end * count) if self.shares else int(end) for end in (self.start, self.stop))
        if not start < stop or start > count:
            raise InputError(f"--mask_edit_section {self}: tokens {start} to {stop} of a motion of {count} tokens")
        return start, stop

    def __str__(self) -> str:
        return f"{self.start},{self.stop}" if self.shares else f"{int(self.start)},{int(self.stop)}"


def section(text: str) -> Section:
    """Argparse type for a section, in fractions of the motion (``0.3,0.6``) or in tokens (``20,40``)."""
    try:
        start, stop = map(float, text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be like 0.3,0.6 or 20,40, not {text}") from error
    shares = "." in text
    if not 0 <= start < stop < (1.0 + 1e-9 if shares else float("inf")):
        wanted = "increasing fractions from 0.0 to 1.0" if shares else "increasing"
        raise argparse.ArgumentTypeError(f"must be {wanted}, not {text}")
    return Section(start, stop, shares)


def parse_edit_options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line of ``edit_t2m.py``."""
    parser = Parser("Regenerate parts of a motion from a text and keep the rest.")
    add_common(parser)
    what = parser.add_argument_group("motion to edit")
    what.add_argument("--source_motion", required=True,
                      help=".npy of features (T, 263 or 251) or joints (T, 22 or 21, 3), .bvh or .amc")
    add_up(what)
    what.add_argument("--mask_edit_section", type=section, nargs="+", metavar="A,B",
                      help="parts to regenerate: fractions of the motion such as 0.3,0.6, or tokens (of 4 frames) such "
                      "as 20,40; tokens past the end extend it")
    what.add_argument("--text_prompt", help="text for these parts")
    what.add_argument("--repeat_times", type=positive_int, default=1, help="number of motions, with different seeds")
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
