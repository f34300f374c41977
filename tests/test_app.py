"""The app in a browser: generating, playing, editing and downloading motions."""
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from http.cookiejar import CookieJar
from itertools import takewhile
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import parse_qsl, urlsplit
from urllib.request import HTTPCookieProcessor, OpenerDirector, Request, build_opener, urlopen

import numpy as np
import pytest
from playwright.sync_api import FrameLocator, Locator, Page, expect

from tests.browser import PATIENCE, SIZES, axe_faults, drag, needs_axe, needs_chromium, open_browser, small_targets
from tests.figures import walking
from tests.toy import ROOT

FLAGS = ("--gpu_id", "-1", "--name", "t2m", "--res_name", "none", "--len_name", "len", "--m2t_name", "m2t",
         "--lamp_name", "lamp", "--time_steps", "2", "--quiet")
expect.set_options(timeout=PATIENCE)
gradio_client = pytest.importorskip("gradio_client", reason="there is no Gradio: pip install -r requirements-app.txt")


@pytest.fixture(scope="module")
def address(toy_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the app with toy models in a separate process, which deletes its temporary files at the end."""
    home = tmp_path_factory.mktemp("app")
    (home / "tmp").mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = os.environ | {"TMPDIR": str(home / "tmp"), "CUDA_VISIBLE_DEVICES": "", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "app.py"), "--checkpoints_dir", str(toy_models), "--port", port, *FLAGS],
        cwd=home, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    watchdog = threading.Timer(PATIENCE / 1000, process.kill)
    watchdog.start()
    try:
        told = "".join(takewhile(lambda line: not line.startswith(f"open http://127.0.0.1:{port}/"), process.stdout))
        watchdog.cancel()
        assert process.poll() is None, told
        yield f"http://127.0.0.1:{port}"
        assert sorted(path.name for path in (home / "tmp").glob("lamp_app_*/*")) == [
            "history", "lock", "made", "uploads", "visitors.txt"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE / 1000) == 0
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()
    assert list((home / "tmp").glob("lamp_app_*")) == []
    assert not (home / ".gradio").exists()


@pytest.fixture(scope="module")
def visit(address: str) -> Iterator[tuple[Page, list[str]]]:
    with open_browser(800, 700, reduced_motion="reduce") as (page, faults):
        page.goto(address)
        yield page, faults


@pytest.fixture
def page(visit: tuple[Page, list[str]]) -> Iterator[Page]:
    """Page of the app. Fails on errors and requests to other machines."""
    page, faults = visit
    yield page
    assert [fault for fault in faults if not fault.startswith("warning:")] == []  # Gradio's own warnings


def stage(page: Page) -> FrameLocator:
    """Return the viewer of the open tab."""
    return page.frame_locator("iframe[title='The motion']:visible")


def press(page: Page, button: str) -> None:
    page.get_by_role("button", name=button, exact=True).locator("visible=true").first.click()


def open_tab(page: Page, name: str) -> Locator:
    page.get_by_role("tab", name=name).click()
    return page.locator("[role=tabpanel]:visible")


def prompt_for(page: Page, text: str) -> None:
    page.get_by_label("What does the person do?").fill(text)


@needs_chromium
def test_a_prompt_becomes_a_motion_that_plays_and_a_file(page: Page) -> None:
    prompt_for(page, "a person walks <b>on</b> ${1}{{2}}")
    press(page, "Generate")
    viewer = stage(page)
    viewer.locator("#caption", has_text="a person walks <b>on</b> ${1}{{2}}").wait_for()
    page.locator("#announcer", has_text="“a person walks <b>on</b> ${1}{{2}}”: seed 3407").wait_for(state="attached")
    clock = viewer.locator("#now")
    assert clock.text_content() == "0.00 s"
    viewer.locator("#play").click()
    expect(clock).not_to_have_text("0.00 s")
    viewer.locator("#play").click()
    with page.expect_download() as archive:
        page.get_by_role("link", name="All files").click()
    assert archive.value.suggested_filename == "a-person-walks-b-on-b-1-2_s3407.zip"
    with zipfile.ZipFile(archive.value.path()) as files:
        joints = [name for name in files.namelist() if name.endswith(".npy")]
        assert len(joints) == 2
        assert json.loads(files.read("motions.json"))["motions"][0]["seed"] == 3407
    viewer.locator("#save summary").click()
    with page.expect_download() as motion:
        viewer.locator("#files a", has_text=".npy").click()
    assert motion.value.suggested_filename in {Path(name).name for name in joints}
    assert np.load(motion.value.path()).shape[1:] == (22, 3)


@needs_chromium
def test_again_keeps_the_old_motion_beside_the_new_one_in_step_until_one_is_kept(page: Page) -> None:
    for number in (2, 3):
        press(page, "Again")
        page.locator(f".takes-{number}").wait_for()
        page.locator(".together output", has_text=re.compile(r"0.00 / \d")).wait_for()
    seeds = page.locator("figcaption span").all_text_contents()
    assert len({seed.split(" · ")[0] for seed in seeds}) == 3
    page.get_by_label("Time of all motions").fill("0.5")
    page.locator(".together output", has_text=re.compile("^[1-9]")).wait_for()
    moments = [frame.evaluate("viewer.moment") for frame in page.frames if "/made/" in frame.url]
    assert len(moments) == 3
    assert max(moments) == min(moments) > 20
    page.get_by_role("button", name="Keep this one").nth(1).click()
    page.locator(".takes-1").wait_for()
    assert page.locator("figcaption span").all_text_contents() == [seeds[1]]
    stage(page).locator("#play").wait_for()
    assert stage(page).locator("#together").count() == 1  # the viewer has all of its buttons again


@needs_chromium
def test_the_history_survives_reload_and_is_searched(page: Page, address: str) -> None:
    kept = page.locator("figcaption span").text_content()
    page.goto(address)
    page.locator("figcaption").wait_for()
    tab = open_tab(page, "History")
    tab.locator(".cards li").nth(2).wait_for()
    tab.get_by_text(f"★ {kept}").wait_for()
    tab.get_by_label("Search the history").fill("WALKS ★ nothing")
    tab.get_by_text("Motions that you make appear here.").wait_for()
    tab.get_by_label("Search the history").fill("WALKS 3407")
    tab.locator(".cards li:only-child").wait_for()
    tab.get_by_role("button", name="Open", exact=True).click()
    page.locator("figcaption", has_text="seed 3407").wait_for()


@needs_chromium
def test_a_permalink_makes_the_same_motion_in_another_browser(page: Page, address: str) -> None:
    link = page.get_by_role("link", name="Permalink").get_attribute("href")
    other = page.context.browser.new_context(reduced_motion="reduce").new_page()
    other.set_default_timeout(PATIENCE)
    other.goto(f"{address}/{link}")
    stage(other).locator("#caption", has_text="a person walks <b>on</b> ${1}{{2}}").wait_for()
    assert other.get_by_label("What does the person do?").input_value() == "a person walks <b>on</b> ${1}{{2}}"
    first, second = (next(frame for frame in one.frames if "/made/" in frame.url).evaluate(
        "viewer.data.motions[0].tracks.plain.steps") for one in (page, other))
    assert first == second
    other.goto(f"{address}/?prompt=walk&seed=x")
    other.get_by_role("alert").get_by_text("seed in the link cannot be read: x").wait_for()
    other.context.close()


@needs_chromium
def test_what_was_made_can_be_captioned(page: Page) -> None:
    tab = open_tab(page, "Caption")
    tab.get_by_label("a motion generated here").check()
    press(page, "Caption")
    caption = stage(page).locator("#caption")
    caption.wait_for()
    assert page.locator(".rows td").nth(1).text_content() == caption.text_content()


@needs_chromium
def test_a_motion_is_found_with_its_prompt_and_picture_and_opened_for_editing(page: Page) -> None:
    tab = open_tab(page, "Search")
    tab.get_by_label("What are you looking for?").fill("someone walks")
    press(page, "Search")
    tab.locator(".cards li svg").first.wait_for()
    assert tab.locator(".cards b").first.text_content() == "a person walks <b>on</b> ${1}{{2}}"
    tab.get_by_role("button", name="Open", exact=True).first.click()
    stage(page).locator("#caption", has_text="a person walks").wait_for()
    tab.locator(".cards").get_by_role("button", name="Edit").first.click()
    tab = page.locator("[role=tabpanel]:visible")
    tab.get_by_label("What happens in these parts?").fill("a person bows")
    press(page, "Edit")
    stage(page).locator("#caption", has_text="a person bows").wait_for()
    tab.get_by_role("link", name="Permalink").wait_for()


@needs_chromium
def test_a_timeline_is_dragged_made_and_one_block_made_again(page: Page) -> None:
    tab = open_tab(page, "Timeline")
    tab.get_by_label("Add a block to Upper body").click()
    edge = tab.locator("[data-track=blocks] .edge.end").first
    lane, at = tab.locator("[data-track=blocks]").bounding_box(), edge.bounding_box()
    drag(page, at["x"] + 7, at["y"] + 9, lane["x"] + lane["width"] * 4 / 8)  # to 4 of the 8 s shown
    tab.get_by_label("Whole body: a person walks forward, 0 to 4 s").focus()
    page.keyboard.press("ArrowLeft")
    tab.get_by_label("Whole body: a person walks forward, 0 to 3.8 s").wait_for()
    tab.get_by_label("Upper body: a person waves, 0 to 2 s").focus()
    for key in ("Enter", "ArrowRight", "ArrowRight", "Shift+ArrowRight"):  # stays focused
        page.keyboard.press(key)
    tab.get_by_label("Upper body: a person waves, 0.2 to 2.4 s").wait_for()
    tab.get_by_label("Whole body: a person waves with the right hand, 3.8 to 6 s").click()
    tab.get_by_label("Prompt of the block").fill("a person bows")
    tab.get_by_text("Waypoints").click()
    plan = tab.get_by_label("Floor, seen from above")
    size = plan.bounding_box()
    plan.click(position={"x": size["width"] * 0.25, "y": size["height"] * 0.25})  # 2 m to the left, 2 m ahead
    dot = tab.get_by_label("Waypoint at 2 s")
    dot.focus()
    for key in ("ArrowLeft", "ArrowUp", "ArrowUp"):
        page.keyboard.press(key)
    press(page, "Add")
    for value in ("0.5", "2.5"):
        page.keyboard.press("Control+A")
        page.keyboard.type(value)
        page.keyboard.press("Tab")
    tab.get_by_label("Waypoint at 3 s, 0.5 m left, 2.5 m ahead").wait_for()
    press(page, "Add")
    tab.get_by_label("Waypoint 3: time (s)").fill("1")
    page.keyboard.press("Tab")
    tab.get_by_label("Remove waypoint 2").focus()
    page.keyboard.press("Enter")
    press(page, "Make the motion")
    title = "a person walks forward, then a person bows; upper body: a person waves"
    tab.locator(".said", has_text=title).wait_for()
    link = dict(parse_qsl(tab.get_by_role("link", name="Permalink").get_attribute("href").removeprefix("?")))
    assert [(point["time"], round(point["x"], 1), round(point["z"], 1)) for point in json.loads(link["waypoints"])] == [
        (1, 0.5, 3.5), (2, 2.1, 2.2)]
    assert [block["end"] for block in json.loads(link["blocks"])] == [3.8, 6]
    press(page, "Make this block again")
    tab.locator(".block.remade", has_text="a person bows").wait_for()
    viewer = next(frame for frame in page.frames if "/made/" in frame.url and frame.frame_element().is_visible())
    viewer.wait_for_function("window.viewer && viewer.data.motions[0].remade.length")
    assert viewer.evaluate("viewer.data.motions[0].remade") == [[76, 119]]


@needs_chromium
def test_parts_to_edit_are_painted_on_the_contact_bar(page: Page) -> None:
    press(page, "Edit")
    tab = page.locator("[role=tabpanel]:visible")
    bar, field = tab.locator(".paint .bar"), tab.get_by_label("Parts to regenerate")
    bar.wait_for()
    at = bar.bounding_box()
    for start, end in ((0.25, 0.5), (0.75, 0.9)):
        drag(page, at["x"] + at["width"] * start, at["y"] + 20, at["x"] + at["width"] * end)
    expect(field).to_have_value(re.compile(r"^0\.2[45],0\.(50|49) 0\.7[45],0\.(90|89)$"))
    parts = tab.get_by_role("slider", name="Part")
    parts.first.focus()
    for key in ("Home", "ArrowRight", "Shift+ArrowLeft"):
        page.keyboard.press(key)
    expect(field).to_have_value(re.compile(r"^0\.2[56],0\.(50|49) 0\.7"))
    for _ in range(60):
        page.keyboard.press("ArrowRight")  # up to the next part
    expect(field).to_have_value(re.compile(r"^0\.[45]\d,0\.7[45] 0\.7[45],"))
    page.keyboard.press("Delete")
    page.keyboard.press("Delete")
    expect(field).to_have_value(re.compile("^$"))
    page.keyboard.press("Enter")  # on "Add a part"
    expect(field).to_have_value(re.compile(r"^0\.40,0\.60$"))
    field.press("Control+A")
    field.press_sequentially("0.1,0.2 5,8")
    expect(parts).to_have_count(2)
    expect(parts.first).to_have_attribute("style", re.compile(r"left: 10%; width: 10%"))


@needs_chromium
def test_one_visitor_has_two_jobs_and_can_cancel_them(page: Page) -> None:
    open_tab(page, "Generate")
    prompt_for(page, "a person walks for long")
    tab = page.locator("[role=tabpanel]:visible")
    tab.get_by_role("button", name="Settings").click()
    tab.get_by_label("Let the model choose the length").uncheck()
    page.set_viewport_size({"width": 390, "height": 600})  # the error is below the form
    tab.get_by_label("Seconds, at most 30").fill("99")
    press(page, "Generate")
    fault = page.get_by_role("alert").get_by_text("from 0.2 to 30, not 99")
    fault.wait_for()
    assert fault.bounding_box()["y"] < 600
    page.set_viewport_size({"width": 800, "height": 700})
    tab.get_by_label("Seconds, at most 30").fill("30")
    tab.get_by_label("Samples, at most 4").fill("4")
    tab.get_by_label(".mp4").check()  # which takes a while
    for _ in range(4):
        press(page, "Generate")
    page.get_by_role("alert").get_by_text("one of your requests is running and another one is waiting").wait_for()
    page.locator(".progress-level", has_text=re.compile("waiting|tokens|files of motions")).first.wait_for()
    viewer = next(frame for frame in page.frames if "/made/" in frame.url and frame.frame_element().is_visible())
    assert viewer.evaluate("viewer.resting")
    press(page, "Cancel")
    page.get_by_role("button", name="Cancel").locator("visible=true").wait_for(state="detached")
    assert page.locator(".said", has_text="for long").count() == 0
    viewer.wait_for_function("!viewer.resting")


@needs_chromium
@needs_axe
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_tab_suits_everybody_on_every_screen(page: Page, address: str, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    page.goto(address)
    page.locator("figcaption").wait_for()
    for tab in ("Generate", "Timeline", "Edit", "Caption", "Search", "History"):
        shown = open_tab(page, tab)
        if tab == "Edit":
            shown.get_by_label("a motion generated here").check()
            shown.locator(".painted").wait_for()
        for width, height in SIZES:
            page.set_viewport_size({"width": width, "height": height})
            assert axe_faults(page) == [], (tab, width)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, tab
            if width == SIZES[0][0]:
                assert small_targets(page) == [], tab


def test_what_was_not_made_is_not_lent(address: str) -> None:
    for path in ("made/x/index.html", "made/..%2f..%2fetc/passwd", "made//etc/passwd", "zip/x", "zip/..%2f.."):
        with pytest.raises(HTTPError) as refused:
            urlopen(f"{address}/{path}")
        assert refused.value.code == 404


def test_other_sites_can_neither_frame_nor_post_and_large_requests_are_refused(address: str) -> None:
    with urlopen(address) as answer:
        assert answer.headers["Content-Security-Policy"] == "frame-ancestors 'self'"
        assert "HttpOnly; SameSite=Lax" in answer.headers["Set-Cookie"]
    for path in ("gradio_api/upload", "gradio_api/queue/join"):
        with pytest.raises(HTTPError, match="403"):
            urlopen(Request(f"{address}/{path}", b"{}", {"Origin": "http://evil.org"}))
    with closing(HTTPConnection(urlsplit(address).netloc, timeout=60)) as large:  # refused before the body is sent
        large.putrequest("POST", "/gradio_api/call/v1_generate")
        large.putheader("Content-Type", "application/json")
        large.putheader("Content-Length", str(2**21))
        large.endheaders()
        assert large.getresponse().status == 413
    with pytest.raises(HTTPError, match="400"):  # a name of another site that resolves to this machine
        urlopen(Request(address, headers={"Host": "evil.org"}))
    assert urlopen(Request(address, headers={"Host": "[::1]:7860"})).status == 200


def test_programs_make_edit_caption_and_search_motions(address: str, tmp_path: Path) -> None:
    client = gradio_client.Client(address, verbose=False)
    made, = client.predict("a person waves", seconds=2, seed=5, formats=["glb"], api_name="/v1_generate")["motions"]
    joints = [np.load(io.BytesIO(urlopen(f"{address}/{made['files']['npy']}").read()))]
    assert joints[0].shape == (40, 22, 3)
    assert made["files"].keys() == {"npy", "glb", "ik_npy", "ik_glb"}
    again, = client.predict(made["ask"], api_name="/v1_make")["motions"]
    joints.append(np.load(io.BytesIO(urlopen(f"{address}/{again['files']['npy']}").read())))
    assert np.array_equal(*joints)
    captions = client.predict(made["id"], count=2, api_name="/v1_caption")["captions"]
    assert [caption["time"] for caption in captions] == ["0.0 – 2.0 s"] * 2
    with pytest.raises(gradio_client.exceptions.AppError, match="the prompt has no words"):
        client.predict(" .. ", api_name="/v1_generate")
    np.save(tmp_path / "bow.npy", walking(60, 0.5))
    sent = client.predict(gradio_client.handle_file(tmp_path / "bow.npy"), api_name="/v1_source")
    assert (sent["frames"], sent["source"]["upload"]) == (60, "bow.npy")
    edit = {"prompt": "a person bows", "sections": "0.5,0.75", "seed": 1, "guidance": 4, "source": sent["source"]}
    edited, = client.predict(edit, api_name="/v1_make")["motions"]
    assert edited["frames"] == 60
    assert client.predict(sent["source"], api_name="/v1_caption")["captions"][0]["time"] == "0.0 – 3.0 s"
    for query in ({"text": "someone walks"}, {"text": None, "motion": sent["source"]}):
        found = client.predict(**query, count=2, api_name="/v1_search")["results"]
        assert len(found) == 2 and {one["id"] for one in found} <= {made["id"], again["id"], edited["id"]}
    for wrong, told in (({"path": "/etc/passwd"}, "upload the file first"), ("x.npy", "no longer in the gallery")):
        with pytest.raises((gradio_client.exceptions.AppError, ValueError), match=told):
            client.predict(wrong, api_name="/v1_source")


def test_seventeen_jobs_of_one_visitor_do_not_lock_out_another(address: str) -> None:
    visitors = [build_opener(HTTPCookieProcessor(CookieJar())) for _ in "ab"]
    for visitor in visitors:
        visitor.open(address).read()

    def ask(visitor: OpenerDirector, prompt: str, seconds: int, count: int) -> str:
        url, data = f"{address}/gradio_api/call/v1_generate", {"data": [prompt, seconds, 1, 4, count, ["bvh"]]}
        call = Request(url, json.dumps(data).encode(), {"Content-Type": "application/json"})
        return f"{url}/{json.loads(visitor.open(call).read())['event_id']}"

    greedy = [ask(visitors[0], "a person walks", seconds=30, count=4) for _ in range(17)]
    other = ask(visitors[1], "a person waves", seconds=1, count=1)
    assert '"prompt": "a person waves"' in visitors[1].open(other).read().decode()
    answers = [visitors[0].open(one).read().decode() for one in greedy]
    assert sum("one of your requests is running" in answer for answer in answers) >= 10
    assert sum('"prompt": "a person walks"' in answer for answer in answers) >= 2
