"""Parity checks of the evaluator, the metrics and the word classes."""
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from data.word_vectors import falls_back, word_class
from evaluation import metrics
from models.evaluator.model import FOOT_CONTACTS, Evaluator, EvaluatorConfig, published_order
from tests.golden.fill import fill_state_dict
from tests.golden.report import Report

Arrays = dict[str, np.ndarray]


def _config(hyper: dict[str, Any]) -> EvaluatorConfig:
    movement, motion, text = hyper["movement"], hyper["motion"], hyper["text"]
    return EvaluatorConfig(
        dim_pose=movement["input"] + FOOT_CONTACTS, dim_movement_enc_hidden=movement["hidden"],
        dim_movement_latent=movement["output"], dim_word=text["word"], dim_pos_ohot=text["pos"],
        dim_motion_hidden=motion["hidden"], dim_text_hidden=text["hidden"], dim_coemb_hidden=motion["output"])


@torch.no_grad()
def check_evaluator(manifest: dict, arrays: Arrays, report: Report) -> None:
    model = Evaluator(_config(manifest["hyperparameters"])).eval()
    for network in model.networks().values():
        fill_state_dict(network.state_dict(), manifest["fill"]["skip"])
    report.parameters({f"{key}:{name}": tensor for key, state in model.checkpoint().items()
                       for name, tensor in state.items()})
    report.inputs("motion", "m_lens", "word_emb", "pos_onehot", "cap_lens")
    motion, m_lens = torch.from_numpy(arrays["motion"]), torch.from_numpy(arrays["m_lens"])
    if "movements" in arrays:
        report.close("movements", model.movements(motion[:len(arrays["movements"])]), 1e-5)
    motion_emb = model.encode_motion(motion, m_lens)
    order = published_order(m_lens)
    report.close("motion_emb", motion_emb, 1e-5)
    report.exact("align_idx", order)
    report.close("wrapper_motion_emb", motion_emb[order], 1e-5)
    report.close("motion_emb_truncated", torch.cat([
        model.encode_motion(row[None, :length], length[None]) for row, length in zip(motion, m_lens, strict=True)]),
        1e-5)
    if "word_emb" in arrays:
        words, classes, cap_lens = (torch.from_numpy(arrays[name]) for name in ("word_emb", "pos_onehot", "cap_lens"))
        text_emb = model.encode_text(words, classes, cap_lens)
        report.close("text_emb", text_emb, 1e-5)
        report.close("wrapper_text_emb", text_emb[order], 1e-5)


def check_metrics(arrays: Arrays, report: Report) -> None:
    for name, mean, cov in (("a", "mu_a", "cov_a"), ("b", "mu_b", "cov_b")):
        if name in arrays:
            report.inputs(name)
            computed = metrics.mean_and_covariance(arrays[name])
            report.close(mean, computed[0], 1e-4, relative=True)
            report.close(cov, computed[1], 1e-4, relative=True)
    for name, pair, tolerance in (("fid", ("a", "b"), 1e-4), ("fid_few", ("few_a", "few_b"), 5e-3)):
        if name in arrays:
            report.inputs(*pair)
            report.close(name, metrics.fid(*(arrays[one] for one in pair)), tolerance, relative=True)
    if "fid_same" in arrays:
        report.close("fid_same", metrics.fid(arrays["a"], arrays["a"]), 1e-6)
    if "text" in arrays:
        _check_pairs(arrays, report)
    if "div_seed" in arrays:
        _check_diversity(arrays, report)
    if "mm" in arrays:
        _check_multimodality(arrays, report)
    if "pose_gt" in arrays:
        report.inputs("pose_gt", "pose_pred")
        report.close("mpjpe", metrics.mpjpe(arrays["pose_pred"], arrays["pose_gt"]), 1e-4, relative=True)


def _check_pairs(arrays: Arrays, report: Report) -> None:
    report.inputs("text", "motion")
    text, motion = arrays["text"], arrays["motion"]
    batch = len(arrays["dist_first"]) if "dist_first" in arrays else 32
    tables = [metrics.euclidean_distances(text[start:start + batch], motion[start:start + batch])
              for start in range(0, len(text), batch)]
    hits = [metrics.hits_at_k(table, 3) for table in tables]
    report.close("dist_first", tables[0], 1e-4, relative=True)
    report.exact("top3_bool_first", hits[0])
    report.exact("top3_counts", np.stack([one.sum(0) for one in hits]))
    report.close("r_precision", metrics.r_precision(text, motion, 3, batch), 1e-9)
    report.close("matching_trace", [np.trace(table) for table in tables], 1e-4, relative=True)
    report.close("matching_score", metrics.matching_score(text, motion), 1e-4, relative=True)
    report.close("matching_direct", metrics.pair_distances(text, motion), 1e-4, relative=True)


def _check_diversity(arrays: Arrays, report: Report) -> None:
    report.inputs("a", "div_seed")
    seed, rows = int(arrays["div_seed"]), arrays["a"]
    count = metrics.diversity_pairs(len(rows))
    first, second = metrics.draw_pairs(len(rows), count, np.random.RandomState(seed))
    report.exact("div_first", first)
    report.exact("div_second", second)
    report.close("diversity", metrics.diversity(rows, np.random.RandomState(seed)), 1e-4, relative=True)


def _check_multimodality(arrays: Arrays, report: Report) -> None:
    report.inputs("mm", "mm_seed")
    seed, rows = int(arrays["mm_seed"]), arrays["mm"]
    count = len(arrays["mm_first"]) if "mm_first" in arrays else 10
    first, second = metrics.draw_pairs(rows.shape[1], count, np.random.RandomState(seed))
    report.exact("mm_first", first)
    report.exact("mm_second", second)
    report.close("multimodality", metrics.multimodality(rows, np.random.RandomState(seed), count), 1e-4,
                 relative=True)


def check_word_classes(content: dict[str, Any], report: Report) -> None:
    """Tokens with their class and whether they fell back to ``unk``, given the known words."""
    known = set(content["known_words"])
    for token, class_index, unknown in content["tokens"]:
        report.equal(f"class of {token}", word_class(token, known), class_index)
        report.equal(f"{token} unknown", falls_back(token, known), unknown)


MODELS: dict[str, Callable[[dict, Arrays, Report], None]] = {
    "T2M evaluator: MovementConvEncoder + MotionEncoderBiGRUCo + TextEncoderBiGRUCo": check_evaluator,
}
MOTION: list[tuple[frozenset[str], Callable[[Arrays, Report], None]]] = [
    (frozenset({name}), check_metrics)
    for name in ("fid", "fid_few", "matching_score", "r_precision", "diversity", "multimodality", "mpjpe")
]
