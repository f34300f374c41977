"""N-gram scores of captions with COCO's scorers (``pycocoevalcap``), and of a file; needs no model, data set or torch.

The scorers split texts at spaces and compare words unchanged: no lower-casing, no removal of punctuation, no PTB
tokenizer (which needs Java). CIDEr computes its document frequencies from the given references.
"""
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from utils.errors import InputError
from utils.files import read_text, write_text

SHOWN = {"bleu1": "BLEU@1", "bleu2": "BLEU@2", "bleu3": "BLEU@3", "bleu4": "BLEU@4", "rougeL": "ROUGE-L",
         "cider": "CIDEr", "bertscore": "BERTScore"}


def coco_scores(captions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """BLEU@1 to 4, ROUGE-L and CIDEr of captions against one or more references each, as fractions."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    made = {number: [caption] for number, caption in enumerate(captions)}
    true = {number: list(texts) for number, texts in enumerate(references)}
    bleu, _ = Bleu(4).compute_score(true, made, verbose=0)
    rouge, _ = Rouge().compute_score(true, made)
    cider, _ = Cider().compute_score(true, made)
    return {**{f"bleu{n}": float(score) for n, score in enumerate(bleu, 1)}, "rougeL": float(rouge),
            "cider": float(cider)}


def read_scored(path: str | Path) -> tuple[list[str], list[list[str]]]:
    """Read captions and their references from a JSON list of ``{"references": [...], "caption": "..."}``.

    Raises ``InputError`` with the number of the entry, from 1, that does not have this form.
    """
    try:
        entries = json.loads(read_text(path, "captions and their references"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: {error}") from error
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{path} must be a list of objects with caption and references, at least one")
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, dict) or not isinstance(entry.get("caption"), str):
            raise InputError(f"{path}, entry {number}: it has no text under caption")
        texts = entry.get("references")
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise InputError(f"{path}, entry {number}: references must be a list of texts, at least one")
    return [entry["caption"] for entry in entries], [entry["references"] for entry in entries]


def report_scores(scores: Mapping[str, float], out: str | Path | None) -> None:
    """Print scores under their usual names, and write them to ``out`` as JSON."""
    for key, value in scores.items():
        print(f"{SHOWN[key]:<10}{value:.4f}")
    if out:
        write_text(out, json.dumps(scores, indent=1) + "\n")
        print(f"Wrote {out}")
