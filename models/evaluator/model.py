"""The evaluator as a whole: a motion and its caption get embeddings that lie close together."""
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from models.evaluator.networks import MovementEncoder, SequenceEncoder, TextEncoder

FOOT_CONTACTS = 4  # last features of a frame, which the evaluator does not see
UNIT_LENGTH = 4    # frames of a movement step: two convolutions of stride 2

# Which dimension of which tensor is which setting.
_TELLING = {
    "dim_pose": ("movement_encoder.main.0.weight", 1),
    "dim_movement_enc_hidden": ("movement_encoder.main.0.weight", 0),
    "dim_movement_latent": ("movement_encoder.main.3.weight", 0),
    "dim_motion_hidden": ("motion_encoder.input_emb.weight", 0),
    "dim_coemb_hidden": ("motion_encoder.output_net.3.weight", 0),
    "dim_word": ("text_encoder.input_emb.weight", 1),
    "dim_pos_ohot": ("text_encoder.pos_emb.weight", 1),
    "dim_text_hidden": ("text_encoder.input_emb.weight", 0),
}


@dataclass(frozen=True)
class EvaluatorConfig:
    """Settings that rebuild an evaluator; the defaults are those of the published ones."""

    dim_pose: int = 263
    dim_movement_enc_hidden: int = 512
    dim_movement_latent: int = 512
    dim_word: int = 300
    dim_pos_ohot: int = 15
    dim_motion_hidden: int = 1024
    dim_text_hidden: int = 512
    dim_coemb_hidden: int = 512

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> "EvaluatorConfig":
        """Pick the settings out of a larger mapping."""
        return cls(**{field.name: options[field.name] for field in fields(cls) if field.name in options})

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor]) -> "EvaluatorConfig":
        """Read the settings off the tensors of an ``Evaluator``. Raises ``ValueError`` naming one that is missing or
        has not the dimensions to tell."""
        sizes = {}
        for key, (name, dimension) in _TELLING.items():
            if name not in state:
                raise ValueError(f"{name} is missing")
            if state[name].dim() <= dimension:
                raise ValueError(f"{name} has shape {tuple(state[name].shape)}")
            sizes[key] = state[name].shape[dimension]
        sizes["dim_pose"] += FOOT_CONTACTS
        return cls(**sizes)


class Evaluator(nn.Module):
    """Movement, motion and text encoder of T2M (Guo et al., CVPR 2022).

    Rows come out in the order in which they went in. The published wrapper returns both kinds of embeddings in
    another order, ``published_order``; set metrics do not depend on it.
    """

    def __init__(self, config: EvaluatorConfig) -> None:
        super().__init__()
        self.config = config
        self.movement_encoder = MovementEncoder(
            config.dim_pose - FOOT_CONTACTS, config.dim_movement_enc_hidden, config.dim_movement_latent)
        self.motion_encoder = SequenceEncoder(
            config.dim_movement_latent, config.dim_motion_hidden, config.dim_coemb_hidden)
        self.text_encoder = TextEncoder(
            config.dim_word, config.dim_pos_ohot, config.dim_text_hidden, config.dim_coemb_hidden)

    def movements(self, motion: Tensor) -> Tensor:
        """Motion (b, t, d), normalised with the evaluator's own mean and std, to movements (b, t/4, latent)."""
        return self.movement_encoder(motion[..., :-FOOT_CONTACTS])

    def encode_motion(self, motion: Tensor, m_lens: Tensor) -> Tensor:
        """Motion (b, t, d), zero from each length on, and lengths in frames (b,) to embeddings (b, coemb).

        For numbers that compare with published ones pad to one common length (196): the last step of a clip
        sees a few frames of padding through the convolutions. Raises ``ValueError`` for a clip below four frames.
        """
        if int(m_lens.min()) < UNIT_LENGTH:
            raise ValueError(f"a motion of {int(m_lens.min())} frames is shorter than one step of {UNIT_LENGTH}")
        seen = int(m_lens.max()) + UNIT_LENGTH  # frames that reach a step of the longest clip, and more
        return self.motion_encoder(self.movements(motion[:, :seen]), m_lens // UNIT_LENGTH)

    def encode_text(self, word_emb: Tensor, pos_onehot: Tensor, cap_lens: Tensor) -> Tensor:
        """Word vectors (b, n, word), one-hot classes (b, n, pos), token counts (b,) to embeddings (b, coemb)."""
        return self.text_encoder(word_emb, pos_onehot, cap_lens)

    def networks(self) -> dict[str, nn.Module]:
        """The three networks under their keys in a checkpoint."""
        return {"movement_encoder": self.movement_encoder, "text_encoder": self.text_encoder,
                "motion_encoder": self.motion_encoder}

    def checkpoint(self) -> dict[str, dict[str, Tensor]]:
        """Three state dicts, laid out as in the published ``finest.tar``."""
        return {key: network.state_dict() for key, network in self.networks().items()}

    def load_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        """Load three state dicts; other keys (optimisers, counters) are passed over.

        Raises ``KeyError`` for a missing network and ``RuntimeError`` for names or shapes that do not fit.
        """
        for key, network in self.networks().items():
            network.load_state_dict(checkpoint[key], strict=True)


def published_order(m_lens: Tensor) -> Tensor:
    """Row order (b,) of the published wrapper: descending lengths, equal lengths in reversed input order."""
    return torch.argsort(m_lens, stable=True).flip(0)
