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

BERT = "roberta-large"  # bert-score's default for English


def parse_tokenizer_evaluation(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line of ``eval_t2m_vq.py``."""
    parser = _parser("Evaluate a tokenizer on whole clips of a split.", "vq_demo", "tokenizer")
    add_evaluator(parser)
    return parser.parse_args(argv)


def parse_generation_evaluation(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line of ``eval_t2m_trans_res.py``."""
    parser = _parser("Evaluate text to motion on a split, with the base layer alone and with all layers.", "t2m_demo",
                     "masked transformer; its opt.txt names the tokenizer and LaMP model",
                     "; all: every checkpoint")
    add_evaluator(parser, "NAME|lamp:NAME|NAME,lamp:NAME",
                  "; lamp:NAME adds R-precision and MM-Dist with the features of this LaMP model")
    parser.add_argument("--res_name", help="residual transformer, or none for the base layer alone; default: the "
                        "bundled one with a bundled masked transformer, else none")
    parser.add_argument("--mm_texts", type=natural, default=100,
                        help="texts for multimodality, with 30 motions each; 0 skips it")
    parser.add_argument("--protocol", choices=("fast", "momask"), default="fast",
                        help="fast: all repeats share the multimodality motions; momask: new texts and motions in "
                             "every repeat, as in MoMask's evaluation")
    parser.add_argument("--batch_size", type=positive_int, default=8, help="motions per forward pass on the CPU")
    scores = parser.add_argument_group("LaMP-BertScore")
    scores.add_argument("--lamp_bertscore", action="store_true",
                      help="caption real and generated motions and score the captions against the prompts")
    scores.add_argument("--m2t_name", default="m2t_demo", help="captioning model")
    add_bert_score(scores, BERT)
    add_sampling(parser)
    return parser.parse_args(argv)


def parse_retrieval_evaluation(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line of ``eval_retrieval.py``."""
    parser = _parser("Evaluate text-to-motion and motion-to-text retrieval on a split.", "lamp_demo", "LaMP model")
    parser.add_argument("--sentences", default="words", metavar="words|lamp|BERT",
                        help="caption similarity: shared words, the LaMP model itself, or a BERT sentence encoder (a "
                             "folder or a Hugging Face name)")
    parser.add_argument("--similarity", choices=SIMILARITIES, default=SIMILARITIES[0],
                        help="mean: cosine to the mean of the motion's query outputs, as in search; paper: to the "
                             "closest query output; released: Euclidean distance without normalisation")
    return parser.parse_args(argv)


def _parser(description: str, name: str, what: str, epochs: str = "") -> Parser:
    parser = Parser(description)
    add_common(parser)
    add_speed(parser)
    add_data(parser)
    parser.add_argument("--name", default=name, help=what)
    parser.add_argument("--which_epoch", help=f"checkpoint to evaluate; default: the best one{epochs}")
    parser.add_argument("--split", default="test", help="split of the data set")
    parser.add_argument("--ext", type=plain_name, default="evaluation",
                        help="results go to eval/<ext>.log and .json in the model's folder")
    parser.add_argument("--repeat_times", type=positive_int, default=20, help="repeats for the confidence intervals")
    return parser
