"""Options of motion to text. Public commands write them with dashes, and some under names of their own."""
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
# Facts about the tokenizer that public commands repeat.
TOKENIZER_FACTS = ("nb_code", "down_t", "depth", "dilation_growth_rate", "vq_act")
# Facts about the decoder that the public command of the evaluation repeats.
DECODER_FACTS = {"num_layers": int, "embed_dim_gpt": int, "n_head_gpt": int, "block_size": int, "ff_rate": int,
                 "drop_out_rate": float}


class DashedParser(Parser):
    """Accepts every flag with dashes and underscores, and some under their public names."""

    def spellings(self, flags: Sequence[str]) -> Sequence[str]:
        """Underscores, dashes and public names."""
        return [*dict.fromkeys([*flags, *(PUBLIC_NAMES.get(flag, flag.replace("_", "-")) for flag in flags)])]


def parse_m2t_options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line of ``train_m2t.py``."""
    parser = DashedParser("Train motion to text: LaMP's motion features as the prefix of a language model.")
    add_common(parser)
    add_data(parser)
    add_balance(parser)
    add_paraphrases(parser)
    add_bank(parser)
    add_training(parser, batch_size=80, max_epoch=100000, lr=5e-5, warm_up_iter=0, gamma=0.05, milestones=[75000],
                 weight_decay=1e-6)
    parser.set_defaults(total_iter=150000, eval_every_e=0)
    parser.add_argument("--lamp_name", help="LaMP model to start from; by default the tokenizer's one trained last")
    parser.add_argument("--eval_iter", type=positive_int, default=10000,
                        help="steps between validations, to whole epochs, where --eval_every_e is not given")
    parser.add_argument("--pkeep", type=share, default=1.0,
                        help="share of a caption's words that the decoder sees unchanged while it learns")
    parser.add_argument("--qformer_lr", type=non_negative, default=0.0,
                        help="rate of LaMP's Q-Former and queries, as a share of --lr; 0 keeps them as they are")
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
    """Command line of ``M2T_eval.py``."""
    parser = DashedParser("Evaluate motion to text: caption scores on a split, with two baselines beside them.")
    add_common(parser)
    add_data(parser)
    parser.add_argument("--name", default="M2T", help="name of the evaluation: eval/<name>.log and .json of the model")
    parser.add_argument("--resume_trans", default="m2t_demo",
                        help="M2T model: a name, a folder, or a checkpoint in one")
    parser.add_argument("--which_epoch", help="checkpoint to evaluate; the best one by default")
    parser.add_argument("--split", default="test", help="split of the data set")
    parser.add_argument("--batch_size", type=positive_int, default=32, help="motions that are captioned together")
    _add_out_dir(parser, "captions, beside their references")
    add_writing(parser)
    scores = parser.add_argument_group("scores")
    scores.add_argument("--references", choices=REFERENCES, default="verbatim",
                        help="verbatim: COCO's scorers on texts as they stand, as published; raw: cleaned on both "
                             "sides; lemmatised: lemmas on both sides, by spaCy where it is installed")
    scores.add_argument("--score_captions", metavar="FILE.json",
                        help='score the captions of a file instead, a list of {"references": [...], "caption": "..."}; '
                             "needs no model and no data set")
    scores.add_argument("--out", metavar="FILE", help="with --score_captions: write the scores as JSON, as shares of 1")
    add_bert_score(scores)
    add_evaluator(scores)
    scores.add_argument("--baselines", action=argparse.BooleanOptionalAction, default=True,
                        help="score the most common caption, and that of the nearest training motion, too")
    _add_tokenizer(parser)
    decoder = parser.add_argument_group("decoder", "Its own opt.txt counts; what differs here is told.")
    for key, kind in DECODER_FACTS.items():
        decoder.add_argument(f"--{key.replace('_', '-')}", type=kind, help="of the model")
    training = parser.add_argument_group("training", "Of the public command; an evaluation has no use for them.")
    for flag in ("--total-iter", "--lr-scheduler", "--lr", "--eval-iter", "--pkeep"):
        training.add_argument(flag, type=float, help="not used")
    return parser.parse_args(argv)


def parse_caption_options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line of ``gen_m2t.py``."""
    parser = DashedParser("Caption motions: a table in the terminal, and <output_dir>/<ext>/captions.json.")
    add_common(parser)
    parser.add_argument("--motion", required=True,
                        help="a file or a folder: .npy of joints (T, 22, 3) or features (T, 263), .bvh or .amc")
    add_up(parser)
    parser.add_argument("--name", default="m2t_demo", help="M2T model; it names its LaMP model")
    parser.add_argument("--which_epoch", help="checkpoint of it; the best one by default")
    parser.add_argument("--num_captions", type=positive_int, default=1, help="captions a motion")
    parser.add_argument("--ext", type=plain_name, default="motion2text", help="results go to <output_dir>/<ext>")
    parser.add_argument("--output_dir", default="generation", help="folder of all results")
    add_writing(parser)
    return parser.parse_args(argv)


