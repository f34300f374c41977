"""Load captioning models (M2T) by name, with their LaMP model."""
import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from data.motion_windows import Normalisation, padded
from data.specs import DatasetSpec
from models.config import DECODERS, PRECISIONS, WRITING, DecoderConfig, Writing
from models.m2t import MotionCaptioner, MotionPrefixConfig, build_decoder
from storage import released
from storage.checkpoint import Source, find_source, load_strictly, open_source
from storage.load_lamp import LAMP_OPTIONAL, LoadedLaMP, load_lamp
from utils.errors import InputError

STATE_KEY = "trans"  # of published files too
BATCH = 32


@dataclass(frozen=True)
class LoadedCaptioner:
    """A captioning model in eval mode, and the LaMP model of its motion features."""

    model: MotionCaptioner
    lamp: LoadedLaMP
    source: Source

    @property
    def normalisation(self) -> Normalisation:
        """The normalisation of its motions."""
        return self.lamp.normalisation

    @property
    def writing(self) -> Writing:
        """Default settings of writing: from its options, else of ``Writing``."""
        with self.source.building(Writing):
            return Writing().changed({name: self.source.options[name] for name in WRITING
                                      if name in self.source.options})

    def write(self, clips: Sequence[np.ndarray], writing: Writing | None = None, batch_size: int = BATCH,
              quiet: bool = True) -> list[list[str]]:
        """Captions of unnormalised clips (T, d) of 4 to 196 frames; the best of each clip first."""
        device = self.model.query_tokens.device
        captions = []
        for start in tqdm(range(0, len(clips), batch_size), desc="captions", disable=quiet or None, leave=False):
            motion, m_lens = padded([self.normalisation.apply(clip) for clip in clips[start:start + batch_size]])
            captions += self.model.write(motion.to(device), m_lens.to(device), writing or self.writing)
        return captions


def build_captioner(config: DecoderConfig, lamp: LoadedLaMP) -> MotionCaptioner:
    """An untrained captioning model that starts from a LaMP model."""
    queries = lamp.model.config.qformer.num_query_tokens
    decoder = build_decoder(config, lamp.pieces, queries)
    model = MotionCaptioner(MotionPrefixConfig.of_lamp(lamp.model, decoder.width), decoder, config.block_size)
    model.take(lamp.model)
    return model


def learned_state(model: MotionCaptioner) -> dict[str, Tensor]:
    """The trained part of a model, for its checkpoint; the rest is in the LaMP model and the language model."""
    learned = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    return {name: value for name, value in model.state_dict().items() if name in learned}


def load_learned(model: MotionCaptioner, state: Mapping[str, Tensor], path: Path) -> None:
    """Load a ``learned_state``, of this model or of one whose Q-Former was frozen.

    Raises ``InputError`` if it does not fit, or if a part that is always trained is missing.
    """
    learned = {name for name in learned_state(model) if name.startswith(("llm.", "opt_proj."))}
    rest = {name: value for name, value in model.state_dict().items() if name not in learned}
    load_strictly(model, rest | dict(state), path)


def load_captioner(name: str, spec: DatasetSpec, checkpoints_dir: str | Path, device: torch.device | str = "cpu",
                   which: str | None = None) -> LoadedCaptioner:
    """A trained captioning model by name, ours or the released one, with the LaMP model that its options name."""
    source, state = open_source(find_source(name, spec.name, checkpoints_dir, which), (STATE_KEY,))
    if is_released := released.is_released_m2t(state):
        source, state = released.with_m2t_sizes(source, state), released.used_part(state)
    source.needed("decoder")
    source.one_of("decoder", DECODERS, DecoderConfig.decoder)
    source.one_of("llm_precision", tuple(PRECISIONS), DecoderConfig.llm_precision)
    lamp = load_lamp(source.needed("lamp_name"), spec, checkpoints_dir, device)
    with source.building(DecoderConfig):
        model = build_captioner(DecoderConfig.from_options(source.options), lamp)
    if is_released:
        load_strictly(model, state, source.file, optional=LAMP_OPTIONAL)
    else:
        load_learned(model, state, source.file)
    return LoadedCaptioner(model.to(device).eval().requires_grad_(False), lamp, source)


def tokenizer_name(opt: argparse.Namespace, spec: DatasetSpec) -> str | None:
    """The tokenizer named by ``--resume-pth`` or ``--vq-name``; None without either.

    Raises ``InputError`` if there is no such model.
    """
    given = opt.resume_pth or opt.vq_name
    return None if given is None else find_source(given, spec.name, opt.checkpoints_dir).folder.name


def differing_facts(given: Mapping[str, Any], source: Source) -> list[str]:
    """One message for every given flag (not None) that differs from a model's options."""
    return [f"{source.options_file} has {key} {source.options[key]}, which is used instead of {value}"
            for key, value in given.items() if value is not None and source.options.get(key, value) != value]


def check_tokenizer(lamp: LoadedLaMP, vq_name: str | None) -> None:
    """Raise ``InputError`` if a LaMP model was trained on another tokenizer than the named one."""
    own = Path(str(lamp.source.needed("vq_name"))).name
    if vq_name is not None and own != vq_name:
        raise InputError(f"{lamp.source.folder} was trained on the tokenizer {own}, not {vq_name}: "
                         "name another --lamp_name")
