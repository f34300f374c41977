"""Loading rules of HumanML3D, packed copies of a data set, and the tables of data sets and skeletons."""
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch

from data.dataset import DATASETS, DatasetSpec, Normalisation, cached_folder, dataset_spec, read_features
from data.text import Prompt, read_captions, read_prompts
from data.text_motion import MotionWindows, Pair, TextMotion, TextTokens, draw_crop, load_pairs, rarity_weights
from motion.bvh import parse_bvh
from motion.bvh_fit import bvh_to_joints, joints_to_bvh
from motion.features import joints_to_features
from motion.skeleton import T2M
from options.train import parse_vq_options
from storage.checkpoint import write_options
from storage.generation import load_tokenizer
from tests.figures import walking
from tests.toy_models import VQ, make_models
from training.runs import EpochBatches
from training.stages.tokens import cached_tokens, tokenize_pairs
from utils import InputError

DIM = 263
IDENTITY = Normalisation(np.zeros(DIM, np.float32), np.ones(DIM, np.float32))


def write_clip(root: Path, name: str, rows: int, captions: list[str]) -> None:
    for folder in ("new_joint_vecs", "texts"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    features = np.tile(np.arange(rows, dtype=np.float32)[:, None], (1, DIM))
    np.save(root / "new_joint_vecs" / f"{name}.npy", features)
    (root / "texts" / f"{name}.txt").write_text("".join(f"{caption}\n" for caption in captions))
    with (root / "train.txt").open("a") as file:
        file.write(f"{name}\n")


def test_a_bad_caption_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("fine#fine/ADJ#0.0#0.0\n\nbroken#0.0\n")
    with pytest.raises(InputError, match=r"a\.txt:3"):
        read_captions(path)
    path.write_text("a#a/DET#nan#nan\n")
    assert read_captions(path)[0].whole_clip


def test_clips_outside_the_bounds_are_dropped_and_timed_captions_make_their_own_pairs(tmp_path: Path) -> None:
    write_clip(tmp_path, "short", 39, ["too short#x/X#0.0#0.0"])
    write_clip(tmp_path, "long", 200, ["too long#x/X#0.0#0.0"])
    write_clip(tmp_path, "both", 120, ["the whole#x/X#0.0#0.0", "a part#x/X#1.0#4.0", "a blink#x/X#1.0#2.0"])
    write_clip(tmp_path, "timed", 120, ["only a part#x/X#0.5#5.0"])
    pairs = load_pairs(dataset_spec("t2m", tmp_path), "train")
    assert [(pair.name, pair.captions) for pair in pairs] == [
        ("both", ("the whole",)), ("A_both", ("a part",)), ("A_timed", ("only a part",))]
    assert pairs[1].features[:, 0].tolist() == list(range(20, 80))
    assert len(pairs[2].features) == 90
    whole = load_pairs(dataset_spec("t2m", tmp_path), "train", whole_clips_only=True)
    assert [pair.name for pair in whole] == ["both"]


def test_crops_are_whole_tokens_inside_the_clip_and_one_in_three_is_shorter() -> None:
    generator = np.random.default_rng(0)
    crops = [draw_crop(90, 3, generator) for _ in range(3000)]
    assert {crop.length for crop in crops} == {88, 84}
    assert abs(np.mean([crop.length == 84 for crop in crops]) - 1 / 3) < 0.03
    assert all(0 <= crop.start <= 90 - crop.length for crop in crops)
    assert {crop.start for crop in crops if crop.length == 84} == set(range(7))
    assert {crop.caption for crop in crops} == {0, 1, 2}


def test_samples_are_normalised_padded_with_zeros_and_depend_on_the_epoch_alone() -> None:
    features = np.random.default_rng(1).normal(size=(90, DIM)).astype(np.float32)
    normalisation = Normalisation(np.full(DIM, 2, np.float32), np.full(DIM, 4, np.float32))
    data = TextMotion([Pair("a", features, ("one", "two"))] * 20, normalisation, training=True, seed=7)
    data.set_epoch(3)
    items = [data[i] for i in range(20)]
    crop = data.crop(5)
    assert items[5]["m_len"] == crop.length
    assert items[5]["motion"].shape == (196, DIM)
    expected = (features[crop.start:crop.start + crop.length] - 2) / 4
    np.testing.assert_allclose(items[5]["motion"][:crop.length], expected, rtol=1e-6)
    assert not items[5]["motion"][crop.length:].any()
    assert [data[i]["m_len"] for i in range(20)] == [item["m_len"] for item in items]
    data.set_epoch(4)
    assert [data.crop(i) for i in range(20)] != [crop] * 20
    evaluation = TextMotion([Pair("a", features, ("one", "two"))], normalisation, training=False)
    assert (evaluation[0]["caption"], evaluation[0]["m_len"]) == ("one", 88)


def test_tokens_of_a_crop_are_those_of_its_rows() -> None:
    rows = 90
    # The code of a token is its first row, so that a crop's tokens show their position.
    codes = [[torch.arange(start, rows - 3, 4).unsqueeze(1) for start in range(4)]]
    data = TextTokens([Pair("a", np.zeros((rows, DIM), np.float32), ("a",))], codes, training=True, seed=1)
    for epoch in range(30):
        data.set_epoch(epoch)
        crop, item = data.crop(0), data[0]
        assert item["token_len"] == crop.length // 4
        expected = range(crop.start, crop.start + crop.length, 4)
        assert item["tokens"][:item["token_len"], 0].tolist() == list(expected)
        assert (item["tokens"][item["token_len"]:] == -1).all()


def test_windows_cover_every_start_of_every_long_clip() -> None:
    clips = {"a": np.arange(10, dtype=np.float32)[:, None].repeat(DIM, 1), "b": np.full((4, DIM), 99, np.float32),
             "c": 100 + np.arange(8, dtype=np.float32)[:, None].repeat(DIM, 1)}
    windows = MotionWindows(clips, IDENTITY, 6)
    assert [window[0, 0].item() for window in windows] == [0, 1, 2, 3, 100, 101]
    assert windows[5].shape == (6, DIM)
    with pytest.raises(InputError, match="window of 20"):
        MotionWindows(clips, IDENTITY, 20)


def test_prompt_files_are_read_and_bad_lines_named(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    for content, message in (
            ("a person walks", ":1: expected text#length"), ("a person walks#40\n#comment\nb#x", ":3: the length"),
            ("#40", "no prompt"), ("ok#40\n!!#40", ":2: the prompt has no words"), ("a#3", "4 to 196")):
        path.write_text(content)
        with pytest.raises(InputError, match=message):
            read_prompts(path)
    path.write_text("# a comment\n\na person #1 walks#40\n")
    assert read_prompts(path) == [Prompt("a person #1 walks", 40)]
    path.write_text("walks#40\nbows# na \n")
    assert read_prompts(path) == [Prompt("walks", None), Prompt("bows", None)]


def test_rare_actions_are_sampled_more_often_as_balance_asks(tmp_path: Path) -> None:
    for number in range(9):
        write_clip(tmp_path, f"walk{number}", 60, ["a man walks#a/DET man/NOUN walk/VERB#0#0"])
    write_clip(tmp_path, "kick", 60, ["a man kicks#a/DET man/NOUN kick/VERB#0#0", "kicking#kick/VERB oddly/ADV#0#0"])
    pairs = load_pairs(dataset_spec("t2m", tmp_path), "train")
    assert pairs[-1].words == {"kick", "man"}
    assert (rarity_weights(pairs, 0.0) == 1).all()
    weights = rarity_weights(pairs, 0.5)
    assert weights[-1] / weights[0] == pytest.approx(3)
    assert weights.mean() == pytest.approx(1)
    batches = EpochBatches(10, 10, seed=0, weights=rarity_weights(pairs, 1.0))
    drawn = []
    for batches.epoch in range(200):
        drawn += sum(batches, [])
    assert abs(drawn.count(9) / len(drawn) - 0.5) < 0.05


def test_a_clip_that_is_not_finite_is_left_out_and_reported(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for name in ("a", "b"):
        write_clip(tmp_path, name, 60, ["a#x/X#0#0"])
    broken = tmp_path / "new_joint_vecs" / "a.npy"
    np.save(broken, np.full((60, DIM), np.nan))
    assert [pair.name for pair in load_pairs(dataset_spec("t2m", tmp_path), "train")] == ["b"]
    assert f"left out 1 clips with numbers that are not finite: {broken}" in capsys.readouterr().out


@pytest.fixture
def spec(tmp_path: Path) -> DatasetSpec:
    for number, name in enumerate("abc"):
        write_clip(tmp_path, name, 60 + number, [f"caption of {name}#x/NOUN#0#0", "a part#y/VERB#0.5#3.0"])
    return dataset_spec("t2m", tmp_path)


def cached(spec: DatasetSpec) -> list[str]:
    return sorted(path.name for path in (spec.root / "cache").iterdir() if not path.name.startswith("."))


def test_a_second_start_opens_no_file_of_a_clip(spec: DatasetSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_pairs(spec, "train")
    def refuse(path: Path, *_: object) -> None:
        raise AssertionError(f"{path} was read again")
    monkeypatch.setattr("data.dataset.read_npy", refuse)
    monkeypatch.setattr("data.text_motion.read_captions", refuse)
    again = load_pairs(spec, "train")
    assert [replace(pair, features=None) for pair in again] == [replace(pair, features=None) for pair in first]
    assert all((one.features == two.features).all() for one, two in zip(first, again, strict=True))


def test_a_change_of_any_file_shows_even_under_its_old_size_and_date(spec: DatasetSpec) -> None:
    load_pairs(spec, "train")
    before = cached(spec)
    motion, text = spec.root / "new_joint_vecs" / "b.npy", spec.root / "texts" / "c.txt"
    for path, change in ((motion, lambda: np.save(motion, np.full((61, 263), 7, np.float32))),
                         (text, lambda: text.write_text(text.read_text().replace("caption of c", "Caption by c")))):
        old = os.stat(path)
        change()
        os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))
        assert os.stat(path).st_size == old.st_size
    pairs = {pair.name: pair for pair in load_pairs(spec, "train")}
    assert len(before) == len(cached(spec)) == 2 and not set(before) & set(cached(spec))  # old caches are deleted
    assert (pairs["b"].features == 7).all() and (pairs["a"].features[:, 0] == np.arange(60)).all()
    assert pairs["c"].captions == ("caption by c",)


def test_processes_that_want_the_same_wait_for_the_one_that_makes_it(spec: DatasetSpec) -> None:
    made = []

    def make(folder: Path) -> None:
        made.append(folder)
        time.sleep(0.2)
        (folder / "file").write_text("whole")

    with ThreadPoolExecutor(4) as pool:
        folders = list(pool.map(lambda _: cached_folder(spec, "thing", "key", make), range(4)))
    assert len(made) == 1 and set(folders) == {spec.root / "cache" / "thing-key"}
    assert (folders[0] / "file").read_text() == "whole"


def test_what_was_cut_off_is_not_there_and_is_swept_up(spec: DatasetSpec) -> None:
    def cut_off(folder: Path) -> None:
        (folder / "file").write_text("ha")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached_folder(spec, "thing", "key", cut_off)
    assert cached(spec) == []
    killed = spec.root / "cache" / ".thing-killed"
    killed.mkdir()
    cached_folder(spec, "thing", "key", lambda folder: (folder / "file").write_text("whole"))
    assert cached(spec) == ["thing-key"] and not killed.exists()


@pytest.mark.parametrize("pattern", ["features-*/features.float32", "features-*/clips.json", "pairs-*/pairs.json"])
def test_a_damaged_pack_is_reported_in_one_line(spec: DatasetSpec, pattern: str) -> None:
    load_pairs(spec, "train")
    [file] = (spec.root / "cache").glob(pattern)
    os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(InputError, match=rf"{file.parent.name} is damaged; delete it"):
        load_pairs(spec, "train")


def test_read_only_data_is_packed_elsewhere(spec: DatasetSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (spec.root / "cache").write_text("a file in the way")
    monkeypatch.chdir(tmp_path)
    assert list(read_features(spec, "train")) == ["a", "b", "c"]
    assert [path.name.split("-")[0] for path in (tmp_path / ".cache").glob("*/features-*")] == ["features"]


def test_tokens_are_made_once_per_tokenizer(spec: DatasetSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = make_models(tmp_path / "models")
    tokenizer = load_tokenizer("vq", spec, models)
    calls = []

    def counted(*args: object) -> list[list[torch.Tensor]]:
        calls.append(args)
        return tokenize_pairs(*args)

    monkeypatch.setattr("training.stages.tokens.tokenize_pairs", counted)

    def same_as_made() -> bool:
        pairs = load_pairs(spec, "train")
        made = tokenize_pairs(tokenizer, pairs, torch.device("cpu"))
        found = cached_tokens(spec, "train", tokenizer, pairs, torch.device("cpu"))
        return all(map(torch.equal, chain(*made), chain(*found))) and list(map(len, made)) == list(map(len, found))

    assert same_as_made() and same_as_made() and len(calls) == 1
    np.save(spec.root / "new_joint_vecs" / "b.npy", np.ones((61, 263), np.float32))
    assert same_as_made() and len(calls) == 2
    text = spec.root / "texts" / "a.txt"  # the same captions of another part: other rows of the same clip
    text.write_text(text.read_text().replace("#0.5#3.0", "#0.0#2.5"))
    assert same_as_made() and len(calls) == 3
    other = replace(tokenizer, normalisation=replace(tokenizer.normalisation, std=tokenizer.normalisation.std * 2))
    cached_tokens(spec, "train", other, load_pairs(spec, "train"), torch.device("cpu"))
    assert len(calls) == 4
    write_options(models / "t2m" / "vq" / "opt.txt", VQ | {"vq_act": "silu"})  # not determined by the weights
    other = load_tokenizer("vq", spec, models)
    cached_tokens(spec, "train", other, load_pairs(spec, "train"), torch.device("cpu"))
    assert len(calls) == 5


# The T2M body without hands.
STUMPS = replace(
    T2M, name="stumps", joint_names=T2M.joint_names[:20], raw_offsets=T2M.raw_offsets[:20], target_lengths=None,
    chains=(*T2M.chains[:3], (9, 14, 17, 19), (9, 13, 16, 18)), mirror_pairs=T2M.mirror_pairs[:-1])


def test_a_new_row_is_enough_for_flags_features_and_bvh(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = DatasetSpec("stumps", Path("dataset/stumps"), STUMPS, fps=30.0, metres=1.0, min_length=40)
    monkeypatch.setitem(DATASETS, "stumps", spec)
    opt = parse_vq_options(["--name", "a", "--dataset_name", "stumps"])
    skeleton = dataset_spec(opt.dataset_name).skeleton
    joints = walking()[:, :20]
    assert joints_to_features(joints, skeleton).shape == (len(joints) - 1, spec.dim_pose)
    bvh = parse_bvh(joints_to_bvh(joints, skeleton, spec.fps).text())
    assert set(bvh.names) >= {"pelvis", "left_elbow", "head"}
    np.testing.assert_allclose(bvh_to_joints(bvh, skeleton), joints, atol=1e-4)
