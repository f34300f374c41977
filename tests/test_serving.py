"""The work behind the app's tabs, without a browser: what is asked for is made, what is wrong is told, old files go."""
import os
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.motion_files import read_motion
from data.specs import dataset_spec
from models.text_to_motion import Sample, Sampling
from motion.bvh_fit import joints_to_bvh
from motion.skeleton import T2M
from options.evaluate import parse_app_options
from serving.inputs import Kept, Limits, checked_text
from serving.models import Models, load_models
from serving.rooms import Rooms
from serving.server import require_gradio
from serving.workshop import Result, Workshop
from tests.browser import data_of
from tests.figures import walking
from tests.toy_models import make_captioner, make_models
from utils.errors import InputError
from utils.files import write_text

SPEC = dataset_spec("t2m")
SAMPLING = Sampling(time_steps=2)
FLAGS = ("--gpu_id", "-1", "--name", "t2m", "--res_name", "res", "--len_name", "len", "--quiet")
HOW = (7, 4.0, 1)  # seed, guidance, samples


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Toy models of every tab, and a gallery of three motions."""
    home = tmp_path_factory.mktemp("serving")
    make_models(home)
    make_captioner(home)
    (home / "gallery" / "more").mkdir(parents=True)
    for name, speed, frames in (("slow", 0.3, 60), ("fast", 1.5, 60), ("more/long", 1.0, 230)):
        np.save(home / "gallery" / f"{name}.npy", walking(frames, speed))
    return load_models(parse_app_options([*FLAGS, "--checkpoints_dir", str(home), "--m2t_name", "m2t", "--lamp_name",
                                          "lamp", "--gallery", str(home / "gallery")]))


@pytest.fixture
def shop(models: Models, tmp_path: Path) -> Workshop:
    return Workshop(models, Rooms(tmp_path / "rooms", 60), SAMPLING, Limits())


def shown(result: Result) -> list[dict]:
    """The motions of a result's page."""
    return data_of((result.room / "index.html").read_text())["motions"]


def upload(folder: Path, name: str, frames: int = 60) -> str:
    """A walk as a file of its own, as the browser would send it."""
    path = folder / name
    if name.endswith(".bvh"):
        write_text(path, joints_to_bvh(walking(frames), T2M, 20.0).text())
    else:
        np.save(path, walking(frames))
    return str(path)


def test_a_prompt_gives_what_the_script_gives_with_page_files_and_archive(shop: Workshop) -> None:
    result = shop.generate(" a person walks ", 2.0, 7, 4.0, 2, ["bvh", "glb"])
    expected = shop.pipeline.generate([Sample("a person walks", seed, 40) for seed in (7, 8)], SAMPLING)
    for kept, joints in zip(result.kept, expected, strict=True):
        assert np.array_equal(np.load(kept.path), joints)
    assert [one["caption"] for one in shown(result)] == ["a person walks"] * 2
    for one in shown(result):
        assert all((result.room / file).is_file() for files in one["files"].values() for file in files)
    with zipfile.ZipFile(result.room / "motions.zip") as archive:
        assert archive.testzip() is None
        kinds = [Path(name).suffix for name in archive.namelist()]
    assert {kind: kinds.count(kind) for kind in kinds} == {".html": 1, ".npy": 4, ".bvh": 4, ".glb": 4}


def test_the_length_is_the_models_or_as_long_as_one_likes(shop: Workshop) -> None:
    by_model = shop.pipeline.token_lengths([Sample("a person walks", HOW[0])], SAMPLING)[0]
    assert [one["frames"] for one in shown(shop.generate("a person walks", None, *HOW, []))] == [4 * by_model]
    assert [one["frames"] for one in shown(shop.generate("a person walks", 12.0, *HOW, []))] == [240]


def test_an_edit_keeps_the_rest_and_shows_the_motion_before(shop: Workshop, tmp_path: Path) -> None:
    made = shop.generate("a person walks", 3.0, *HOW, [])
    for given in ((upload(tmp_path, "walk.bvh"), None, ()), (None, made.kept[0].label, made.kept)):
        result = shop.edit(*given, "0.5,0.75", "a person bows", *HOW, [])
        edited, before = shown(result)
        assert (edited["caption"], edited["frames"]) == ("a person bows", 60)
        assert before["caption"].startswith("before: ")
        assert before["files"] == {"plain": [], "locked": []}
    joints = np.load(result.kept[0].path)
    source = shop.pipeline.joints(read_motion(made.kept[0].path, SPEC, trusted=True))
    far = np.linalg.norm(joints - source, axis=-1).max(-1)
    assert far[:28].max() < 1e-4 < far[32:44].max()
    assert result.kept[0].label == "2: a person bows"


