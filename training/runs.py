"""Where a run keeps what it makes, and what about it may not change when it goes on."""
import argparse
from pathlib import Path

from options.opt_file import read_options
from utils.errors import InputError

# What a model is besides its weights, or learns from: with other values it would be another one half-way.
SETTLED = ("vq_name", "lamp_name", "text_encoder", "condition", "attention", "n_heads", "vq_act",
           "dilation_growth_rate", "feat_bias", "published_behaviour", "qformer_heads", "decoder", "n_head_gpt", "llm",
           "lora_alpha")


def latest_checkpoint(opt: argparse.Namespace) -> Path:
    """The file that a run goes on from, whether or not it is there."""
    return Path(opt.checkpoints_dir) / opt.dataset_name / opt.name / "model" / "latest.tar"


def run_folder(opt: argparse.Namespace) -> Path:
    """``checkpoints/<dataset_name>/<name>`` of a run. ``InputError`` where it is to go on and was never begun, or was
    begun with other settings of those that cannot change."""
    latest = latest_checkpoint(opt)
    folder = latest.parent.parent
    if opt.is_continue:
        if not latest.is_file():
            raise InputError(f"--is_continue: {latest} is missing")
        begun = read_options(folder / "opt.txt")
        for key in SETTLED:
            now = getattr(opt, key, None)
            if now is not None and str(begun.get(key, now)) != str(now):
                raise InputError(f"--is_continue: {folder / 'opt.txt'} has {key} {begun[key]}, not {now}")
    return folder
