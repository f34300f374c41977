"""Editing changes only the edited parts, and long motions are generated in windows."""
from pathlib import Path

import numpy as np
import pytest
import torch

from data.dataset import dataset_spec
from models.config import Sampling
from models.motion_edit import CONTEXT, FADE, MotionEditor, next_window, splice
from models.motion_edit import TimelinePart as Part
from motion.features import joints_to_features
from motion.skeleton import T2M
from options.generate import Section, parse_edit_options, section
from storage.generation import load_text_to_motion
from tests.figures import walking
from utils import InputError

WINDOW = 49
QUICK = Sampling(time_steps=2)


@pytest.fixture(scope="module")
def editor(toy_models: Path) -> MotionEditor:
    return MotionEditor(load_text_to_motion("t2m", None, dataset_spec("t2m"), toy_models, res_name="none")[0], WINDOW)


@pytest.fixture(scope="module")
def source() -> np.ndarray:
    return joints_to_features(walking(122), T2M).numpy()  # 121 rows: 30 tokens and a frame


def test_outside_of_a_part_or_before_an_extension_a_motion_stays_as_it_was(editor: MotionEditor,
                                                                           source: np.ndarray) -> None:
    edited = editor.edit_features(source, [Part(10, 20, "a person bows"), Part(25, 27, "a person bows")], 1, QUICK)
    assert edited.shape == (120, 263)
    outside = np.r_[0:40, 80:100, 108:120]
    np.testing.assert_array_equal(edited[outside], source[outside])
    assert np.abs(edited[55:65] - source[55:65]).max() > 0.01
    longer = editor.edit_features(source, [Part(30, 70, "a person walks")], 1, QUICK)
    assert longer.shape == (280, 263)
    np.testing.assert_array_equal(longer[:120], source[:120])


@pytest.mark.parametrize("parts", [[Part(4, 4, "a")], [Part(2, 8, "a"), Part(7, 9, "a")], [Part(33, 40, "a")]],
                         ids=["empty", "overlap", "gap"])
def test_parts_that_make_no_sense_are_refused(editor: MotionEditor, source: np.ndarray, parts: list[Part]) -> None:
    with pytest.raises(ValueError, match="token"):
        editor.edit(editor.encode(source), parts, 1, QUICK)


def test_a_motion_can_be_longer_than_a_window_and_follow_several_texts(editor: MotionEditor) -> None:
    ids, again = (editor.generate([("a person walks", 60), ("a person bows", 20)], 5, QUICK) for _ in range(2))
    assert len(ids) == 80 and (ids[:, 0] >= 0).all() and torch.equal(ids, again)


@pytest.mark.parametrize(("total", "first", "stop"), [(80, 0, 80), (150, 60, 100), (200, 30, 170), (60, 55, 60)])
def test_windows_fill_a_part_and_show_what_is_beside_it(total: int, first: int, stop: int) -> None:
    unknown = torch.zeros(total, dtype=torch.bool)
    unknown[first:stop] = True
    part, begun = Part(first, stop, "a"), first
    while unknown.any():
        window = next_window(unknown, part, WINDOW)
        assert window.first == begun
        assert 0 < window.stop - window.start <= WINDOW
        assert window.first - window.start >= min(CONTEXT, begun)
        if window.last == stop:
            assert window.stop - window.last >= min(CONTEXT, total - stop)
        unknown[window.first:window.last] = False
        begun = window.last
    assert begun == stop


def test_splicing_leaves_no_jump() -> None:
    """Two adjacent constants are blended over the length of the fade."""
    unknown = np.zeros(100, bool)
    unknown[30:70] = True
    spliced = splice(np.zeros((100, 1)), np.ones((100, 1)), unknown)[:, 0]
    assert (spliced[~unknown] == 0).all() and (spliced[30 + FADE:70 - FADE] == 1).all()
    assert np.abs(np.diff(spliced)).max() < 2 / FADE
    grown = splice(np.zeros((30, 1)), np.ones((50, 1)), np.arange(50) >= 30)[:, 0]
    assert (grown[:30] == 0).all() and grown[-1] == 1
    assert np.abs(np.diff(grown)).max() < 2 / 6 + 0.1


def test_sections_are_shares_or_tokens() -> None:
    assert section("0.3,0.6").tokens(40) == (12, 24)
    assert section("20,40").tokens(30) == (20, 40)
    assert section("0.0,1.0") == Section(0.0, 1.0, True)
    for wrong in ("20", "a,b", "0.6,0.3", "0.5,1.5", "-1,3"):
        with pytest.raises(InputError, match="mask_edit_section"):
            parse_edit_options(["--source_motion", "a.npy", "--text_prompt", "a", f"--mask_edit_section={wrong}"])
    for wrong in ("0.3,0.301", "50,60"):
        with pytest.raises(InputError, match="of a motion of 40 tokens"):
            section(wrong).tokens(40)
