"""Find fixtures in folders, check each, and print one line per fixture."""
import gc
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.golden import bvh, evaluator, lamp, motion, transformers, vq
from tests.golden.kinds import Checks, UnknownFixture, find_check
from tests.golden.report import Report
from tests.golden.statistics import check_statistics

# Checks of models by patterns of parameter names, and of other fixtures by patterns of array names. The first match is
# used, as models may contain other models and fixtures may have arrays of several checks.
MODELS: Checks = {
    "motion_cls.*": lamp.check_lamp,
    "opt_proj.*": lamp.check_m2t_front,
    "movement_encoder:*": evaluator.check_evaluator,
    "quant_emb.*": transformers.check_residual,
    "text2former.* Qformer.*": transformers.check_lamp,
    "seqTransEncoder.*": transformers.check_momask,
    "output.0.*": transformers.check_length_estimator,
    "quantizer.layers.*": vq.check_rvqvae,
    "vqvae.quantizer.*": vq.check_human_vqvae,
    "*crossattention.*": lamp.check_qformer,
    "codebook": vq.check_quantizer,
}
MOTION: Checks = {
    "foot_locked plain plain_ik": bvh.check_conversion,
    "mirrored": motion.check_mirror,
    "raw uniform global_positions vecs random_vecs": motion.check_clip,
    "mean std std_feat_bias_*": check_statistics,
    "qbetween lerp qmul qinv qrot q_to_* cont6d_to_* matrix_to_quat qfix qeuler_deg_*": motion.check_rotations,
    "mu_? cov_? fid* dist_first top3_* r_precision matching_* div_* diversity mm_* multimodality mpjpe":
        evaluator.check_metrics,
}


@dataclass(frozen=True)
class Fixture:
    """Files of one fixture, which have the same folder and stem."""

    name: str               # path relative to the given folder, for display
    path: Path              # .npz, .json or .bvh: the file to check
    beside: Path | None     # the manifest of an .npz, the joints (.npy) of a .bvh


@dataclass(frozen=True)
class Outcome:
    """Result of checking one fixture."""

    name: str
    failures: tuple[str, ...]
    worst: float    # largest error in units of its tolerance
    seconds: float

    def line(self) -> str:
        """Format the result as one line."""
        if not self.failures:
            return f"{self.name}  ok  {self.seconds:.1f} s  worst error/tolerance {self.worst:.2g}"
        more = f" (and {len(self.failures) - 1} more)" if len(self.failures) > 1 else ""
        return f"{self.name}  FAIL  {self.seconds:.1f} s  {' '.join(self.failures[0].split())}{more}"


def find_fixtures(folder: Path) -> Iterator[Fixture]:
    """Yield the fixtures in a folder and its subfolders, sorted by path."""
    paths = {path for path in folder.rglob("*") if path.suffix in (".npz", ".json", ".bvh", ".npy") and path.is_file()}
    for path in sorted(paths):
        belongs_to = {".json": ".npz", ".npy": ".bvh"}.get(path.suffix)
        if belongs_to and path.with_suffix(belongs_to) in paths:
            continue
        beside = path.with_suffix({".npz": ".json", ".bvh": ".npy"}.get(path.suffix, ""))
        yield Fixture(f"{folder.resolve().name}/{path.relative_to(folder)}", path, beside if beside in paths else None)


def run_fixture(fixture: Fixture) -> Outcome:
    """Check one fixture. Any error becomes a failure of this fixture."""
    start = time.perf_counter()
    report = Report({}, folder=fixture.path.parent)
    try:
        report = _open(fixture)
        _check(fixture, report)
        report.finish()
    except UnknownFixture as error:
        report.failures.append(str(error))
    except Exception as error:  # a check runs the project's code, which may raise anything
        report.failures.append(f"{type(error).__name__}: {error}")
    gc.collect()  # free large models before building the next
    return Outcome(fixture.name, tuple(report.failures), report.worst, time.perf_counter() - start)


def _open(fixture: Fixture) -> Report:
    path, beside = fixture.path, fixture.beside
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as stored:
            arrays = dict(stored)
        return Report(arrays, _read_json(beside) if beside else None, path.parent)
    if path.suffix == ".bvh":
        return Report({"joints": np.load(beside, allow_pickle=False)} if beside else {}, folder=path.parent)
    if path.suffix == ".json":
        return Report({}, _read_json(path), path.parent)
    raise UnknownFixture("joints without the .bvh that they belong to")


def _check(fixture: Fixture, report: Report) -> None:
    manifest = report.manifest
    if fixture.path.suffix == ".bvh":
        bvh.check_bvh(fixture.path, fixture.beside, report)
    elif fixture.path.suffix == ".json" and {"known_words", "tokens"} <= manifest.keys():
        evaluator.check_word_classes(manifest, report)
    else:
        check_arrays(report)


def check_arrays(report: Report) -> None:
    """Run the check that matches the manifest or the arrays. Raises ``UnknownFixture`` if there is none."""
    manifest = report.manifest
    if "model" in manifest:
        check = find_check((name for name, *_ in manifest.get("parameters", ())), MODELS)
        _compare_with_manifest(report)
    elif manifest:
        raise UnknownFixture(f"no check for a manifest with the keys {', '.join(manifest)}")
    else:
        check = find_check(report.arrays, MOTION)
    check(report)


def _compare_with_manifest(report: Report) -> None:
    """Check that stored arrays match the manifest. Arrays may be missing."""
    for name, stored in report.arrays.items():
        facts = report.manifest.get("arrays", {}).get(name, {})
        for label, fact in (("shape", list(stored.shape)), ("dtype", str(stored.dtype))):
            if facts.get(label, fact) != fact:
                report.failures.append(f"{name}: {label} {facts[label]} in the manifest, {fact} stored")


def _read_json(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise UnknownFixture("the .json holds no object")
    return content


def run(folders: Iterable[Path], say: Callable[[str], None] = print) -> tuple[int, int]:
    """Check all fixtures in the folders once and print one line each. Returns the numbers of passes and failures."""
    seen: set[Path] = set()
    passed = failed = 0
    for folder in folders:
        for fixture in find_fixtures(folder):
            if fixture.path.resolve() in seen:
                continue
            seen.add(fixture.path.resolve())
            outcome = run_fixture(fixture)
            say(outcome.line())
            passed += not outcome.failures
            failed += bool(outcome.failures)
    return passed, failed
