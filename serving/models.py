"""Load the models of the app. Captioning and search are optional."""
import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from data.dataset import DatasetSpec, dataset_spec
from evaluation.search import open_gallery
from models.text_to_motion import TextToMotion, speed_up
from storage.checkpoint import model_dirs, model_names
from storage.evaluation import BUNDLED_CAPTIONER, LoadedCaptioner, load_captioner
from storage.generation import BUNDLED_LAMP, LoadedLaMP, load_lamp, load_text_to_motion
from utils import InputError
from utils.files import fingerprint
from utils.runtime import select_device


@dataclass(frozen=True)
class Models:
    """Loaded models, in eval mode on one device, and the gallery."""

    spec: DatasetSpec
    pipeline: TextToMotion
    captioner: LoadedCaptioner | None
    lamp: LoadedLaMP | None
    gallery: Path | None
    cache: Path | None
    files: list[Path]  # the loaded weights
    generation: tuple[Path, ...] = ()  # weights for generation, without the text encoder
    flags: tuple[str, ...] = ()        # command-line flags that select the same models

    @property
    def names(self) -> str:
        """Names of the loaded models."""
        return model_names(self.files)

    @cached_property
    def fingerprint(self) -> str:
        """First eight characters of a hash of the generation weights and sampling settings."""
        text = getattr(self.pipeline.text, "fingerprint", "")
        return fingerprint(*self.generation, text, str(self.pipeline.sampling))[:8]


def load_models(opt: argparse.Namespace) -> Models:
    """Load the models named in the options of ``app.py``, and bundled models for those that are not named.

    Raises ``InputError`` if a named model is missing, a model cannot be used, or the gallery cannot be read.
    """
    spec, device = dataset_spec(opt.dataset_name), select_device(opt.gpu_id)

    def load(loader: Callable[..., Any], name: str | None, bundled: str) -> Any:
        if name is None and not model_dirs(bundled, spec.name, opt.checkpoints_dir):
            return None
        return loader(name or bundled, spec, opt.checkpoints_dir, device)

    pipeline, files = load_text_to_motion(opt.name, opt.len_name, spec, opt.checkpoints_dir, device, opt.which_epoch,
                                          opt.res_name)
    captioner = load(load_captioner, opt.m2t_name, BUNDLED_CAPTIONER)
    lamp = load(load_lamp, opt.lamp_name, BUNDLED_LAMP)
    others = [part.model for part in (captioner, lamp) if part is not None]
    speed_up([*pipeline.networks, *others], cpu_linear=opt.cpu_linear)
    gallery, cache = opt.gallery and Path(opt.gallery), opt.cache and Path(opt.cache)
    if gallery:
        if lamp is None:
            raise InputError(f"--gallery needs a LaMP model: set --lamp_name, as {BUNDLED_LAMP} is missing")
        open_gallery(gallery, lamp, spec, cache, opt.quiet)
    return Models(spec, pipeline, captioner, lamp, gallery, cache,
                  [*files, *(one.source.file for one in (captioner, lamp) if one is not None)], tuple(files),
                  _flags(opt))


def _flags(opt: argparse.Namespace) -> tuple[str, ...]:
    given = {"name": "t2m_demo", "res_name": None, "dataset_name": "t2m", "checkpoints_dir": "checkpoints"}
    return tuple(word for name, default in given.items() if getattr(opt, name) != default
                 for word in (f"--{name}", str(getattr(opt, name))))
