import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import check_calibration, prompt_checks
from benchmarks.check_calibration import TRUTHS
from benchmarks.physical_checks import CHECKS, SIDES
from benchmarks.prompt_checks import check_motion, distinguished, read_prompts, summarise
from tests import figures
from utils.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
PAIR = [{"text": f"raise the {side} hand", "group": "raise", "checks": [f"raises_{side}_hand"], "pair": "raise",
         "measure": "hand", "side": side} for side in ("left", "right")]
BOW = {"text": "a curtsey", "group": "bow", "checks": ["bows", "stays_in_place"]}


def write_prompts(folder: Path, entries: list[dict]) -> Path:
    path = folder / "prompts.json"
    path.write_text(json.dumps(entries))
    return path


def test_the_bundled_prompts_are_many_of_many_kinds_and_use_every_side_measure() -> None:
    prompts = read_prompts(prompt_checks.PROMPTS)
    assert len({prompt.text for prompt in prompts}) == len(prompts) >= 150
    assert len({prompt.group for prompt in prompts}) >= 30
    assert {prompt.measure for prompt in prompts if prompt.pair} == set(SIDES)


def test_the_prompts_of_a_pair_differ_in_their_side_only() -> None:
    pairs: dict[str, list] = {}
    for prompt in read_prompts(prompt_checks.PROMPTS):
        pairs.setdefault(prompt.pair or prompt.text, []).append(prompt)
    for left, right in (members for members in pairs.values() if len(members) == 2):
        assert check_calibration.mirrored_words(left.text) == right.text != left.text
        assert tuple("_".join(map(check_calibration.mirrored_words, check.split("_")))
                     for check in left.checks) == right.checks


@pytest.mark.parametrize(("entries", "message"), [
    ([{**BOW, "checks": ["bow"]}], "no check bow"),
    ([{**BOW, "checks": []}], "no checks"),
    ([{**BOW, "unseen": False}], "not a list of prompts"),
    ([{"text": "bow"}], "not a list of prompts"),
    (PAIR[:1], "one prompt for left and one for right"),
    ([PAIR[0], {**PAIR[1], "measure": "foot"}], "same measure"),
    ([{**entry, "measure": "ear"} for entry in PAIR], "measure ear"),
])
def test_prompts_that_cannot_be_checked_are_refused(tmp_path: Path, entries: list[dict], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_prompts(write_prompts(tmp_path, entries))


def test_a_motion_passes_if_all_checks_pass(tmp_path: Path) -> None:
    prompt = read_prompts(write_prompts(tmp_path, [BOW]))[0]
    assert check_motion(prompt, figures.bowing()).passed
    on_the_way = figures.bowing() + figures.walking(60)[:, :1] * [1, 0, 1]
    assert check_motion(prompt, on_the_way).checks == {"bows": True, "stays_in_place": False}
    assert not check_motion(prompt, on_the_way).passed


def test_a_pair_is_distinguished_by_most_motions_of_both_sides(tmp_path: Path) -> None:
    left, right = read_prompts(write_prompts(tmp_path, PAIR))

    def shown(prompt, sides: str) -> list:
        return [check_motion(prompt, figures.raising({"l": "left", "r": "right", "b": "both"}[side])) for side in sides]

    assert distinguished(shown(left, "llr"), shown(right, "rrb"))
    assert not distinguished(shown(left, "lll"), shown(right, "lrb"))
    assert not distinguished(shown(left, "bbb"), shown(right, "rrr"))
    assert not distinguished(shown(left, "lr"), shown(right, "rr"))


def test_the_summary_counts_by_group_by_words_and_by_pair(tmp_path: Path) -> None:
    prompts = read_prompts(write_prompts(tmp_path, [*PAIR, BOW]))
    made = [[figures.raising("left")] * 2, [figures.raising("right"), figures.standing()], [figures.sitting()] * 2]
    summary = summarise(prompts, [[check_motion(prompt, joints) for joints in motions]
                                  for prompt, motions in zip(prompts, made, strict=True)],
                        {"raise", "the", "left", "right", "hand"})
    assert summary["overall"] == {"passed": 3, "motions": 6, "share": 0.5, "interval": pytest.approx(0.231, abs=1e-3)}
    assert summary["groups"]["raise"]["passed"] == summary["seen_words"]["passed"] == 3
    assert summary["unseen_words"] == {"passed": 0, "motions": 2, "share": 0.0, "interval": 0.0}
    assert summary["pairs"]["raise"] == {"distinguished": False, "left_shown": ["left"] * 2,
                                         "right_shown": ["right", "neither"]}


def run(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, ROOT / "benchmarks" / "prompt_checks.py", *map(str, arguments)],
                          capture_output=True, text=True, check=False)


