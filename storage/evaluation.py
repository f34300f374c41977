"""Load captioning models and evaluators by name."""
import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from data.dataset import UNIT_LENGTH, DatasetSpec, Normalisation
from data.language import WORD_CLASSES, WordVectors
from data.text_motion import padded
from models.config import DECODERS, PRECISIONS, WRITING, DecoderConfig, Writing
from models.evaluator import Evaluator
from models.m2t import MotionCaptioner, build_decoder
from storage import released
from storage.checkpoint import Source, find_source, load_strictly, model_dirs, open_source, read_state
from storage.generation import LAMP_OPTIONAL, LoadedLaMP, load_lamp
from storage.released import NETWORKS, PUBLISHED_META, evaluator_config
from utils import InputError

STATE_KEY = "trans"  # also the key in published checkpoints
CAPTION_BATCH = 32
BUNDLED_CAPTIONER = "m2t_demo"


@dataclass(frozen=True)
class LoadedCaptioner:
    """Captioning model in eval mode, with the LaMP model that it is based on."""

    model: MotionCaptioner
    lamp: LoadedLaMP
    source: Source

    @property
    def writing(self) -> Writing:
        """Default decoding settings of the model."""
        with self.source.building(Writing):
            return Writing().changed({name: self.source.options[name] for name in WRITING
                                      if name in self.source.options})

    def write(self, clips: Sequence[np.ndarray], writing: Writing | None = None, batch_size: int = CAPTION_BATCH,
              quiet: bool = True) -> list[list[str]]:
        """Generate captions for unnormalised motions (T, d) of 4 to 196 frames. Each motion's best caption is first."""
        device = self.model.query_tokens.device
        captions = []
        for start in tqdm(range(0, len(clips), batch_size), desc="captions", disable=quiet or None, leave=False):
            motion, m_lens = padded([self.lamp.normalisation.apply(clip) for clip in clips[start:start + batch_size]])
            captions += self.model.write(motion.to(device), m_lens.to(device), writing or self.writing)
        return captions


def build_captioner(config: DecoderConfig, lamp: LoadedLaMP) -> MotionCaptioner:
    """Create a captioning model that is initialised from a LaMP model."""
    decoder, words = build_decoder(config, lamp.pieces, lamp.model.config.qformer.num_query_tokens)
    model = MotionCaptioner(lamp.model.config, decoder, words, config.block_size)
    model.take(lamp.model)
    return model


def learned_state(model: MotionCaptioner) -> dict[str, Tensor]:
    """Return the trained parameters of a captioning model. The rest comes from LaMP and the language model."""
    learned = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    return {name: value for name, value in model.state_dict().items() if name in learned}


def load_learned(model: MotionCaptioner, state: Mapping[str, Tensor], path: Path) -> None:
    """Load a ``learned_state``. The Q-Former may be missing if it was frozen in training.

    Raises ``InputError`` if the state does not match the model.
    """
    learned = {name for name in learned_state(model) if name.startswith(("llm.", "opt_proj."))}
    rest = {name: value for name, value in model.state_dict().items() if name not in learned}
    load_strictly(model, rest | dict(state), path)


def load_captioner(name: str, spec: DatasetSpec, checkpoints_dir: str | Path, device: torch.device | str = "cpu",
                   which: str | None = None) -> LoadedCaptioner:
    """Load a captioning model of this project, or the released model, with its LaMP model."""
    source, state = open_source(find_source(name, spec.name, checkpoints_dir, which), (STATE_KEY,),
                                released.with_m2t_options)
    if is_released := not source.is_complete and released.is_released_m2t(state):
        state = released.used_part(state)
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


def named_captioner(opt: argparse.Namespace, spec: DatasetSpec, device: torch.device | str) -> LoadedCaptioner:
    """Load the captioning model to evaluate: ``--resume-trans``, else the run ``--name``, else the bundled model."""
    name = opt.resume_trans
    if name is None:
        found = opt.name and model_dirs(opt.name, spec.name, opt.checkpoints_dir)
        name = opt.name if found else BUNDLED_CAPTIONER
        if opt.name and not found:
            print(f"there is no run {opt.name}; scoring {BUNDLED_CAPTIONER}")
    return load_captioner(name, spec, opt.checkpoints_dir, device, opt.which_epoch)


def tokenizer_name(opt: argparse.Namespace, spec: DatasetSpec) -> str | None:
    """Return the name of the tokenizer given by ``--resume-pth`` or ``--vq-name``, or None if neither is given.

    Raises ``InputError`` if there is no such model.
    """
    given = opt.resume_pth or opt.vq_name
    return None if given is None else find_source(given, spec.name, opt.checkpoints_dir).folder.name


def differing_facts(given: Mapping[str, Any], source: Source) -> list[str]:
    """Describe the flags that are ``given`` (not None) but differ from the options of a model."""
    return [f"{source.options_file} has {key} {source.options[key]}, which is used instead of {value}"
            for key, value in given.items() if value is not None and source.options.get(key, value) != value]


def check_tokenizer(lamp: LoadedLaMP, vq_name: str | None) -> None:
    """Raise ``InputError`` if a LaMP model was trained with a tokenizer other than ``vq_name`` (None: any)."""
    own = Path(str(lamp.source.needed("vq_name"))).name
    if vq_name is not None and own != vq_name:
        raise InputError(f"{lamp.source.folder} was trained on the tokenizer {own}, not {vq_name}: "
                         "choose another --lamp_name")


