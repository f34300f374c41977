"""The released LaMP transformer, which carries a Q-Former of its own and makes its text condition itself.

Only released files need it: the condition of our own runs comes from a LaMP model that their options name, and their
files hold the transformer alone.
"""
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.clip_text import CLIP_WIDTH
from models.lamp.qformer import INIT_STD, QFormer, QFormerConfig
from models.lamp.tokenizer import WordPieces
from models.linear import Linear
from models.transformers.config import MaskTransformerConfig
from models.transformers.mask_transformer import MaskTransformer

TEXT_LENGTH = 49  # word pieces that released models pad and cut texts to
UNUSED = ("clip2qformer.weight", "clip2qformer.bias")  # in every file, used by nothing


@dataclass(frozen=True)
class TextCondition:
    """A text condition and what it was made from."""

    cond: Tensor    # (b, h) what the transformer takes
    hidden: Tensor  # (b, t, h) text-only pass
    states: Tensor  # (b, t, encoder_width) what the queries looked at


class LaMPMaskTransformer(MaskTransformer):
    """A ``MaskTransformer`` with the parameter names of released LaMP files (``t2m_transformer``)."""

    def __init__(self, config: MaskTransformerConfig, qformer: QFormerConfig) -> None:
        super().__init__(config)
        self.Qformer = QFormer(qformer)
        self.query_tokens = nn.Parameter(torch.randn(1, qformer.num_query_tokens, qformer.hidden) * INIT_STD)
        self.text2former = Linear(qformer.hidden, qformer.encoder_width)
        self.clip2qformer = Linear(CLIP_WIDTH, qformer.hidden)
        self.register_load_state_dict_pre_hook(_complete_state)

    def text_condition(self, ids: Tensor, mask: Tensor) -> TextCondition:
        """Word-piece ids (b, t) with ``mask`` (b, t), 1 or True at words, to the mean of the queries over the text.

        The queries look at padded word pieces too, so texts must be padded to ``TEXT_LENGTH`` for the released
        model's numbers.
        """
        hidden = self.Qformer.text(ids, mask)
        states = self.text2former(hidden)
        return TextCondition(self.Qformer.query(self.query_tokens, states).hidden.mean(1), hidden, states)


class ReleasedText:
    """Text features (b, dim) of a released transformer, which makes them itself."""

    def __init__(self, model: LaMPMaskTransformer, pieces: WordPieces, fingerprint: str = "") -> None:
        """``fingerprint``: a hash of the weights, for caches."""
        self.model, self.pieces = model.eval(), pieces
        self.dim = model.Qformer.config.hidden
        self.fingerprint = f"released {fingerprint}"

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Features (b, dim) float32 of texts, on the model's device."""
        made = self.pieces.encode(texts, TEXT_LENGTH, TEXT_LENGTH)
        device = self.model.query_tokens.device
        return self.model.text_condition(made.ids.to(device), made.mask.to(device)).cond.float()


def _complete_state(module: LaMPMaskTransformer, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """A file may leave out what nothing uses."""
    for name, tensor in module.clip2qformer.state_dict().items():
        state.setdefault(f"{prefix}clip2qformer.{name}", tensor)
