"""Options of spatial control, body parts, loops and root motion."""
import argparse
import math
import re
from collections.abc import Callable
from pathlib import Path

from data.constraints import FARTHEST, LAST, Entry
from options.base import natural, positive_int
from utils.errors import InputError


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
    # argparse takes "-1,2" for a flag unless it knows that it is a number.
    parser._negative_number_matcher = re.compile(r"^-\d|^-\.\d")
    control = parser.add_argument_group("control")
    control.add_argument("--constraints", type=Path, metavar="FILE.json",
                         help="file of paths, waypoints, headings, joints, poses and contacts: docs/control.md")
    control.add_argument("--path", type=_numbers(2, "1.5,2"), nargs="+", metavar="X,Z",
                         help="ground points to walk through, in metres; the motion starts at 0,0 facing +z, with +x "
                              "to the left")
    control.add_argument("--end", type=_numbers(3, "1.5,2,90"), metavar="X,Z,DEGREES",
                         help="final position and heading; positive degrees turn left")
    control.add_argument("--control_steps", type=natural, default=200, help="optimisation steps for constraints")


def add_direction(parser: argparse.ArgumentParser) -> None:
    """Add the flags for body parts, loops, negative prompts and best-of-N sampling."""
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


def add_root(output: argparse._ArgumentGroup) -> None:
    """Add the output flags for game engines, robots and retargeting."""
    output.add_argument("--in_place", action="store_true",
                        help="keep the body over the origin; a root bone in .bvh and .glb stores the trajectory")
    output.add_argument("--root_motion", action="store_true",
                        help="add a root bone on the ground to .bvh and .glb, with position and heading")
    output.add_argument("--npz", action="store_true",
                        help="also write .npz in AMASS layout: poses, trans, mocap_frame_rate")


def flag_entries(opt: argparse.Namespace) -> list[Entry]:
    """Constraints given by --path and --end."""
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
        raise InputError("--loop goes without --path and --end: a loop ends as it begins")
    if opt.negative_prompt is not None and not re.search(r"\w", opt.negative_prompt):
        raise InputError("--negative_prompt: the prompt has no words")
    if (opt.upper_body or opt.in_place or opt.root_motion or opt.npz) and opt.dataset_name != "t2m":
        raise InputError(f"--npz, --upper_body, --in_place and --root_motion need --dataset_name t2m, "
                         f"not {opt.dataset_name}")


def is_directed(opt: argparse.Namespace) -> bool:
    """Whether any flag requires optimisation or selection after decoding."""
    return bool(opt.constraints or opt.path or opt.end or opt.upper_body or opt.upper_body_path or opt.loop
                or opt.best_of > 1)
