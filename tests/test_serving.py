"""The app without a browser: results, error messages, and deletion of old files."""
import asyncio
import io
import json
import os
import re
import threading
import time
import zipfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qsl

import numpy as np
import pytest
from filelock import FileLock

from data.dataset import dataset_spec
from data.directions import directed_motions
from data.motion_files import read_motion
from data.text import make_prompt
from models.control.director import UPPER_STREAM, combined_features
from models.control.optimise import STEPS
from models.text_to_motion import Sample, Sampling
from motion.bvh_fit import joints_to_bvh
from motion.skeleton import T2M
from options.evaluate import parse_app_options
from options.generate import parse_generate_options
from serving.asks import Ask
from serving.history import History, Take
from serving.jobs import Cancelled, Jobs, RateLimit, Visitor
from serving.models import Models, load_models
from serving.rooms import LOCK, Rooms, sweep_leftovers
from serving.server import open_page, root_of
from serving.visitors import Doorkeeper, same_origin
from serving.workshop import Workshop
from tests.browser import data_of
from tests.figures import walking
from tests.toy_models import make_models
from utils import InputError
from utils.files import write_text
from utils.runtime import listening, report_step, stream_seed

SPEC = dataset_spec("t2m")
SAMPLING = Sampling(time_steps=2)
FLAGS = ("--gpu_id", "-1", "--name", "t2m", "--res_name", "res", "--len_name", "len", "--quiet")
HOW = {"seed": 7, "guidance": 4.0}


