"""Options of the search by words and motions."""
import argparse
from collections.abc import Sequence

from data.text import clean_caption
from options.base import Parser, add_common, add_up, plain_name, positive_int
from utils.errors import InputError


def parse_search_options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line of ``search_motion.py``."""
    parser = Parser("Find motions by words or by a motion, and captions by a motion.")
    add_common(parser)
    query = parser.add_argument_group("what to look for")
    query.add_argument("--text", help="words")
    query.add_argument("--motion", help=".npy of joints (T, 22, 3) or features (T, 263), .bvh or .amc")
    add_up(query)
    among = parser.add_argument_group("among what")
    among.add_argument("--gallery", help="folder of motions; encoded once, and again where files change")
    among.add_argument("--captions", help="file with one caption a line, to find those that tell --motion")
    among.add_argument("--cache", help="file that keeps the encoded gallery; <gallery>.gallery.pt by default")
    query.add_argument("--strict", action="store_true",
                       help="refuse a --text that is unlike what LaMP learned, or longer than it reads")
    parser.add_argument("--top_k", type=positive_int, default=10, help="how many to show")
    parser.add_argument("--name", default="lamp_demo", help="LaMP model")
    parser.add_argument("--which_epoch", help="checkpoint of it; the best one by default")
    parser.add_argument("--ext", type=plain_name, default="search", help="results go to <output_dir>/<ext>/search.json")
    parser.add_argument("--output_dir", default="generation", help="folder of all results")
    opt = parser.parse_args(argv)
    if (opt.text is None) == (opt.motion is None):
        raise InputError("give either --text or --motion to look for")
    if (opt.gallery is None) == (opt.captions is None):
        raise InputError("give either --gallery or --captions to look among")
    if opt.captions is not None and opt.motion is None:
        raise InputError("--captions goes with --motion: captions are found by a motion")
    if opt.text is not None and not clean_caption(opt.text):
        raise InputError("--text: there are no words to look for")
    return opt
