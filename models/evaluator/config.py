"""Settings that rebuild an evaluator."""
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

FOOT_CONTACTS = 4  # last features of a frame, which the evaluator does not see
UNIT_LENGTH = 4    # frames of a movement step: two convolutions of stride 2

# Which dimension of which tensor is which setting.
_TELLING = {
    "dim_pose": ("movement_encoder.main.0.weight", 1),
    "dim_movement_enc_hidden": ("movement_encoder.main.0.weight", 0),
    "dim_movement_latent": ("movement_encoder.main.3.weight", 0),
    "dim_motion_hidden": ("motion_encoder.input_emb.weight", 0),
    "dim_coemb_hidden": ("motion_encoder.output_net.3.weight", 0),
    "dim_word": ("text_encoder.input_emb.weight", 1),
    "dim_pos_ohot": ("text_encoder.pos_emb.weight", 1),
    "dim_text_hidden": ("text_encoder.input_emb.weight", 0),
}


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

    @classmethod
    def from_state_dict(cls, state: "Mapping[str, Tensor]") -> "EvaluatorConfig":
        """Read the settings off the tensors of an ``Evaluator``. Raises ``ValueError`` naming one that is missing or
        has not the dimensions to tell."""
        sizes = {}
        for key, (name, dimension) in _TELLING.items():
            if name not in state:
                raise ValueError(f"{name} is missing")
            if state[name].dim() <= dimension:
                raise ValueError(f"{name} has shape {tuple(state[name].shape)}")
            sizes[key] = state[name].shape[dimension]
        sizes["dim_pose"] += FOOT_CONTACTS
        return cls(**sizes)
