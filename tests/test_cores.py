"""Only usable cores are counted."""
import os
from pathlib import Path

import pytest

from tests.house import read_house
from utils.cpu import usable_cores

HOUSE = read_house(Path(__file__).resolve().parent.parent)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes cannot be bound to cores here")
def test_a_process_bound_to_one_core_counts_one() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert usable_cores() == len(before)


def test_cores_are_counted_in_one_place() -> None:
    counting = [module for module, text in HOUSE.items() if "cpu_count" in text or "sched_getaffinity" in text]
    assert counting == ["utils.cpu"]
