"""Caption metrics: n-gram scores, BERTScore, text-motion matching and left/right accuracy.

Scores differ by up to a factor of three depending on how references are prepared, so ``M2T_eval.py`` reports these
settings.
"""
import json
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data.text import SPACY_MODEL, clean_caption, side_words, tag_by_spacy
from utils import InputError
from utils.files import model_folder, read_text, silent_transformers, write_text

if TYPE_CHECKING:
    from bert_score import BERTScorer

    from data.text_motion import Pair

UNKNOWN_CLASS = "OTHER"


class Lexicon:
    """Dictionary that maps each word to its most frequent lemma and part of speech in the captions of ``pairs``.

    Text files store ``lemma/POS`` tokens next to each caption. A caption is skipped if its numbers of words and tokens
    differ, for example because of punctuation or abbreviations.
    """

    def __init__(self, pairs: "Iterable[Pair]", spacy: Callable | None = None) -> None:
        """Count the tokens of ``pairs``. If a spaCy pipeline is given, ``lemmas`` uses it instead of these counts."""
        self.spacy = spacy
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        for pair in pairs:
            for caption, tokens in zip(pair.captions, pair.tokens, strict=True):
                words = caption.split()
                if len(words) == len(tokens):
                    for word, token in zip(words, tokens, strict=True):
                        counts[word][token] += 1
        self._tokens = {word: found.most_common(1)[0][0] for word, found in counts.items()}

    def tokens(self, caption: str) -> list[str]:
        """Return ``lemma/POS`` for each word of a cleaned caption. The lemma of an unknown word is the word itself."""
        return [self._tokens.get(word, f"{word}/{UNKNOWN_CLASS}") for word in caption.split()]

    def lemmas(self, caption: str) -> str:
        """Lemmatise a cleaned caption."""
        return lemmas_of(self.tokens(caption) if self.spacy is None else tag_by_spacy(self.spacy, caption).split())


def lemmas_of(tokens: Iterable[str]) -> str:
    """Join the lemmas of ``lemma/POS`` tokens into a string."""
    return " ".join(token.rpartition("/")[0] or token for token in tokens)


OPPOSITES = (frozenset({"left", "right"}), frozenset({"clockwise", "counterclockwise"}))
MATCHING_BATCH = 32
SHUFFLES = 20
LONGEST = 512  # maximum number of tokens for BERT
_BERT_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "merges.txt",
               "special_tokens_map.json")