GLOVE = "glove"  # folder of word vectors, in the folder of the model or in the working directory
BATCH = 64
NO_EVALUATOR = "none"
PUBLISHED = "text_mot_match"
BUNDLED = "evaluator_demo"


@dataclass(frozen=True)
class Embedder:
    """Evaluator with its normalisation and word vectors."""

    model: Evaluator
    normalisation: Normalisation
    words: WordVectors

    @torch.no_grad()
    def motions(self, motions: Sequence[np.ndarray]) -> np.ndarray:
        """Embed unnormalised motions, (T, d) each. Returns (n, e).

        Motions are cut to a multiple of 4 frames, at most 196. Raises ``ValueError`` for a motion that has fewer than 4
        frames or a wrong number of features.
        """
        rows = [np.zeros((0, self.model.config.dim_coemb_hidden), np.float32)]
        for start in range(0, len(motions), BATCH):
            motion, lengths = padded([self._normalised(motion) for motion in motions[start:start + BATCH]])
            rows.append(self.model.encode_motion(motion.to(self._device), lengths).cpu().numpy())
        return np.concatenate(rows)

    @torch.no_grad()
    def texts(self, tokens: Sequence[Sequence[str]]) -> np.ndarray:
        """Embed captions, given as lists of ``word/POS`` tokens. Uses the first 20 tokens of each. Returns (n, e)."""
        rows = [np.zeros((0, self.model.config.dim_coemb_hidden), np.float32)]
        for start in range(0, len(tokens), BATCH):
            sentences = [self.words.sentence(caption) for caption in tokens[start:start + BATCH]]
            words, classes = (torch.from_numpy(np.stack(part)).to(self._device) for part in
                              zip(*((one.word_emb, one.pos_onehot) for one in sentences), strict=True))
            lengths = torch.tensor([one.cap_len for one in sentences])
            rows.append(self.model.encode_text(words, classes, lengths).cpu().numpy())
        return np.concatenate(rows)

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def _normalised(self, motion: np.ndarray) -> np.ndarray:
        width = len(self.normalisation.mean)
        if motion.shape[1:] != (width,) or len(motion) < UNIT_LENGTH:
            raise ValueError(f"a motion of shape {motion.shape} is not {UNIT_LENGTH} or more frames of "
                             f"{width} features")
        return self.normalisation.apply(motion)


@dataclass(frozen=True)
class LoadedEvaluator(Embedder):
    """Trained evaluator in eval mode."""

    source: Source


def load_evaluator(name: str, spec: DatasetSpec, checkpoints_dir: str | Path,
                   device: torch.device | str = "cpu") -> LoadedEvaluator:
    """Load an evaluator of this project, or the published ``text_mot_match``.

    Its normalisation is read from ``meta/`` in its folder, or from ``../Comp_v6_KLD005/meta/``; its word vectors are
    read from ``glove/`` in its folder, or in the working directory. Raises ``InputError`` if a file is missing or does
    not match.
    """
    source = find_source(name, spec.name, checkpoints_dir)
    state = read_state(source.file, (NETWORKS,))
    try:
        model = Evaluator(evaluator_config(state))
    except (ValueError, RuntimeError) as error:
        raise InputError(f"{source} is not an evaluator: {error}") from error
    load_strictly(model, state, source.file)
    if model.config.dim_pose != spec.dim_pose:
        raise InputError(f"{source} is for motions of {model.config.dim_pose} features, but motions of "
                         f"{spec.name} have {spec.dim_pose}")
    own = source.folder / "meta"
    meta = own if own.is_dir() else source.folder.parent / PUBLISHED_META / "meta"
    normalisation = Normalisation.load(meta / "mean.npy", meta / "std.npy", spec.dim_pose, "train_evaluator.py")
    own_words = source.folder / GLOVE
    words = WordVectors.load(own_words if own_words.is_dir() else Path(GLOVE))
    if (words.dim, len(WORD_CLASSES)) != (model.config.dim_word, model.config.dim_pos_ohot):
        raise InputError(f"{source} needs word vectors of width {model.config.dim_word} and "
                         f"{model.config.dim_pos_ohot} word classes, but there are vectors of width {words.dim} and "
                         f"{len(WORD_CLASSES)} classes")
    return LoadedEvaluator(model.to(device).eval().requires_grad_(False), normalisation, words, source)


def find_evaluator(name: str | None, spec: DatasetSpec, checkpoints_dir: str | Path,
                   device: torch.device | str = "cpu") -> LoadedEvaluator | None:
    """Load the evaluator ``name``, by default the published evaluator or, if it is missing, the bundled evaluator.

    Returns None if ``name`` is "none" or there is no evaluator.
    """
    if name == NO_EVALUATOR:
        return None
    if name is not None:
        return load_evaluator(name, spec, checkpoints_dir, device)
    for found in (PUBLISHED, BUNDLED):
        if model_dirs(found, spec.name, checkpoints_dir):
            try:
                return load_evaluator(found, spec, checkpoints_dir, device)
            except InputError as error:
                raise InputError(f"{error} (choose another evaluator with --evaluator NAME, or none)") from error
    return None
