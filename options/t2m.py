"""Options of the models conditioned on text features: masked transformer, residual transformer, length estimator."""
import argparse
from collections.abc import Sequence
from dataclasses import fields
from typing import get_args

from models.config import (
    ATTENTION_KINDS,
    BASE_SAMPLING,
    LENGTH_SAMPLING,
    RESIDUAL_SAMPLING,
    ConditionKind,
    MaskTransformerConfig,
    ResidualTransformerConfig,
    TransformerConfig,
)
from options.base import (
    Parser,
    add_balance,
    add_bank,
    add_chosen_by_fid,
    add_common,
    add_data,
    add_group_by_length,
    add_paraphrases,
    add_training,
    non_negative,
    positive_int,
    share,
)
from options.generate import add_model_sampling
from utils.errors import InputError


def parse_t2m_options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line of ``train_t2m_transformer.py``."""
    parser = Parser("Train the masked transformer, which predicts base-layer motion tokens from text features.")
    model = add_token_transformer(parser, MaskTransformerConfig)
    model.add_argument("--attention", choices=ATTENTION_KINDS,
                       help="full: bidirectional, best on openmotion; causal: as in the paper; additive: as in the "
                            "released weights")
    return parse_token_transformer(parser, MaskTransformerConfig, BASE_SAMPLING, argv)


def add_token_transformer(parser: Parser, config: type[TransformerConfig]) -> argparse._ArgumentGroup:
    """Add the training flags of a motion token transformer built from ``config``. Returns the group of its sizes."""
    parser.inherit([field.name for field in fields(config)])
    add_common(parser)
    add_data(parser)
    add_balance(parser)
    add_group_by_length(parser)
    add_paraphrases(parser)
    add_bank(parser)
    add_chosen_by_fid(parser)
    add_training(parser, batch_size=64, max_epoch=500, lr=2e-4, warm_up_iter=2000, gamma=0.1, milestones=[50000],
                 weight_decay=1e-5)
    parser.add_argument_group("model").add_argument(
        "--vq_name", required=True, help="motion tokenizer")
    add_text_condition(parser)
    model = parser.add_argument_group("model")
    model.add_argument("--latent_dim", type=positive_int, help="width")
    model.add_argument("--n_heads", type=positive_int, help="attention heads")
    model.add_argument("--n_layers", type=positive_int, help="layers")
    model.add_argument("--ff_size", type=positive_int, help="width of the feed-forward blocks")
    model.add_argument("--dropout", type=share, help="dropout")
    model.add_argument("--cond_drop_prob", type=share,
                       help="probability of dropping the text, for classifier-free guidance")
    model.add_argument("--cond_noise", type=non_negative, default=0.0, metavar="STD",
                       help="noise on text features in training, relative to their std, for robustness to unseen "
                            "wordings")
    model.add_argument("--encode_crops", action="store_true",
                       help="encode every training crop separately, as published, instead of cropping the tokens of "
                            "the whole clip; slower")
    model.add_argument("--codebook_start", action=argparse.BooleanOptionalAction, default=True,
                       help="initialise token embeddings from the codebook; otherwise randomly, as published")
    return model


def parse_token_transformer(parser: Parser, config: type[TransformerConfig], sampling: Sequence[str],
                            argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the options with the defaults of ``config`` and the ``sampling`` flags saved with the model. Raises
    ``InputError`` for incompatible sizes."""
    add_model_sampling(parser, sampling)
    parser.take_defaults(config)
    opt = parser.parse_args(argv)
    if opt.latent_dim % opt.n_heads:
        raise InputError(f"--latent_dim {opt.latent_dim} must be a multiple of --n_heads {opt.n_heads}")
    return opt


def add_text_condition(parser: Parser) -> None:
    """Add the flags that select the text features of a model."""
    parser.inherit(("text_encoder", "lamp_name", "condition"))
    parser.add_argument("--text_encoder", choices=("lamp", "clip"), default="lamp", help="source of text features")
    parser.add_argument("--lamp_name", help="LaMP model of the text features; default: the latest one")
    parser.add_argument("--condition", choices=get_args(ConditionKind), default="both",
                        help="LaMP text feature: mean of the query tokens (as in the paper), [CLS] state, or both")


def parse_res_options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line of ``train_res_transformer.py``."""
    parser = Parser("Train the residual transformer, which predicts the tokens of each layer from the layers below.")
    model = add_token_transformer(parser, ResidualTransformerConfig)
    model.add_argument("--share_weight", action=argparse.BooleanOptionalAction,
                       help="share weights between the token embedding and the output projection of a layer")
    model.add_argument("--published_behaviour", action="store_true",
                       help="reproduce the released code: duplicate products without --share_weight, sampled padding")
    parser.inherit(("published_behaviour",))
    return parse_token_transformer(parser, ResidualTransformerConfig, RESIDUAL_SAMPLING, argv)


def parse_length_options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line of ``train_len_estimator.py``."""
    parser = Parser("Train the length estimator, which predicts the number of motion tokens from text features.")
    add_common(parser)
    add_data(parser)
    add_paraphrases(parser)
    add_bank(parser)
    add_training(parser, batch_size=64, max_epoch=300, lr=1e-4, warm_up_iter=0, gamma=0.1, milestones=[],
                 weight_decay=0.0)
    add_text_condition(parser)
    add_model_sampling(parser, LENGTH_SAMPLING)
    return parser.parse_args(argv)
