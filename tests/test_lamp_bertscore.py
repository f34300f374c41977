"""LaMP-BertScore with a captioner and a scorer of known output."""
import math
from collections.abc import Sequence

import numpy as np

from data.text_motion import Pair
from evaluation.generation import KEY, LampBertScore
from evaluation.protocol import Row
from models.text_to_motion import Sample

CAPTIONS = ("a person walks", "somebody strolls", "one goes ahead")


def motion_of(caption: str) -> np.ndarray:
    """Return a motion that the captioner describes by this caption."""
    return np.full((40, 3), CAPTIONS.index(caption), np.float32)


def tell(motions: Sequence[np.ndarray]) -> list[list[str]]:
    return [[CAPTIONS[int(motion[0, 0])], "second best"] for motion in motions]


def same_words(captions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Return the percentage of captions that are among their references."""
    return 100 * float(np.mean([caption in texts for caption, texts in zip(captions, references, strict=True)]))


CLIPS = [motion_of(CAPTIONS[0])] * 6
PAIRS = [Pair(str(number), clip, CAPTIONS, frozenset(), ((),) * 3) for number, clip in enumerate(CLIPS)]


def score(seed: int = 0) -> LampBertScore:
    return LampBertScore(PAIRS, CLIPS, tell, same_words, seed)


def test_the_best_caption_of_a_motion_meets_its_own_prompt() -> None:
    one, rows = score(), {"right": Row({}), "wrong": Row({}), "other": Row({})}

    def generate(samples: Sequence[Sample]) -> dict[str, list[np.ndarray]]:
        assert samples == one.samples
        right = [motion_of(sample.text) for sample in samples]
        return {"right": right, "wrong": [(motion + 1) % 3 for motion in right]}

    one.add_generated(rows, generate)
    assert (rows["right"].numbers[KEY].mean, rows["wrong"].numbers[KEY].mean) == (100, 0)
    assert rows["other"] == Row({})


def test_a_motion_that_is_not_finite_is_named_and_in_no_number() -> None:
    one, rows = score(), {"some": Row({}, ["before"]), "none": Row({})}

    def generate(samples: Sequence[Sample]) -> dict[str, list[np.ndarray]]:
        right = [motion_of(sample.text) for sample in samples]
        return {"some": [np.full((40, 3), math.nan), *right[1:]], "none": [np.full((40, 3), math.inf)] * 6}

    one.add_generated(rows, generate)
    assert rows["some"].numbers[KEY].mean == 100
    assert rows["some"].faults == ["before", f"0, {one.samples[0].text!r}, {KEY}"]
    assert math.isnan(rows["none"].numbers[KEY].mean)
    assert len(rows["none"].faults) == 6
