"""The app as a visitor meets it: a prompt typed into Chromium becomes a motion that plays, and a file."""
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import numpy as np
import pytest
from playwright.sync_api import FrameLocator, Page

from tests.browser import PATIENCE, needs_chromium, open_browser
from tests.toy import ROOT
from tests.toy_models import make_captioner, make_models

FLAGS = ("--gpu_id", "-1", "--name", "t2m", "--res_name", "none", "--len_name", "len", "--m2t_name", "m2t",
         "--lamp_name", "lamp", "--time_steps", "2", "--quiet")
pytestmark = pytest.mark.skipif(importlib.util.find_spec("gradio") is None,
                                reason="there is no Gradio: pip install -r requirements-app.txt")


@contextmanager
def running(home: Path, *flags: str) -> Iterator[tuple[subprocess.Popen, str]]:
    """The app as a process of its own, and its address; its temporary files lie in ``home/tmp``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (home / "tmp").mkdir(exist_ok=True)
    environment = os.environ | {"TMPDIR": str(home / "tmp"), "CUDA_VISIBLE_DEVICES": "", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "app.py"), "--checkpoints_dir", str(home), "--port", str(port), *FLAGS, *flags],
        cwd=home, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    watchdog = threading.Timer(PATIENCE / 1000, process.kill)
    watchdog.start()
    try:
        told = []
        for line in process.stdout:
            told.append(line)
            if line.startswith("open http"):
                break
        watchdog.cancel()
        assert told and told[-1].startswith(f"open http://127.0.0.1:{port}/"), "".join(told)
        yield process, f"http://127.0.0.1:{port}"
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The app on toy models, until it is asked to end; then nothing of it is left."""
    home = tmp_path_factory.mktemp("app")
    make_models(home)
    make_captioner(home)
    with running(home) as (process, address):
        yield address
        assert sorted(path.name for path in (home / "tmp").glob("lamp_app_*/*")) == ["made", "uploads"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE / 1000) == 0
    assert list((home / "tmp").glob("lamp_app_*")) == []
    assert not (home / ".gradio").exists()


@pytest.fixture(scope="module")
def visit(address: str) -> Iterator[tuple[Page, list[str]]]:
    with open_browser(1200, 800, reduced_motion="reduce") as (page, faults):
        page.goto(address)
        yield page, faults


@pytest.fixture
def page(visit: tuple[Page, list[str]]) -> Iterator[Page]:
    """The app's page; nothing may go wrong in it, and nothing may be asked of another machine."""
    page, faults = visit
    yield page
    assert [fault for fault in faults if not fault.startswith("warning:")] == []  # of itself Gradio warns


def stage(page: Page) -> FrameLocator:
    """The viewer of the open tab."""
    return page.frame_locator("iframe[title='The motion']:visible")


def press(page: Page, button: str) -> None:
    page.get_by_role("button", name=button, exact=True).click()


@needs_chromium
def test_a_prompt_becomes_a_motion_that_plays_and_a_file(page: Page) -> None:
    page.get_by_label("What does the person do?").fill("a person walks <b>on</b>")
    press(page, "Generate")
    viewer = stage(page)
    viewer.locator("#caption", has_text="a person walks <b>on</b>").wait_for()
    clock = viewer.locator("#now")
    assert clock.text_content() == "0.00 s"
    viewer.locator("#play").click()
    end = time.monotonic() + PATIENCE / 1000
    while clock.text_content() == "0.00 s":
        assert time.monotonic() < end
        page.wait_for_timeout(50)
    viewer.locator("#play").click()
    with page.expect_download() as archive:
        page.get_by_role("link", name="All files").click()
    with zipfile.ZipFile(archive.value.path()) as files:
        joints = [name for name in files.namelist() if name.endswith(".npy")]
        assert len(joints) == 2
    viewer.locator("#save summary").click()
    with page.expect_download() as motion:
        viewer.locator("#files a", has_text=".npy").click()
    assert motion.value.suggested_filename in {Path(name).name for name in joints}
    assert np.load(motion.value.path()).shape[1:] == (22, 3)


@needs_chromium
def test_what_was_made_can_be_captioned(page: Page) -> None:
    page.get_by_role("tab", name="Caption").click()
    press(page, "Caption")
    caption = stage(page).locator("#caption")
    caption.wait_for()
    assert page.locator(".rows td").nth(1).text_content() == caption.text_content()


@needs_chromium
def test_a_rejected_upload_is_never_replaced_by_another_motion(page: Page, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no motion")
    page.get_by_role("tab", name="Edit").click()
    tab = page.get_by_role("tabpanel").filter(has=page.get_by_text("Parts to regenerate"))
    tab.get_by_label("a file of yours").check()
    tab.locator("input[type=file]").set_input_files(tmp_path / "notes.txt")
    tab.get_by_text("9.0 B").wait_for()
    tab.get_by_label("What happens in these parts?").fill("a person bows")
    press(page, "Edit")
    page.get_by_text("notes.txt").last.wait_for()
    assert tab.locator("iframe").count() == 0
    tab.get_by_label("Clear").or_(tab.get_by_label("Remove this file")).first.click()


@needs_chromium
def test_too_long_a_prompt_is_refused_with_the_limit(page: Page) -> None:
    page.get_by_role("tab", name="Generate").click()
    page.get_by_label("What does the person do?").fill("walk " * 100)
    page.get_by_label("What does the person do?").press("Enter")
    page.get_by_text("300 are the most").wait_for()


@needs_chromium
def test_a_wrong_upload_is_told_in_one_line(page: Page, tmp_path: Path) -> None:
    np.save(tmp_path / "odd.npy", np.zeros((5, 7)))
    page.get_by_role("tab", name="Edit").click()
    tab = page.get_by_role("tabpanel").filter(has=page.get_by_text("Parts to regenerate"))
    tab.locator("input[type=file]").set_input_files(tmp_path / "odd.npy")
    tab.get_by_text("408.0 B").wait_for()
    tab.get_by_label("What happens in these parts?").fill("a person bows")
    press(page, "Edit")
    page.get_by_text("odd.npy: shape (5, 7): expected features (frames, 263) or joints (frames, 22, 3)").wait_for()


def test_what_was_not_made_is_not_lent(address: str) -> None:
    for path in ("made/x/index.html", "made/..%2f..%2fetc/passwd", "made//etc/passwd"):
        with pytest.raises(HTTPError) as refused:
            urlopen(f"{address}/{path}")
        assert refused.value.code == 404
