"""The page plays all motions in a browser, from a single file."""
import base64
import io
import re
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page

from motion.bvh import read_bvh
from motion.bvh_fit import bvh_to_joints, joints_to_bvh
from motion.foot import foot_joints, lock_feet, standing
from motion.skeleton import KIT, T2M, Skeleton
from tests import browser
from tests.browser import data_of, drag, needs_axe, needs_chromium, saved, show, wait_for
from tests.figures import walking
from tests.sample_motion import sample_motion
from visualization.html import FINEST, PageMotion, make_page, write_page

EVIL = """</script><img src=x onerror="document.title='taken'"><b id='sly'> & "quotes" {{DATA}} {{STYLE}}"""


def page_motion(joints: np.ndarray, caption: str, name: str = "one", skeleton: Skeleton = T2M) -> PageMotion:
    locked = lock_feet(joints, skeleton, 20.0)
    return PageMotion(name, caption, joints, locked, (f"joints/0/{name}.npy",), (f"joints/0/{name}_ik.npy",),
                      *(joints_to_bvh(motion, skeleton, 20.0) for motion in (joints, locked)))


def unpacked(text: str) -> np.ndarray:
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8)


def joints_of(tracks: dict, kind: str, frames: int, skeleton: Skeleton) -> np.ndarray:
    """Decode the joints (T, J, 3) of a packed track with NumPy."""
    planes = [unpacked(tracks[one]["steps"]).reshape(2, -1).astype(np.uint16)
              for one in dict.fromkeys(("plain", kind))]
    steps = sum(low | high << 8 for low, high in planes).astype(np.uint16).view(np.int16).reshape(-1, 3, frames)
    places = np.moveaxis(steps.astype(np.int64).cumsum(-1), -1, 0) * tracks[kind]["unit"]
    for joint, parent in enumerate(skeleton.parents[1:], 1):
        places[:, joint] += places[:, parent]
    return places


@pytest.mark.parametrize(("skeleton", "size"), [(T2M, 1.0), (KIT, 0.001), (T2M, 1000.0)],
                         ids=["t2m", "kit", "leaps of hundreds of metres"])
def test_the_page_holds_the_joints_and_the_feet_that_stand(skeleton: Skeleton, size: float) -> None:
    joints = sample_motion(skeleton) * size
    if size == 1000:
        joints[5, 1], joints[5, 4] = (0, 9000, 0), (0, -9000, 0)  # away from their parents
    motion = PageMotion("a", "walks", joints, joints + 1, ("a.npy",), ("a_ik.npy",))
    [shown] = data_of(make_page([motion], skeleton, 20.0))["motions"]
    assert (shown["caption"], shown["frames"]) == ("walks", len(joints))
    for kind, expected in (("plain", joints), ("locked", joints + 1)):
        track = shown["tracks"][kind]
        assert track["unit"] == FINEST or size == 1000
        assert np.abs(joints_of(shown["tracks"], kind, len(joints), skeleton) - expected).max() <= 1.01 * track["unit"]
        bits = unpacked(track["standing"])[:, None] >> np.arange(len(foot_joints(skeleton)))
        assert ((bits & 1) == standing(expected, skeleton, 20.0)).all()


def test_twelve_motions_of_full_length_are_less_than_two_megabytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    made = [sample_motion(T2M, 196, seed) + rng.normal(0, 0.002, (196, 22, 3)) for seed in range(4)] * 3
    write_page(tmp_path / "index.html", [page_motion(joints, "a person moves") for joints in made], T2M, 20.0)
    assert 400_000 < (tmp_path / "index.html").stat().st_size < 1_700_000


def test_nothing_of_the_page_lies_elsewhere() -> None:
    page = make_page([page_motion(walking(20), "walks")], T2M, 20.0)
    assert not re.search(r"""(src|href)\s*=\s*["'](?!#|data:)|@import|url\(""", page.split("<script", 1)[0])
    assert "default-src 'none'" in page
    assert "{{" not in page.replace("${{", "")
    assert "Copyright © 2010" in page and "three.js authors" in page  # the licence travels with the code


