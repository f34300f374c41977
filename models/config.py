"""Settings that rebuild the networks; field names are those of ``opt.txt``. Imports without torch."""
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Self, get_args

ATTENTION_KINDS = ("causal", "additive", "full")
LENGTHS = ("sample", "mean")


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

    ``attention``: ``full`` (MoMask), ``causal`` (LaMP as in the paper), ``additive`` (LaMP as released).
    """

    attention: str = "full"


@dataclass(frozen=True)
class ResidualTransformerConfig(TransformerConfig):
    """Settings of the residual transformer.

    With ``share_weight``, each layer uses one table for input and output. ``published`` reproduces two errors of the
    released code: without ``share_weight`` logits are ``2 W h + bias``, and the pad class can be sampled. Options
    without it are those of a released model.
    """

    num_quantizers: int = 6
    cond_drop_prob: float = 0.2
    share_weight: bool = True
    published: bool = False

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        """Select the settings from a larger mapping."""
        return super().from_options({**options, "published": options.get("published_behaviour", True)})


DROPOUT = 0.2
GROUPS = 32  # of group norm
SAMPLE_TEMPERATURE = 0.5  # of the sampling noise of codes in training; 0 is none


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
SIMILARITIES = ("mean", "paper", "released")  # of texts and motions: storage.generation.LoadedLaMP.comparison
ConditionKind = Literal["query", "cls", "both"]


FOOT_CONTACTS = 4  # last features of a frame, which the evaluator does not read
STEP_FRAMES = 4    # frames of a movement step: two convolutions of stride 2


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
PRECISIONS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}  # torch's names


@dataclass(frozen=True)
class DecoderConfig:
    """Settings of both decoders; the defaults are those of the public command and the paper."""

    decoder: DecoderKind = "gpt"
    num_layers: int = 12
    embed_dim_gpt: int = 1024   # width
    n_head_gpt: int = 16
    block_size: int = 51        # ids of a caption, including start and end, without the motion's prefix
    ff_rate: int = 4
    drop_out_rate: float = 0.1
    llm: str = "facebook/opt-2.7b"
    llm_precision: str = "fp32"
    lora_r: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.05

    def __post_init__(self) -> None:
        if self.embed_dim_gpt % self.n_head_gpt:
            raise ValueError(f"embed_dim_gpt {self.embed_dim_gpt} is not a multiple of n_head_gpt {self.n_head_gpt}")

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> "DecoderConfig":
        """Select the settings from a larger mapping."""
        return cls(**{field.name: options[field.name] for field in fields(cls) if field.name in options})


@dataclass(frozen=True)
class Sampling:
    """How motions are sampled. The defaults are the published ones; those of a trained model are in its ``opt.txt``."""

    time_steps: int = 10          # of iterative unmasking
    cond_scale: float = 4.0       # classifier-free guidance; 1 is none
    temperature: float = 1.0      # of the base layer
    topkr: float = 0.9            # share of the codes, the least probable, that are never sampled
    gumbel_sample: bool = True    # of the base layer; residual layers always are
    res_cond_scale: float = 5.0   # guidance of the residual layers
    res_temperature: float = 1.0  # of the residual layers
    length: str = "sample"        # lengths sampled from the length estimator's distribution, or its mean
    negative_prompt: str | None = None  # text to guide away from, in place of the empty text
    group_rows: int | None = None  # samples or texts per pass; 1 by default, more are faster for many samples

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> "Sampling":
        """Select the settings from a larger mapping."""
        return cls().changed(options)

    def changed(self, options: Mapping[str, Any]) -> "Sampling":
        """A copy in which settings that ``options`` has, such as flags that were given, replace these."""
        known = {field.name: options[field.name] for field in fields(self) if options.get(field.name) is not None}
        return replace(self, **known)


# Settings that belong to each model and are stored in its ``opt.txt``.
BASE_SAMPLING = ("time_steps", "cond_scale", "temperature", "topkr", "gumbel_sample")
RESIDUAL_SAMPLING = ("res_cond_scale", "res_temperature")
LENGTH_SAMPLING = ("length",)


@dataclass(frozen=True)
class Writing:
    """How captions are written: by beam search, or by nucleus sampling if ``top_p`` is below 1."""

    num_captions: int = 1
    num_beams: int = 1  # wider beams find more probable captions, but these are longer and more generic
    top_p: float = 1.0
    temperature: float = 1.0
    seed: int = 0
    prompt: str = ""    # words that every caption starts with
    prompt_in_caption: bool = True  # whether captions include these words; the released evaluation omits them

    def changed(self, options: Mapping[str, Any]) -> "Writing":
        """A copy in which settings that ``options`` has, such as flags that were given, replace these."""
        return replace(self, **{field.name: options[field.name] for field in fields(self) if field.name in options})


# Settings that are stored in the ``opt.txt`` of a model.
WRITING = ("num_beams", "top_p", "temperature", "prompt", "prompt_in_caption")
