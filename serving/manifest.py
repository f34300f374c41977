"""``motions.json``: everything needed to generate motions again."""
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from data.dataset import MAX_MOTION_LENGTH
from models.config import Sampling
from serving.history import Take
from serving.models import Models

VERSION = 1


def manifest(takes: Sequence[Take], names: Mapping[str, str], models: Models, sampling: Sampling) -> str:
    """JSON of motions whose files are named ``names`` by their ids."""
    return json.dumps({
        "version": VERSION, "models": models.names, "fingerprint": models.fingerprint, "dataset_name": models.spec.name,
        "motions": [described(take, models, sampling) | {
            "files": [file.replace(take.ask.stem, names[take.id]) for file in take.files],
            "command": command(take, names[take.id], models, sampling)} for take in takes]}, indent=2) + "\n"


def described(take: Take, models: Models, sampling: Sampling) -> dict[str, Any]:
    """Description of a motion, and the ask that generates it again."""
    return {"prompt": take.ask.title, "seed": take.ask.seed, "frames": take.frames, "fps": take.fps,
            "seconds": round(take.frames / take.fps, 3), "made": take.made, "remarks": list(take.remarks),
            "ask": take.ask.record() | {"model": models.fingerprint},
            "sampling": asdict(sampling) | {"cond_scale": take.ask.guidance}}


def command(take: Take, name: str, models: Models, sampling: Sampling) -> str | None:
    """A command line that generates the motion again; None for a timeline."""
    ask, own = take.ask, asdict(models.pipeline.sampling)
    if ask.blocks:
        return None
    words = ["--seed", ask.seed]
    for option, value in (asdict(sampling) | {"cond_scale": ask.guidance}).items():
        if value != own[option]:
            words += [f"--{option}", value]
    if ask.sections:
        words = ["edit_t2m.py", "--source_motion", f"{name}_source.npy", "--mask_edit_section", *ask.sections.split(),
                 "--text_prompt", ask.prompt, *words]
    else:
        length = (["--motion_length", take.frames] if take.frames <= MAX_MOTION_LENGTH
                  else ["--seconds", take.frames / take.fps])
        words = ["gen_t2m.py", "--text_prompt", ask.prompt, *length, *words]
    return shlex.join(["python", *map(str, words), *models.flags])
