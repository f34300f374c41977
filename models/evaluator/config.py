"""Settings that rebuild an evaluator."""
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

FOOT_CONTACTS = 4  # last features of a frame, which the evaluator does not see
UNIT_LENGTH = 4    # frames of a movement step: two convolutions of stride 2


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