def add_writing(parser: argparse.ArgumentParser, default: str | None = argparse.SUPPRESS) -> None:
    """How captions are written: flags for the fields of ``Writing``. With the usual ``default``, those that are not
    given are absent from the options, as they come from the model."""
    writing = parser.add_argument_group("writing", "Part of the model: in its opt.txt, or as published.")
    writing.add_argument("--num_beams", "--num-beams", type=positive_int, default=default,
                         help="width of the beam search; 1 takes the likeliest word each time")
    writing.add_argument("--top_p", "--top-p", type=bounded(float, 0.01, 1.0), default=default,
                         help="below 1: sample words from the likeliest that make up this share, instead of searching")
    writing.add_argument("--temperature", type=bounded(float, 0.01), default=default, help="of this sampling")
    writing.add_argument("--prompt", default=default, help="words that every caption begins with")
    writing.add_argument("--prompt_in_caption", "--prompt-in-caption", action=argparse.BooleanOptionalAction,
                         default=default, help="whether captions include the prompt; published scores leave it out")


def _add_tokenizer(parser: argparse.ArgumentParser) -> None:
    tokenizer = parser.add_argument_group("tokenizer", "Its own opt.txt counts; what differs here is told.")
    tokenizer.add_argument("--resume-pth", help="tokenizer of LaMP: a name, a folder, or a checkpoint in one")
    tokenizer.add_argument("--vq-name", "--vq_name", help="the same by name, where --resume-pth is not given")
    for flag in ("--nb-code", "--down-t", "--depth", "--dilation-growth-rate"):
        tokenizer.add_argument(flag, type=positive_int, help="of the tokenizer")
    tokenizer.add_argument("--vq-act", help="activation of the tokenizer")
    tokenizer.add_argument("--quantizer", choices=("ema_reset",), default="ema_reset",
                           help="kind of the tokenizer's codebooks; there is one")


def _add_decoder(parser: argparse.ArgumentParser) -> None:
    decoder = parser.add_argument_group("decoder")
    decoder.add_argument("--decoder", choices=DECODERS,
                         help="gpt: trained from nothing; opt: a pretrained model with LoRA (needs peft)")
    decoder.add_argument("--num-layers", type=positive_int, help="gpt: layers")
    decoder.add_argument("--embed-dim-gpt", type=positive_int, help="gpt: width")
    decoder.add_argument("--n-head-gpt", type=positive_int, help="gpt: attention heads")
    decoder.add_argument("--ff-rate", type=positive_int, help="gpt: width of the feed-forward blocks, in widths")
    decoder.add_argument("--drop-out-rate", type=share, help="gpt: dropout")
    decoder.add_argument("--block-size", type=bounded(int, 3),
                         help="word pieces of a caption, start and end among them")
    decoder.add_argument("--llm", help="opt: a causal language model, a folder or a name on the hub")
    decoder.add_argument("--llm-precision", choices=tuple(PRECISIONS),
                         help="opt: kind of numbers its frozen weights are kept in")
    decoder.add_argument("--lora-r", type=positive_int, help="opt: rank of the adapters")
    decoder.add_argument("--lora-alpha", type=positive_int, help="opt: scale, over the rank")
    decoder.add_argument("--lora-dropout", type=share, help="opt: of the adapters")


def _add_out_dir(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--out_dir", default="output", help=f"{what} go to <out_dir>/<name>")


def _check_decoder(opt: argparse.Namespace) -> None:
    if opt.embed_dim_gpt % opt.n_head_gpt:
        raise InputError(f"--embed-dim-gpt {opt.embed_dim_gpt} must be a multiple of --n-head-gpt {opt.n_head_gpt}")
