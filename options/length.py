"""Options of the length estimator."""
import argparse
from collections.abc import Sequence

from models.config import LENGTH_SAMPLING
from options.base import Parser, add_bank, add_common, add_data, add_paraphrases, add_training
from options.generate import add_model_sampling
from options.t2m import add_text_condition


def parse_length_options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line of ``train_len_estimator.py``."""
    parser = Parser("Train the length estimator: text features to the number of motion tokens.")
    add_common(parser)
    add_data(parser)
    add_paraphrases(parser)
    add_bank(parser)
    add_training(parser, batch_size=64, max_epoch=300, lr=1e-4, warm_up_iter=0, gamma=0.1, milestones=[],
                 weight_decay=0.0)
    add_text_condition(parser)
    add_model_sampling(parser, LENGTH_SAMPLING)
    return parser.parse_args(argv)
