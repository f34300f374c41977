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
    """Where, when and with which part of the body: shared by generation and editing."""
    # argparse takes "-1,2" for a flag unless it knows that it is a number.
    parser._negative_number_matcher = re.compile(r"^-\d|^-\.\d")
    control = parser.add_argument_group("control")
    control.add_argument("--constraints", type=Path, metavar="FILE.json",
                         help="paths, waypoints, headings, joints, poses, ground and contacts: docs/control.md")
    control.add_argument("--path", type=_numbers(2, "1.5,2"), nargs="+", metavar="X,Z",
                         help="points over the ground, in metres from the start, that the body walks through; "
                              "it starts at 0,0 facing +z, and +x is to its left")
    control.add_argument("--end", type=_numbers(3, "1.5,2,90"), metavar="X,Z,DEGREES",
                         help="where the motion ends and faces; degrees turn to the left")
    control.add_argument("--control_steps", type=natural, default=200, help="steps of optimisation of constraints")


def add_direction(parser: argparse.ArgumentParser) -> None:
    """Body parts, loops and the choice among samples."""
    direction = parser.add_argument_group("direction")
    direction.add_argument("--upper_body", metavar="TEXT", help="what arms, trunk and head do, on the legs of the "
                           "prompt")
    direction.add_argument("--upper_body_path", type=Path, metavar="FILE",
                           help="with --timeline: a second file of text#length lines, the upper body's track; "
                                "-#length leaves the body as it is")
    direction.add_argument("--loop", action="store_true", help="the last pose and velocity meet the first")
    direction.add_argument("--negative_prompt", metavar="TEXT", help="what motions are led away from in guidance")
    direction.add_argument("--best_of", type=positive_int, default=1, metavar="N",
                           help="make N samples, keep the one that fits the text best with the least faults")


def add_root(output: argparse._ArgumentGroup) -> None:
    """Files for engines, robots and retargeting."""
    output.add_argument("--in_place", action="store_true",
                        help="no travel: the body stays over the origin; a root bone in .bvh and .glb keeps the way")
    output.add_argument("--root_motion", action="store_true",
                        help="a root bone on the ground in .bvh and .glb, which carries place and heading")
    output.add_argument("--npz", action="store_true",
                        help="write .npz too, like AMASS: poses, trans, mocap_frame_rate")


def flag_entries(opt: argparse.Namespace) -> list[Entry]:
    """The constraints of --path and --end."""
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
    """Raise ``InputError`` for flags that do not go together."""
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
    """Whether motions need more than tokens and a decoder."""
    return bool(opt.constraints or opt.path or opt.end or opt.upper_body or opt.upper_body_path or opt.loop
                or opt.best_of > 1)