def ngram_scores(captions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Compute BLEU@1 to 4, ROUGE-L and CIDEr, times 100, of captions with one or more references each."""
    scores = coco_scores(captions, references)
    return {{"rougeL": "rouge_l"}.get(key, key): 100 * value for key, value in scores.items()}


def side_scores(captions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Compute the left/right accuracy of captions.

    A motion has a side if its references name that side and never the opposite side. ``sided`` counts the captions of
    such motions that name a side. ``sides_right`` is the percentage of these captions that name only the correct side;
    it is omitted if there are none. A caption may count twice: for left/right and for the direction of a turn.
    """
    right = []
    for caption, texts in zip(captions, references, strict=True):
        named, true = side_words(caption), frozenset().union(*map(side_words, texts))
        right += [named & pair == true & pair for pair in OPPOSITES if named & pair and len(true & pair) == 1]
    return ({"sides_right": 100 * float(np.mean(right))} if right else {}) | {"sided": len(right)}


def matching_scores(texts: np.ndarray, motions: np.ndarray) -> dict[str, float]:
    """Compute R-precision at 1 to 3 (per cent) and MM-Dist from evaluator embeddings (n, e) of captions and motions.

    R-precision is averaged over random batches of 32, because consecutive clips of a data set are similar. It is
    omitted if there are fewer than 32 pairs.
    """
    from evaluation.metrics import matching_score, r_precision  # imports torch, which other scores do not need

    scores = {"mm_dist": matching_score(texts, motions)}
    if len(texts) < MATCHING_BATCH:
        return scores
    rng = np.random.default_rng(0)
    orders = [rng.permutation(len(texts)) for _ in range(SHUFFLES)]
    hits = 100 * np.mean([r_precision(texts[order], motions[order], batch=MATCHING_BATCH) for order in orders], 0)
    return {f"r_precision{k}": float(hit) for k, hit in enumerate(hits, 1)} | scores


def most_common_caption(pairs: "Sequence[Pair]") -> str:
    """Return the most frequent caption of ``pairs``. If several are equally frequent, return the first."""
    return Counter(caption for pair in pairs for caption in pair.captions).most_common(1)[0][0]


def nearest_captions(motions: np.ndarray, known: np.ndarray, pairs: "Sequence[Pair]") -> list[str]:
    """For each motion, return the first caption of the nearest pair.

    ``motions`` (n, e) and ``known`` (pairs, e) are normalised features of the motions and of ``pairs``.
    """
    return [pairs[int(row)].captions[0] for row in (motions @ known.T).argmax(1)]


@dataclass(frozen=True)
class BertScore:
    """BERTScore (Zhang et al. 2020): F1 with the best reference, in per cent.

    Args:
        source: model name on the Hugging Face hub, or a folder in its layout.
        layer: hidden layer to compare; common models have a default.
        rescale: rescale by the baseline that ``bert-score`` provides for the model and layer.

    Raises ``InputError`` if the model, its layer or its baseline is missing.
    """

    source: str
    layer: int | None = None
    rescale: bool = False
    device: str = "cpu"

    def __post_init__(self) -> None:
        from bert_score.utils import model2layers

        if self.layer is None and self.source not in model2layers:
            raise InputError(f"--bert_score_model {self.source}: set its layer with --bert_score_layer")
        if self.rescale and not self._baseline().is_file():
            raise InputError(f"--bert_score_model {self.source}: bert-score has no rescaling baseline for it")

    @property
    def settings(self) -> str:
        """Model, layer, rescaling and library version, for logs."""
        return (f"{self.source}, layer {self._layer()}, {'rescaled' if self.rescale else 'not rescaled'}, "
                f"bert-score {version('bert-score')}")

    def __call__(self, captions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
        """Return the mean F1 over captions in per cent. An empty caption scores 0."""
        pairs = [(caption, list(texts)) for caption, texts in zip(captions, references, strict=True) if caption.strip()]
        if not pairs:
            return 0.0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _, _, f1 = self._scorer.score(*map(list, zip(*pairs, strict=True)))
        return 100 * float(f1.sum()) / len(captions)

    @cached_property
    def _scorer(self) -> "BERTScorer":
        from bert_score import BERTScorer

        folder = model_folder(self.source, "BERTScore model", _BERT_FILES)
        try:
            with silent_transformers():
                scorer = BERTScorer(str(folder), num_layers=self._layer(), device=self.device, lang="en",
                                    rescale_with_baseline=self.rescale, baseline_path=str(self._baseline()))
        except Exception as error:  # the libraries raise many types for an unusable model
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(f"--bert_score_model {self.source} layer {self._layer()}: {reason}") from error
        tokenizer = scorer._tokenizer  # overflows without a length limit
        tokenizer.model_max_length = min(tokenizer.model_max_length, LONGEST)
        return scorer

    def _layer(self) -> int:
        from bert_score.utils import model2layers

        return model2layers[self.source] if self.layer is None else self.layer

    def _baseline(self) -> Path:
        import bert_score

        return Path(bert_score.__file__).parent / "rescale_baseline" / "en" / f"{self.source}.tsv"


class CaptionScorer:
    """Scorer of generated captions, one for each clip of a split.

    Args:
        pairs: clips with their reference captions.
        lexicon: lemmas and parts of speech of generated words.
        references: ``verbatim`` scores texts unchanged, as is usual with the COCO scorers; ``raw`` cleans captions and
            references; ``lemmatised`` also replaces their words with lemmas.
        bert: BERTScore to compute as well.
        embed_texts: function from captions, as ``word/POS`` tokens, to evaluator embeddings.
        motions: evaluator embeddings (n, e) of the clips. Needed with ``embed_texts`` for R-precision and MM-Dist.
    """

    def __init__(self, pairs: "Sequence[Pair]", lexicon: Lexicon, references: str = "verbatim",
                 bert: BertScore | None = None,
                 embed_texts: Callable[[Sequence[Sequence[str]]], np.ndarray] | None = None,
                 motions: np.ndarray | None = None) -> None:
        self.pairs, self.lexicon, self.bert = pairs, lexicon, bert
        self.embed_texts, self.motions = embed_texts, motions
        self.style = references
        self.references = [tuple(map(lemmas_of, pair.tokens)) if references == "lemmatised" else
                           pair.verbatim or pair.captions if references == "verbatim" else pair.captions
                           for pair in pairs]

    @property
    def settings(self) -> dict[str, str]:
        """Reference style, text cleaning and BERTScore settings, for logs."""
        lemmatiser = "the training captions" if self.lexicon.spacy is None else f"spaCy ({SPACY_MODEL})"
        lemmas = f"lemmas of the text files; captions lemmatised by {lemmatiser}"
        style = {"verbatim": "unchanged", "raw": "as written, cleaned", "lemmatised": lemmas}[self.style]
        words = ("unchanged" if self.style == "verbatim" else
                 "lower case, no . ! \" ( ) * # : ; ~, at most 32")
        return {"reference_style": f"{style}; {sum(map(len, self.references))} references",
                "words": f"{words}, split at spaces; n-gram scores times 100",
                "bert_score": self.bert.settings if self.bert else "not computed"}

    def __call__(self, captions: Sequence[str]) -> dict[str, float]:
        """Compute all scores for one caption per clip."""
        cleaned = [clean_caption(caption) for caption in captions]
        compared = {"verbatim": list(captions), "raw": cleaned}.get(self.style)
        if compared is None:
            compared = [self.lexicon.lemmas(caption) for caption in cleaned]
        scores = ngram_scores(compared, self.references)
        if self.bert is not None:
            scores["bert_score"] = self.bert(compared, self.references)
        if self.embed_texts is not None:
            scores |= matching_scores(self.embed_texts([self.lexicon.tokens(caption) for caption in cleaned]),
                                      self.motions)
        return scores | side_scores(cleaned, [pair.captions for pair in self.pairs])

    def of_references(self) -> dict[str, float]:
        """Compute R-precision and MM-Dist of the first reference caption of each clip."""
        return matching_scores(self.embed_texts([pair.tokens[0] for pair in self.pairs]), self.motions)


SHOWN = {"bleu1": "BLEU@1", "bleu2": "BLEU@2", "bleu3": "BLEU@3", "bleu4": "BLEU@4", "rougeL": "ROUGE-L",
         "cider": "CIDEr", "bertscore": "BERTScore"}


def coco_scores(captions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Compute BLEU@1 to 4 and ROUGE-L, as fractions, and CIDEr, for captions with one or more references each."""
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
    """Read captions and references from a JSON list of ``{"references": [...], "caption": "..."}``.

    Raises ``InputError`` for a file that does not have this form. The message gives the number of an invalid entry,
    counted from 1.
    """
    try:
        entries = json.loads(read_text(path, "captions and their references"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: {error}") from error
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{path} must be a non-empty list of objects with caption and references")
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, dict) or not isinstance(entry.get("caption"), str):
            raise InputError(f"{path}, entry {number}: caption must be a string")
        texts = entry.get("references")
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise InputError(f"{path}, entry {number}: references must be a non-empty list of strings")
    return [entry["caption"] for entry in entries], [entry["references"] for entry in entries]


def report_scores(scores: Mapping[str, float], out: str | Path | None) -> None:
    """Print scores under their usual names and, if ``out`` is given, write them to it as JSON."""
    for key, value in scores.items():
        print(f"{SHOWN[key]:<10}{value:.4f}")
    if out:
        write_text(out, json.dumps(scores, indent=1) + "\n")
        print(f"wrote {out}")
