"""Options of generation from text."""
import argparse
from collections.abc import Sequence
from typing import Any

from models.config import LENGTH_SAMPLING, LENGTHS, Sampling
from options.base import Parser, add_common, add_speed, bounded, non_negative, plain_name, positive_int, share
from options.control import add_control, add_direction, add_root, check_direction
from utils.errors import InputError

MAX_SECONDS = 600.0


def add_output(parser: argparse.ArgumentParser, ext: str) -> argparse._ArgumentGroup:
    """Where results go and which files they are; gives their group, for more of them."""
    output = parser.add_argument_group("what to write")
    output.add_argument("--ext", type=plain_name, default=ext, help="results go to <output_dir>/<ext>")
    output.add_argument("--output_dir", default="generation", help="folder of all results")
    output.add_argument("--no_video", action="store_true", help="write no .mp4")
    output.add_argument("--gif", action="store_true", help="write .gif too")
    output.add_argument("--fps", type=bounded(float, 1, 60),
                        help="pictures a second of videos, with poses in between; by default the frames of the motion")
    output.add_argument("--no_bvh", action="store_true", help="write no .bvh")
    output.add_argument("--glb", action="store_true", help="write .glb too: an animated figure for 3-D programs")
    output.add_argument("--foot_locking", choices=("ours", "published"), default="ours",
                        help="of the _ik files: ours keeps bones and stairs, the published rule is for comparison")
    output.add_argument("--no_html", action="store_true", help="write no index.html that plays the motions")
    add_root(output)
    return output


def add_models(parser: argparse.ArgumentParser, lengths: bool = True) -> None:
    """Which models make the motions; ``lengths``: of any length, which a model may choose."""
    models = parser.add_argument_group("models")
    models.add_argument("--name", default="t2m_demo", help="masked transformer; it names its tokenizer and LaMP model")
    models.add_argument("--res_name", help="residual transformer, or none for the base layer alone; by default the "
                        "bundled one with a bundled masked transformer, else none")
    if lengths:
        models.add_argument("--len_name", default="len_demo", help="length estimator")
    models.add_argument("--which_epoch", help="checkpoint of the masked transformer; the best one by default")


_SAMPLING: dict[str, dict[str, Any]] = {
    "time_steps": {"type": positive_int, "help": "steps of iterative unmasking"},
    "cond_scale": {"type": non_negative, "help": "classifier-free guidance; 1 is none"},
    "res_cond_scale": {"type": non_negative, "help": "guidance of the residual layers"},
    "temperature": {"type": non_negative, "help": "of the base layer"},
    "res_temperature": {"type": non_negative, "help": "of the residual layers"},
    "topkr": {"type": share, "help": "share of the least probable codes that are never sampled"},
    "gumbel_sample": {"action": argparse.BooleanOptionalAction, "help": "sample by the Gumbel-max trick"},
    "length": {"choices": LENGTHS, "help": "lengths sampled from the length estimator's distribution, or its mean"},
}


def add_sampling(parser: argparse.ArgumentParser, lengths: bool = False) -> None:
    """How tokens are sampled: flags for the fields of ``Sampling``. Those that are not given are absent from the
    options, as they come from the models. ``lengths``: of a length that may be left open, too."""
    group = parser.add_argument_group("sampling", "By default as the models' opt.txt has it, else as published.")
    for name, settings in _SAMPLING.items():
        if lengths or name not in LENGTH_SAMPLING:
            group.add_argument(f"--{name}", default=argparse.SUPPRESS, **settings)


def add_model_sampling(parser: Parser, names: Sequence[str]) -> None:
    """Flags of a training for the fields ``names`` of ``Sampling``, which become part of the model."""
    group = parser.add_argument_group("sampling", "Written to opt.txt, where generation and evaluation find it.")
    for name in names:
        group.add_argument(f"--{name}", **_SAMPLING[name])
    parser.take_defaults(Sampling, only=names)
    parser.inherit(names)


def parse_generate_options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line of ``gen_t2m.py``."""
    parser = Parser("Make motions from text: joints, BVH, video and a page that plays them, under generation/<ext>.")
    add_common(parser)
    prompt = parser.add_argument_group("what to make")
    prompt.add_argument("--text_prompt", help="one prompt")
    prompt.add_argument("--text_path", help="file with one text#length a line; text#NA leaves the length to the model")
    prompt.add_argument("--motion_length", type=int,
                        help="frames (20 a second, kit 12.5), 4 to 196, of --text_prompt; by default the model chooses")
    prompt.add_argument("--repeat_times", type=positive_int, default=1, help="motions a prompt, each with its own seed")
    prompt.add_argument("--seconds", type=bounded(float, 0.2, MAX_SECONDS),
                        help="length of --text_prompt in seconds instead, longer than a model sees at once if need be")
    prompt.add_argument("--timeline", action="store_true",
                        help="one motion of all prompts of --text_path, one after another")
    add_output(parser, ext="text2motion").add_argument(
        "--side_by_side", action="store_true",
        help="one more .mp4 a prompt: all its --repeat_times motions next to one another, feet locked")
    add_control(parser)
    add_direction(parser)
    add_models(parser)
    add_sampling(parser, lengths=True)
    add_speed(parser)
    prompt.add_argument("--strict", action="store_true",
                        help="refuse prompts that are unlike what the models learned, or longer than they read")
    parser.add_argument("--group_rows", type=positive_int,
                        help="largest number of prompts per pass; by default as many as leave a prompt's motion "
                             "independent of the others: 32 on CPUs with --cpu_linear onednn, else 1; on a GPU 64 are "
                             "faster for many")
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
