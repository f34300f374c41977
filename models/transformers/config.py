"""Settings that rebuild a transformer."""
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

ATTENTION_KINDS = ("causal", "additive", "full")


@dataclass(frozen=True)
class TransformerConfig:
    """What both transformers need; the names are those of ``opt.txt``."""

    num_tokens: int = 512        # codes of the tokenizer, K
    code_dim: int = 512          # width of the token embeddings
    cond_dim: int = 768          # width of the text feature: 768 LaMP, 512 CLIP ViT-B/32
    latent_dim: int = 512
    n_heads: int = 8
    n_layers: int = 8
    ff_size: int = 1024
    dropout: float = 0.2
    cond_drop_prob: float = 0.1  # share of training samples that lose their text

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        """Pick the settings out of a larger mapping."""
        return cls(**{field.name: options[field.name] for field in fields(cls) if field.name in options})


@dataclass(frozen=True)
class MaskTransformerConfig(TransformerConfig):
    """Of the masked transformer.

    ``attention``: ``causal`` (LaMP as in the paper), ``additive`` (LaMP as released), ``full`` (MoMask).
    """

    attention: str = "causal"


@dataclass(frozen=True)
class ResidualTransformerConfig(TransformerConfig):
    """Of the residual transformer.

    ``share_weight`` lets the output table of a layer be its input table. ``published`` repeats two slips of the
    released code: without ``share_weight`` logits are ``2 W h + bias``, and the pad class can be sampled. Options
    that do not speak of it are those of a released model, as every run of ours writes it down.
    """

    num_quantizers: int = 6
    share_weight: bool = True
    published: bool = False

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        """Pick the settings out of a larger mapping."""
        return super().from_options({**options, "published": options.get("published_behaviour", True)})
