"""CLIP's text features, the baseline that LaMP's text features replace."""
import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from utils import InputError
from utils.files import model_folder, silent_transformers

CLIP_NAME = "openai/clip-vit-base-patch32"
CLIP_WIDTH = 512  # of its text features
TOKENIZER_FILES = ("tokenizer.json", "vocab.json")  # one of them is enough
FILES = ("config.json", "tokenizer_config.json", "special_tokens_map.json", "merges.txt", *TOKENIZER_FILES)


class ClipText:
    """Text features (b, dim) of a frozen CLIP: the projected end-of-text state, not normalised.

    Args:
        source: a folder in the Hugging Face layout, or a name on the hub. Raises ``InputError`` if it is incomplete or
            ``transformers`` is not installed.
    """

    def __init__(self, source: str | Path = CLIP_NAME, device: torch.device | str = "cpu") -> None:
        try:
            from transformers import CLIPTextModelWithProjection, CLIPTokenizerFast
        except ImportError as error:
            raise InputError("CLIP text features need the package transformers: pip install transformers") from error
        folder = model_folder(source, "CLIP", FILES)
        if not any((folder / name).is_file() for name in TOKENIZER_FILES):  # the library would create an empty one
            raise InputError(f"CLIP {folder} has no tokenizer: neither {' nor '.join(TOKENIZER_FILES)}")
        try:
            with silent_transformers():
                self.tokenizer = CLIPTokenizerFast.from_pretrained(folder)
                model, report = CLIPTextModelWithProjection.from_pretrained(
                    folder, output_loading_info=True, ignore_mismatched_sizes=True)
        except Exception as error:  # the library raises its own errors, safetensors' and OSError
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(f"CLIP {folder} cannot be loaded: {reason}") from error
        # The library would initialise these at random.
        absent = sorted([*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])])
        if absent:
            raise InputError(f"CLIP {folder} cannot be loaded: no {absent[0]} of the size in config.json")
        self.model = model.float().to(device).eval().requires_grad_(False)
        self.device = device
        self.dim = self.model.config.projection_dim
        projection = self.model.text_projection.weight.cpu().numpy().tobytes()
        # A folder's name does not identify its weights.
        self.fingerprint = f"clip {source} {hashlib.sha256(projection).hexdigest()}"

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Features (b, dim) float32; texts are cut to CLIP's 77 tokens."""
        pieces = self.tokenizer(list(texts), padding="max_length", truncation=True, return_tensors="pt",
                                max_length=self.model.config.max_position_embeddings)
        return self.model(**pieces.to(self.device)).text_embeds.float()
