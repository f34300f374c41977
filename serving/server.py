"""Start the server of the app."""
import argparse
import importlib.util
import os
import signal
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from options.evaluate import LOOPBACK
from serving.asks import LIMITS
from serving.history import History
from serving.jobs import Jobs
from serving.models import load_models
from serving.rooms import LOCK, PREFIX, Rooms, sweep_leftovers
from serving.visitors import Doorkeeper, Guests
from serving.workshop import Workshop
from utils import InputError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gradio import Blocks
    from starlette.requests import Request
    from starlette.responses import Response

SWEEP_SECONDS = 60
USER = "lamp"  # user name for --password
NO_STORE = {"Cache-Control": "no-store"}


def require_gradio() -> None:
    """Raise ``InputError`` if Gradio is not installed."""
    if importlib.util.find_spec("gradio") is None:
        raise InputError("the app needs Gradio: pip install -r requirements-app.txt")


def serve(opt: argparse.Namespace) -> None:
    """Load the models and serve the page until the process is interrupted or terminated."""
    require_gradio()
    if opt.share or opt.host not in LOOPBACK:
        print("warning: other machines can reach the app"
              + ("" if opt.password else ", and anyone can use it; set a password with --password")
              + ("; its traffic goes through Gradio's servers" if opt.share else "; its traffic is not encrypted"))
    with ExitStack() as stack:
        rooms = Rooms(*root_of(opt, stack))
        models = load_models(opt)
        print(f"models: {models.names}")
        workshop = Workshop(models, rooms, models.pipeline.sampling.changed(vars(opt)))
        stop = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        page = open_page(workshop, opt)
        try:
            while not stop.wait(SWEEP_SECONDS):
                rooms.sweep()
        finally:
            page.close(verbose=False)


def root_of(opt: argparse.Namespace, stack: ExitStack) -> tuple[Path, float | None]:
    """Create and lock the folder for all files. Returns it and the number of seconds to keep files (None: no limit).

    The lock is released when ``stack`` is closed. Raises ``InputError`` if the folder cannot be created or is in use.
    """
    if opt.keep:
        folder = Path(opt.keep)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(folder / LOCK, timeout=0))
        except Timeout as error:
            raise InputError(f"--keep {folder}: another app uses this folder") from error
        except OSError as error:
            raise InputError(f"--keep {folder}: {error.strerror}") from error
        return folder, None
    if swept := sweep_leftovers(Path(tempfile.gettempdir())):
        print(f"deleted {swept} temporary folder{'s' * (swept > 1)} of an app that was killed")
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=PREFIX)))
    stack.enter_context(FileLock(folder / LOCK))
    return folder, 60 * opt.keep_minutes


def open_page(workshop: Workshop, opt: argparse.Namespace) -> "Blocks":
    """Start the server in background threads. Raises ``InputError`` if it does not answer at its address."""
    # Read by Gradio on import and for uploads: disable telemetry and set the upload folder.
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1",
                   "GRADIO_TEMP_DIR": str(workshop.rooms.uploads)}
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.routing import Route

    from serving.layout import Layout
    from serving.stage import ADDRESS, ARCHIVES, SCRIPTS, STYLE, theme

    tokens = workshop.rooms.root / "visitors.txt"
    known = set(tokens.read_text().split()) if tokens.is_file() else set()
    cookie = f"lamp_{opt.port}"

    def remember(token: str) -> None:
        with tokens.open("a") as file:
            file.write(f"{token}\n")

    scripts = "\n".join(script.read_text(encoding="utf-8") for script in SCRIPTS)
    jobs = Jobs(opt.max_waiting + 1, per_minute=opt.per_minute)
    page = Layout(workshop, History(workshop.rooms.root / "history"), jobs, Guests(cookie, known), opt.seed).build()
    page.queue(max_size=None, default_concurrency_limit=None, api_open=False)
    # Prevents DNS rebinding: a site whose name resolves to 127.0.0.1 could otherwise use the app.
    private = not opt.share and not opt.open and opt.password is None
    middleware = [
        Middleware(TrustedHostMiddleware, allowed_hosts=[*LOOPBACK, "[::1]"] if private else ["*"], www_redirect=False),
        Middleware(Doorkeeper, cookie=cookie, known=known, remember=remember, leave=jobs.cancel)]
    routes = [Route(f"/{ADDRESS}/{{room}}/{{file:path}}", lender(workshop.rooms)),
              Route(f"/{ARCHIVES}/{{ids}}", packer(workshop))]
    try:
        _, address, public = page.launch(
            server_name=opt.host, server_port=opt.port, share=opt.share, prevent_thread_lock=True, quiet=True,
            ssr_mode=False, footer_links=[], max_file_size=4 * LIMITS.upload_bytes, theme=theme(),
            head=f"<style>{STYLE.read_text(encoding='utf-8')}</style><script>{scripts}</script>",
            auth=None if opt.password is None else (USER, opt.password),
            app_kwargs={"routes": routes, "middleware": middleware})
    except OSError as error:
        raise InputError(f"cannot listen at --host {opt.host} --port {opt.port}: the port is in use, or the address is "
                         "not this machine's") from error
    except ValueError as error:  # Gradio requests its own page after the start
        raise InputError(f"the app at --host {opt.host} --port {opt.port} does not answer: the machine is busy, or "
                         "a proxy is set for local addresses") from error
    print(f"open {public or address} in a browser; Ctrl-C ends it", flush=True)
    return page


def lender(rooms: Rooms) -> "Callable[[Request], Awaitable[Response]]":
    """Return the request handler for result files. HTML pages are displayed, other files are downloaded."""
    from starlette.responses import FileResponse, PlainTextResponse

    async def lend(request: "Request") -> "Response":
        path = rooms.find(**request.path_params)
        if path is None:
            return PlainTextResponse("This has expired; open it from the history to generate it again.", 404)
        kind = "inline" if path.suffix == ".html" else "attachment"
        return FileResponse(path, headers=NO_STORE, filename=path.name, content_disposition_type=kind)

    return lend


def packer(workshop: Workshop) -> "Callable[[Request], Awaitable[Response]]":
    """Return the request handler for .zip archives. In the URL, motion ids are joined by "+"."""
    from starlette.concurrency import run_in_threadpool
    from starlette.responses import PlainTextResponse, Response

    async def pack(request: "Request") -> "Response":
        try:
            name, content = await run_in_threadpool(workshop.archive, request.path_params["ids"].split("+"))
        except InputError as error:
            return PlainTextResponse(str(error), 404)
        headers = NO_STORE | {"Content-Disposition": f'attachment; filename="{name}"'}
        return Response(content, headers=headers, media_type="application/zip")

    return pack
