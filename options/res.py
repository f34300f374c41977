"""Options of the residual transformer."""
import argparse
from collections.abc import Sequence

from models.config import RESIDUAL_SAMPLING, ResidualTransformerConfig
from options.base import Parser
from options.t2m import add_token_transformer, parse_token_transformer


def parse_res_options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line of ``train_res_transformer.py``."""
    parser = Parser("Train the residual transformer: motion tokens of each layer from those of the layers below.")
    model = add_token_transformer(parser, ResidualTransformerConfig)
    model.add_argument("--share_weight", action=argparse.BooleanOptionalAction,
                       help="one table for reading a layer's tokens and for predicting them")
    model.add_argument("--published_behaviour", action="store_true",
                       help="repeat the released code: products counted twice without --share_weight, padding drawn")
    parser.inherit(("published_behaviour",))
    return parse_token_transformer(parser, ResidualTransformerConfig, RESIDUAL_SAMPLING, argv)
