"""Settings that rebuild a decoder of captions."""
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

DecoderKind = Literal["gpt", "opt"]
DECODERS = get_args(DecoderKind)
PRECISIONS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}  # as torch calls them


@dataclass(frozen=True)
class DecoderConfig:
    """Settings that rebuild either decoder; the defaults are those of the public command and of the paper."""

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
        """Pick the settings out of a larger mapping."""
        return cls(**{field.name: options[field.name] for field in fields(cls) if field.name in options})
