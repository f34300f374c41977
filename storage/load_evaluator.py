"""Load evaluators by name, with their normalisation and word vectors."""
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.motion_windows import Normalisation
from data.specs import MAX_MOTION_LENGTH, UNIT_LENGTH, DatasetSpec
from data.text_motion import whole_crop
from data.word_vectors import WORD_CLASSES, WordVectors
from models.evaluator import Evaluator
from storage.checkpoint import Source, find_source, load_checkpoint, load_strictly, load_weights, model_dirs
from storage.released import PUBLISHED_META, evaluator_config, join_networks
from utils.errors import InputError

GLOVE = "glove"  # folder of word vectors, in the model's folder or in the working directory
BATCH = 64
NO_EVALUATOR = "none"
PUBLISHED = "text_mot_match"
BUNDLED = "evaluator_demo"


@dataclass(frozen=True)
class Embedder:
    """An evaluator with its normalisation and word vectors."""

    model: Evaluator
    normalisation: Normalisation
    words: WordVectors

    @torch.no_grad()
    def motions(self, motions: Sequence[np.ndarray]) -> np.ndarray:
        """Embeddings (n, e) of unnormalised motions (T, d), in the given order.

        Clips are cut to whole steps of 4 frames, 49 at most, and zero-padded to 196 frames, as published. Raises
        ``ValueError`` for a clip shorter than a step or of another width.
        """
        rows = [np.zeros((0, self.model.config.dim_coemb_hidden), np.float32)]
        for start in range(0, len(motions), BATCH):
            padded, lengths = self._padded(motions[start:start + BATCH])
            rows.append(self.model.encode_motion(padded.to(self._device), lengths).cpu().numpy())
        return np.concatenate(rows)

    @torch.no_grad()
    def texts(self, tokens: Sequence[Sequence[str]]) -> np.ndarray:
        """Embeddings (n, e) of captions, each a list of ``word/POS`` tokens; the first 20 are used."""
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

    def _padded(self, motions: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Normalised motions (b, 196, d), zero-padded from their lengths (b,)."""
        lengths = [whole_crop(len(motion)).length for motion in motions]
        padded = np.zeros((len(motions), MAX_MOTION_LENGTH, len(self.normalisation.mean)), np.float32)
        for row, motion, length in zip(padded, motions, lengths, strict=True):
            if motion.shape[1:] != row.shape[1:] or length < UNIT_LENGTH:
                raise ValueError(f"a motion of shape {motion.shape} is not {UNIT_LENGTH} or more frames of "
                                 f"{row.shape[1]} features")
            row[:length] = self.normalisation.apply(motion[:length])
        return torch.from_numpy(padded), torch.tensor(lengths)


@dataclass(frozen=True)
class LoadedEvaluator(Embedder):
    """A trained evaluator in eval mode."""

    source: Source


def load_evaluator(name: str, spec: DatasetSpec, checkpoints_dir: str | Path,
                   device: torch.device | str = "cpu") -> LoadedEvaluator:
    """A trained evaluator by name, or the published ``text_mot_match``.

    The normalisation is in ``meta/`` of its folder, that of the published one in ``Comp_v6_KLD005/meta/`` next to it;
    word vectors are in ``glove/`` of its folder or of the working directory. Raises ``InputError`` naming what is
    missing or does not fit.
    """
    source = find_source(name, spec.name, checkpoints_dir)
    state = read_networks(source.file)
    try:
        model = Evaluator(evaluator_config(state))
    except (ValueError, RuntimeError) as error:
        raise InputError(f"{source} is not an evaluator: {error}") from error
    load_strictly(model, state, source.file)
    if model.config.dim_pose != spec.dim_pose:
        raise InputError(f"{source} is for motions of {model.config.dim_pose} features, but those of {spec.name} have "
                         f"{spec.dim_pose}")
    own = source.folder / "meta"
    meta = own if own.is_dir() else source.folder.parent / PUBLISHED_META / "meta"
    normalisation = Normalisation.load(meta / "mean.npy", meta / "std.npy", spec.dim_pose, "train_evaluator.py")
    own_words = source.folder / GLOVE
    words = WordVectors.load(own_words if own_words.is_dir() else Path(GLOVE))
    if (words.dim, len(WORD_CLASSES)) != (model.config.dim_word, model.config.dim_pos_ohot):
        raise InputError(f"{source} reads word vectors of {model.config.dim_word} and {model.config.dim_pos_ohot} word "
                         f"classes; there are vectors of {words.dim} and {len(WORD_CLASSES)} classes")
    return LoadedEvaluator(model.to(device).eval().requires_grad_(False), normalisation, words, source)


def find_evaluator(name: str | None, spec: DatasetSpec, checkpoints_dir: str | Path,
                   device: torch.device | str = "cpu") -> LoadedEvaluator | None:
    """The evaluator ``name``, or None for "none". By default the published one if it is among the checkpoints, else the
    bundled one, else None."""
    if name == NO_EVALUATOR:
        return None
    if name is not None:
        return load_evaluator(name, spec, checkpoints_dir, device)
    for found in (PUBLISHED, BUNDLED):
        if model_dirs(found, spec.name, checkpoints_dir):
            try:
                return load_evaluator(found, spec, checkpoints_dir, device)
            except InputError as error:
                raise InputError(f"{error} (choose another one with --evaluator NAME, or none)") from error
    return None


def read_networks(path: Path) -> dict[str, Tensor]:
    """The state dict of an evaluator from a torch file with a state dict per network, or from safetensors.

    Raises ``InputError`` if a network is missing.
    """
    return load_weights(path) if path.suffix == ".safetensors" else join_networks(load_checkpoint(path), path)
