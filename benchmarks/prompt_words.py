"""Words of prompts and of the training captions of a data set."""
import re
from pathlib import Path

from data.cache import read_ids
from data.specs import dataset_spec, require
from data.text import read_captions


def words(text: str) -> set[str]:
    """Lower-case words."""
    return set(re.findall(r"[a-z']+", text.lower()))


def training_words(data_root: Path) -> set[str]:
    """Set of all words in the training captions."""
    spec = dataset_spec("t2m", data_root)
    texts = require(spec.root / "texts", "the preparation of the data set")
    return {word for name in read_ids(spec, "train") for caption in read_captions(texts / f"{name}.txt")
            for word in words(caption.text)}