def test_captions_come_in_parts_each_playing_under_its_own(shop: Workshop, tmp_path: Path) -> None:
    result = shop.caption(upload(tmp_path, "long.npy", 300), None, (), 2, False, 0)
    assert [when for when, _ in result.rows] == ["0.0 – 7.5 s"] * 2 + ["7.5 – 15.0 s"] * 2
    assert [one["caption"] for one in shown(result)] == [result.rows[0][1], result.rows[2][1]]
    assert [one["frames"] for one in shown(result)] == [150, 150]
    drawn = [shop.caption(upload(tmp_path, "walk.bvh"), None, (), 2, True, seed).rows for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_motions_are_found_by_words_and_by_motions(shop: Workshop, tmp_path: Path) -> None:
    by_words = shown(shop.search("someone walks", None, None, (), False, 5))
    assert sorted(one["caption"].split()[1] for one in by_words) == ["fast.npy", "more/long.npy", "slow.npy"]
    assert all(one["frames"] <= 196 for one in by_words)
    fast = tmp_path / "asked.npy"
    np.save(fast, walking(60, 1.5))
    assert shown(shop.search("", str(fast), None, (), False, 1))[0]["caption"] == "1.00  fast.npy"
    made = tuple(Kept(f"{number}: {name}", shop.models.gallery / f"{name}.npy")
                 for number, name in enumerate(("slow", "fast"), 1))
    here = shown(shop.search(" ", None, made[1].label, made, True, 5))  # the toy model hardly tells them apart
    assert {one["caption"].partition("  ")[2] for one in here} == {one.label for one in made}


def too_long(folder: Path) -> str:
    return upload(folder, "long.npy", 2500)


def pickled(folder: Path) -> str:
    np.save(folder / "sly.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return str(folder / "sly.npy")


def too_large(folder: Path) -> str:
    with open(folder / "large.bvh", "wb") as file:
        file.truncate(Limits().upload_bytes + 1)
    return str(folder / "large.bvh")


def no_bvh(folder: Path) -> str:
    (folder / "notes.bvh").write_text("HIERARCHY\nROOT Hips\n")
    return str(folder / "notes.bvh")


def picture(folder: Path) -> str:
    (folder / "me.png").write_bytes(b"png")
    return str(folder / "me.png")


Ask = Callable[[Workshop, Path], object]
WRONG: dict[str, tuple[Ask, str]] = {
    "no words": (lambda shop, _: shop.generate(" .. ", None, *HOW, []), "the prompt has no words"),
    "too many": (lambda shop, _: shop.generate("walk " * 80, None, *HOW, []), "has 399 letters; 300 are the most"),
    "too long": (lambda shop, _: shop.generate("walk", 31, *HOW, []), "from 0.2 to 30, not 31"),
    "no number": (lambda shop, _: shop.generate("walk", float("nan"), *HOW, []), "from 0.2 to 30, not nan"),
    "no seed": (lambda shop, _: shop.generate("walk", 2, None, 4, 1, []), "the seed must be from 0"),
    "half a seed": (lambda shop, _: shop.generate("walk", 2, 0.5, 4, 1, []), "the seed must be a whole number"),
    "guidance": (lambda shop, _: shop.generate("walk", 2, 0, -1, 1, []), "guidance must be from 0 to 10"),
    "samples": (lambda shop, _: shop.generate("walk", 2, 0, 4, 9, []), "samples must be from 1 to 4"),
    "no motion": (lambda shop, _: shop.edit(None, None, (), "0.1,0.2", "bow", *HOW, []), "upload a motion, or choose"),
    "not ours": (lambda shop, _: shop.edit(None, "/etc/passwd", (), "0.1,0.2", "bow", *HOW, []), "upload a motion, or"),
    "gone": (lambda shop, at: shop.caption(None, "1: x", (Kept("1: x", at / "x.npy"),), 1, False, 0), "has expired"),
    "upload gone": (lambda shop, at: shop.caption(str(at / "x.npy"), None, (), 1, False, 0), "x.npy has expired"),
    "no parts": (lambda shop, at: shop.edit(upload(at, "a.npy"), None, (), "", "bow", *HOW, []), "name 1 to 8 parts"),
    "odd part": (lambda shop, at: shop.edit(upload(at, "a.npy"), None, (), "end", "bow", *HOW, []),
                 "a.npy: a part must be like 0.3,0.6"),
    "far part": (lambda shop, at: shop.edit(upload(at, "a.npy"), None, (), "9,9e9", "bow", *HOW, []),
                 "ends after more than 120 s"),
    "gap": (lambda shop, at: shop.edit(upload(at, "a.npy"), None, (), "20,30", "bow", *HOW, []), "a.npy: part 20,30"),
    "twice": (lambda shop, at: shop.edit(upload(at, "a.npy"), None, (), "2,5 4,6", "bow", *HOW, []), "overlap"),
    "long upload": (lambda shop, at: shop.caption(too_long(at), None, (), 1, False, 0), "long.npy lasts 125 s; 120"),
    "large upload": (lambda shop, at: shop.caption(too_large(at), None, (), 1, False, 0), "large.bvh is larger than"),
    "pickle": (lambda shop, at: shop.caption(pickled(at), None, (), 1, False, 0), "sly.npy is not a readable .npy"),
    "broken BVH": (lambda shop, at: shop.caption(no_bvh(at), None, (), 1, False, 0), "notes.bvh, line"),
    "picture": (lambda shop, at: shop.caption(picture(at), None, (), 1, False, 0), "me.png: a motion is a .npy or"),
    "captions": (lambda shop, at: shop.caption(upload(at, "a.npy"), None, (), 6, False, 0), "captions must be from 1"),
    "nothing here": (lambda shop, _: shop.search("walk", None, None, (), True, 3), "nothing was made here yet"),
    "nothing asked": (lambda shop, _: shop.search("", None, None, (), False, 3), "upload a motion, or choose"),
}


@pytest.mark.parametrize(("ask", "told"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_told_in_one_line_without_a_path(shop: Workshop, tmp_path: Path, ask: Ask, told: str) -> None:
    with pytest.raises(InputError) as raised:
        ask(shop, tmp_path)
    assert told in str(raised.value)
    assert str(tmp_path) not in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("what", ["the prompt", "the text"])
def test_a_text_without_words_is_called_so_once(what: str) -> None:
    with pytest.raises(InputError) as raised:
        checked_text(" .. ", 300, what)
    assert str(raised.value) == f"{what} has no words"


def test_a_tab_without_its_model_says_so(shop: Workshop, models: Models, tmp_path: Path) -> None:
    shop.models = replace(models, captioner=None, lamp=None)
    with pytest.raises(InputError, match="no captioning model: neither --m2t_name nor the bundled m2t_demo"):
        shop.caption(upload(tmp_path, "a.npy"), None, (), 1, False, 0)
    with pytest.raises(InputError, match="no model to search with"):
        shop.search("walk", None, None, (), False, 1)
    shop.models = replace(models, gallery=None)
    with pytest.raises(InputError, match="no gallery was named"):
        shop.search("walk", None, None, (), False, 1)


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


def test_old_rooms_and_uploads_go_and_young_ones_stay(tmp_path: Path) -> None:
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


def test_where_there_is_too_much_the_oldest_goes(tmp_path: Path) -> None:
    rooms = Rooms(tmp_path, 60, keep_bytes=300_000)
    folders = [rooms.new(), rooms.new(), rooms.new(), *(rooms.uploads / name for name in "ab")]
    for age, folder in enumerate(reversed(folders)):  # the first one is the oldest
        folder.mkdir(exist_ok=True)
        (folder / "file").write_bytes(bytes(120_000))
        for path in (folder / "file", folder):
            os.utime(path, (time.time() - age, time.time() - age))
    rooms.sweep()
    assert [folder.is_dir() for folder in folders] == [False, True, True, True, True]


def test_rooms_lend_their_own_files_alone(tmp_path: Path) -> None:
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


def test_without_gradio_one_line_tells_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"pip install -r requirements-app\.txt"):
        require_gradio()


@pytest.mark.parametrize("flags", [["--host", "0.0.0.0"], ["--share"]])
def test_an_app_for_other_machines_needs_a_password_or_a_word(flags: list[str]) -> None:
    with pytest.raises(InputError, match="--password, or --open"):
        parse_app_options(flags)
    assert parse_app_options([*flags, "--password", "x"]).password == "x"
    assert parse_app_options([*flags, "--open"]).open