@pytest.mark.parametrize("joints", [np.zeros((4, 20, 3)), np.zeros((0, 22, 3)), np.full((4, 22, 3), np.nan)])
def test_what_cannot_be_shown_is_reported(tmp_path: Path, joints: np.ndarray) -> None:
    with pytest.raises(ValueError, match="finite joints"):
        write_page(tmp_path / "index.html", [PageMotion("a", "", joints, joints)], T2M, 20.0)
    with pytest.raises(ValueError, match="needs at least one motion"):
        write_page(tmp_path / "index.html", [], T2M, 20.0)
    assert not list(tmp_path.iterdir())


# In the browser


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Page, list[str]]]:
    """A page of three motions, open in Chromium and paused."""
    path = tmp_path_factory.mktemp("page") / "index.html"
    motions = (page_motion(walking(60, 1.0), "walks", "first"), page_motion(walking(40, 0.5), EVIL, "second"),
               page_motion(sample_motion(T2M, 1), "a single pose", "third"))
    (path.parent / "joints" / "0").mkdir(parents=True)
    (path.parent / "joints" / "0" / "first.npy").write_bytes(b"joints")
    with browser.open_browser(420, 520, reduced_motion="reduce") as (page, faults):
        yield show(page, path, *motions, title=EVIL), faults


@pytest.fixture
def page(seen: tuple[Page, list[str]]) -> Iterator[Page]:
    """The page at the start of its first motion. Fails on errors."""
    page, faults = seen
    page.evaluate("viewer.setKind('plain'), viewer.choose(0).then(() => viewer.jump(0))")
    yield page
    assert faults == []


def drawn(page: Page) -> np.ndarray:
    """Return the picture of the stage (H, W, 3)."""
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    picture = page.locator("#canvas").screenshot()
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"), int)


def text(page: Page, selector: str) -> str:
    return page.locator(selector).text_content()


@needs_chromium
def test_the_figure_is_there_with_both_sides_and_moves_as_one_scrubs(page: Page) -> None:
    first = drawn(page)
    for colour in ((46, 116, 214), (232, 98, 56)):
        hue = np.array(colour) / np.linalg.norm(colour)
        alike = (first @ hue) / np.maximum(np.linalg.norm(first, axis=-1), 1) > 0.985
        assert (alike & (np.ptp(first, axis=-1) > 60)).mean() > 0.002
    page.locator("#scrub").fill("30")
    later = drawn(page)
    assert page.evaluate("viewer.moment") == 30
    assert text(page, "#clock") == "1.50 s / 2.95 s · 31/60"
    assert (np.abs(first - later).sum(-1) > 60).mean() > 0.002


@needs_chromium
def test_it_plays_pauses_steps_and_restarts_only_if_looping(page: Page) -> None:
    page.locator("#play").click()
    wait_for(page, "viewer.playing && viewer.moment > 1")
    page.locator("#play").click()
    assert not page.evaluate("viewer.playing")
    page.locator("#back").click()
    frame = page.evaluate("viewer.moment")
    assert frame == round(frame)
    page.locator("#step").click()
    page.locator("#step").click()
    assert page.evaluate("viewer.moment") == frame + 2
    play_on = "viewer.setSpeed(1), viewer.seek(58), viewer.setPlaying(true), viewer.advance(0.2), viewer.moment"
    assert page.evaluate(play_on) == pytest.approx(3)
    page.locator("#loop").click()
    assert page.evaluate(play_on) == 59
    assert not page.evaluate("viewer.playing")
    page.locator("#loop").click()


@needs_chromium
def test_keys_do_what_they_say(page: Page) -> None:
    page.locator("#canvas").focus()
    for key, expected in (("ArrowRight", 1), ("End", 59), ("ArrowLeft", 58), ("Home", 0)):
        page.keyboard.press(key)
        assert page.evaluate("viewer.moment") == expected
    for key, what in (("t", "stage.trails.visible"), ("c", "stage.prints.visible"), ("f", "stage.follow")):
        before = page.evaluate(f"viewer.{what}")
        page.keyboard.press(key)
        assert page.evaluate(f"viewer.{what}") is not before
        page.keyboard.press(key)
    page.keyboard.press("ArrowDown")
    assert page.evaluate("viewer.number") == 1
    before = page.evaluate("viewer.theme")
    page.keyboard.press("d")
    assert {before, page.evaluate("document.documentElement.dataset.theme")} == {"dark", "light"}
    page.keyboard.press("d")


