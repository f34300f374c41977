"""Sentences of the language bank in training: their clips, and the negatives they exclude."""
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from data.dataset import Normalisation, dataset_spec
from data.language import classes, read_bank, sentences, with_bank
from data.text_motion import TextMotion, load_pairs, rarity_weights
from prepare.openmotion_contents import clip_contents
from tests.figures import standing, walking
from tests.toy import make_dataset
from training.stages.lamp import true_of
from utils import InputError

WALKING, RAISING = "0000", "0040"  # clips of the toy data set


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_dataset(tmp_path_factory.mktemp("language") / "set")
    contents = {
        WALKING: {"family": "walk", "contents": [["walk", ""]], "stretches": [["stand", "", 10, 60]]},
        RAISING: {"family": "raise", "contents": [["raise-hand", "left"]], "stretches": []},
    }
    (root / "contents.json").write_text(json.dumps(contents))
    return root


def pairs_of(root: Path) -> dict[str, object]:
    spec = dataset_spec("t2m", root)
    return {pair.name: pair for pair in with_bank(load_pairs(spec, "train"), spec)}


def test_sentences_are_kept_or_held_out_and_sides_are_filled_in() -> None:
    for content, templates in read_bank().items():
        kept, held = sentences(content, "left"), sentences(content, "left", held_out=True)
        assert len(kept) + len(held) == len(templates)
        assert len(held) == len(templates) // 5
    left, right = (sentences("kick", side) for side in ("left", "right"))
    assert not any("{" in text for text in left + right)
    assert all("left" in text for text in left)
    assert sentences("kick") == []  # every sentence names the leg
    assert sentences("walk", "left") == sentences("walk", "right") == sentences("walk")


def test_a_clip_gets_the_sentences_that_describe_it_and_a_stretch_becomes_a_pair(root: Path) -> None:
    pairs = pairs_of(root)
    assert pairs[RAISING].sentences == tuple(sentences("raise-hand", "left"))
    assert pairs[RAISING].contents == {classes()["raise-hand", "left"]}
    assert pairs["0001"].sentences == ()  # not listed
    stretch = pairs[f"stand_10_{WALKING}"]
    assert np.array_equal(stretch.features, pairs[WALKING].features[10:60])
    assert stretch.captions == () and stretch.sentences == tuple(sentences("stand"))
    assert stretch.start == pairs[WALKING].start + 10


def test_pairs_are_balanced_by_the_family_of_their_clip_or_stretch(root: Path) -> None:
    pairs = [pairs_of(root)[name] for name in (WALKING, WALKING, f"stand_10_{WALKING}", RAISING)]
    assert [pair.family for pair in pairs] == ["walk", "walk", "stand", "raise"]
    weights = rarity_weights(pairs, 1.0)
    np.testing.assert_allclose(weights / weights[-1], [0.5, 0.5, 1, 1])


def test_items_say_what_a_sentence_is_true_of(root: Path) -> None:
    pairs = list(pairs_of(root).values())
    dim = pairs[0].features.shape[1]
    dataset = TextMotion(pairs, Normalisation(np.zeros(dim, np.float32), np.ones(dim, np.float32)), True,
                         labelled=len(classes()))
    row = next(row for row, pair in enumerate(pairs) if pair.name == RAISING)
    seen = set()
    for epoch in range(12):
        dataset.set_epoch(epoch)
        item = dataset[row]
        own = item["caption"] in pairs[row].sentences
        assert item["text_class"] == (classes()["raise-hand", "left"] if own else -1)
        assert item["contents"].nonzero().flatten().tolist() == [classes()["raise-hand", "left"]]
        seen.add(own)
    assert seen == {True, False}


def test_a_sentence_is_no_negative_of_clips_that_show_its_content() -> None:
    contents = torch.tensor([[True, False], [True, True], [False, False]])
    assert true_of(torch.tensor([0, 1, -1]), contents).tolist() == [
        [True, True, False], [False, True, False], [False, False, False]]


def test_a_data_set_that_does_not_say_what_its_clips_show_is_named(tmp_path: Path) -> None:
    spec = dataset_spec("t2m", make_dataset(tmp_path / "plain"))
    with pytest.raises(InputError, match="contents.json is missing"):
        with_bank(load_pairs(spec, "train"), spec)
    (tmp_path / "plain" / "contents.json").write_text(
        json.dumps({WALKING: {"family": "", "contents": [["moonwalk", ""]], "stretches": []}}))
    with pytest.raises(InputError, match="unknown contents moonwalk"):
        with_bank(load_pairs(spec, "train"), spec)


CONTENT_MAP = {"walk": {"true_of": [{"content": "walk"}]}, "kick": {"true_of": [{"content": "kick", "side": "right"}]},
               "bow": {"true_of": [{"content": "bow", "style": ["old"]}]}}


def test_contents_come_from_labels_styles_and_measures() -> None:
    walk = walking(80, 1.0)
    assert ("walk", "") in clip_contents("walk", "normal", [], walk, CONTENT_MAP).contents
    assert not clip_contents("bow", "young", [], walk, CONTENT_MAP).contents
    assert clip_contents("bow", "old", [], walk, CONTENT_MAP).contents == [("bow", "")]
    assert not clip_contents("kick", "", [], walk, CONTENT_MAP).contents  # no foot rises: the side is measured
    circle = clip_contents("walk", "", [], walking(160, 1.0, turn=6.0), CONTENT_MAP)
    assert ("circle", "left") in circle.contents
    assert ("circle", "right") in circle.mirrored().contents
    quiet = clip_contents("gesture", "", [], standing(90), CONTENT_MAP)
    assert [(content, side) for content, side, *_ in quiet.stretches] == [("stand", "")]
    assert not clip_contents("walk", "", [], walk, CONTENT_MAP).stretches
