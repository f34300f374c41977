"""Packed copies of a data set are written once and are never outdated or incomplete."""
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch

from data.dataset import DatasetSpec, cached_folder, dataset_spec, read_features
from data.text_motion import load_pairs
from storage.checkpoint import write_options
from storage.generation import load_tokenizer
from tests.test_text_motion import write_clip
from tests.toy_models import VQ, make_models
from training.stages.tokens import cached_tokens, tokenize_pairs
from utils import InputError


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


def test_data_that_cannot_be_written_to_is_packed_in_the_working_folder(
        spec: DatasetSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (spec.root / "cache").write_text("a file in the way")
    monkeypatch.chdir(tmp_path)
    assert list(read_features(spec, "train")) == ["a", "b", "c"]
    assert [path.name.split("-")[0] for path in (tmp_path / ".cache").glob("*/features-*")] == ["features"]
    (tmp_path / ".cache").rename(tmp_path / "gone")
    (tmp_path / ".cache").write_text("in the way, too")
    with pytest.raises(InputError, match="cannot write .*cache"):
        read_features(spec, "train")


def test_motion_tokens_are_made_once_and_again_for_other_motions_or_another_tokenizer(
        spec: DatasetSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
