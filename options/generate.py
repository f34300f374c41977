"""Options of text-to-motion generation."""
import argparse
from collections.abc import Sequence
from typing import Any

from models.config import LENGTH_SAMPLING, LENGTHS, Sampling
from options.base import Parser, add_common, add_speed, bounded, non_negative, plain_name, positive_int, share
from options.control import add_control, add_direction, add_root, check_direction
from utils.errors import InputError

MAX_SECONDS = 600.0


def add_output(parser: argparse.ArgumentParser, ext: str) -> argparse._ArgumentGroup:
    """Add the flags for output files, and return their group."""
    output = parser.add_argument_group("output")
    output.add_argument("--ext", type=plain_name, default=ext, help="results go to <output_dir>/<ext>")
    output.add_argument("--output_dir", default="generation", help="folder of all results")
    output.add_argument("--no_video", action="store_true", help="write no .mp4")
    output.add_argument("--gif", action="store_true", help="also write .gif")
    output.add_argument("--fps", type=bounded(float, 1, 60),
                        help="frame rate of videos, with interpolated poses; default: that of the motion")
    output.add_argument("--no_bvh", action="store_true", help="write no .bvh")
    output.add_argument("--glb", action="store_true", help="also write .glb, an animated figure for 3-D programs")
    output.add_argument("--foot_locking", choices=("ours", "published"), default="ours",
                        help="foot locking of the _ik files: ours keeps bone lengths and supports stairs; published is "
                             "for comparison")
    output.add_argument("--no_html", action="store_true", help="write no index.html (player page)")
    add_root(output)
    return output


def add_models(parser: argparse.ArgumentParser, lengths: bool = True) -> None:
    """Add the flags that select the models. ``lengths``: include the length estimator."""
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
    "topkr": {"type": share, "help": "fraction of the least probable codes that is excluded from sampling"},
    "gumbel_sample": {"action": argparse.BooleanOptionalAction, "help": "sample with the Gumbel-max trick"},
    "length": {"choices": LENGTHS, "help": "lengths sampled from the length estimator's distribution, or its mean"},
}


def add_sampling(parser: argparse.ArgumentParser, lengths: bool = False) -> None:
    """Add flags for the fields of ``Sampling``. Flags that are not given are absent from the options; their values
    come from the models. ``lengths``: include the sampling of lengths."""
    group = parser.add_argument_group("sampling", "Defaults come from the models' opt.txt, else the published values.")
    for name, settings in _SAMPLING.items():
        if lengths or name not in LENGTH_SAMPLING:
            group.add_argument(f"--{name}", default=argparse.SUPPRESS, **settings)


def add_model_sampling(parser: Parser, names: Sequence[str]) -> None:
    """Add training flags for the fields ``names`` of ``Sampling``, which are saved with the model."""
    group = parser.add_argument_group("sampling", "Saved in opt.txt as the defaults of generation and evaluation.")
    for name in names:
        group.add_argument(f"--{name}", **_SAMPLING[name])
    parser.take_defaults(Sampling, only=names)
    parser.inherit(names)


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
