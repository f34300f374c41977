"""Read motions sent by the page. Error messages are one line without paths of the server."""
import argparse
from pathlib import Path

import numpy as np

from data.dataset import DatasetSpec
from data.motion_files import read_clip
from models.motion_edit import TimelinePart
from options.generate import section
from serving.asks import Limits
from utils import InputError


def read_upload(upload: str | None, spec: DatasetSpec, limits: Limits) -> tuple[str, np.ndarray, list[str]]:
    """Name and features (T, d) of an uploaded motion, and remarks on changes such as its axes."""
    if upload is None:
        raise InputError("upload a motion, or choose a generated one")
    path = Path(upload)
    name = path.name
    if not path.is_file():
        raise InputError(f"{name} has expired; upload it again")
    if path.stat().st_size > limits.upload_bytes:
        raise InputError(f"{name} is larger than {limits.upload_bytes >> 20} MB")
    remarks: list[str] = []
    try:
        features = read_clip(path, spec, say=remarks.append)
    except InputError as error:
        raise InputError(str(error).replace(str(path), name)) from error
    if len(features) > limits.upload_seconds * spec.fps:
        raise InputError(f"{name} lasts {len(features) / spec.fps:.0f} s; the maximum is {limits.upload_seconds:.0f} s")
    return name, features, [remark.removeprefix(f"{path}: ") for remark in remarks]


def parse_parts(sections: str, frames: int, unit: int, text: str, fps: float, limits: Limits) -> list[TimelinePart]:
    """Parts of a motion of ``frames`` frames, as fractions or tokens like in ``edit_t2m.py``."""
    words = (sections or "").split()
    if not 1 <= len(words) <= limits.sections:
        raise InputError(f"name 1 to {limits.sections} parts, such as 0.3,0.6")
    parts = []
    for word in words:
        try:
            chosen = section(word)
        except argparse.ArgumentTypeError as error:
            raise InputError(f"a part {error}") from error
        if chosen.stop * unit > limits.upload_seconds * fps:
            raise InputError(f"part {word} ends after more than {limits.upload_seconds:.0f} s")
        parts.append(TimelinePart(*chosen.tokens(frames // unit), text))
    return parts
