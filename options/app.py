"""Options of the app in the browser."""
import argparse
from collections.abc import Sequence

from options.base import Parser, add_common, bounded, positive_int
from options.generate import add_models, add_sampling
from utils.errors import InputError

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def parse_app_options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line of ``app.py``."""
    parser = Parser("Generate, edit, caption and search motions in a browser.")
    add_common(parser)
    page = parser.add_argument_group("page")
    page.add_argument("--host", default="127.0.0.1",
                      help="address to listen at; 0.0.0.0 lets other machines in")
    page.add_argument("--password", help="ask for this password, user name lamp")
    page.add_argument("--open", action="store_true", help="allow --host and --share without a password")
    page.add_argument("--port", type=bounded(int, 1, 65535), default=7860, help="port to listen at")
    page.add_argument("--share", action="store_true",
                      help="a public address for some days, through Gradio's servers")
    page.add_argument("--max_waiting", type=positive_int, default=16,
                      help="length of the queue; more requests are refused")
    page.add_argument("--keep_minutes", type=positive_int, default=120,
                      help="how long files are kept, less if they exceed 4 GiB; all are deleted when the app ends")
    search = parser.add_argument_group("search")
    search.add_argument("--gallery", help="folder of motions to search in; encoded once, changed files again")
    search.add_argument("--cache", help="file with the encoded gallery; default: <gallery>.gallery.pt")
    add_models(parser)
    models = parser.add_argument_group("models of the other tabs")
    models.add_argument("--m2t_name", help="captioning model; default: m2t_demo, if it exists")
    models.add_argument("--lamp_name", help="LaMP model for search; default: lamp_demo, if it exists")
    add_sampling(parser, lengths=True)
    opt = parser.parse_args(argv)
    if (opt.share or opt.host not in LOOPBACK) and not opt.open and opt.password is None:
        raise InputError("other machines could use the app: give it a --password, or --open for everybody")
    return opt