@pytest.fixture(scope="module")
def models(toy_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Models:
    gallery = tmp_path_factory.mktemp("serving") / "gallery"
    (gallery / "more").mkdir(parents=True)
    for name, speed, frames in (("slow", 0.3, 60), ("fast", 1.5, 60), ("more/long", 1.0, 230)):
        np.save(gallery / f"{name}.npy", walking(frames, speed))
    (gallery / "fast.txt").write_text("someone hurries#someone/NOUN#0.0#0.0\n")
    return load_models(parse_app_options([*FLAGS, "--checkpoints_dir", str(toy_models), "--m2t_name", "m2t",
                                          "--lamp_name", "lamp", "--gallery", str(gallery)]))


@pytest.fixture
def shop(models: Models, tmp_path: Path) -> Workshop:
    return Workshop(models, Rooms(tmp_path / "rooms", 60), SAMPLING)


def ask(prompt: str = "a person walks", **more: object) -> Ask:
    return Ask.read({**HOW, "prompt": prompt, **more})


def shown(shop: Workshop, room: str) -> list[dict]:
    return data_of(shop.rooms.find(room, "index.html").read_text())["motions"]


def joints_of(shop: Workshop, take: Take) -> np.ndarray:
    return np.load(shop.rooms.find(take.id, f"{take.ask.stem}.npy"))


def upload(folder: Path, name: str, frames: int = 60) -> str:
    path = folder / name
    if name.endswith(".bvh"):
        write_text(path, joints_to_bvh(walking(frames), T2M, 20.0).text())
    else:
        np.save(path, walking(frames))
    return str(path)


def test_a_prompt_gives_what_the_script_gives_with_page_and_files_named_by_prompt_and_seed(shop: Workshop) -> None:
    takes = shop.make(ask(" A person, walks! ", seconds=2.0), 2, ["bvh", "glb"])
    expected = shop.pipeline.generate([Sample("A person, walks!", seed, 40) for seed in (7, 8)], SAMPLING)
    for take, joints, seed in zip(takes, expected, (7, 8), strict=True):
        assert np.array_equal(joints_of(shop, take), joints)
        assert sorted(take.files) == sorted(f"a-person-walks_s{seed}{end}" for end in (
            ".npy", ".bvh", ".glb", "_ik.npy", "_ik.bvh", "_ik.glb"))
        one, = shown(shop, take.id)
        assert one["caption"] == "A person, walks!"
        assert all(shop.rooms.find(take.id, file) for files in one["files"].values() for file in files)
        assert take.picture.count("<polyline") == 25


def test_the_archive_holds_what_it_takes_to_make_the_motions_again(shop: Workshop, tmp_path: Path) -> None:
    walk, = shop.make(ask(seconds=2.0))
    edited, = shop.make(ask("a person bows", sections="0.5,0.75"), source=shop.source(None, walk))
    sent, = shop.make(ask("a person kicks", sections="0.2,0.4"), formats=[],
                      source=shop.source(upload(tmp_path, "walk.bvh"), None))
    same, = shop.make(ask(seconds=2.0), formats=[])
    takes = [walk, edited, sent, same]
    name, content = shop.archive([take.id for take in takes])
    assert name == "motions.zip"
    assert shop.archive([walk.id])[0] == "a-person-walks_s7.zip"
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        names, written = set(archive.namelist()), json.loads(archive.read("motions.json"))
        source = np.load(io.BytesIO(archive.read("a-person-kicks_s7_source.npy")))
    assert {"a-person-walks_s7.bvh", "a-person-walks_s7+.npy", "a-person-bows_s7.html"} <= names
    assert written["fingerprint"] == shop.models.fingerprint
    assert all(set(one["files"]) <= names for one in written["motions"])
    shop.rooms = Rooms(tmp_path / "others", 60)
    for take, one in zip(takes[:2], written["motions"], strict=False):
        again, = shop.make(Ask.read({key: value for key, value in one["ask"].items() if key != "model"}))
        shop.rooms = Rooms(tmp_path / "rooms", 60)
        first = joints_of(shop, take)
        shop.rooms = Rooms(tmp_path / "others", 60)
        assert np.array_equal(joints_of(shop, again), first)
    assert source.shape == (60, 263)
    assert written["motions"][0]["command"].startswith(
        "python gen_t2m.py --text_prompt 'a person walks' --motion_length 40 --seed 7 --time_steps 2")
    assert "--source_motion a-person-kicks_s7_source.npy --mask" in written["motions"][2]["command"]
    with pytest.raises(InputError, match="walk.bvh has expired"):
        shop.make(sent.ask)


def test_an_edit_keeps_the_rest_marks_its_part_and_shows_the_motion_before(shop: Workshop, tmp_path: Path) -> None:
    made, = shop.make(ask(seconds=3.0))
    for source in (shop.source(upload(tmp_path, "walk.bvh"), None), shop.source(None, made)):
        take, = shop.make(ask("a person bows", sections="0.5,0.75"), source=source)
        edited, before = shown(shop, take.id)
        assert (edited["caption"], edited["frames"], edited["remade"]) == ("a person bows", 60, [[32, 43]])
        assert before["caption"].startswith("before: ")
        assert before["files"] == {"plain": [], "locked": []}
    source = shop.pipeline.joints(read_motion(shop.rooms.find(made.id, f"{made.ask.stem}.npy"), SPEC, trusted=True))
    far = np.linalg.norm(joints_of(shop, take) - source, axis=-1).max(-1)
    assert far[:28].max() < 1e-4 < far[32:44].max()


def test_expired_files_and_links_make_the_same_motion_again(shop: Workshop, tmp_path: Path) -> None:
    take, = shop.make(ask(seconds=2.0), formats=["glb"])
    before = joints_of(shop, take)
    shop.rooms = Rooms(tmp_path / "later", 60)
    np.save(tmp_path / "joints.npy", before)
    assert np.array_equal(shop.source(None, take).features, read_motion(tmp_path / "joints.npy", SPEC, trusted=True))
    again = shop.refreshed(take)
    assert np.array_equal(joints_of(shop, again), before)
    assert sorted(again.files) == sorted(take.files)

    take, = shop.make(ask("a person walks & {{waves}} <b>", seconds=2.0))
    linked = Ask.from_query(dict(parse_qsl(take.ask.query())))
    assert linked == take.ask
    timeline = Ask.read({**HOW, "blocks": BLOCKS, "waypoints": [{"x": 1, "z": 2, "time": 1}]})
    assert Ask.from_query(dict(parse_qsl(timeline.query()))) == timeline
    assert shop.make(linked, formats=[], model="0" * 8)[0].remarks[-1].startswith("This was generated with other")


HELD = {"kind": "joint", "joint": "left_foot", "position": [0.3, 0.2, 0.4], "time": [0.5, 1]}
BLOCKS = [{"text": "a person walks", "start": 0, "end": 2}, {"text": "a person bows", "start": 2, "end": 4}]


def test_a_timeline_follows_its_blocks_an_upper_body_and_waypoints(shop: Workshop) -> None:
    take, = shop.make(Ask.read({**HOW, "blocks": BLOCKS}))
    expected = shop.pipeline.decode(shop.editor.generate([("a person walks", 10), ("a person bows", 10)], 7, SAMPLING))
    assert np.abs(joints_of(shop, take) - expected).max() < 1e-5
    again, = shop.make(replace(take.ask, remakes=Ask.read({**HOW, "blocks": BLOCKS, "remakes": [
        {"track": "body", "block": 1, "seed": 5}]}).remakes))
    far = np.linalg.norm(joints_of(shop, again) - joints_of(shop, take), axis=-1).max(-1)
    assert far[:36].max() < 1e-5 < far[44:].max()
    page, = shown(shop, again.id)
    assert (page["parts"], page["remade"]) == ([[0, "a person walks"], [40, "a person bows"]], [[40, 79]])

    upper = [{"text": "a person waves", "start": 0.4, "end": 1.6}]
    both, = shop.make(Ask.read({**HOW, "blocks": BLOCKS[:1], "upper": upper}))
    tracks = [shop.editor.generate(parts, seed, SAMPLING) for parts, seed in (
        ([("a person walks", 10)], 7),
        ([("a person walks", 2), ("a person waves", 6), ("a person walks", 2)], stream_seed(7, UPPER_STREAM)))]
    features = combined_features(shop.pipeline, *map(shop.pipeline.decode, tracks))
    assert np.abs(joints_of(shop, both) - shop.pipeline.joints(features)).max() < 1e-4
    steps = []
    with listening(lambda *step: steps.append(step)):
        there, = shop.make(Ask.read({**HOW, "blocks": BLOCKS[:1], "waypoints": [{"x": 0.3, "z": 0.5, "time": 1.5}]}))
    assert np.abs(joints_of(shop, there)[30, 0, [0, 2]] - [0.3, 0.5]).max() < 0.05
    assert ("constraints", STEPS, STEPS) in steps
    assert [mark["kind"] for mark in shown(shop, there.id)[0]["marks"]] == ["point"]


def test_motions_are_found_by_words_and_by_motions_with_prompt_and_picture(shop: Workshop, tmp_path: Path) -> None:
    _, by_words = shop.search("someone walks", None, None, 5)
    assert sorted((hit.file, hit.prompt) for hit in by_words) == [
        ("fast.npy", "someone hurries"), ("more/long.npy", "more/long.npy"), ("slow.npy", "slow.npy")]
    assert all(hit.picture.startswith("<svg") and hit.seconds <= 9.8 for hit in by_words)
    fast = tmp_path / "asked.npy"
    np.save(fast, walking(60, 1.5))
    said, hits = shop.search("", shop.source(str(fast), None), None, 1)
    assert (said, hits[0].prompt) == ("1 of 3 motions, the nearest first", "someone hurries")
    source, page = shop.open_file("fast.npy")
    assert (source.name, len(source.features)) == ("someone hurries", 60)
    assert shown(shop, page.room.name)[0]["caption"] == "someone hurries"
    takes = [shop.make(ask(seconds=seconds), formats=[])[0] for seconds in (2.0, 3.0)]
    _, here = shop.search("", shop.source(None, takes[1]), takes, 5)
    assert {hit.take for hit in here} == {take.id for take in takes}


def sent(folder: Path, name: str, size: int) -> str:
    (folder / name).write_bytes(bytes(size))
    return str(folder / name)


def edit(shop: Workshop, path: str, sections: str) -> object:
    return shop.make(ask("bow", sections=sections), source=shop.source(path, None))


def timeline(shop: Workshop, **more: object) -> object:
    return shop.make(Ask.read({**HOW, "blocks": BLOCKS, **more}))


Do = Callable[[Workshop, Path], object]
WRONG: dict[str, tuple[Do, str]] = {
    "too long": (lambda shop, _: shop.make(ask(seconds=31)), "from 0.2 to 30, not 31"),
    "half a letter": (lambda shop, _: shop.make(ask("walk \ud800")), "must be text, not 'walk \\ud800'"),
    "format": (lambda shop, _: shop.make(ask(), 1, ["exe"]), "formats must be a list of bvh, mp4, glb, not ['exe']"),
    "unknown": (lambda *_: ask(**{"x" * 999: 1}), f"{'x' * 40!r} is unknown"),
    "no part": (lambda *_: ask(source={**HOW, "prompt": "walk"}), "source needs sections"),
    "same block": (lambda shop, _: timeline(shop, remakes=[{"track": "body", "block": 0, "seed": 1}] * 2),
                   "remakes must be of different blocks"),
    "no seed": (lambda shop, _: shop.make(ask(seed=None)), "the seed must be from 0 to 2147483647, not nothing"),
    "samples": (lambda shop, _: shop.make(ask(), 9), "samples must be from 1 to 4"),
    "last seed": (lambda shop, _: shop.make(ask(seed=2**31 - 1), 2), "the seed must be from 0"),
    "odd link": (lambda *_: Ask.from_query({"seed": "x"}), "seed in the link cannot be read: x"),
    "no source": (lambda shop, _: shop.make(ask(sections="0.1,0.2")), "upload a motion, or choose"),
    "far part": (lambda shop, at: edit(shop, upload(at, "a.npy"), "9,9e9"), "ends after more than 120 s"),
    "twice": (lambda shop, at: edit(shop, upload(at, "a.npy"), "2,5 4,6"), "overlap"),
    "long upload": (lambda shop, at: shop.source(upload(at, "long.npy", 2500), None), "lasts 125 s; the maximum is"),
    "large upload": (lambda shop, at: shop.source(sent(at, "large.bvh", 2**24 + 1), None), "large.bvh is larger than"),
    "picture": (lambda shop, at: shop.source(sent(at, "me.png", 9), None), "me.png: a motion is a .npy, .bvh or .amc"),
    "captions": (lambda shop, at: shop.caption(shop.source(upload(at, "a.npy"), None), 6, False, 0),
                 "captions must be from 1"),
    "nothing here": (lambda shop, _: shop.search("walk", None, (), 3), "nothing has been generated yet"),
    "not there": (lambda shop, _: shop.open_file("../lamp/opt.txt"), "no longer in the gallery"),
    "hole": (lambda shop, _: timeline(shop, blocks=[BLOCKS[0], {**BLOCKS[1], "start": 3}]), "follow one another"),
    "file": (lambda shop, _: shop.make(ask(seconds=2.0, constraints=[{"kind": "pose", "time": 1, "file": "/etc/x"}])),
             "constraints[0].file: files cannot be used here"),
    "late hold": (lambda shop, _: shop.make(ask(seconds=2.0, constraints=[{**HELD, "time": 3}])), "outside a motion"),
    "no block": (lambda shop, _: timeline(shop, remakes=[{"track": "upper", "block": 0, "seed": 1}]), "no block 0"),
    "far point": (lambda shop, _: timeline(shop, waypoints=[{"x": 99, "z": 0, "time": 1}]), "waypoints 1: x must be"),
}


@pytest.mark.parametrize(("do", "told"), WRONG.values(), ids=WRONG.keys())
def test_faults_are_reported_without_a_path_or_bytes(shop: Workshop, tmp_path: Path, do: Do, told: str) -> None:
    with pytest.raises(InputError) as raised:
        do(shop, tmp_path)
    assert told in str(raised.value)
    assert str(tmp_path) not in str(raised.value)
    assert not re.search(r"\n|bytes?\b|[KMG]iB|allocat", str(raised.value))


def test_constraints_give_what_the_script_gives_and_locked_feet_keep_them(shop: Workshop, tmp_path: Path) -> None:
    take, = shop.make(ask(seconds=2.0, constraints=[HELD]), formats=[])
    (tmp_path / "c.json").write_text(json.dumps([HELD]))
    opt = parse_generate_options(["--text_prompt", "a person walks", "--motion_length", "40", "--seed", "7",
                                  "--constraints", str(tmp_path / "c.json"), "--time_steps", "2"])
    (_, made), = directed_motions(shop.pipeline, [make_prompt("a person walks", 40, "")], None, SPEC, opt, ())
    assert np.array_equal(joints_of(shop, take), made.joints)
    locked = np.load(shop.rooms.find(take.id, f"{take.ask.stem}_ik.npy"))
    assert np.abs(locked[12:19, 10] - made.joints[12:19, 10])[:, [0, 2]].max() < 0.02
    assert shown(shop, take.id)[0]["marks"]
    assert Ask.read(take.ask.record()) == take.ask
    before = shop.make(ask(seconds=2.0), formats=[])[0]
    edited, = shop.make(ask(sections="0.5,0.75", constraints=[HELD]), formats=[], source=shop.source(None, before))
    assert shown(shop, edited.id)[0]["marks"]


def test_the_history_is_each_visitors_own_survives_a_restart_and_is_searched(shop: Workshop, tmp_path: Path) -> None:
    walk, bow = shop.make(ask(seconds=2.0), formats=[])[0], shop.make(ask("a person bows", seed=9, seconds=2.0))[0]
    history = History(tmp_path / "history")
    history.add("ann", [walk])
    history.add("ann", [bow])
    history.keep("ann", walk.id)
    for known in (history, History(tmp_path / "history")):
        assert known.of("ann") == (bow, replace(walk, kept=True))
        assert known.of("ben") == ()
        assert known.search("ann", "person SEED 9") == [bow]
        assert known.find("ann", bow.id) == bow
    with pytest.raises(InputError, match="upload a motion, or choose"):
        history.find("ben", bow.id)
    history.add("ann", [walk] * 400)
    assert len(history.of("ann")) == 300


def queue_up(jobs: Jobs, names: str, gate: threading.Event) -> tuple[list[threading.Thread], list[str], list[str]]:
    """Start a job for each visitor in ``names``, in order. The first job blocks until the gate opens."""
    done, refused, threads = [], [], []

    def start(name: str, number: int) -> None:
        def work() -> None:
            assert gate.wait(20)
            done.append(f"{name}{number}")
        try:
            jobs.run(Visitor(name, f"{name}{number}"), work)
        except InputError as error:
            refused.append(f"{name}{number} {type(error).__name__}: {error}")

    for number, name in enumerate(names):
        before = len(jobs.line) + len(refused)
        threads.append(threading.Thread(target=start, args=(name, number), daemon=True))
        threads[-1].start()
        while len(jobs.line) + len(refused) == before:
            time.sleep(0.001)
    return threads, done, refused


def test_cancelled_jobs_are_dropped_steps_reach_visitors_and_too_many_requests_are_refused() -> None:
    jobs, gate = Jobs(), threading.Event()
    threads, done, refused = queue_up(jobs, "aabaa", gate)
    assert ["one of your requests is running" in line for line in refused] == [True, True]
    refused.clear()
    jobs.cancel("a1")
    threads[1].join(20)
    assert [line.split(":")[0] for line in refused] == ["a1 Cancelled"]
    gate.set()
    for thread in threads:
        thread.join(20)
    assert done == ["a0", "b2"]

    def work() -> None:
        jobs.cancel("s")
        report_step("tokens", 1, 2)
        raise AssertionError("the step stops a cancelled job")

    with pytest.raises(Cancelled):
        jobs.run(Visitor("c", "s"), work)
    assert jobs.run(Visitor("c", "s"), lambda: 3) == 3

    now, steps = [0.0], []
    jobs = Jobs(per_minute=2, clock=lambda: now[0])
    for _ in range(2):
        jobs.run(Visitor("a", "s"), lambda: report_step("tokens", 1, 10), lambda *step: steps.append(step))
    assert steps == [("tokens", 1, 10)] * 2
    with pytest.raises(InputError, match="at most 2 requests a minute; try again in 60 s"):
        jobs.run(Visitor("a", "other"), lambda: None)
    jobs.run(Visitor("b", "s"), lambda: None)
    now[0] = 61
    jobs.run(Visitor("a", "s"), lambda: None)
    limit = RateLimit(1, 10, clock=lambda: now[0])
    assert (limit.wait("x"), limit.wait("x")) == (0, 10)


def test_clients_leave_when_they_close_their_connection_and_cannot_guess_passwords_quickly() -> None:
    left = []

    async def app(_: object, receive: Callable, __: object) -> None:
        await receive()

    async def closed() -> dict:
        return {"type": "http.disconnect"}

    keeper = Doorkeeper(app, "cookie", set(), print, left.append)
    for path in ("/gradio_api/queue/data", "/gradio_api/call/v1_generate/event", "/config"):
        scope = {"type": "http", "method": "GET", "path": path, "query_string": b"session_hash=tab", "headers": []}
        asyncio.run(keeper(scope, closed, closed))
    assert left == ["tab", "event"]

    answers = []

    async def answer(*given: object) -> None:
        answers.extend(message["status"] for message in given if message.get("status"))

    async def app(_: object, __: object, send: Callable) -> None:
        await send({"type": "http.response.start", "status": 400, "headers": []})

    keeper = Doorkeeper(app, "cookie", set(), print, print)
    scope = {"type": "http", "method": "POST", "path": "/login", "headers": [(b"content-length", b"9")]}
    for client in ("a", "b"):
        for _ in range(12):
            asyncio.run(keeper({**scope, "client": (client, 1)}, answer, answer))
    assert answers == 2 * (10 * [400] + 2 * [429])


def test_other_sites_cannot_post() -> None:
    assert same_origin({"host": "lamp.org:7860", "origin": "http://lamp.org:7860"})
    assert same_origin({"host": "127.0.0.1", "x-forwarded-host": "x.gradio.live", "origin": "https://x.gradio.live"})
    assert same_origin({"host": "127.0.0.1:7860"})  # a program
    for origin in ("http://evil.org", "null", "http://lamp.org:80"):
        assert not same_origin({"host": "lamp.org:7860", "origin": origin})
    assert not same_origin({"host": "lamp.org", "sec-fetch-site": "cross-site"})


def test_folders_of_killed_apps_are_swept_and_those_of_others_stay(tmp_path: Path) -> None:
    for name in ("killed", "alive", "starting"):
        (tmp_path / f"lamp_app_{name}").mkdir()
        (tmp_path / f"lamp_app_{name}" / LOCK).touch()
        if name != "starting":
            os.utime(tmp_path / f"lamp_app_{name}", (0, 0))
    with FileLock(tmp_path / "lamp_app_alive" / LOCK):
        assert sweep_leftovers(tmp_path) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lamp_app_alive", "lamp_app_starting"]


def test_one_app_at_a_time_keeps_its_files_in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    keeping = parse_app_options(["--keep", str(tmp_path / "kept")])
    for _ in range(2):
        with ExitStack() as stack:
            assert root_of(keeping, stack) == (tmp_path / "kept", None)
            with pytest.raises(InputError, match="another app uses this folder"):
                root_of(keeping, stack)
            folder, seconds = root_of(parse_app_options([]), stack)
            assert (folder.parent, seconds) == (tmp_path, 7200)
            assert sweep_leftovers(tmp_path) == 0
        assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_an_app_that_does_not_answer_is_reported(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    def launch(*_: object, **__: object) -> None:
        raise ValueError("When localhost is not accessible, a shareable link must be created.")

    monkeypatch.setattr("os.environ", dict(os.environ))
    monkeypatch.setattr(pytest.importorskip("gradio").Blocks, "launch", launch)
    with pytest.raises(InputError, match="does not answer"):
        open_page(shop, parse_app_options([]))


def test_a_tab_without_its_model_reports_it(shop: Workshop, models: Models, tmp_path: Path) -> None:
    shop.models = replace(models, captioner=None, lamp=None)
    with pytest.raises(InputError, match="no captioning model: neither --m2t_name nor the bundled m2t_demo"):
        shop.caption(shop.source(upload(tmp_path, "a.npy"), None), 1, False, 0)
    with pytest.raises(InputError, match="no model to search with"):
        shop.search("walk", None, None, 1)
    shop.models = replace(models, gallery=None)
    with pytest.raises(InputError, match="there is no gallery"):
        shop.search("walk", None, None, 1)


def test_models_that_were_named_must_be_there_and_others_may_be_missing(tmp_path: Path) -> None:
    home = make_models(tmp_path, "kit")
    given = ["--dataset_name", "kit", *FLAGS, "--checkpoints_dir", str(home)]
    loaded = load_models(parse_app_options(given))
    assert (loaded.captioner, loaded.lamp) == (None, None)
    assert len(loaded.files) == 4
    for flag in ("--m2t_name", "--lamp_name"):
        with pytest.raises(InputError, match="no model named 'mine'"):
            load_models(parse_app_options([*given, flag, "mine"]))
    with pytest.raises(InputError, match="--gallery needs a LaMP model"):
        load_models(parse_app_options([*given, "--gallery", str(tmp_path)]))
    with pytest.raises(InputError, match="nowhere is missing"):
        load_models(parse_app_options([*given, "--lamp_name", "lamp", "--gallery", "nowhere"]))


def test_rooms_lend_their_own_files_alone_and_go_with_uploads_when_they_are_old(tmp_path: Path) -> None:
    now = 1_000_000.0
    rooms = Rooms(tmp_path, 60, clock=lambda: now)
    old, written, young = rooms.new(), rooms.new(), rooms.new()
    (rooms.uploads / "ab").mkdir()
    (rooms.uploads / "broken").write_text("half of a")
    os.utime(rooms.uploads / "broken", (now - 90, now - 90))
    for folder, age in ((old, 90), (written, 90), (young, 30), (rooms.uploads / "ab", 90)):
        (folder / "file").write_text("")
        for path in (folder / "file", folder):
            os.utime(path, (now - age, now - age))
    os.utime(written / "file", (now - 10, now - 10))
    rooms.new()
    assert [folder.is_dir() for folder in (old, written, young)] == [False, True, True]
    assert list(rooms.uploads.iterdir()) == []

    rooms = Rooms(tmp_path, 60)
    room = rooms.new()
    (room / "a").mkdir()
    (room / "a" / "page.html").write_text("")
    (tmp_path / "secret").write_text("")
    (room / "link").symlink_to(tmp_path / "secret")
    assert rooms.find(room.name, "a/page.html") == (room / "a" / "page.html").resolve()
    for name, file in ((room.name, "a"), (room.name, "../../secret"), (room.name, str(tmp_path / "secret")),
                       (room.name, "link"), ("..", "secret"), ("", "secret"), (".", f"{room.name}/a/page.html"),
                       ("other", "a/page.html"), (f"{room.name}/a", "page.html"), (room.name, "a\0b"), ("a\0b", "x"),
                       (room.name, "a" * 300)):
        assert rooms.find(name, file) is None


@pytest.mark.parametrize("flags", [["--host", "0.0.0.0"], ["--share"]])
def test_an_app_for_other_machines_needs_a_password_or_a_word(flags: list[str]) -> None:
    with pytest.raises(InputError, match="--password, or --open"):
        parse_app_options(flags)
    assert parse_app_options([*flags, "--password", "x"]).password == "x"
    assert parse_app_options([*flags, "--open"]).open
