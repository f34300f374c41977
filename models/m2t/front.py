"""From motion to the prefix of a language model: motion encoder, Q-Former, and a map to the language model's width.

Parameter names are those of published M2T checkpoints; the language model itself is not part of this module.
"""
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from models.lamp.features import LaMPFeatures
from models.lamp.qformer import INIT_STD, QFormer, QFormerConfig
from models.linear import Linear
from models.sinusoid import sinusoid_table
from models.vq.encdec import Encoder
from models.vq.model import VQConfig

OPT_WIDTH = 2560  # of OPT-2.7B


@dataclass(frozen=True)
class MotionPrefixConfig:
    """Settings that rebuild the front end; the defaults are the published sizes."""

    qformer: QFormerConfig = field(default_factory=QFormerConfig)
    vq: VQConfig = field(default_factory=lambda: VQConfig(num_quantizers=1))
    llm_width: int = OPT_WIDTH
    published: bool = True  # queries are not told where in the motion a latent stands, see models.lamp.lamp

    @classmethod
    def of_lamp(cls, lamp: LaMPFeatures, llm_width: int = OPT_WIDTH) -> "MotionPrefixConfig":
        """The sizes of a LaMP model, before a language model ``llm_width`` wide."""
        return cls(lamp.config.qformer, lamp.config.vq, llm_width, lamp.config.published)


class MotionPrefix(nn.Module):
    """Motion (b, t, d), normalised, to as many prefix embeddings (b, queries, llm_width) as there are queries."""

    def __init__(self, config: MotionPrefixConfig) -> None:
        super().__init__()
        self.config = config
        sizes, vq = config.qformer, config.vq
        self.query_tokens = nn.Parameter(torch.randn(1, sizes.num_query_tokens, sizes.hidden) * INIT_STD)
        self.motion_projection = nn.Parameter(
            torch.randn(vq.output_emb_width, sizes.encoder_width) * sizes.encoder_width**-0.5)
        self.Qformer = QFormer(sizes)
        self.motion_encoder = Encoder(
            vq.dim_pose, vq.output_emb_width, vq.down_t, vq.stride_t, vq.width, vq.depth, vq.dilation_growth_rate,
            vq.vq_act, vq.vq_norm, dropout=0.0)
        self.motion_encoder.requires_grad_(False)
        self.opt_proj = Linear(sizes.hidden, config.llm_width)
        positions = None if config.published else sinusoid_table(sizes.num_query_tokens, sizes.encoder_width)
        self.register_buffer("positions", positions, persistent=False)

    @staticmethod
    def from_lamp(lamp: LaMPFeatures, llm_width: int = OPT_WIDTH) -> "MotionPrefix":
        """Start from a pretrained LaMP model's copy of everything but the last map."""
        prefix = MotionPrefix(MotionPrefixConfig.of_lamp(lamp, llm_width))
        prefix.take(lamp)
        return prefix

    def take(self, lamp: LaMPFeatures) -> None:
        """Copy a pretrained LaMP model's weights of everything but the last map."""
        own = self.state_dict()
        self.load_state_dict({name: value for name, value in lamp.state_dict().items() if name in own}, strict=False)

    def forward(self, motion: Tensor, mask: Tensor | None = None) -> Tensor:
        """Prefix embeddings. ``mask`` (b, n) is False at tokens of padding; published models look at them too."""
        return self.opt_proj(self.query_motion(self.motion_states(motion), mask))

    def motion_states(self, motion: Tensor) -> Tensor:
        """What queries look at, (b, n, encoder_width), n = t / unit length."""
        states = self.motion_encoder(motion).transpose(1, 2).float() @ self.motion_projection
        return states if self.positions is None else states + self.positions[:states.shape[1]]

    def queried(self) -> list[nn.Parameter]:
        """The parameters that a motion's queries depend on, those of the motion encoder and the last map left out."""
        embeddings, encoder = self.Qformer.bert.embeddings, self.Qformer.bert.encoder
        text_only = (".intermediate.", ".output.dense.", ".output.LayerNorm.")
        layers = [parameter for layer in encoder.layer for name, parameter in layer.named_parameters()
                  if not f".{name}".startswith(text_only)]
        return [self.query_tokens, self.motion_projection, *embeddings.LayerNorm.parameters(), *layers]

    def query_motion(self, states: Tensor, mask: Tensor | None = None) -> Tensor:
        """The queries (b, queries, h) after looking at a motion."""
        return self.Qformer.query(self.query_tokens, states, mask).hidden
