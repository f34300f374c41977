"""Batches for training steps."""
import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from data.dataset import Normalisation
from data.text_motion import MotionWindows, Pair, TextMotion
from tests.toy_run import Numbers
from training.runs import BatchLoader, EpochBatches, fits_in_memory

CPU = torch.device("cpu")


def windows() -> MotionWindows:
    generator = np.random.default_rng(0)
    clips = {str(length): generator.normal(size=(length, 3)).astype(np.float32) for length in (9, 4, 6, 12)}
    return MotionWindows(clips, Normalisation(np.full(3, 0.5, np.float32), np.full(3, 2.0, np.float32)), 5)


def test_a_data_set_on_the_device_gives_the_batches_of_the_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    data, batches = windows(), EpochBatches(12, 4, seed=1)
    assert data.nbytes == 4 * 3 * (9 + 6 + 12)
    loaded = BatchLoader(data, batches, CPU)
    monkeypatch.setattr("training.runs.fits_in_memory", lambda *_: True)
    resident = BatchLoader(data, batches, CPU)
    assert loaded.items.dataset is data and resident.items.dataset is not data
    for one, other in zip(loaded, resident, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(("free", "expected"), [(10000, True), (1000, False)])
def test_a_data_set_goes_where_it_fits(monkeypatch: pytest.MonkeyPatch, free: int, expected: bool) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, free))
    assert fits_in_memory(windows(), torch.device("cuda")) is expected
    assert not fits_in_memory(windows(), CPU)
    assert not fits_in_memory(Numbers(3), torch.device("cuda"))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_epoch_has_all_of_its_batches_and_begins_again_with_the_next(workers: int) -> None:
    batches = EpochBatches(10, 5, seed=1)
    feed = BatchLoader(Numbers(10), batches, CPU, workers)
    for batches.epoch in (0, 4):
        assert [batch.tolist() for batch in feed] == [[100 * batches.epoch + n for n in batch] for batch in batches]
    batches.epoch = 1
    next(iter(feed))  # an epoch that is abandoned
    batches.epoch = 2
    assert {int(number) // 100 for batch in feed for number in batch} == {2}


@pytest.mark.parametrize("labelled", [0, 4])
def test_texts_and_motions_taken_on_the_device_are_the_items(labelled: int) -> None:
    generator = np.random.default_rng(0)
    pairs = [Pair(str(rows), generator.normal(size=(rows, 3)).astype(np.float32), ("a", "b"), sentences=tuple("cdef"),
                  sentence_classes=(1, 1, 3, 3), contents=frozenset({1, 3})) for rows in (200, 41, 60)]
    data = TextMotion(pairs, Normalisation(np.full(3, 0.5, np.float32), np.full(3, 2.0, np.float32)), training=True,
                      labelled=labelled, paired=True)
    resident, classes = data.on_device(CPU), set()
    for epoch in range(4):
        resident.items.set_epoch(epoch)
        numbers = (2, 0, 1, 2)
        made = resident.complete(default_collate([resident.items[number] for number in numbers]))
        items = default_collate([data[number] for number in numbers])
        assert made.keys() == items.keys()
        for key, value in made.items():
            assert value == items[key] if key in ("caption", "other") else torch.equal(value, items[key])
        assert all(one != other for one, other in zip(made["caption"], made["other"], strict=True))
        if labelled:  # a sentence is paired with one of its class
            sentences = made["text_class"] >= 0
            assert torch.equal(made["text_class"][sentences], made["other_class"][sentences])
        classes |= set(made["text_class"].tolist()) if labelled else {-1, 1, 3}
    assert classes == {-1, 1, 3}
    assert data.nbytes == 4 * 3 * (200 + 41 + 60)
