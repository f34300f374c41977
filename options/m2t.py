"""Options of motion captioning, with the dashes and flag names of the public commands."""
import argparse
from collections.abc import Sequence
from dataclasses import fields

from data.text import REFERENCES
from models.config import DECODERS, PRECISIONS, WRITING, DecoderConfig, Writing
from options.base import (
    Parser,
    add_balance,
    add_bank,
    add_bert_score,
    add_common,
    add_data,
    add_evaluator,
    add_paraphrases,
    add_training,
    add_up,
    bounded,
    non_negative,
    plain_name,
    positive_int,
    share,
)
from utils.errors import InputError

PUBLIC_NAMES = {"--name": "--exp-name", "--dataset_name": "--dataname", "--milestones": "--lr-scheduler",
                "--init_from": "--resume-trans"}
# Tokenizer settings that the public commands repeat.
TOKENIZER_FACTS = ("nb_code", "down_t", "depth", "dilation_growth_rate", "vq_act")
# Decoder settings that the public evaluation command repeats.
DECODER_FACTS = {"num_layers": int, "embed_dim_gpt": int, "n_head_gpt": int, "block_size": int, "ff_rate": int,
                 "drop_out_rate": float}


class DashedParser(Parser):
    """Accepts every flag with dashes and underscores, and some under their public names."""

    def spellings(self, flags: Sequence[str]) -> Sequence[str]:
        """Return all spellings of a flag: underscores, dashes and public name."""
        return [*dict.fromkeys([*flags, *(PUBLIC_NAMES.get(flag, flag.replace("_", "-")) for flag in flags)])]


def parse_m2t_options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line of ``train_m2t.py``."""
    parser = DashedParser("Train motion captioning: a language model with LaMP's motion features as its prefix.")
    add_common(parser)
    add_data(parser)
    add_balance(parser)
    add_paraphrases(parser)
    add_bank(parser)
    add_training(parser, batch_size=80, max_epoch=100000, lr=5e-5, warm_up_iter=0, gamma=0.05, milestones=[75000],
                 weight_decay=1e-6)
    parser.set_defaults(total_iter=150000, eval_every_e=0)
    parser.add_argument("--lamp_name", help="LaMP model; default: the latest one trained on the tokenizer")
    parser.add_argument("--eval_iter", type=positive_int, default=10000,
                        help="steps between validations, rounded to epochs; ignored with --eval_every_e")
    parser.add_argument("--pkeep", type=share, default=1.0,
                        help="probability of keeping an input word in training; others are replaced")
    parser.add_argument("--qformer_lr", type=non_negative, default=0.0,
                        help="learning rate factor of LaMP's Q-Former and query tokens; 0 freezes them")
    _add_tokenizer(parser)
    _add_decoder(parser)
    _add_out_dir(parser, "captions of the validation clips")
    add_writing(parser, default=None)
    parser.take_defaults(DecoderConfig)
    parser.take_defaults(Writing, only=WRITING)
    parser.inherit(["lamp_name", *(field.name for field in fields(DecoderConfig)), *WRITING])
    opt = parser.parse_args(argv)
    _check_decoder(opt)
    return opt


def parse_m2t_evaluation(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line of ``M2T_eval.py``."""
    parser = DashedParser("Evaluate motion captioning: caption scores on a split, with two baselines.")
    add_common(parser)
    add_data(parser)
    parser.add_argument("--name", default="M2T", help="name of the evaluation: eval/<name>.log and .json of the model")
    parser.add_argument("--resume_trans", default="m2t_demo",
                        help="M2T model: a name, a folder, or a checkpoint in one")
    parser.add_argument("--which_epoch", help="checkpoint to evaluate; default: the best one")
    parser.add_argument("--split", default="test", help="split of the data set")
    parser.add_argument("--batch_size", type=positive_int, default=32, help="motions per batch")
    _add_out_dir(parser, "captions and references")
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
                        help="also score the most common caption and that of the nearest training motion")
    _add_tokenizer(parser)
    decoder = parser.add_argument_group("decoder", "Settings come from the model's opt.txt; differences are reported.")
    for key, kind in DECODER_FACTS.items():
        decoder.add_argument(f"--{key.replace('_', '-')}", type=kind, help="expected value")
    for flag in ("--total-iter", "--lr-scheduler", "--lr", "--eval-iter", "--pkeep"):  # of the public command, unused
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


