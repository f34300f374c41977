"""Serves the app, by default to this machine only, with all files in one temporary folder deleted at the end."""
import argparse
import importlib.util
import os
import signal
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from options.evaluate import LOOPBACK
from serving.inputs import Limits
from serving.models import load_models
from serving.rooms import Rooms
from serving.workshop import Workshop
from storage.checkpoint import model_names
from utils.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gradio import Blocks
    from starlette.requests import Request
    from starlette.responses import Response

SWEEP_SECONDS = 60
USER = "lamp"  # asked for with --password
# Browsers do not cache results, and only the app may frame their pages.
HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff",
           "Content-Security-Policy": "frame-ancestors 'self'"}


def require_gradio() -> None:
    """Raise ``InputError`` if Gradio is not installed."""
    if importlib.util.find_spec("gradio") is None:
        raise InputError("the app needs Gradio: pip install -r requirements-app.txt")


def serve(opt: argparse.Namespace) -> None:
    """Load the models and serve the page until the process is interrupted or terminated."""
    require_gradio()
    if opt.share or opt.host not in LOOPBACK:
        print("warning: anybody who can reach the address can use the app; --password asks for one")
    models = load_models(opt)
    print(f"models: {model_names(models.files)}")
    with tempfile.TemporaryDirectory(prefix="lamp_app_") as folder:
        rooms = Rooms(Path(folder), 60 * opt.keep_minutes)
        workshop = Workshop(models, rooms, models.pipeline.sampling.changed(vars(opt)), Limits())
        stop = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        page = open_page(workshop, opt)
        try:
            while not stop.wait(SWEEP_SECONDS):
                rooms.sweep()
        finally:
            page.close(verbose=False)


def open_page(workshop: Workshop, opt: argparse.Namespace) -> "Blocks":
    """Start serving the page in background threads. Raises ``InputError`` if the address is not available."""
    # Gradio reads these when it is imported and when it stores an upload: no telemetry, all files in one folder.
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1",
                   "GRADIO_TEMP_DIR": str(workshop.rooms.uploads)}
    from starlette.routing import Route

    from serving.layout import ADDRESS, STYLE, Layout, theme

    page = Layout(workshop, opt.seed).build()
    page.queue(max_size=opt.max_waiting, api_open=False)
    lend = Route(f"/{ADDRESS}/{{room}}/{{file:path}}", lender(workshop.rooms))
    try:
        _, address, public = page.launch(
            server_name=opt.host, server_port=opt.port, share=opt.share, prevent_thread_lock=True, quiet=True,
            ssr_mode=False, footer_links=[], max_file_size=4 * workshop.limits.upload_bytes, theme=theme(),
            css_paths=STYLE, auth=None if opt.password is None else (USER, opt.password),
            app_kwargs={"routes": [lend]})
    except OSError as error:
        raise InputError(f"cannot listen at --host {opt.host} --port {opt.port}: the port is in use, or the address is "
                         "not this machine's") from error
    print(f"open {public or address} in a browser; Ctrl-C ends it", flush=True)
    return page


def lender(rooms: Rooms) -> "Callable[[Request], Awaitable[Response]]":
    """A handler for files of rooms: pages are shown, other files are downloaded."""
    from starlette.responses import FileResponse, PlainTextResponse

    async def lend(request: "Request") -> "Response":
        path = rooms.find(**request.path_params)
        if path is None:
            return PlainTextResponse("This has expired; generate it again.", 404)
        kind = "inline" if path.suffix == ".html" else "attachment"
        return FileResponse(path, headers=HEADERS, filename=path.name, content_disposition_type=kind)

    return lend
