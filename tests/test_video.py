"""Videos and contact sheets show every frame, for any joints, path and caption."""
from base64 import b64decode
from fractions import Fraction
from io import BytesIO
from xml.etree import ElementTree

import av
import numpy as np
import pytest
from PIL import Image

from data.dataset import dataset_spec
from motion.skeleton import T2M
from tests.figures import standing, walking
from tests.toy import as_kit
from utils import InputError
from visualization import video
from visualization.outputs import Formats, Made, write_contact_sheets, write_motions, write_side_by_side
from visualization.scene import GROUND, LEFT, RIGHT, Scene
from visualization.video import CaptionMask, _at_rate, drawable, follow_scene, strip, write_video

SVG, XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"


def decode(path) -> tuple[Fraction, np.ndarray]:
    """Return the frame rate and the frames (T, H, W, 3) of a video file."""
    with av.open(str(path)) as file:
        return file.streams.video[0].average_rate, np.stack([frame.to_ndarray(format="rgb24")
                                                              for frame in file.decode(video=0)])


def share_of(picture: np.ndarray, colour: tuple[int, int, int]) -> float:
    """Return the fraction of pixels within 60 of ``colour``."""
    return float((np.abs(picture.astype(int) - colour).sum(-1) < 60).mean())


def test_motions_of_a_prompt_are_numbered_side_by_side_and_have_rows_of_a_contact_sheet(tmp_path, monkeypatch):
    spec, formats, labels = dataset_spec("t2m"), Formats(video=False, bvh=False), []
    takes = ((0, 0, 5), (0, 1, 8), (1, 0, 4))
    made = [Made(number, repeat, "glides", walking(frames)) for number, repeat, frames in takes]
    written = list(write_motions(tmp_path, made, spec, formats))
    monkeypatch.setattr("visualization.outputs.write_video",
                        lambda *given, **more: labels.append(given[2]) or write_video(*given, **more))
    first, second = write_side_by_side(tmp_path, made, written, spec, formats)
    assert first == tmp_path / "animation" / "0" / "sample0_side_by_side.mp4"
    assert decode(first)[1].shape == (8, 720, 1440, 3)
    assert decode(second)[1].shape == (4, 720, 720, 3)
    assert labels[0] == ["1. glides", "2. glides"]
    assert write_contact_sheets(tmp_path, written, Formats()) == []
    [sheet] = write_contact_sheets(tmp_path, written, Formats(strip="png"))
    assert Image.open(sheet).size == (1080, 900)


def test_body_is_in_every_frame_with_both_sides_distinguished_by_colour(tmp_path):
    write_video(tmp_path / "a.mp4", [standing(24) + np.linspace([[0, 0, 0]], [[7, 0, 0]], 24)], size=240)
    _, frames = decode(tmp_path / "a.mp4")
    for frame in frames:
        assert share_of(frame, LEFT) > 0.002
        assert share_of(frame, RIGHT) > 0.002


def test_the_ground_around_the_body_is_never_black_and_encoding_keeps_the_pictures(tmp_path):
    walk = walking(40, 1.2)
    write_video(tmp_path / "a.mp4", [walk], size=240)
    scene = follow_scene(walk, T2M, 20.0, (240, 240))
    for frame, encoded in enumerate(decode(tmp_path / "a.mp4")[1]):
        picture = scene.draw(frame)
        assert (picture.max(-1) < 12).mean() < 1e-3
        assert np.abs(picture[..., ::-1].astype(int) - encoded).mean() < 2.5


def test_motions_stand_side_by_side_and_the_shorter_one_waits_in_its_last_pose(tmp_path):
    write_video(tmp_path / "a.mp4", [walking(8), as_kit(walking(20))], ["short", "long"], size=128)
    _, frames = decode(tmp_path / "a.mp4")
    assert frames.shape == (20, 128, 256, 3)
    change = np.abs(frames[-1].astype(int) - frames[9])
    assert change[:, :128].mean() < 1 < change[:, 128:].mean()


@pytest.mark.parametrize("rate", [50, 12.5, 30])
def test_a_film_of_another_rate_takes_as_long_and_shows_poses_in_between(tmp_path, rate):
    write_video(tmp_path / "a.mp4", [walking(40)], fps=20, size=64, video_fps=rate)
    shown, frames = decode(tmp_path / "a.mp4")
    assert shown == rate
    assert len(frames) == 2 * rate
    spread = walking(3)
    spread[:, 0, 0] = 0, 1, 4
    np.testing.assert_allclose(_at_rate(spread, 20, 40)[:, 0, 0], [0, 0.25, 1, 2.25, 4, 4], atol=1e-9)


