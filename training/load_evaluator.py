"""The evaluator by name: its networks, its own normalisation and its word vectors."""
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
from models.evaluator.model import Evaluator, EvaluatorConfig
from training.checkpoint import load_checkpoint, load_strictly, load_weights
from training.source import Source, find_source
from utils.errors import InputError

PUBLISHED_META = "Comp_v6_KLD005"  # the folder beside the published evaluator that has its normalisation
GLOVE = "glove"                    # of word vectors: in the model's folder, else in the working folder
BATCH = 64
_NETWORKS = ("movement_encoder", "text_encoder", "motion_encoder")


@dataclass(frozen=True)
class Embedder:
    """An evaluator, the normalisation and the word vectors that it learns or has learned with."""

    model: Evaluator
    normalisation: Normalisation
    words: WordVectors

    @torch.no_grad()
    def motions(self, motions: Sequence[np.ndarray]) -> np.ndarray:
        """Embeddings (n, e) of motions (T, d) in their own units, row by row in the given order.

        A clip counts in whole steps of 4 frames, 49 of them at most, and is padded with zeros to 196 frames, as
        published. Raises ``ValueError`` for a clip shorter than a step, or of another width.
        """
        rows = [np.zeros((0, self.model.config.dim_coemb_hidden), np.float32)]
        for start in range(0, len(motions), BATCH):
            padded, lengths = self._padded(motions[start:start + BATCH])
            rows.append(self.model.encode_motion(padded.to(self._device), lengths).cpu().numpy())
        return np.concatenate(rows)

    @torch.no_grad()
    def texts(self, tokens: Sequence[Sequence[str]]) -> np.ndarray:
        """Embeddings (n, e) of captions, each a list of ``word/POS`` tokens of which the first 20 count."""
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
        """Normalised motions (b, 196, d), zero from their lengths (b,) on."""
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
    """An evaluator in eval mode with all that it was trained with."""

    source: Source


def load_evaluator(name: str, spec: DatasetSpec, checkpoints_dir: str | Path,
                   device: torch.device | str = "cpu") -> LoadedEvaluator:
    """A trained evaluator by name, or the published ``text_mot_match``.

    All sizes are read from the tensors. The normalisation lies in ``meta/`` of its folder, that of the published one
    in ``Comp_v6_KLD005/meta/`` beside it; word vectors lie in ``glove/`` of its folder, else of the working folder.
    Raises ``InputError`` naming what is missing or does not fit.
    """
    source = find_source(name, spec.name, checkpoints_dir, bare=True)
    state = read_networks(source.file)
    try:
        model = Evaluator(EvaluatorConfig.from_state_dict(state))
    except (ValueError, RuntimeError) as error:
        raise InputError(f"{source} is not an evaluator: {error}") from error
    load_strictly(model, state, source.file)
    if model.config.dim_pose != spec.dim_pose:
        raise InputError(f"{source} is for motions of {model.config.dim_pose} features, and those of {spec.name} have "
                         f"{spec.dim_pose}")
    own = source.folder / "meta"
    meta = own if own.is_dir() else source.folder.parent / PUBLISHED_META / "meta"
    normalisation = Normalisation.load(meta / "mean.npy", meta / "std.npy", spec.dim_pose, "train_evaluator.py")
    words = load_words(source.folder)
    if (words.dim, len(WORD_CLASSES)) != (model.config.dim_word, model.config.dim_pos_ohot):
        raise InputError(f"{source} reads word vectors of {model.config.dim_word} and {model.config.dim_pos_ohot} word "
                         f"classes; there are vectors of {words.dim} and {len(WORD_CLASSES)} classes")
    return LoadedEvaluator(model.to(device).eval().requires_grad_(False), normalisation, words, source)


def load_words(folder: Path) -> WordVectors:
    """Word vectors of the model in ``folder``: its own, else those in the working folder's ``glove/``."""
    return WordVectors.load(folder / GLOVE if (folder / GLOVE).is_dir() else Path(GLOVE))


def read_networks(path: Path) -> dict[str, Tensor]:
    """State of an ``Evaluator`` from a file laid out as the published one, a state dict a network, or from safetensors.

    Raises ``InputError`` for a file that lacks one of the networks.
    """
    if path.suffix == ".safetensors":
        return load_weights(path)
    content = load_checkpoint(path)
    state = {}
    for network in _NETWORKS:
        tensors = content.get(network)
        if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
            raise InputError(f"checkpoint {path} has no weights under {network}; it has {', '.join(map(str, content))}")
        state |= {f"{network}.{name}": tensor for name, tensor in tensors.items()}
    return state
