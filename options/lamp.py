"""Options of language-motion pretraining."""
import argparse
from collections.abc import Sequence

from models.config import OBJECTIVES
from options.base import (
    Parser,
    add_balance,
    add_bank,
    add_common,
    add_data,
    add_paraphrases,
    add_training,
    bounded,
    natural,
    non_negative,
    positive_int,
    share,
)


def weighted_objective(text: str) -> tuple[str, float]:
    """Argparse type for an objective with an optional weight, ``ptc`` or ``ptc=0.5``."""
    name, separator, weight = text.partition("=")
    if name not in OBJECTIVES:
        raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(OBJECTIVES)}")
    try:
        return name, bounded(float, 0.0)(weight) if separator else 1.0
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: the weight is not a number") from error


def parse_lamp_options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line of ``train_lamp.py``."""
    parser = Parser("Pretrain LaMP: a Q-Former on captions and motions with four objectives.")
    add_common(parser)
    add_data(parser)
    add_balance(parser)
    add_paraphrases(parser)
    add_bank(parser)
    add_training(parser, batch_size=64, max_epoch=200, lr=1e-4, warm_up_iter=2000, weight_decay=0.05)
    parser.add_argument_group("model").add_argument(
        "--vq_name", required=True, help="motion tokenizer")
    text = parser.add_argument_group("text")
    text.add_argument("--bert", default="bert-base-uncased",
                      help="BERT to initialise from: a folder or a Hugging Face name; defines the model sizes; not "
                           "used with --init_from")
    text.add_argument("--bert_layers", type=natural, default=0, help="keep only the first N layers; 0: all")
    text.add_argument("--random_start", action="store_true",
                      help="use only the sizes and vocabulary of --bert, with random weights")
    text.add_argument("--freeze_words", action="store_true",
                      help="freeze BERT's word embeddings, so that words unseen in training keep their meaning")
    text.add_argument("--text_lr", type=non_negative, default=1.0, metavar="FACTOR",
                      help="learning rate factor of the BERT parameters; a small one preserves pretrained language")
    text.add_argument("--max_text_len", type=bounded(int, 3), default=32, help="maximum caption length in word pieces")
    model = parser.add_argument_group("model")
    model.add_argument("--encoder_width", type=positive_int, default=1408, help="width of the cross-attention input")
    model.add_argument("--embed_dim", type=positive_int, default=512, help="width of the joint embedding space")
    model.add_argument("--cross_attention_freq", type=positive_int, default=2, help="cross-attention every N layers")
    model.add_argument("--dropout", type=share, default=0.1, help="dropout of the Q-Former")
    model.add_argument("--attention_dropout", type=share, default=0.1,
                       help="dropout of the attention weights; 0 is much faster on a CPU")
    model.add_argument("--published_behaviour", action="store_true",
                       help="reproduce the released code: true pairs among the negatives, multiplied temperature, "
                            "random motion encoder, no masks")
    loss = parser.add_argument_group("objectives")
    loss.add_argument("--objectives", nargs="+", type=weighted_objective, metavar="NAME[=WEIGHT]",
                      default=[(name, 1.0) for name in OBJECTIVES],
                      help="contrastive (ptc), matching (ptm), motion to text (lm), text to motion (gen), with "
                           "weights, for example: --objectives ptc=1 lm=0.5")
    loss.add_argument("--mirrored_negatives", "--side_decoys", dest="side_decoys", action="store_true",
                      help="contrastive: add each caption with left and right swapped as a hard negative")
    loss.add_argument("--matching_rows", type=natural, default=0,
                      help="samples of a batch used for matching (three passes each); 0: all")
    parser.inherit(("max_text_len", "encoder_width", "embed_dim", "cross_attention_freq", "published_behaviour"))
    opt = parser.parse_args(argv)
    opt.objectives = dict(opt.objectives)
    return opt
