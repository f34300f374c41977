"""Find fixtures in folders, check each, and print one line per fixture."""
import gc
import json
import time
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from tests.golden import bvh, evaluator, lamp, motion, transformers, vq
from tests.golden.report import Report, UnknownFixture
from tests.golden.statistics import check_statistics

Check = Callable[[Report], None]
Checks = dict[str, Check]

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


def find_check(names: Iterable[str], checks: Checks) -> Check:
    """Return the first check with a pattern that matches one of ``names``; patterns are separated by spaces.

    Raises ``UnknownFixture`` if there is none.
    """
    names = sorted(names)
    for patterns, check in checks.items():
        if any(fnmatchcase(name, pattern) for name in names for pattern in patterns.split()):
            return check
    raise UnknownFixture(f"no check for {', '.join(names[:8]) or 'an empty fixture'}")


def find_fixtures(folder: Path) -> Iterator[tuple[Path, Path | None]]:
    """Yield the fixtures in a folder and its subfolders: the .npz, .json or .bvh to check and the file beside it.

    That is the manifest of an .npz or the joints (.npy) of a .bvh, of the same stem, or None.
    """
    paths = {path for path in folder.rglob("*") if path.suffix in (".npz", ".json", ".bvh", ".npy") and path.is_file()}
    for path in sorted(paths):
        belongs_to = {".json": ".npz", ".npy": ".bvh"}.get(path.suffix)
        if belongs_to and path.with_suffix(belongs_to) in paths:
            continue
        beside = path.with_suffix({".npz": ".json", ".bvh": ".npy"}.get(path.suffix, ""))
        yield path, beside if beside in paths else None


def run_fixture(path: Path, beside: Path | None) -> Report:
    """Check one fixture. Any error becomes a failure of this fixture."""
    report = Report({}, folder=path.parent)
    try:
        report = _open(path, beside)
        _check(path, beside, report)
        report.finish()
    except UnknownFixture as error:
        report.failures.append(str(error))
    except Exception as error:  # a check runs the project's code, which may raise anything
        report.failures.append(f"{type(error).__name__}: {error}")
    gc.collect()  # free large models before building the next
    return report


def _open(path: Path, beside: Path | None) -> Report:
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as stored:
            return Report(dict(stored), _read_json(beside) if beside else None, path.parent)
    if path.suffix == ".bvh":
        return Report({"joints": np.load(beside, allow_pickle=False)} if beside else {}, folder=path.parent)
    if path.suffix == ".json":
        return Report({}, _read_json(path), path.parent)
    raise UnknownFixture("joints without the .bvh that they belong to")


def _check(path: Path, beside: Path | None, report: Report) -> None:
    manifest = report.manifest
    if path.suffix == ".bvh":
        bvh.check_bvh(path, beside, report)
    elif path.suffix == ".json" and {"known_words", "tokens"} <= manifest.keys():
        evaluator.check_word_classes(manifest, report)
    elif "model" in manifest:
        check = find_check((name for name, *_ in manifest.get("parameters", ())), MODELS)
        _compare_with_manifest(report)
        check(report)
    elif manifest:
        raise UnknownFixture(f"no check for a manifest with the keys {', '.join(manifest)}")
    else:
        find_check(report.arrays, MOTION)(report)


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
    passed = 0
    for folder in folders:
        for path, beside in find_fixtures(folder):
            if path.resolve() in seen:
                continue
            seen.add(path.resolve())
            start = time.perf_counter()
            report = run_fixture(path, beside)
            took = f"{time.perf_counter() - start:.1f} s"
            name = f"{folder.resolve().name}/{path.relative_to(folder)}"
            if report.failures:
                more = f" (and {len(report.failures) - 1} more)" if len(report.failures) > 1 else ""
                say(f"{name}  FAIL  {took}  {' '.join(report.failures[0].split())}{more}")
            else:
                passed += 1
                say(f"{name}  ok  {took}  worst error/tolerance {report.worst:.2g}")
    return passed, len(seen) - passed
