"""Models of the Hugging Face layout: a local folder, or a name on the hub."""
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from utils.errors import InputError

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")


def model_folder(source: str | Path, what: str, files: Sequence[str], weights: bool = True) -> Path:
    """The folder of a model: ``source`` itself where it is one, else the hub's copy of the model of that name.

    Only ``files`` and, with ``weights``, its weights are fetched. Raises ``InputError``, which speaks of a ``what``,
    where there is none; without a network that takes no longer than looking into the cache.
    """
    folder = Path(source)
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download  # only names need it, and it is slow to import

    try:
        return Path(snapshot_download(str(source), allow_patterns=[*files, *(WEIGHT_FILES if weights else ())]))
    except Exception as error:  # the hub's client raises its own, httpx's and OS errors alike
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"no folder {source}, and no {what} of that name could be fetched: {reason}") from error


@contextmanager
def silent_transformers() -> Iterator[None]:
    """Without the library's progress bars and its reports on parts that nobody asked for."""
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
