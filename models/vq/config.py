"""Settings that rebuild a tokenizer."""
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

DROPOUT = 0.2
GROUPS = 32  # of group norm
SAMPLE_TEMPERATURE = 0.5  # of the noise on the choice of codes while training; 0 is none


@dataclass(frozen=True)
class VQConfig:
    """Settings that rebuild a tokenizer; the names are those of ``opt.txt``."""

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
        """Pick the settings out of a larger mapping; ``None`` written as text counts as None."""
        known = {field.name: options[field.name] for field in fields(cls) if field.name in options}
        return cls(**{key: None if value == "None" else value for key, value in known.items()})

    @property
    def unit_length(self) -> int:
        """Frames a token stands for."""
        return self.stride_t**self.down_t
