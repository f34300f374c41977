"""Parity checks of the evaluator, the metrics and the word classes."""
from typing import Any

import numpy as np
import torch

from data.language import word_class
from evaluation import metrics
from models.evaluator import Evaluator
from storage.released import evaluator_config
from tests.golden.manifest import fill_state_dict, skipped, state_of
from tests.golden.report import Report

TOLERANCE = 1e-5
RELATIVE = 1e-4
BATCH = 32  # default number of pairs that R-precision ranks


@torch.no_grad()
def check_evaluator(report: Report) -> None:
    state = {name.replace(":", "."): tensor for name, tensor in state_of(report.manifest).items()}
    model = Evaluator(evaluator_config(state)).eval()
    for network in model.networks().values():
        fill_state_dict(network.state_dict(), skipped(report.manifest))
    report.parameters({f"{key}:{name}": tensor for key, state in model.checkpoint().items()
                       for name, tensor in state.items()})
    m_lens, = report.required("m_lens")
    motion, words, classes, cap_lens = report.tensors("motion", "word_emb", "pos_onehot", "cap_lens")
    order = torch.argsort(m_lens, stable=True).flip(0)  # longest first, equal lengths in reversed input order
    report.exact("align_idx", order)
    if motion is not None:
        report.close("movements", report.part("movements", model.movements(motion), 0), TOLERANCE)
        motion_emb = model.encode_motion(motion, m_lens)
        report.close("motion_emb", motion_emb, TOLERANCE)
        report.close("wrapper_motion_emb", motion_emb[order], TOLERANCE)
        report.close("motion_emb_truncated", torch.cat([
            model.encode_motion(row[None, :length], length[None]) for row, length in zip(motion, m_lens, strict=True)
        ]), TOLERANCE)
    if words is not None:
        text_emb = model.encode_text(words, classes, cap_lens)
        report.close("text_emb", text_emb, TOLERANCE)
        report.close("wrapper_text_emb", text_emb[order], TOLERANCE)


def check_metrics(report: Report) -> None:
    """Check every metric whose inputs are in the fixture."""
    arrays = report.arrays
    for name, mean, cov in (("a", "mu_a", "cov_a"), ("b", "mu_b", "cov_b")):
        if name in arrays:
            report.inputs(name)
            computed = metrics.mean_and_covariance(arrays[name])
            report.close(mean, computed[0], RELATIVE, relative=True)
            report.close(cov, computed[1], RELATIVE, relative=True)
    for name, pair, tolerance in (("fid", ("a", "b"), RELATIVE), ("fid_few", ("few_a", "few_b"), 5e-3)):
        if set(pair) <= set(arrays):
            report.inputs(*pair)
            report.close(name, metrics.fid(*(arrays[one] for one in pair)), tolerance, relative=True)
    if "fid_same" in arrays:
        spread = float(np.trace(metrics.mean_and_covariance(arrays["a"])[1]))
        report.close("fid_same", metrics.fid(arrays["a"], arrays["a"]), 1e-6 * max(1.0, spread))
    if "text" in arrays and "motion" in arrays:
        _check_pairs(report)
    if "div_seed" in arrays:
        _check_diversity(report)
    if "mm" in arrays:
        _check_multimodality(report)
    if "pose_gt" in arrays:
        report.inputs("pose_gt", "pose_pred")
        report.close("mpjpe", metrics.mpjpe(arrays["pose_pred"], arrays["pose_gt"]), RELATIVE, relative=True)


def _check_pairs(report: Report) -> None:
    report.inputs("text", "motion")
    arrays = report.arrays
    text, motion = arrays["text"], arrays["motion"]
    batch = next((len(arrays[name]) for name in ("dist_first", "top3_bool_first") if name in arrays), BATCH)
    tables = [metrics.euclidean_distances(text[start:start + batch], motion[start:start + batch])
              for start in range(0, len(text), batch)]
    hits = [metrics.hits_at_k(table, 3) for table in tables]
    report.close("dist_first", tables[0], RELATIVE, relative=True)
    report.exact("top3_bool_first", hits[0])
    report.exact("top3_counts", np.stack([one.sum(0) for one in hits]))
    report.close("matching_trace", [np.trace(table) for table in tables], RELATIVE, relative=True)
    report.close("matching_score", metrics.matching_score(text, motion), RELATIVE, relative=True)
    report.close("matching_direct", metrics.pair_distances(text, motion), RELATIVE, relative=True)
    if report.has("r_precision"):
        report.close("r_precision", metrics.r_precision(text, motion, 3, batch), 1e-9)


def _check_diversity(report: Report) -> None:
    report.inputs("a", "div_seed")
    seed, rows = int(report.arrays["div_seed"]), report.arrays["a"]
    first, second = metrics.draw_pairs(len(rows), metrics.diversity_pairs(len(rows)), np.random.RandomState(seed))
    report.exact("div_first", first)
    report.exact("div_second", second)
    report.close("diversity", metrics.diversity(rows, np.random.RandomState(seed)), RELATIVE, relative=True)


def _check_multimodality(report: Report) -> None:
    report.inputs("mm", "mm_seed")
    arrays = report.arrays
    seed, rows = int(arrays["mm_seed"]), arrays["mm"]
    count = next((len(arrays[name]) for name in ("mm_first", "mm_second") if name in arrays), 10)
    first, second = metrics.draw_pairs(rows.shape[1], count, np.random.RandomState(seed))
    report.exact("mm_first", first)
    report.exact("mm_second", second)
    report.close("multimodality", metrics.multimodality(rows, np.random.RandomState(seed), count), RELATIVE,
                 relative=True)


def check_word_classes(content: dict[str, Any], report: Report) -> None:
    """Check the class of each token, given the known words."""
    known = set(content["known_words"])
    for token, class_index, *_ in content["tokens"]:
        report.equal(f"class of {token}", word_class(token, known), class_index)