def test_the_script_judges_motions_made_elsewhere(tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path, PAIR)
    for index, side in enumerate(("left", "right")):
        np.save(prompt_checks.joints_path(tmp_path, index, 0), figures.raising(side))
    done = run("--prompts", prompts, "--joints", tmp_path, "--seeds", 1, "--out", tmp_path / "out.json",
               "--strips", tmp_path / "strips")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "overall: 2 of    2  100.0 % passed, 1 of 1 left/right pairs distinguished"
    assert json.loads((tmp_path / "out.json").read_text())["overall"]["passed"] == 2
    assert sorted(path.name for path in (tmp_path / "strips").iterdir()) == ["00.png", "01.png"]


def test_failures_are_drawn_by_kind_the_worst_first(tmp_path: Path) -> None:
    standing = {"text": "a person stands", "group": "stand", "checks": ["stands_still"]}
    jumping = {"text": "a person jumps", "group": "jump", "checks": ["jumps_up"]}
    prompts = prompt_checks.read_prompts(write_prompts(tmp_path, [standing, *PAIR, jumping]))
    motions = [[figures.standing(60)] * 2, [figures.raising("left")] * 2,
               [figures.raising("right"), figures.raising("left")], [figures.standing(60)] * 2]
    verdicts = [[prompt_checks.check_motion(prompt, joints, seed) for seed, joints in enumerate(made)]
                for prompt, made in zip(prompts, motions, strict=True)]
    assert prompt_checks.worst(prompts, verdicts) == [(3, 0), (2, 1)]
    assert prompt_checks.worst(prompts, verdicts, 1) == [(3, 0)]
    table = prompt_checks.write_failures(tmp_path / "failed.webp", prompts, motions, verdicts)
    assert table[2] == "| jump | 0 of 2 | a person jumps | jumps up |"
    assert len(table) == 4
    with Image.open(tmp_path / "failed.webp") as picture:
        assert picture.format == "WEBP" and picture.height == 2 * 180


def test_a_missing_motion_is_one_line(tmp_path: Path) -> None:
    done = run("--joints", tmp_path)
    assert done.returncode == 2
    assert "00_0.npy" in done.stderr and len(done.stderr.splitlines()) == 1



def test_words_are_known_from_training_captions_alone(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "train.txt").write_text("a\n")
    for name, text in (("a", "A person curtsies."), ("b", "a curtsey")):
        (tmp_path / "texts" / f"{name}.txt").write_text(f"{text}#person/NOUN#0.0#0.0\n")
    assert prompt_checks.training_words(tmp_path) == {"a", "person", "curtsies"}


def test_every_check_has_its_calibration() -> None:
    assert set(TRUTHS) == set(CHECKS)


def test_calibration_counts_own_and_other_contents(tmp_path: Path) -> None:
    contents = {"wave-left-hand": figures.waving("left"), "walk": figures.walking(), "ballet": figures.waving("left")}
    entries, start = [], 0
    for content, joints in contents.items():
        entries.append({"id": content, "content": content, "shard": "s.npz", "offset": start, "length": len(joints),
                        "captions": [{"text": "a person"}]})
        start += len(joints)
    (tmp_path / "index.json").write_text(json.dumps({"clips": entries}))
    np.savez(tmp_path / "s.npz", joints=np.concatenate(list(contents.values())))
    rates = check_calibration.count_answers(check_calibration.labelled_clips(tmp_path))
    assert rates["waves_left_hand"].own == (1, 1)    # the ballet is of no account, the mirrored wave another content
    assert rates["waves_left_hand"].other == (0, 3)
    assert rates["walks_forward"].own == (2, 2)
