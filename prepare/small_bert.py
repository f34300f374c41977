"""Shrink a BERT for a small Q-Former: fewer layers, and only the word pieces needed for English prompts.

    python prepare/small_bert.py SRC OUT --layers 4 --pieces 16000 --texts dataset/HumanML3D/texts

SRC is a folder in the Hugging Face layout (config.json, vocab.txt, model.safetensors). BERT's vocabulary is sorted by
frequency, so the first plain pieces are the common ones. Every word of the given texts, every word about movement
(assets/motion_words.txt, with inflections) and single letters are kept. Dropped words (numbers, other scripts, rare
names) are split into the remaining pieces.
"""
import json
import re
import string
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import utils  # noqa: F401 (sets the thread policy before torch is loaded)

# isort: split
import torch
from safetensors.torch import load_file, save_file

from data.text import clean_caption
from options.base import Parser, positive_int
from utils.errors import InputError, script
from utils.files import ROOT, atomic_path, read_text, write_text

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_PLAIN = re.compile(r"(##)?[a-z]+")


def kept_pieces(vocabulary: list[str], pieces: int, words: set[str]) -> list[int]:
    """Ids of the special pieces, letters and digits, pieces of ``words``, and the most frequent plain pieces."""
    single = set(string.ascii_lowercase + string.digits + "'-,?")
    always = {*SPECIAL, *single, *(f"##{character}" for character in single), *words}
    kept = {number for number, piece in enumerate(vocabulary) if piece in always}
    for number, piece in enumerate(vocabulary):
        if len(kept) >= pieces:
            break
        if _PLAIN.fullmatch(piece):
            kept.add(number)
    return sorted(kept)


def words_of(texts: Path) -> set[str]:
    """Distinct words of the captions in a folder of text files."""
    files = sorted(texts.glob("*.txt"))
    if not files:
        raise InputError(f"{texts} contains no .txt file")
    captions = (line.split("#")[0] for file in files for line in read_text(file, "captions").splitlines())
    return {word for caption in captions for word in re.findall(r"[a-z]+", clean_caption(caption))}


def inflections(word: str) -> set[str]:
    """Regular English inflections of a word; wrong forms are harmless, as the vocabulary does not contain them."""
    stem = word.removesuffix("e")
    return {word, *(word + end for end in ("s", "es", "ed", "ing", "er", "ly")), stem + "ed", stem + "ing",
            *(word + word[-1] + end for end in ("ed", "ing"))}


def movement_words() -> set[str]:
    """Words of assets/motion_words.txt, inflected."""
    lines = read_text(ROOT / "assets" / "motion_words.txt").splitlines()
    words = {word for line in lines if not line.startswith("#") for word in line.split()}
    return set().union(*map(inflections, words))


@script
def main() -> None:
    parser = Parser("Shrink a BERT to fewer layers and word pieces.")
    parser.add_argument("src", type=Path, help="folder with config.json, vocab.txt and model.safetensors")
    parser.add_argument("out", type=Path, help="output folder")
    parser.add_argument("--layers", type=positive_int, default=4, help="layers to keep, from the bottom")
    parser.add_argument("--pieces", type=positive_int, default=16000, help="approximate number of word pieces to keep")
    parser.add_argument("--texts", type=Path, help="folder of caption files whose words are kept")
    opt = parser.parse_args()

    vocabulary = read_text(opt.src / "vocab.txt", "vocabulary").splitlines()
    config = json.loads(read_text(opt.src / "config.json", "config"))
    if not (opt.src / "model.safetensors").is_file():
        raise InputError(f"{opt.src / 'model.safetensors'} is missing")
    kept = kept_pieces(vocabulary, opt.pieces, movement_words() | (words_of(opt.texts) if opt.texts else set()))

    state = {}
    for name, tensor in load_file(opt.src / "model.safetensors").items():
        layer = re.search(r"encoder\.layer\.(\d+)\.", name)
        if layer and int(layer.group(1)) >= opt.layers:
            continue
        rows = tensor.shape[:1] == (len(vocabulary),)
        state[name] = tensor[torch.tensor(kept)].contiguous() if rows else tensor.contiguous()
    config |= {"vocab_size": len(kept), "num_hidden_layers": min(opt.layers, config["num_hidden_layers"])}
    write_text(opt.out / "config.json", json.dumps(config, indent=2) + "\n")
    write_text(opt.out / "vocab.txt", "".join(f"{vocabulary[number]}\n" for number in kept))
    with atomic_path(opt.out / "model.safetensors") as temporary:
        save_file(state, temporary)
    print(f"{len(kept)} of {len(vocabulary)} word pieces and {config['num_hidden_layers']} layers -> {opt.out}")


if __name__ == "__main__":
    main()
