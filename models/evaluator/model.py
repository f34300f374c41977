"""The evaluator as a whole: a motion and its caption get embeddings that lie close together."""
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from models.evaluator.config import FOOT_CONTACTS, UNIT_LENGTH, EvaluatorConfig
from models.evaluator.networks import MovementEncoder, SequenceEncoder, TextEncoder


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
