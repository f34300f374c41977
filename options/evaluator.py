"""Options of evaluator training."""
import argparse
from collections.abc import Sequence
from dataclasses import fields

from models.config import UNIT_LENGTH, EvaluatorConfig
from options.base import Parser, add_common, add_data, add_training, bounded, non_negative, positive_int
from utils.errors import InputError


def parse_evaluator_options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line of ``train_evaluator.py``."""
    parser = Parser("Train the evaluator: a movement autoencoder, then text-motion matching.")
    add_common(parser)
    add_data(parser)
    add_training(parser, batch_size=32, max_epoch=300, lr=1e-4, warm_up_iter=0, gamma=0.1, milestones=[],
                 weight_decay=0.0)
    data = parser.add_argument_group("data")
    data.add_argument("--glove", default="glove", help="folder of word vectors (our_vab_*); copied into the run")
    data.add_argument("--feat_bias", type=bounded(float, 0.01), default=5.0,
                      help="weight factor of root motion")
    movement = parser.add_argument_group("movement autoencoder, trained first as run <name>_movement")
    movement.add_argument("--movement_iter", type=positive_int, default=30000, help="steps")
    movement.add_argument("--movement_batch_size", type=positive_int, default=128, help="windows per step")
    movement.add_argument("--movement_lr", type=non_negative, default=1e-4, help="learning rate")
    movement.add_argument("--window_size", type=bounded(int, 8), default=64, help="frames of a window")
    movement.add_argument("--smoothness", type=non_negative, default=0.001,
                          help="weight of the difference of successive latents")
    movement.add_argument("--sparsity", type=non_negative, default=0.001, help="weight of the latent norm")
    matching = parser.add_argument_group("matching")
    matching.add_argument("--margin", type=non_negative, default=10.0,
                          help="contrastive margin between texts and unrelated motions")
    matching.add_argument("--negatives", type=positive_int, default=1,
                          help="negatives per text, taken from shifted copies of the batch")
    matching.add_argument("--tune_movement", action="store_true", help="fine-tune the movement encoder")
    model = parser.add_argument_group("model")
    model.add_argument("--dim_movement_enc_hidden", type=positive_int, help="channels of the movement encoder")
    model.add_argument("--dim_movement_latent", type=positive_int, help="width of the movement latent")
    model.add_argument("--dim_motion_hidden", type=positive_int, help="width of the motion GRU")
    model.add_argument("--dim_text_hidden", type=positive_int, help="width of the text GRU")
    model.add_argument("--dim_coemb_hidden", type=positive_int, help="width of the embeddings")
    parser.take_defaults(EvaluatorConfig)
    parser.inherit([field.name for field in fields(EvaluatorConfig)])
    opt = parser.parse_args(argv)
    if opt.window_size % UNIT_LENGTH:
        raise InputError(f"--window_size {opt.window_size} must be a multiple of a movement's {UNIT_LENGTH} frames")
    if opt.batch_size < 2:
        raise InputError("--batch_size must be at least 2: negatives come from the batch")
    return opt
