"""Settings of the networks. Field names match the keys in ``opt.txt``. This module does not import torch."""
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, Self, get_args

ATTENTION_KINDS = ("causal", "additive", "full")
LENGTHS = ("sample", "mean")
INIT_STD = 0.02  # std of initial weights


class Options:
    """Base class of settings that can be created from the options of a run."""

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        """Create the settings from ``options``, ignoring unknown keys and using defaults for missing ones."""
        return cls(**{field.name: options[field.name] for field in fields(cls) if field.name in options})

    def changed(self, options: Mapping[str, Any]) -> Self:
        """Return a copy updated with the values in ``options``, ignoring None values and unknown keys."""
        known = {field.name: options[field.name] for field in fields(self) if options.get(field.name) is not None}
        return replace(self, **known)


@dataclass(frozen=True)
class TransformerConfig(Options):
    """Settings shared by the masked and the residual transformer."""

    num_tokens: int = 512        # codes per codebook, K
    code_dim: int = 512          # width of the token embeddings
    cond_dim: int = 768          # width of the text features: 768 for LaMP, 512 for CLIP ViT-B/32
    latent_dim: int = 512
    n_heads: int = 8
    n_layers: int = 8
    ff_size: int = 1024
    dropout: float = 0.2
    cond_drop_prob: float = 0.1  # probability of training a sample without its text


@dataclass(frozen=True)
class MaskTransformerConfig(TransformerConfig):
    """Settings of the masked transformer."""

    attention: str = "full"  # "full" (MoMask), "causal" (the LaMP paper) or "additive" (the released LaMP)


@dataclass(frozen=True)
class ResidualTransformerConfig(TransformerConfig):
    """Settings of the residual transformer.

    ``share_weight`` ties the input and output embeddings of each layer. ``published`` reproduces two errors of the
    released code: the padding class can be sampled, and without ``share_weight`` the logits are ``2 W h + bias``.
    """

    num_quantizers: int = 6
    cond_drop_prob: float = 0.2
    share_weight: bool = True
    published: bool = False

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        """Create the settings. ``options`` that lack ``published_behaviour`` belong to a released model."""
        return super().from_options({**options, "published": options.get("published_behaviour", True)})


GROUPS = 32  # number of groups in group normalisation


@dataclass(frozen=True)
class VQConfig(Options):
    """Settings of a motion tokenizer."""

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
    vq_dropout: float = 0.2
    sample_codebook_temp: float = 0.5  # temperature for sampling codes in training; 0: always the nearest code
    published_reset: bool = False

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        """Create the settings from ``options``, reading the string "None" as None."""
        return super().from_options({key: None if value == "None" else value for key, value in options.items()})

    @property
    def unit_length(self) -> int:
        """Number of frames per token."""
        return self.stride_t**self.down_t


QFORMER_PREFIX = "qformer_"


@dataclass(frozen=True)
class QFormerConfig:
    """Settings of a Q-Former. The defaults are the published sizes (BERT base)."""

    hidden: int = 768
    layers: int = 12
    heads: int = 12
    intermediate: int = 3072
    max_positions: int = 512
    vocab: int = 30523            # BERT's word pieces and [DEC]
    encoder_width: int = 1408     # width of the states that the queries attend to
    cross_attention_freq: int = 2  # every n-th layer has cross-attention, starting with the first
    num_query_tokens: int = 49
    dropout: float = 0.1
    attention_dropout: float = 0.1  # dropout on attention weights; training on the CPU is faster with 0
    layer_norm_eps: float = 1e-12

    def __post_init__(self) -> None:
        if self.hidden % self.heads:
            raise ValueError(f"hidden {self.hidden} is not a multiple of {self.heads} heads")

    def to_options(self) -> dict[str, Any]:
        """Convert the settings to options with the prefix ``qformer_``."""
        return {QFORMER_PREFIX + name: value for name, value in asdict(self).items()}

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        """Create the settings from ``options`` with the prefix ``qformer_``, using defaults for missing ones."""
        names = (field.name for field in fields(cls))
        return cls(**{name: options[QFORMER_PREFIX + name] for name in names if QFORMER_PREFIX + name in options})


