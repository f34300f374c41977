"""Fit the prompt-familiarity model of a LaMP model: cluster centres of its training texts, and a threshold.

    python prepare/familiarity.py --lamp_name lamp_demo --data_root DATA

Writes ``familiarity.safetensors`` (under 1 MB) to the model's folder. The threshold is fitted on texts not seen in
training: validation captions and, if DATA has ``contents.json``, held-out wordings of the language bank. Two thirds of
the lines of ``assets/language/unknown_prompts.txt`` serve as unknown texts; the remaining lines are used to measure the
detection rate.
"""
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import utils  # noqa: F401 (sets the thread policy before torch is loaded)

# isort: split
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from data.dataset import DatasetSpec, dataset_spec, read_ids
from data.language import CONTENTS, sentences
from data.text import clean_caption, read_captions
from models.lamp.features import Familiarity, familiarity_of, word_means
from options.base import Parser, add_common, add_data, positive_int
from storage.generation import FAMILIARITY_FILE, LoadedLaMP, load_lamp, save_familiarity
from utils import InputError, script
from utils.files import ROOT, read_text

UNKNOWN = ROOT / "assets" / "language" / "unknown_prompts.txt"
HELD_OUT = 3        # every third unknown text is held out for evaluation
KEPT = 0.955        # minimum fraction of each kind of known texts above the threshold
LONGEST_LABEL = 60  # characters
NEAREST_TEXTS = 5   # the shortest of them becomes the label of a centre
BATCH = 1024


def k_means(vectors: Tensor, count: int, generator: torch.Generator, rounds: int = 5) -> Tensor:
    """Cluster normalised vectors (n, h) by cosine. Returns at most ``count`` normalised centres (k, h)."""
    centres = vectors[torch.randperm(len(vectors), generator=generator)[:count]].clone()
    for _ in range(rounds):
        nearest = torch.cat([(part @ centres.T).argmax(1) for part in vectors.split(4096)])
        sums = torch.zeros_like(centres).index_add_(0, nearest, vectors)
        used = sums.norm(dim=1) > 0
        centres[used] = F.normalize(sums[used], dim=1)
    return centres


def captions(spec: DatasetSpec, split: str) -> set[str]:
    """Return the cleaned captions of a split."""
    return {clean_caption(caption.text) for name in read_ids(spec, split)
            for caption in read_captions(spec.root / "texts" / f"{name}.txt")} - {""}


def wordings(spec: DatasetSpec, held_out: bool) -> set[str]:
    """Return the sentences of the language bank for the contents of the training split.

    If ``held_out`` is True, these are the held-out sentences, else the training sentences. Without ``contents.json``,
    there are none.
    """
    path = spec.root / CONTENTS
    if not path.is_file():
        return set()
    listed, train = json.loads(read_text(path, "contents")), set(read_ids(spec, "train"))
    shown = {tuple(one[:2]) for name, entry in listed.items() if name in train
             for one in entry["contents"] + entry["stretches"]}
    return {text for content, side in shown for text in sentences(content, side, held_out)}


def vectors_of(lamp: LoadedLaMP, texts: list[str]) -> Tensor:
    """Compute text vectors (n, h) in batches."""
    return torch.cat([word_means(lamp.model, lamp.pieces, texts[first:first + BATCH], lamp.max_text_len)
                      for first in range(0, len(texts), BATCH)])


def labels_of(centres: Tensor, texts: list[str], vectors: Tensor) -> tuple[str, ...]:
    """Return a label for each centre: the shortest of the ``NEAREST_TEXTS`` texts that are nearest to it."""
    short = [row for row, text in enumerate(texts) if len(text) <= LONGEST_LABEL] or list(range(len(texts)))
    near = torch.cat([(part @ vectors[short].T).topk(min(NEAREST_TEXTS, len(short)), 1).indices
                      for part in centres.split(BATCH)])
    return tuple(min((texts[short[column]] for column in row), key=len) for row in near.tolist())


@script
def main() -> None:
    parser = Parser(__doc__.splitlines()[0])
    add_common(parser)
    add_data(parser)
    parser.add_argument("--lamp_name", default="lamp_demo", help="LaMP model")
    parser.add_argument("--unknown", type=Path, default=UNKNOWN, help="file of unknown texts, one per line")
    parser.add_argument("--centres", type=positive_int, default=1800, help="k-means centres")
    opt = parser.parse_args()
    spec = dataset_spec(opt.dataset_name, opt.data_root)
    lamp = load_lamp(opt.lamp_name, spec, opt.checkpoints_dir)
    unknown = [clean_caption(line) or line for line in read_text(opt.unknown, "unknown texts").splitlines()
               if line.strip() and not line.startswith("#")]
    if len(unknown) < HELD_OUT:
        raise InputError(f"{opt.unknown} has {len(unknown)} texts; at least {HELD_OUT} are needed")
    texts = sorted(captions(spec, "train") | wordings(spec, held_out=False))
    vectors = vectors_of(lamp, texts)
    centres = k_means(vectors, opt.centres, torch.Generator().manual_seed(opt.seed))
    examples = [text for number, text in enumerate(unknown, 1) if number % HELD_OUT]
    known = Familiarity(centres, labels_of(centres, texts, vectors), vectors_of(lamp, examples), 0.0)

    def scores(some: list[str]) -> np.ndarray:
        return torch.cat([familiarity_of(known, lamp.model, lamp.pieces, some[first:first + BATCH], lamp.max_text_len)
                          for first in range(0, len(some), BATCH)]).numpy()

    checked = {"validation captions": captions(spec, "val") - set(texts),
               "unseen wordings": wordings(spec, held_out=True) - set(texts)}
    measured = {name: scores(sorted(some)) for name, some in checked.items() if some}
    if not measured:
        raise InputError(f"{spec.root} has no validation texts that are absent from training")
    threshold = min(float(np.quantile(found, 1 - KEPT)) for found in measured.values())
    path = lamp.source.folder / FAMILIARITY_FILE
    save_familiarity(path, Familiarity(centres, known.labels, known.foreign, threshold))
    for name, found in measured.items():
        print(f"{name}: {(found >= threshold).mean():.1%} of {len(found)} kept")
    held_out = unknown[HELD_OUT - 1::HELD_OUT]
    missed = [text for text, score in zip(held_out, scores(held_out), strict=True) if score >= threshold]
    print(f"unknown texts: {1 - len(missed) / len(held_out):.1%} of {len(held_out)} found; missed: {', '.join(missed)}")
    print(f"{len(centres)} centres of {len(texts)} texts, threshold {threshold:.3f} -> {path} "
          f"({path.stat().st_size / 2**20:.2f} MB)")


if __name__ == "__main__":
    main()
