"""Helpers for tests of web pages: embedded data, and headless Chromium if it is installed."""
import json
import re
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright

from motion.skeleton import T2M
from visualization.html import PAGE, PageMotion, write_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium")
# WebGL without a graphics card; a sandbox needs rights that containers lack.
FLAGS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]
AXE = PAGE / "node_modules" / "axe-core" / "axe.min.js"
needs_axe = pytest.mark.skipif(not AXE.is_file(), reason="axe-core is not there: npm ci --prefix visualization/page")
SIZES = ((390, 844), (768, 1024), (1280, 800), (1920, 1080))  # phone, tablet, laptop, desktop
# A checkbox is pressed on its label.
SMALL = """[...document.querySelectorAll('button, select, summary, input, a')].filter(each => each.checkVisibility())
    .map(each => ['checkbox', 'radio'].includes(each.type) ? each.closest('label') : each)
    .map(each => [each.id || each.ariaLabel || each.textContent, each.getBoundingClientRect()])
    .filter(([, box]) => box.width < 43.9 || box.height < 43.9)
    .map(([name, box]) => `${name}: ${box.width} x ${box.height}`)"""
PATIENCE = 120_000  # milliseconds: drawing without a graphics card is slow on a busy machine


def axe_faults(page: Page) -> list[str]:
    """Return the accessibility violations that axe finds in a page, without its frames."""
    page.evaluate(AXE.read_text(encoding="utf-8"))
    return page.evaluate("axe.run(document, {iframes: false}).then(done => done.violations.map("
                         "each => `${each.id}: ${each.nodes.map(node => node.html).join(' ')}`))")


def small_targets(page: Page) -> list[str]:
    """Return the controls that are too small for touch, once the layout has settled."""
    for _ in range(20):
        found = page.evaluate(SMALL)
        if not found:
            break
        page.wait_for_timeout(250)
    return found


def data_of(page: str) -> dict:
    """Return the data embedded in a page."""
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])


def wait_for(page: Page, condition: str) -> None:
    """Wait for a condition. Playwright's own method needs eval, which the page forbids."""
    end = time.monotonic() + PATIENCE / 1000
    while not page.evaluate(condition):
        assert time.monotonic() < end, condition
        page.wait_for_timeout(50)


def show(page: Page, path: Path, *motions: PageMotion, title: str = "Motions") -> Page:
    """Write a page of motions and open it."""
    write_page(path, motions, T2M, 20.0, title)
    page.goto(path.as_uri())
    wait_for(page, "window.viewer")
    page.evaluate("viewer.ready")
    return page


def drag(page: Page, x: float, y: float, to: float, button: str = "left") -> None:
    """Drag horizontally from (x, y) to x = ``to``."""
    page.mouse.move(x, y)
    page.mouse.down(button=button)
    page.mouse.move(to, y, steps=3)
    page.mouse.up(button=button)


def saved(page: Page, entry: str, folder: Path) -> Path:
    """Save a file by its menu entry."""
    page.locator("#save").evaluate("menu => menu.open = true")
    with page.expect_download() as download:
        page.locator("#files > *", has_text=entry).click()
    page.locator("#save").evaluate("menu => menu.open = false")
    download.value.save_as(folder / download.value.suggested_filename)
    return folder / download.value.suggested_filename


@contextmanager
def open_browser(width: int = 640, height: int = 420, **settings: object) -> Iterator[tuple[Page, list[str]]]:
    """Yield a page and a list of its problems: errors, console warnings, and requests to other machines."""
    faults: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS, timeout=PATIENCE)
        page = browser.new_context(viewport={"width": width, "height": height}, **settings).new_page()
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: faults.append(f"error: {error}"))
        page.on("console", lambda message: faults.append(f"{message.type}: {message.text}")
                if message.type in ("error", "warning") and "GPU stall" not in message.text else None)
        page.on("request", lambda request: faults.append(f"request: {request.url}")
                if not request.url.startswith(("file:", "data:", "blob:", "http://127.0.0.1:")) else None)
        try:
            yield page, faults
        finally:
            browser.close()


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve the files of a folder locally and yield the address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
