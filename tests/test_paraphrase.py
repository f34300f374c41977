"""Paraphrases of captions keep sides, directions and other content."""
import re
from pathlib import Path

import numpy as np

from data.language import Paraphraser, with_paraphrases
from data.text import mirror_text
from data.text_motion import Pair

SPECIAL = "doer: nurse / cook\ndoing: shy / tall\nscene: at home / at night\n"
CAPTIONS = ("a person walks forward and turns left", "he waves both arms like a man with the right hand first",
            "someone kicks with the right leg and then walks backwards", "an old person raises their left hand")


def table(folder: Path, lines: str) -> Path:
    path = folder / "words.txt"
    path.write_text(SPECIAL + lines)
    return path


def sides(text: str) -> list[str]:
    return re.findall(r"\b(?:left|right)\b", text)


def wordings(paraphraser: Paraphraser, caption: str, count: int = 200) -> set[str]:
    generator = np.random.default_rng(0)
    return {paraphraser(caption, generator) for _ in range(count)}


def test_only_wordings_of_a_group_stand_for_each_other(tmp_path: Path) -> None:
    paraphraser = Paraphraser(table(tmp_path, "# a note\nhops / jumps\n\nruns / is running\n"))
    made = {re.sub(r" at \w+$", "", text) for text in wordings(paraphraser, "he hops and runs")}
    assert made == {f"he {a} and {b}" for a in ("hops", "jumps") for b in ("runs", "is running")}


def test_doers_change_but_for_those_that_tell_a_style(tmp_path: Path) -> None:
    paraphraser = Paraphraser(table(tmp_path, "hops / jumps\n"))
    plain = wordings(paraphraser, "a person hops")
    assert any(re.match(r"(?:a|the)(?: shy| tall)? (?:nurse|cook) ", text) for text in plain)
    assert all("old man" in text for text in wordings(paraphraser, "an old man hops"))
    assert all("like a man" in text for text in wordings(paraphraser, "she hops like a man"))


def test_sides_stay_as_they_are() -> None:
    paraphraser = Paraphraser()
    for caption in CAPTIONS:
        made = wordings(paraphraser, caption)
        assert len(made) > 10
        assert all(sides(text) == sides(caption) for text in made)
    caption = "someone takes a left and kicks with the left leg"
    for seed in range(50):
        made = paraphraser(caption, np.random.default_rng(seed))
        assert mirror_text(made) == paraphraser(mirror_text(caption), np.random.default_rng(seed))


def test_paraphrases_come_beside_the_captions_and_follow_from_the_seed() -> None:
    pair = Pair("a", np.zeros((4, 3)), CAPTIONS, frozenset({"walk"}))
    one, two = (with_paraphrases([pair, pair], 2, seed) for seed in (1, 2))
    assert one[0].captions[:4] == CAPTIONS
    assert len(one[0].captions) == 12
    assert one[0].captions != one[1].captions
    assert [p.captions for p in with_paraphrases([pair, pair], 2, 1)] == [p.captions for p in one] != [
        p.captions for p in two]
    assert one[0].words == pair.words
    assert with_paraphrases([pair], 0, 1) == [pair]
