"""Options of motion and caption search."""
import argparse
from collections.abc import Sequence

from data.text import clean_caption
from options.base import Parser, add_common, add_up, plain_name, positive_int
from utils.errors import InputError


def parse_search_options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line of ``search_motion.py``."""
    parser = Parser("Search motions by text or by a motion, or search captions by a motion.")
    add_common(parser)
    query = parser.add_argument_group("query")
    query.add_argument("--text", help="text query")
    query.add_argument("--motion", help="motion query: .npy of joints (T, 22, 3) or features (T, 263), .bvh or .amc")
    add_up(query)
    among = parser.add_argument_group("search in")
    among.add_argument("--gallery", help="folder of motions; only new and changed files are encoded")
    among.add_argument("--captions", help="file with one caption per line, to find those that describe --motion")
    among.add_argument("--cache", help="cache file of the encoded gallery; default: <gallery>.gallery.pt")
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
