"""Captioning models by name, with the LaMP model that they stand on."""
import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from data.motion_windows import Normalisation
from data.specs import DatasetSpec
from evaluation.language import padded
from models.m2t.captioner import MotionCaptioner, Writing
from models.m2t.config import DECODERS, PRECISIONS, DecoderConfig
from models.m2t.decoder import build_decoder
from models.m2t.front import MotionPrefixConfig
from training.checkpoint import load_strictly
from training.load import LAMP_OPTIONAL, LoadedLaMP, load_lamp
from training.source import Source, find_source, read_state
from utils.errors import InputError

STATE_KEY = "trans"  # of published files too
BATCH = 32
# Of a released file: stacks that nothing calls, a tokenizer that nothing asks, and the language model a second time.
DEAD_PARTS = ("trans_base.", "trans_head.", "vq_model.", "opt_model.")
_ADAPTED = re.compile(r"(llm\..*\.[qv]_proj)\.(weight|bias)")  # as old releases of peft name what they adapt
_RANK = re.compile(r"llm\..*\.lora_A\.default\.weight")


@dataclass(frozen=True)
class LoadedCaptioner:
    """A captioning model in eval mode, and the LaMP model whose features it tells."""

    model: MotionCaptioner
    lamp: LoadedLaMP
    source: Source

    @property
    def normalisation(self) -> Normalisation:
        """What motions are normalised by."""
        return self.lamp.normalisation

    def write(self, clips: Sequence[np.ndarray], writing: Writing | None = None, batch_size: int = BATCH,
              quiet: bool = True) -> list[list[str]]:
        """Captions of clips (T, d) of features, not normalised, each of 4 to 196 frames; the best of a clip first."""
        device = self.model.query_tokens.device
        captions = []
        for start in tqdm(range(0, len(clips), batch_size), desc="captions", disable=quiet or None, leave=False):
            motion, m_lens = padded([self.normalisation.apply(clip) for clip in clips[start:start + batch_size]])
            captions += self.model.write(motion.to(device), m_lens.to(device), writing)
        return captions


def build_captioner(config: DecoderConfig, lamp: LoadedLaMP) -> MotionCaptioner:
    """A captioning model that starts from a LaMP model and has still to learn."""
    queries = lamp.model.config.qformer.num_query_tokens
    decoder = build_decoder(config, lamp.pieces, queries)
    model = MotionCaptioner(MotionPrefixConfig.of_lamp(lamp.model, decoder.width), decoder, config.block_size)
    model.take(lamp.model)
    return model


def learned_state(model: MotionCaptioner) -> dict[str, Tensor]:
    """What a checkpoint holds: all that learned. The rest lies in the LaMP model and the pretrained language model."""
    learned = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    return {name: value for name, value in model.state_dict().items() if name in learned}


def load_learned(model: MotionCaptioner, state: Mapping[str, Tensor], path: Path) -> None:
    """Take up what ``learned_state`` gave, of this model or of one whose Q-Former did not learn.

    Raises ``InputError`` where it does not fit, or something that always learns is missing.
    """
    learned = {name for name in learned_state(model) if name.startswith(("llm.", "opt_proj."))}
    rest = {name: value for name, value in model.state_dict().items() if name not in learned}
    load_strictly(model, rest | dict(state), path)


def is_released(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict is that of the released M2T model, which holds the whole language model."""
    return any(name.startswith("opt_model.") for name in state)


def living_part(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a released model computes with, under the names that peft gives today."""
    return {_ADAPTED.sub(r"\1.base_layer.\2", name): tensor for name, tensor in state.items()
            if not name.startswith(DEAD_PARTS)}


def _released_options(source: Source, state: Mapping[str, Tensor]) -> Source:
    rank = next((tensor.shape[0] for name, tensor in state.items() if _RANK.fullmatch(name)), DecoderConfig.lora_r)
    return source.read_off({"decoder": "opt", "lora_r": rank}, {"llm_precision": "fp16"})


def load_captioner(name: str, spec: DatasetSpec, checkpoints_dir: str | Path, device: torch.device | str = "cpu",
                   which: str | None = None) -> LoadedCaptioner:
    """A trained captioning model by name, ours or the released one, with the LaMP model that its options name."""
    source = find_source(name, spec.name, checkpoints_dir, which, bare=True)
    state = read_state(source.file, (STATE_KEY,))
    if released := is_released(state):
        source, state = _released_options(source, state), living_part(state)
    source.needed("decoder")
    source.one_of("decoder", DECODERS, DecoderConfig.decoder)
    source.one_of("llm_precision", tuple(PRECISIONS), DecoderConfig.llm_precision)
    lamp = load_lamp(source.needed("lamp_name"), spec, checkpoints_dir, device)
    with source.building(DecoderConfig):
        model = build_captioner(DecoderConfig.from_options(source.options), lamp)
    if released:
        load_strictly(model, state, source.file, optional=LAMP_OPTIONAL)
    else:
        load_learned(model, state, source.file)
    return LoadedCaptioner(model.to(device).eval().requires_grad_(False), lamp, source)


def tokenizer_name(opt: argparse.Namespace, spec: DatasetSpec) -> str | None:
    """The tokenizer that ``--resume-pth``, or else ``--vq-name``, names; None without either.

    Raises ``InputError`` where there is no such model.
    """
    given = opt.resume_pth or opt.vq_name
    return None if given is None else find_source(given, spec.name, opt.checkpoints_dir).folder.name


def differing_facts(given: Mapping[str, Any], source: Source) -> list[str]:
    """A sentence for every flag that was given (not None) and that the options of a model answer otherwise."""
    return [f"{source.options_file} has {key} {source.options[key]}, and that counts: not {value}"
            for key, value in given.items() if value is not None and source.options.get(key, value) != value]


def check_tokenizer(lamp: LoadedLaMP, vq_name: str | None) -> None:
    """``InputError`` where a LaMP model reads motions through another tokenizer than the one that was named."""
    own = Path(str(lamp.source.needed("vq_name"))).name
    if vq_name is not None and own != vq_name:
        raise InputError(f"{lamp.source.folder} stands on the tokenizer {own}, not {vq_name}: name another --lamp_name")
