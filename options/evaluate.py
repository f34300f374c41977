"""Options of the evaluation scripts."""
import argparse
from collections.abc import Sequence

from models.config import SIMILARITIES
from options.base import (
    Parser,
    add_bert_score,
    add_common,
    add_data,
    add_evaluator,
    add_speed,
    natural,
    plain_name,
    positive_int,
)
from options.generate import add_sampling

BERT = "roberta-large"  # what bert-score takes for English


def parse_tokenizer_evaluation(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line of ``eval_t2m_vq.py``."""
    parser = _parser("Evaluate a tokenizer on whole clips of a split.", "vq_demo", "tokenizer")
    add_evaluator(parser)
    return parser.parse_args(argv)


def parse_generation_evaluation(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line of ``eval_t2m_trans_res.py``."""
    parser = _parser("Evaluate text to motion on a split, with the base layer alone and with all layers.", "t2m_demo",
                     "masked transformer; it names its tokenizer and LaMP model", "; all takes every one there is")
    add_evaluator(parser, "NAME|lamp:NAME|NAME,lamp:NAME",
                  "; lamp:NAME adds R-precision and MM-Dist with the features of this LaMP model")
    parser.add_argument("--res_name", help="residual transformer, or none for the base layer alone; by default the "
                        "bundled one with a bundled masked transformer, else none")
    parser.add_argument("--mm_texts", type=natural, default=100,
                        help="texts of multimodality, of each 30 motions; 0 leaves it out")
    parser.add_argument("--protocol", choices=("fast", "momask"), default="fast",
                        help="fast: all repeats share the motions of multimodality; momask: other texts and motions in "
                             "every repeat, as in its evaluation")
    parser.add_argument("--batch_size", type=positive_int, default=8, help="motions of a pass, on the CPU")
    told = parser.add_argument_group("LaMP-BertScore")
    told.add_argument("--lamp_bertscore", action="store_true",
                      help="caption real and generated motions, and score the captions against the prompts")
    told.add_argument("--m2t_name", default="m2t_demo", help="M2T model that captions them")
    add_bert_score(told, BERT)
    add_sampling(parser)
    return parser.parse_args(argv)


def parse_retrieval_evaluation(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line of ``eval_retrieval.py``."""
    parser = _parser("Evaluate retrieval both ways on whole clips of a split.", "lamp_demo", "LaMP model")
    parser.add_argument("--sentences", default="words", metavar="words|lamp|BERT",
                        help="which captions are alike: by their words, by the LaMP model itself, or by a sentence "
                             "encoder with a BERT inside, a folder or a name on the hub")
    parser.add_argument("--similarity", choices=SIMILARITIES, default=SIMILARITIES[0],
                        help="mean: cosine to the mean of a motion's queries, as in search; paper: to the nearest "
                             "query; released: Euclidean distance of features that are not normalised")
    return parser.parse_args(argv)


def _parser(description: str, name: str, what: str, epochs: str = "") -> Parser:
    parser = Parser(description)
    add_common(parser)
    add_speed(parser)
    add_data(parser)
    parser.add_argument("--name", default=name, help=what)
    parser.add_argument("--which_epoch", help=f"checkpoint to evaluate; the best one by default{epochs}")
    parser.add_argument("--split", default="test", help="split of the data set")
    parser.add_argument("--ext", type=plain_name, default="evaluation",
                        help="results: eval/<ext>.log and .json of the model")
    parser.add_argument("--repeat_times", type=positive_int, default=20, help="repeats that the intervals are over")
    return parser
