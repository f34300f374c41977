"""Options of the browser app."""
import argparse
from collections.abc import Sequence

from options.base import Parser, add_common, bounded, positive_int
from options.generate import add_models, add_sampling
from utils.errors import InputError

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def parse_app_options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line of ``app.py``."""
    parser = Parser("Generate, edit, caption and search motions in a browser.")
    add_common(parser)
    page = parser.add_argument_group("page")
    page.add_argument("--host", default="127.0.0.1",
                      help="address to listen on; 0.0.0.0 accepts connections from other machines")
    page.add_argument("--password", help="require this password; the user name is lamp")
    page.add_argument("--open", action="store_true", help="allow --host and --share without a password")
    page.add_argument("--port", type=bounded(int, 1, 65535), default=7860, help="port to listen on")
    page.add_argument("--share", action="store_true",
                      help="create a temporary public URL through Gradio's servers")
    page.add_argument("--max_waiting", type=positive_int, default=16,
                      help="queue length; further requests are refused")
    page.add_argument("--keep_minutes", type=positive_int, default=120,
                      help="minutes to keep files, less if they exceed 4 GiB; all are deleted on exit")
    search = parser.add_argument_group("search")
    search.add_argument("--gallery", help="folder of motions to search; only new and changed files are encoded")
    search.add_argument("--cache", help="cache file of the encoded gallery; default: <gallery>.gallery.pt")
    add_models(parser)
    models = parser.add_argument_group("models of the other tabs")
    models.add_argument("--m2t_name", help="captioning model; default: m2t_demo, if it exists")
    models.add_argument("--lamp_name", help="LaMP model for search; default: lamp_demo, if it exists")
    add_sampling(parser, lengths=True)
    opt = parser.parse_args(argv)
    if (opt.share or opt.host not in LOOPBACK) and not opt.open and opt.password is None:
        raise InputError("other machines could use the app: set a --password, or --open to allow everyone")
    return opt
