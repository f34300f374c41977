"""Parity checks work for models of other sizes and settings, with any optional arrays."""
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import pytest

from tests.golden.report import Report
from tests.golden.runner import check_arrays
from tests.golden_samples import SAMPLES, Sample


def failures(arrays: Mapping[str, np.ndarray], manifest: Mapping[str, Any] | None = None) -> list[str]:
    """Failures of a check, run in this process."""
    report = Report(arrays, manifest)
    try:
        check_arrays(report)
    except (RuntimeError, ValueError, KeyError) as error:  # as with weights that do not fit
        return [*report.failures, str(error)]
    report.finish()
    return report.failures


@cache
def sample(kind: str) -> Sample:
    return SAMPLES[kind]()


def changed(array: np.ndarray) -> np.ndarray:
    """The array changed by one per cent, or one integer by one."""
    if np.issubdtype(array.dtype, np.floating):
        return (array * 1.01).astype(array.dtype)
    other = array.copy()
    other.flat[-1] += 1
    return other


@pytest.mark.parametrize("kind", SAMPLES)
def test_other_sizes_and_settings_pass(kind):
    one = sample(kind)
    assert failures(one.inputs | one.outputs, one.manifest) == []


@pytest.mark.parametrize("kind", SAMPLES)
def test_every_output_is_optional(kind):
    one = sample(kind)
    for name in one.outputs:
        alone = {name: one.outputs[name]}
        assert failures(one.inputs | alone, one.manifest) == [], f"{name} alone"
        others = {other: array for other, array in one.outputs.items() if other != name}
        assert not others or failures(one.inputs | others, one.manifest) == [], f"all but {name}"


@pytest.mark.parametrize("kind", SAMPLES)
def test_every_output_counts(kind):
    one = sample(kind)
    for name, array in one.outputs.items():
        other = changed(array)
        if not np.array_equal(array, other):
            assert failures(one.inputs | one.outputs | {name: other}, one.manifest), name


@pytest.mark.parametrize(("kind", "setting"), [(kind, name) for kind in SAMPLES for name in sample(kind).wrong])
def test_settings_are_read(kind, setting):
    one = sample(kind)
    settings = one.manifest["hyperparameters"] | {setting: one.wrong[setting]}
    assert failures(one.inputs | one.outputs, one.manifest | {"hyperparameters": settings})
