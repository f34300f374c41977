"""Caption metrics: n-gram scores, BERTScore, text-motion matching and left/right accuracy.

Scores differ up to threefold with the preparation of the references, so ``M2T_eval.py`` saves its settings with every
result.
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
    """Most frequent ``lemma/POS`` of each word in the captions of ``pairs``.

    Text files store the lemma and part of speech of each word next to the caption. Captions whose words do not match
    them, because of punctuation or abbreviations, are skipped.
    """

    def __init__(self, pairs: "Iterable[Pair]", spacy: Callable | None = None) -> None:
        """``spacy`` is a pipeline that lemmatises captions in place of the lemmas of ``pairs``."""
        self._spacy = spacy
        self.by_spacy = spacy is not None
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        for pair in pairs:
            for caption, tokens in zip(pair.captions, pair.tokens, strict=True):
                words = caption.split()
                if len(words) == len(tokens):
                    for word, token in zip(words, tokens, strict=True):
                        counts[word][token] += 1
        self._tokens = {word: found.most_common(1)[0][0] for word, found in counts.items()}

    def __contains__(self, word: str) -> bool:
        return word in self._tokens

    def tokens(self, caption: str) -> list[str]:
        """``lemma/POS`` of each word of a cleaned caption. An unknown word is used as its lemma."""
        return [self._tokens.get(word, f"{word}/{UNKNOWN_CLASS}") for word in caption.split()]

    def lemmas(self, caption: str) -> str:
        """Lemmatise a cleaned caption."""
        return lemmas_of(self.tokens(caption) if self._spacy is None else tag_by_spacy(self._spacy, caption).split())

    @property
    def lemmatiser(self) -> str:
        """Name of the source of the lemmas, for logs."""
        return "the training captions" if self._spacy is None else f"spaCy ({SPACY_MODEL})"


def lemmas_of(tokens: Iterable[str]) -> str:
    """Join the lemmas of ``lemma/POS`` tokens."""
    return " ".join(token.rpartition("/")[0] or token for token in tokens)


OPPOSITES = (frozenset({"left", "right"}), frozenset({"clockwise", "counterclockwise"}))
MATCHING_BATCH = 32
SHUFFLES = 20
LONGEST = 512  # tokens that a BERT can read
_BERT_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "merges.txt",
               "special_tokens_map.json")


def ngram_scores(captions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """BLEU@1 to 4, ROUGE-L and CIDEr of captions against one or more references each, all times 100."""
    scores = coco_scores(captions, references)
    return {{"rougeL": "rouge_l"}.get(key, key): 100 * value for key, value in scores.items()}


def side_scores(captions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Left/right accuracy of captions.

    A motion has a side if its references name that side and never the opposite one. ``sided`` counts the captions of
    such motions that name a side; ``sides_right`` is the percentage of these that name only the correct one (omitted if
    there are none). A caption may count twice, for left/right and for the direction of a turn.
    """
    right = []
    for caption, texts in zip(captions, references, strict=True):
        named, true = side_words(caption), frozenset().union(*map(side_words, texts))
        right += [named & pair == true & pair for pair in OPPOSITES if named & pair and len(true & pair) == 1]
    return ({"sides_right": 100 * float(np.mean(right))} if right else {}) | {"sided": len(right)}


def matching_scores(texts: np.ndarray, motions: np.ndarray) -> dict[str, float]:
    """R-precision at 1, 2 and 3 in per cent and MM-Dist, from evaluator embeddings (n, e) of captions and their
    motions. R-precision is the mean over random batches of 32, because neighbouring clips of a data set are similar; it
    is omitted with fewer than 32 pairs."""
    from evaluation.metrics import matching_score, r_precision  # imports torch, which other scores do not need

    scores = {"mm_dist": matching_score(texts, motions)}
    if len(texts) < MATCHING_BATCH:
        return scores
    rng = np.random.default_rng(0)
    orders = [rng.permutation(len(texts)) for _ in range(SHUFFLES)]
    hits = 100 * np.mean([r_precision(texts[order], motions[order], batch=MATCHING_BATCH) for order in orders], 0)
    return {f"r_precision{k}": float(hit) for k, hit in enumerate(hits, 1)} | scores


def most_common_caption(pairs: "Sequence[Pair]") -> str:
    """Most frequent caption of the pairs; the first one on ties."""
    return Counter(caption for pair in pairs for caption in pair.captions).most_common(1)[0][0]


def nearest_captions(motions: np.ndarray, known: np.ndarray, pairs: "Sequence[Pair]") -> list[str]:
    """First caption of the nearest pair for each motion, from normalised features (n, e) and (pairs, e)."""
    return [pairs[int(row)].captions[0] for row in (motions @ known.T).argmax(1)]


@dataclass(frozen=True)
class BertScore:
    """BERTScore (Zhang et al. 2020): F1 in per cent, the best over references.

    Args:
        source: a name on the hub, or a folder in the Hugging Face layout.
        layer: hidden layer to compare; has a default for common models.
        rescale: whether to rescale by the baseline that ``bert-score`` has for the model and layer.

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
            raise InputError(f"--bert_score_model {self.source}: bert-score has no baseline to rescale it by")

    @property
    def settings(self) -> str:
        """Model, layer, rescaling and library version, for logs."""
        return (f"{self.source}, layer {self._layer()}, {'rescaled' if self.rescale else 'not rescaled'}, "
                f"bert-score {version('bert-score')}")

    def __call__(self, captions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
        """Mean F1 over captions, in per cent; an empty caption has 0."""
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
        except Exception as error:  # the libraries raise many kinds; all mean that this model cannot be used
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(f"--bert_score_model {self.source} layer {self._layer()}: {reason}") from error
        tokenizer = scorer._tokenizer  # a tokenizer without a known limit overflows
        tokenizer.model_max_length = min(tokenizer.model_max_length, LONGEST)
        return scorer

    def _layer(self) -> int:
        from bert_score.utils import model2layers

        return model2layers[self.source] if self.layer is None else self.layer

    def _baseline(self) -> Path:
        import bert_score

        return Path(bert_score.__file__).parent / "rescale_baseline" / "en" / f"{self.source}.tsv"


class CaptionScorer:
    """Scores one caption per clip of a split.

    Args:
        pairs: the clips with all their captions.
        lexicon: lemmas and parts of speech of generated words.
        references: ``verbatim`` scores texts unchanged, as is usual with COCO's scorers; ``raw`` cleans captions and
            references; ``lemmatised`` replaces the words of both by lemmas.
        bert: also compute BERTScore.
        embed_texts, motions: the evaluator's embedding function of ``word/POS`` captions, and its embeddings (n, e) of
            the clips; both are needed for R-precision and MM-Dist.
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
        lemmas = f"lemmas of the text files; captions lemmatised by {self.lexicon.lemmatiser}"
        style = {"verbatim": "unchanged", "raw": "as written, cleaned", "lemmatised": lemmas}[self.style]
        words = ("unchanged" if self.style == "verbatim" else
                 "lower case, no . ! \" ( ) * # : ; ~, at most 32")
        return {"reference_style": f"{style}; all of a clip's, {sum(map(len, self.references))} in all",
                "words": f"{words}, split at blanks; n-gram scores times 100",
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
        """R-precision and MM-Dist of the ground-truth captions (the first one of each clip)."""
        return matching_scores(self.embed_texts([pair.tokens[0] for pair in self.pairs]), self.motions)


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
