"""Options of the evaluation scripts."""
import argparse
from collections.abc import Sequence

from options.base import Parser, add_common, add_data


def parse_evaluate_options(description: str, what: str, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line of a script that evaluates one named model, which is a ``what``."""
    parser = Parser(description)
    add_common(parser)
    add_data(parser)
    parser.add_argument("--name", required=True, help=what)
    parser.add_argument("--which_epoch", help="checkpoint to evaluate; the best one by default")
    parser.add_argument("--split", default="test", help="split of the data set")
    parser.add_argument("--ext", default="evaluation", help="results: eval/<ext>.log and .json of the model")
    return parser.parse_args(argv)