@dataclass(frozen=True)
class LaMPConfig:
    """Settings of a LaMP model. The defaults are the published sizes."""

    qformer: QFormerConfig = field(default_factory=QFormerConfig)
    vq: VQConfig = field(default_factory=lambda: VQConfig(num_quantizers=1))
    embed_dim: int = 512     # width of the text and motion features
    published: bool = False  # reproduce the behaviour of the released code, see models.lamp.lamp

    def to_options(self) -> dict[str, Any]:
        """Convert the settings, except those of the tokenizer, to options for ``opt.txt``."""
        return {"embed_dim": self.embed_dim, "published_behaviour": self.published, **self.qformer.to_options()}

    @classmethod
    def from_options(cls, options: Mapping[str, Any], vq: VQConfig) -> Self:
        """Create the settings from ``options`` and the settings ``vq`` of the tokenizer.

        Missing sizes are set to their published values. Options that lack ``published_behaviour`` belong to a released
        model.
        """
        return cls(QFormerConfig.from_options(options), vq, options.get("embed_dim", cls.embed_dim),
                   options.get("published_behaviour", True))


OBJECTIVES = ("ptc", "ptm", "lm", "gen")
SIMILARITIES = ("mean", "paper", "released")  # see storage.generation.LoadedLaMP.comparison
ConditionKind = Literal["query", "cls", "both"]


FOOT_CONTACTS = 4  # number of foot contact features, the last ones of a frame, which the evaluator ignores
STEP_FRAMES = 4    # frames per movement vector: two convolutions with stride 2


@dataclass(frozen=True)
class EvaluatorConfig(Options):
    """Sizes of an evaluator. The defaults are the sizes of the published evaluator."""

    dim_pose: int = 263
    dim_movement_enc_hidden: int = 512
    dim_movement_latent: int = 512
    dim_word: int = 300
    dim_pos_ohot: int = 15
    dim_motion_hidden: int = 1024
    dim_text_hidden: int = 512
    dim_coemb_hidden: int = 512


DecoderKind = Literal["gpt", "opt"]
DECODERS = get_args(DecoderKind)
PRECISIONS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}  # names of the dtypes in torch


@dataclass(frozen=True)
class DecoderConfig(Options):
    """Settings of the caption decoder. The defaults follow the paper and the published command."""

    decoder: DecoderKind = "gpt"
    num_layers: int = 12
    embed_dim_gpt: int = 1024   # width of the GPT
    n_head_gpt: int = 16
    block_size: int = 51        # maximum number of tokens in a caption, with start and end, without the motion prefix
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


@dataclass(frozen=True)
class Sampling(Options):
    """Sampling settings of motion generation. The defaults are the published settings."""

    time_steps: int = 10          # steps of iterative unmasking
    cond_scale: float = 4.0       # classifier-free guidance scale of the base layer; 1 disables guidance
    temperature: float = 1.0      # temperature of the base layer
    topkr: float = 0.9            # fraction of the codes that are never sampled: the least probable ones
    gumbel_sample: bool = True    # whether the base layer uses Gumbel sampling; residual layers always do
    res_cond_scale: float = 5.0   # classifier-free guidance scale of the residual layers
    res_temperature: float = 1.0  # temperature of the residual layers
    length: str = "sample"        # how to predict lengths: a "sample" or the "mean" of the estimator's distribution
    negative_prompt: str | None = None  # text to guide away from; None: no text, as in training
    group_rows: int | None = None  # samples or texts per forward pass; None: 32 with packed layers, else 1
    text_noise: float = 0.0      # noise on the base layer's text features, relative to their rms: more varied motions

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        """Create the settings from ``options``, using defaults for missing or None values."""
        return cls().changed(options)

    def only(self, names: Sequence[str]) -> Self:
        """Return a copy that keeps the settings in ``names`` and has defaults for all others."""
        return type(self)(**{name: getattr(self, name) for name in names})


DEFAULT_SAMPLING = Sampling()

# Sampling settings stored in the ``opt.txt`` of the masked transformer, residual transformer and length estimator.
BASE_SAMPLING = ("time_steps", "cond_scale", "temperature", "topkr", "gumbel_sample", "text_noise")
RESIDUAL_SAMPLING = ("res_cond_scale", "res_temperature")
LENGTH_SAMPLING = ("length",)


@dataclass(frozen=True)
class Writing(Options):
    """Settings of caption generation: beam search, or nucleus sampling if ``top_p`` is below 1."""

    num_captions: int = 1
    num_beams: int = 1  # more beams give more probable, but longer and more generic captions
    top_p: float = 1.0
    temperature: float = 1.0
    seed: int = 0
    prompt: str = ""    # words at the start of every caption
    prompt_in_caption: bool = True  # whether captions include ``prompt``; the released evaluation omits it


# Decoding settings stored in the ``opt.txt`` of a captioner.
WRITING = ("num_beams", "top_p", "temperature", "prompt", "prompt_in_caption")