def add_writing(parser: argparse.ArgumentParser, default: str | None = argparse.SUPPRESS) -> None:
    """Add flags for the fields of ``Writing``. By default, flags that are not given are absent from the options;
    their values come from the model."""
    writing = parser.add_argument_group("decoding", "Defaults: the model's opt.txt, else the published values.")
    writing.add_argument("--num_beams", "--num-beams", type=positive_int, default=default,
                         help="width of the beam search; 1: greedy decoding")
    writing.add_argument("--top_p", "--top-p", type=bounded(float, 0.01, 1.0), default=default,
                         help="below 1: nucleus sampling with this probability mass, instead of beam search")
    writing.add_argument("--temperature", type=bounded(float, 0.01), default=default,
                         help="temperature of nucleus sampling")
    writing.add_argument("--prompt", default=default, help="words at the start of every caption")
    writing.add_argument("--prompt_in_caption", "--prompt-in-caption", action=argparse.BooleanOptionalAction,
                         default=default, help="include the prompt in captions; published scores exclude it")


def _add_tokenizer(parser: argparse.ArgumentParser) -> None:
    tokenizer = parser.add_argument_group("tokenizer",
                                          "Settings come from the tokenizer's opt.txt; differences are reported.")
    tokenizer.add_argument("--resume-pth", help="tokenizer of LaMP: a name, a folder or a checkpoint")
    tokenizer.add_argument("--vq-name", "--vq_name", help="tokenizer name, without --resume-pth")
    for flag in ("--nb-code", "--down-t", "--depth", "--dilation-growth-rate"):
        tokenizer.add_argument(flag, type=positive_int, help="expected value")
    tokenizer.add_argument("--vq-act", help="expected activation")
    tokenizer.add_argument("--quantizer", choices=("ema_reset",), default="ema_reset", help=argparse.SUPPRESS)


def _add_decoder(parser: argparse.ArgumentParser) -> None:
    decoder = parser.add_argument_group("decoder")
    decoder.add_argument("--decoder", choices=DECODERS,
                         help="gpt: trained from scratch; opt: a pretrained model with LoRA (needs peft)")
    decoder.add_argument("--num-layers", type=positive_int, help="gpt: layers")
    decoder.add_argument("--embed-dim-gpt", type=positive_int, help="gpt: width")
    decoder.add_argument("--n-head-gpt", type=positive_int, help="gpt: attention heads")
    decoder.add_argument("--ff-rate", type=positive_int, help="gpt: feed-forward width as a multiple of the width")
    decoder.add_argument("--drop-out-rate", type=share, help="gpt: dropout")
    decoder.add_argument("--block-size", type=bounded(int, 3),
                         help="maximum caption length in word pieces, including start and end")
    decoder.add_argument("--llm", help="opt: causal language model, a folder or a Hugging Face name")
    decoder.add_argument("--llm-precision", choices=tuple(PRECISIONS),
                         help="opt: precision of the frozen weights")
    decoder.add_argument("--lora-r", type=positive_int, help="opt: LoRA rank")
    decoder.add_argument("--lora-alpha", type=positive_int, help="opt: LoRA alpha (scale times rank)")
    decoder.add_argument("--lora-dropout", type=share, help="opt: LoRA dropout")


def _add_out_dir(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--out_dir", default="output", help=f"{what} go to <out_dir>/<name>")


def _check_decoder(opt: argparse.Namespace) -> None:
    if opt.embed_dim_gpt % opt.n_head_gpt:
        raise InputError(f"--embed-dim-gpt {opt.embed_dim_gpt} must be a multiple of --n-head-gpt {opt.n_head_gpt}")
