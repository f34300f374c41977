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
    """An argparse type: an objective with its weight, ``ptc`` or ``ptc=0.5``."""
    name, separator, weight = text.partition("=")
    if name not in OBJECTIVES:
        raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(OBJECTIVES)}")
    try:
        return name, bounded(float, 0.0)(weight) if separator else 1.0
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: the weight is not a number") from error


def parse_lamp_options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line of ``train_lamp.py``."""
    parser = Parser("Pretrain LaMP: one Q-Former between captions and motions, four objectives.")
    add_common(parser)
    add_data(parser)
    add_balance(parser)
    add_paraphrases(parser)
    add_bank(parser)
    add_training(parser, batch_size=64, max_epoch=200, lr=1e-4, warm_up_iter=2000, weight_decay=0.05)
    parser.add_argument_group("model").add_argument(
        "--vq_name", required=True, help="tokenizer whose encoder and tokens LaMP learns on")
    text = parser.add_argument_group("text")
    text.add_argument("--bert", default="bert-base-uncased",
                      help="BERT to start from: a folder, or a name on the hub; all sizes are read from it. With "
                           "--init_from none is read: sizes and word pieces are those of that model")
    text.add_argument("--bert_layers", type=natural, default=0, help="keep only so many of its layers; 0 keeps all")
    text.add_argument("--random_start", action="store_true", help="take only sizes and vocabulary from --bert")
    text.add_argument("--freeze_words", action="store_true",
                      help="keep BERT's word embeddings, so that words no caption has stay near those they mean like")
    text.add_argument("--text_lr", type=non_negative, default=1.0, metavar="FACTOR",
                      help="learning rate of BERT's own parameters as a factor of --lr; a small one keeps its English")
    text.add_argument("--max_text_len", type=bounded(int, 3), default=32, help="word pieces of a caption")
    model = parser.add_argument_group("model")
    model.add_argument("--encoder_width", type=positive_int, default=1408, help="width that cross attention reads")
    model.add_argument("--embed_dim", type=positive_int, default=512, help="width of the compared features")
    model.add_argument("--cross_attention_freq", type=positive_int, default=2, help="cross attention every so many")
    model.add_argument("--dropout", type=share, default=0.1, help="dropout of the Q-Former")
    model.add_argument("--attention_dropout", type=share, default=0.1,
                       help="dropout of its attention weights; 0 makes a step on a CPU much faster")
    model.add_argument("--published_behaviour", action="store_true",
                       help="repeat the released code: true pairs among the negatives, temperature that "
                            "multiplies, random motion encoder, no masks")
    loss = parser.add_argument_group("objectives")
    loss.add_argument("--objectives", nargs="+", type=weighted_objective, metavar="NAME[=WEIGHT]",
                      default=[(name, 1.0) for name in OBJECTIVES],
                      help="contrastive (ptc), matching (ptm), motion to text (lm), text to motion (gen), and their "
                           "weights: --objectives ptc=1 lm=0.5")
    loss.add_argument("--mirrored_negatives", "--side_decoys", dest="side_decoys", action="store_true",
                      help="contrastive: add each caption with left and right exchanged as a negative")
    loss.add_argument("--matching_rows", type=natural, default=0,
                      help="rows of a batch that take part in matching (three passes a row); 0 takes all")
    parser.inherit(("max_text_len", "encoder_width", "embed_dim", "cross_attention_freq", "published_behaviour"))
    opt = parser.parse_args(argv)
    opt.objectives = dict(opt.objectives)
    return opt