@needs_chromium
def test_captions_in_the_browser_are_text(page: Page) -> None:
    buttons = page.locator("#list button")
    assert buttons.count() == 3
    page.locator("#menu").click()
    buttons.nth(1).click()
    assert text(page, "#caption") == EVIL
    assert text(page, "#title") == EVIL
    assert page.locator("#sly").count() == 0 and page.title() == EVIL.strip()


@needs_chromium
def test_locked_feet_are_another_motion_with_other_files(page: Page) -> None:
    page.locator("#locked").click()
    wait_for(page, "viewer.kind === 'locked'")
    page.evaluate("viewer.mount()")
    locked = np.array(page.evaluate("Array.from(viewer.stage.track.places)")).reshape(60, 22, 3)
    assert np.abs(locked - lock_feet(walking(60, 1.0), T2M, 20.0)).max() < 2 * FINEST
    page.locator("#plain").click()
    page.evaluate("viewer.mount()")


@needs_chromium
@pytest.mark.parametrize("kind", ["plain", "locked"])
def test_a_page_alone_on_a_disk_saves_joints_and_bvh(page: Page, kind: str, tmp_path: Path) -> None:
    page.evaluate(f"viewer.setKind('{kind}')")
    expected, suffix = (walking(60, 1.0), "") if kind == "plain" else (lock_feet(walking(60, 1.0), T2M, 20.0), "_ik")
    file = saved(page, ".npy", tmp_path)
    assert file.name == f"first{suffix}.npy"
    joints = np.load(file)
    assert (joints.dtype, joints.shape) == (np.float32, (60, 22, 3))
    assert np.abs(joints - expected).max() < 2 * FINEST
    file = saved(page, ".bvh", tmp_path)
    assert file.name == f"first{suffix}.bvh"
    bvh, whole = read_bvh(file), joints_to_bvh(expected, T2M, 20.0)
    assert (bvh.names, bvh.frame_time) == (whole.names, whole.frame_time)
    assert np.linalg.norm(bvh_to_joints(bvh, T2M) - bvh_to_joints(whole, T2M), axis=-1).max() < 1e-3
    page.evaluate("viewer.setKind('plain')")


@needs_chromium
def test_a_page_on_a_server_saves_the_files_beside_it(page: Page, tmp_path: Path) -> None:
    folder = Path(page.url.removeprefix("file://")).parent
    with browser.serve(folder) as address:
        served = page.context.new_page()
        served.goto(f"{address}/index.html")
        served.evaluate("viewer.ready.then(() => viewer.setKind('plain'))")
        file = saved(served, ".npy", tmp_path)
        assert (file.name, file.read_bytes()) == ("first.npy", b"joints")
        assert saved(served, ".bvh", tmp_path).name == "first.bvh"
        served.close()


@needs_chromium
def test_dragging_turns_or_moves_and_the_wheel_comes_nearer(page: Page) -> None:
    page.evaluate("viewer.resetView()")
    where, target = "viewer.stage.camera.position.clone().sub(viewer.stage.controls.target).toArray()", \
        "viewer.stage.controls.target.toArray()"
    before, middle = np.array(page.evaluate(where)), np.array(page.evaluate(target))
    page.evaluate("scrollTo(0, 0)")
    box = page.locator("#canvas").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    drag(page, x, y, x + 60)
    turned = np.array(page.evaluate(where))
    assert np.linalg.norm(turned[[0, 2]] - before[[0, 2]]) > 0.3
    assert page.evaluate(target) == pytest.approx(middle)
    drag(page, x, y, x + 60, "right")
    assert np.linalg.norm(np.array(page.evaluate(target)) - middle) > 0.1
    page.mouse.wheel(0, -400)
    wait_for(page, f"Math.hypot(...{where}) < {0.95 * np.linalg.norm(before)}")
    page.locator("#view").click()
    assert page.evaluate(target) == pytest.approx(middle)


