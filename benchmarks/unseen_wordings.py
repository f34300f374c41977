"""Evaluate LaMP on sentences not used in training: the held-out fifth of the language bank.

    python benchmarks/unseen_wordings.py --data_root DATA [--lamp_name lamp_demo]

DATA is a data set with ``contents.json``. A sentence counts as understood if its nearest training text (a caption or a
sentence of the bank) describes the same content, and the same side if the sentence names one. Retrieval measures how
often one of the top test clips shows that content and side.
"""
import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from data.dataset import dataset_spec
from data.language import classes, read_bank, sentences, with_bank
from data.text_motion import Pair, load_pairs
from evaluation.retrieval import best_ranks, motion_vectors
from models.lamp.features import encode_texts
from options.base import Parser, add_common, add_data
from storage.generation import load_lamp
from utils import script
from utils.files import write_text

SIDES = ("left", "right", "")


def training_texts(pairs: list[Pair]) -> dict[str, set[int]]:
    """Return the class numbers that each training text describes. A caption describes all classes of its clip."""
    texts: dict[str, set[int]] = {}
    for pair in pairs:
        if pair.contents:
            for caption in pair.captions:
                texts.setdefault(caption, set()).update(pair.contents)
            for sentence, content in zip(pair.sentences, pair.sentence_classes, strict=True):
                texts.setdefault(sentence, set()).add(content)
    return texts


def unseen(pairs: list[Pair]) -> list[tuple[str, int]]:
    """Return held-out sentences for the contents of ``pairs``, with their class numbers."""
    shown = {content for pair in pairs for content in pair.contents}
    found = {}
    for (content, side), number in classes().items():
        if number in shown:
            for text in sentences(content, side, held_out=True):
                found.setdefault(text, number)
    return list(found.items())


def report(vectors: np.ndarray, texts: list[set[int]], queries: np.ndarray, wanted: list[int]) -> dict[str, float]:
    """Print and return how often the nearest text in ``vectors`` (m, e) has the content and side of a query (n, e).

    ``texts`` and ``wanted`` are the class numbers of the texts and the queries. Returns the fractions for content and
    side, for the content alone, and per content.
    """
    nearest = (queries @ vectors.T).argmax(1)
    names = {number: content for (content, _), number in classes().items()}
    both = [want in texts[near] for want, near in zip(wanted, nearest, strict=True)]
    content = [names[want] in {names[one] for one in texts[near]} for want, near in zip(wanted, nearest, strict=True)]
    total, right = Counter(names[want] for want in wanted), Counter()
    for want, ok in zip(wanted, both, strict=True):
        right[names[want]] += ok
    worst = sorted(total, key=lambda name: right[name] / total[name])[:8]
    print(f"content and side {np.mean(both):.3f}   content {np.mean(content):.3f}   of {len(wanted)} sentences")
    print("lowest: " + ", ".join(f"{name} {right[name] / total[name]:.2f}" for name in worst))
    return {"content_and_side": float(np.mean(both)), "content": float(np.mean(content)),
            "by_content": {name: right[name] / total[name] for name in total}}


def recall(scores: np.ndarray, pairs: list[Pair], wanted: list[int]) -> dict[str, float]:
    """Return the fractions of sentences with a clip of their class in the top 1, 3 and 10 clips, ranked by ``scores``.

    Sentences whose class no clip has are not counted.
    """
    shows = np.array([[want in pair.contents for pair in pairs] for want in wanted])
    asked = shows.any(1)
    ranks = best_ranks(scores[asked], shows[asked])
    return {f"R@{k}": float((ranks <= k).mean()) for k in (1, 3, 10)}


@script
def main() -> None:
    parser = Parser(__doc__.splitlines()[0])
    add_common(parser)
    add_data(parser)
    parser.add_argument("--lamp_name", default="lamp_demo", help="LaMP model")
    parser.add_argument("--out", type=Path, help="write the results as JSON")
    opt = parser.parse_args()
    spec = dataset_spec(opt.dataset_name, opt.data_root)
    lamp = load_lamp(opt.lamp_name, spec, opt.checkpoints_dir)
    train, test = (with_bank(load_pairs(spec, split), spec) for split in ("train", "test"))
    texts, asked = training_texts(train), unseen(train)
    vectors, queries = (encode_texts(lamp.text_features, list(some), opt.quiet) for some in (texts, dict(asked)))
    wanted = [number for _, number in asked]
    figures = report(vectors.numpy(), list(texts.values()), queries.numpy(), wanted)
    motions = motion_vectors([lamp.normalisation.apply(pair.features) for pair in test], lamp.motion_features,
                             opt.quiet)
    figures |= recall(queries.numpy() @ motions.T, test, wanted)
    print("test clips of the content in the top results: "
          + "  ".join(f"{key} {figures[key]:.3f}" for key in ("R@1", "R@3", "R@10")))
    print(f"{len(read_bank())} contents")
    if opt.out:
        write_text(opt.out, json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
