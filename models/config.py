"""Settings that rebuild the networks; field names are those of ``opt.txt``. Imports without torch."""
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Self, get_args

ATTENTION_KINDS = ("causal", "additive", "full")


@dataclass(frozen=True)
class TransformerConfig:
    """Settings of both token transformers; the names are those of ``opt.txt``."""

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
        """Select the settings from a larger mapping."""
        return cls(**{field.name: options[field.name] for field in fields(cls) if field.name in options})


@dataclass(frozen=True)
class MaskTransformerConfig(TransformerConfig):
    """Settings of the masked transformer.

    ``attention``: ``causal`` (LaMP as in the paper), ``additive`` (LaMP as released), ``full`` (MoMask).
    """

    attention: str = "causal"


@dataclass(frozen=True)
class ResidualTransformerConfig(TransformerConfig):
    """Settings of the residual transformer.

    With ``share_weight`` the output table of a layer is its input table. ``published`` reproduces two errors of the
    released code: without ``share_weight`` logits are ``2 W h + bias``, and the pad class can be sampled. Options
    without it are those of a released model.
    """

    num_quantizers: int = 6
    share_weight: bool = True
    published: bool = False

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        """Select the settings from a larger mapping."""
        return super().from_options({**options, "published": options.get("published_behaviour", True)})


DROPOUT = 0.2
GROUPS = 32  # of group norm
SAMPLE_TEMPERATURE = 0.5  # of the noise on the choice of codes while training; 0 is none


@dataclass(frozen=True)
class VQConfig:
    """Settings of a tokenizer; the names are those of ``opt.txt``."""

    dim_pose: int = 263
    nb_code: int = 512
    code_dim: int = 512
    output_emb_width: int = 512
    down_t: int = 2
    stride_t: int = 2
    width: int = 512
    depth: int = 3
    dilation_growth_rate: int = 3
    vq_act: str = "relu"
    vq_norm: str | None = None
    mu: float = 0.99
    num_quantizers: int = 6
    shared_codebook: bool = False
    quantize_dropout_prob: float = 0.2
    vq_dropout: float = DROPOUT
    sample_codebook_temp: float = SAMPLE_TEMPERATURE
    published_reset: bool = False

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> "VQConfig":
        """Select the settings from a larger mapping; the text "None" counts as None."""
        known = {field.name: options[field.name] for field in fields(cls) if field.name in options}
        return cls(**{key: None if value == "None" else value for key, value in known.items()})

    @property
    def unit_length(self) -> int:
        """Frames per token."""
        return self.stride_t**self.down_t


OBJECTIVES = ("ptc", "ptm", "lm", "gen")
SIMILARITIES = ("mean", "paper", "released")  # of texts and motions; see storage.load.LoadedLaMP.comparison
ConditionKind = Literal["query", "cls", "both"]


FOOT_CONTACTS = 4  # last features of a frame, which the evaluator does not see
UNIT_LENGTH = 4    # frames of a movement step: two convolutions of stride 2


@dataclass(frozen=True)
class EvaluatorConfig:
    """Settings of an evaluator; the defaults are the published ones."""

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
        """Select the settings from a larger mapping."""
        return cls(**{field.name: options[field.name] for field in fields(cls) if field.name in options})


DecoderKind = Literal["gpt", "opt"]
DECODERS = get_args(DecoderKind)
PRECISIONS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}  # as torch calls them


@dataclass(frozen=True)
class DecoderConfig:
    """Settings of both decoders; the defaults are those of the public command and the paper."""

    decoder: DecoderKind = "gpt"
    num_layers: int = 12
    embed_dim_gpt: int = 1024   # width
    n_head_gpt: int = 16
    block_size: int = 51        # ids of a caption, start and end among them; the motion's prefix comes on top
    ff_rate: int = 4
    drop_out_rate: float = 0.1
    llm: str = "facebook/opt-2.7b"
    llm_precision: str = "fp32"
    lora_r: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.05

    def __post_init__(self) -> None:
        if self.embed_dim_gpt % self.n_head_gpt:
            raise ValueError(f"embed_dim_gpt {self.embed_dim_gpt} is no multiple of n_head_gpt {self.n_head_gpt}")

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> "DecoderConfig":
        """Select the settings from a larger mapping."""
        return cls(**{field.name: options[field.name] for field in fields(cls) if field.name in options})
