"""Options of the evaluation scripts, captioning, search and the browser app."""
import argparse
from collections.abc import Sequence

from data.text import REFERENCES, clean_caption
from models.config import SIMILARITIES
from options.base import (
    DashedParser,
    Parser,
    add_bert_score,
    add_caption_tokenizer,
    add_common,
    add_data,
    add_evaluator,
    add_speed,
    add_up,
    add_writing,
    bounded,
    natural,
    plain_name,
    positive_int,
)
from options.generate import add_models, add_sampling
from utils import InputError

BERT = "roberta-large"  # default of bert-score for English


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


# Settings of the decoder that are also flags of the published evaluation command.
DECODER_FACTS = {"num_layers": int, "embed_dim_gpt": int, "n_head_gpt": int, "block_size": int, "ff_rate": int,
                 "drop_out_rate": float}


def parse_m2t_evaluation(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line of ``M2T_eval.py``."""
    parser = DashedParser("Evaluate motion captioning: caption scores on a split, with two baselines.")
    add_common(parser)
    add_data(parser)
    parser.add_argument("--name", type=plain_name,
                        help="name of the report, eval/<name>.log and .json in the model's folder; default: M2T")
    parser.add_argument("--resume_trans",
                        help="captioning model: a name, a folder, or a checkpoint file; default: the run --name if it "
                             "exists, else m2t_demo")
    parser.add_argument("--which_epoch", help="checkpoint to evaluate; default: the best one")
    parser.add_argument("--split", default="test", help="split of the data set")
    parser.add_argument("--batch_size", type=positive_int, default=32, help="motions per batch")
    parser.add_argument("--out_dir", default="output", help="captions and references go to <out_dir>/<name>")
    add_writing(parser)
    scores = parser.add_argument_group("scores")
    scores.add_argument("--references", choices=REFERENCES, default="verbatim",
                        help="verbatim: COCO scorers on unchanged texts, as published; raw: cleaned captions and "
                             "references; lemmatised: lemmas of both, from spaCy if installed")
    scores.add_argument("--score_captions", metavar="FILE.json",
                        help='score a JSON list of {"references": [...], "caption": "..."} instead; needs no model '
                             "and no data set")
    scores.add_argument("--out", metavar="FILE",
                        help="with --score_captions: write the scores as JSON, in [0, 1] except CIDEr")
    add_bert_score(scores)
    add_evaluator(scores)
    scores.add_argument("--baselines", action=argparse.BooleanOptionalAction, default=True,
                        help="also score two baselines: the most common caption, and the caption of the nearest "
                             "training motion")
    add_caption_tokenizer(parser)
    decoder = parser.add_argument_group("decoder", "Settings come from the model's opt.txt; differences are reported.")
    for key, kind in DECODER_FACTS.items():
        decoder.add_argument(f"--{key.replace('_', '-')}", type=kind, help="expected value")
    for flag in ("--total-iter", "--lr-scheduler", "--lr", "--eval-iter", "--pkeep"):  # in the published command
        parser.add_argument(flag, type=float, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def parse_caption_options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line of ``gen_m2t.py``."""
    parser = DashedParser("Caption motions. Prints a table and writes <output_dir>/<ext>/captions.json.")
    add_common(parser)
    parser.add_argument("--motion", required=True,
                        help="file or folder: .npy of joints (T, 22, 3) or features (T, 263), .bvh or .amc")
    add_up(parser)
    parser.add_argument("--name", default="m2t_demo", help="captioning model; its opt.txt names the LaMP model")
    parser.add_argument("--which_epoch", help="checkpoint of the model; default: the best one")
    parser.add_argument("--num_captions", type=positive_int, default=1, help="captions per motion")
    parser.add_argument("--ext", type=plain_name, default="motion2text", help="results go to <output_dir>/<ext>")
    parser.add_argument("--output_dir", default="generation", help="folder of all results")
    add_writing(parser)
    return parser.parse_args(argv)


def parse_search_options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line of ``search_motion.py``."""
    parser = Parser("Search motions by text or by a motion, or search captions by a motion.")
    add_common(parser)
    query = parser.add_argument_group("query")
    query.add_argument("--text", help="text query")
    query.add_argument("--motion", help="motion query: .npy of joints (T, 22, 3) or features (T, 263), .bvh or .amc")
    add_up(query)
    among = parser.add_argument_group("search in")
    _add_gallery(among)
    among.add_argument("--captions", help="file with one caption per line, to find captions that describe --motion")
    query.add_argument("--strict", action="store_true",
                       help="refuse a --text that is unlike the training texts or exceeds the text length limit")
    parser.add_argument("--top_k", type=positive_int, default=10, help="number of results")
    parser.add_argument("--name", default="lamp_demo", help="LaMP model")
    parser.add_argument("--which_epoch", help="checkpoint of the LaMP model; default: the best one")
    parser.add_argument("--ext", type=plain_name, default="search", help="results go to <output_dir>/<ext>/search.json")
    parser.add_argument("--output_dir", default="generation", help="folder of all results")
    opt = parser.parse_args(argv)
    if (opt.text is None) == (opt.motion is None):
        raise InputError("give either --text or --motion")
    if (opt.gallery is None) == (opt.captions is None):
        raise InputError("give either --gallery or --captions")
    if opt.captions is not None and opt.motion is None:
        raise InputError("--captions goes with --motion")
    if opt.text is not None and not clean_caption(opt.text):
        raise InputError("--text: the query has no words")
    return opt


def _add_gallery(group: argparse._ActionsContainer) -> None:
    group.add_argument("--gallery", help="folder of motions to search; only new and changed files are encoded")
    group.add_argument("--cache", help="cache file of the encoded gallery; default: <gallery>.gallery.pt")


LOOPBACK = ("127.0.0.1", "localhost", "::1")


def parse_app_options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line of ``app.py``."""
    parser = Parser("Generate, edit, caption and search motions in a browser.")
    add_common(parser)
    page = parser.add_argument_group("page")
    page.add_argument("--host", default="127.0.0.1",
                      help="address to listen on; 0.0.0.0 accepts connections from other machines")
    page.add_argument("--password", help="require this password; the user name is lamp")
    page.add_argument("--open", action="store_true", help="allow --host and --share without a password")
    page.add_argument("--port", type=bounded(int, 1, 65535), default=7860, help="port to listen on")
    page.add_argument("--share", action="store_true",
                      help="create a temporary public URL through Gradio's servers")
    page.add_argument("--max_waiting", type=positive_int, default=16,
                      help="queue length; further requests are refused")
    page.add_argument("--keep_minutes", type=positive_int, default=120,
                      help="minutes to keep files, less if they exceed 4 GiB; all are deleted on exit")
    page.add_argument("--keep", metavar="DIR",
                      help="keep files and the history of every visitor in DIR after the app ends; up to 4 GiB")
    page.add_argument("--per_minute", type=positive_int, default=60, help="maximum requests per visitor and minute")
    _add_gallery(parser.add_argument_group("search"))
    add_models(parser)
    models = parser.add_argument_group("models of the other tabs")
    models.add_argument("--m2t_name", help="captioning model; default: m2t_demo, if it exists")
    models.add_argument("--lamp_name", help="LaMP model for search; default: lamp_demo, if it exists")
    add_sampling(parser, lengths=True)
    opt = parser.parse_args(argv)
    if (opt.share or opt.host not in LOOPBACK) and not opt.open and opt.password is None:
        raise InputError("other machines could use the app: set a --password, or --open to allow everyone")
    return opt