@pytest.mark.parametrize("rate", [20, 30, 7])
def test_gif_plays_all_frames_for_as_long_as_the_motion_takes(tmp_path, rate):
    """GIF delays are whole hundredths of a second, so they alternate if necessary."""
    write_video(tmp_path / "a.gif", [walking(20)], ["a person glides"], fps=20, size=96, video_fps=rate)
    with Image.open(tmp_path / "a.gif") as film:
        assert (film.n_frames, film.size) == (rate, (96, 96))
        stays = [film.info["duration"] for frame in range(rate) if film.seek(frame) is None]
    assert sum(stays) == pytest.approx(1000, abs=5) and np.ptp(stays) <= 10


@pytest.mark.parametrize("caption", ["word " * 120, "x" * 400, "a person walks slowly, then turns"])
def test_captions_are_wrapped_to_the_picture_and_leave_room_for_the_body(caption):
    text = CaptionMask(caption, (240, 240))
    ink = np.asarray(text.mask) > 0
    assert ink.any() and not ink[:, :4].any() and not ink[:, -4:].any()
    assert text.mask.height < 120
    scene = follow_scene(walking(2), T2M, 20, (240, 240), caption)
    places, _ = scene.person.fitted.posed(scene.person.joints, scene.person.moves, scene.person.moved)
    assert scene.camera.project(places)[..., 1].min() > text.mask.height


def test_strip_shows_every_pose_of_every_motion(tmp_path):
    strip(tmp_path / "s.png", [walking(40), as_kit(walking(40))], ["one", "two"], poses=4, height=200)
    sheet = np.asarray(Image.open(tmp_path / "s.png"))
    assert sheet.shape == (400, 360, 3)
    for row in (sheet[:200], sheet[200:]):
        for column in np.split(row, 4, axis=1):
            assert share_of(column, LEFT) > 0.005
    assert share_of(sheet, GROUND) < 0.9


@pytest.mark.parametrize(("suffix", "start"), [(".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_strips_for_papers_have_sharp_poses_and_captions_as_text(tmp_path, suffix, start):
    strip(tmp_path / f"s{suffix}", [walking(8), as_kit(walking(8))], ["costs $5 & $6", "two"], poses=2, height=60)
    content = (tmp_path / f"s{suffix}").read_bytes()
    assert content.startswith(start)
    if suffix == ".svg":
        drawing = ElementTree.fromstring(content)
        assert [text.text for text in drawing.iter(f"{SVG}text")] == ["costs $5 & $6", "two"]
        pictures = [picture.attrib[f"{XLINK}href"] for picture in drawing.iter(f"{SVG}image")]
        sides = [Image.open(BytesIO(b64decode(picture.partition(",")[2]))).size for picture in pictures]
        assert sides == [(162, 180)] * 2


def test_left_limbs_are_on_the_right_of_somebody_who_faces_the_camera():
    picture = follow_scene(walking(1), T2M, 20, (240, 240)).draw(0)[..., ::-1].astype(int)
    columns = [np.argwhere(np.abs(picture - colour).sum(-1) < 60)[:, 1].mean() for colour in (LEFT, RIGHT)]
    assert columns[0] > columns[1]


def test_a_letter_without_a_glyph_becomes_a_question_mark_instead_of_a_box():
    assert drawable("a \U0010fffc b")[0] == "a ? b"


@pytest.mark.parametrize(("name", "motions", "captions", "complaint"), [
    ("a.avi", [np.zeros((4, 22, 3))], [], "a.avi"),
    ("a.mp4", [np.zeros((4, 20, 3))], [], r"\(4, 20, 3\)"),
    ("a.mp4", [np.full((4, 22, 3), np.nan)], [], "finite"),
    ("a.mp4", [np.zeros((4, 22, 3))], ["one", "two"], "2 captions"),
    ("a.mp4", [], [], "0 motions"),
])
def test_what_cannot_be_drawn_is_reported_and_leaves_no_file(tmp_path, name, motions, captions, complaint):
    with pytest.raises(ValueError, match=complaint):
        write_video(tmp_path / name, motions, captions)
    assert not list(tmp_path.iterdir())


def test_an_encoder_that_fails_is_quoted_and_an_unfinished_film_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setitem(video.ENCODERS, ".mp4", ("libx264", "yuv420p", {"preset": "no_such_preset"}, {}))
    with pytest.raises(InputError, match="a.mp4.*ffmpeg"):
        write_video(tmp_path / "a.mp4", [walking(40)])
    monkeypatch.undo()
    monkeypatch.setattr(Scene, "draw", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_video(tmp_path / "a.mp4", [walking(4)])
    assert not list(tmp_path.iterdir())