@needs_chromium
def test_consecutive_prompts_are_shown_as_they_play_and_marked_in_time(page: Page, tmp_path: Path) -> None:
    whole = page_motion(walking(60, 1.0), f"walks, then {EVIL}, then bows")
    parts = ((0, "walks"), (20, EVIL), (45, "bows"))
    line = show(page.context.new_page(), tmp_path / "line.html", replace(whole, parts=parts), whole)
    assert line.locator("#list b").all_text_contents() == ["walks, then 2 more", whole.caption]
    for moment, number in ((0, 0), (19.2, 0), (20, 1), (44, 1), (45, 2), (59, 2)):
        line.evaluate(f"viewer.seek({moment})")
        assert text(line, "#caption") == parts[number][1]
        assert text(line, "#detail").endswith(f"1 of 2 · prompt {number + 1} of 3")
    marked = """viewer.drawLanes(), [...lanes.getContext("2d").getImageData(0, 1, lanes.width, 1).data]
        .flatMap((value, i) => i % 4 === 3 && value > 127 ? [Math.floor(i / 4) / lanes.width * 59] : [])"""
    seen = np.unique(np.rint(line.evaluate(f"(() => {{ const lanes = get('lanes'); return {marked}; }})()")))
    assert seen.tolist() == [20, 45]
    line.evaluate("viewer.choose(1)")
    assert text(line, "#caption") == whole.caption
    assert text(line, "#detail").endswith("2 of 2")
    line.close()


@needs_chromium
def test_a_browser_without_3d_graphics_gets_a_message(page: Page, tmp_path: Path) -> None:
    write_page(tmp_path / "index.html", [page_motion(walking(20), what) for what in ("walks", "runs")], T2M, 20.0)
    flat = page.context.browser.new_page()
    flat.add_init_script("""const usual = HTMLCanvasElement.prototype.getContext;
        HTMLCanvasElement.prototype.getContext = function (kind) {
            return kind === "2d" ? usual.call(this, kind) : null;
        };""")
    flat.goto((tmp_path / "index.html").as_uri())
    told = text(flat, "#fault")
    assert flat.locator("#fault").is_visible() and "no 3-D graphics (WebGL)" in told and "another browser" in told
    assert not any(flat.locator(dead).is_visible() for dead in ("#drawer", "#bar", "#menu", "#view"))
    flat.close()


@needs_chromium
@needs_axe
def test_contrast_names_and_sizes_suit_everybody_on_every_screen(page: Page) -> None:
    for width, height in browser.SIZES:
        page.set_viewport_size({"width": width, "height": height})
        for theme in ("light", "dark"):
            page.evaluate(f"viewer.setTheme('{theme}')")
            assert browser.axe_faults(page) == [], (width, theme)
        if width == browser.SIZES[0][0]:
            assert browser.small_targets(page) == []
    page.set_viewport_size({"width": 420, "height": 520})


@needs_chromium
def test_nothing_is_drawn_while_the_page_is_hidden(page: Page) -> None:
    page.evaluate("window.drawn = 0; viewer.stage.draw = () => { drawn += 1; }; viewer.setPlaying(true)")
    wait_for(page, "drawn > 1")
    page.evaluate("get('canvas').style.display = 'none'")
    wait_for(page, "!viewer.running")
    count = page.evaluate("drawn")
    page.wait_for_timeout(150)
    assert page.evaluate("drawn") == count
    page.evaluate("get('canvas').style.display = ''")
    wait_for(page, f"drawn > {count}")
    page.evaluate("delete viewer.stage.draw; viewer.setPlaying(false)")


@needs_chromium
def test_takes_play_side_by_side_and_one_is_kept(page: Page, tmp_path: Path) -> None:
    takes = [page_motion(walking(frames, 1.0), "walks", f"take{frames}") for frames in (20, 40)]
    both = show(page.context.new_page(), tmp_path / "takes.html", *takes, page_motion(walking(10), "runs"))
    both.evaluate("viewer.setPlaying(false), viewer.setTogether(true)")
    assert both.evaluate("viewer.stage.cast.length") == 2 and both.evaluate("viewer.end") == 39
    assert [text.removesuffix("Keep this one") for text in both.locator("#labels button").all_text_contents()] == \
        ["Take 1", "Take 2"]
    both.evaluate("viewer.seek(35)")
    apart = both.evaluate("viewer.stage.cast.map(each => viewer.stage.ground(each, 35, viewer.stage.point).toArray())")
    assert np.linalg.norm(np.subtract(*apart)) > 0.8
    both.evaluate("addEventListener('message', event => { window.kept = event.data; })")
    both.locator("#labels button").nth(1).dispatch_event("click")
    wait_for(both, "window.kept")
    assert both.evaluate("kept") == {"type": "lamp-keep", "number": 1, "name": "take40"}
    assert both.evaluate("viewer.number") == 1 and both.locator("#labels button").count() == 0
    both.close()
