"""Models of the Hugging Face layout, from a local folder or the hub, and CLIP's text features."""
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from utils import InputError

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")


def model_folder(source: str | Path, what: str, files: Sequence[str], weights: bool = True) -> Path:
    """The folder of a model: ``source`` if it is a folder, else the hub's model of that name.

    Downloads ``files`` and, with ``weights``, the weights. Raises ``InputError``, naming ``what`` is missing; without a
    network this is immediate.
    """
    folder = Path(source)
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download  # only names need it, and it is slow to import

    try:
        return Path(snapshot_download(str(source), allow_patterns=[*files, *(WEIGHT_FILES if weights else ())]))
    except Exception as error:  # the hub's client raises its own errors, httpx's and OSError
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{source} is not a folder, and no {what} of that name was found: {reason}") from error


@contextmanager
def silent_transformers() -> Iterator[None]:
    """Context without the progress bars and loading reports of ``transformers``."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


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
