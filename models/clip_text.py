"""CLIP's text features, the baseline that LaMP replaces and what released MoMask files were trained with."""
from collections.abc import Sequence

import torch
from torch import Tensor

from utils.errors import InputError

CLIP_NAME = "openai/clip-vit-base-patch32"


class ClipText:
    """Text features (b, dim) of a frozen CLIP: the projected end-of-text state, not normalised.

    Args:
        source: a folder in the Hugging Face layout, or a name on the hub. ``InputError`` where it cannot be loaded,
            or where ``transformers`` is not installed.
    """

    def __init__(self, source: str = CLIP_NAME, device: torch.device | str = "cpu") -> None:
        try:
            from transformers import CLIPTextModelWithProjection, CLIPTokenizerFast
        except ImportError as error:
            raise InputError("CLIP text features need the package transformers: pip install transformers") from error
        try:
            self.tokenizer = CLIPTokenizerFast.from_pretrained(source)
            self.model = CLIPTextModelWithProjection.from_pretrained(source).to(device).eval().requires_grad_(False)
        except (OSError, ValueError) as error:
            raise InputError(f"CLIP {source} cannot be loaded: {str(error).splitlines()[0]}") from error
        self.device = device
        self.dim = self.model.config.projection_dim
        self.fingerprint = f"clip {source}"

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Features (b, dim) float32; texts beyond CLIP's 77 tokens are cut."""
        pieces = self.tokenizer(list(texts), padding="max_length", truncation=True, return_tensors="pt")
        return self.model(**pieces.to(self.device)).text_embeds.float()
