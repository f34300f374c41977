"""Parity checks of the Q-Former, the pretraining model and the front end of captioning.

Sizes are read off the manifest's parameter list, so that every fixture brings its own; only what shapes do not tell
(heads, dilation growth) comes from the hyperparameters or takes the published value.
"""
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from models.lamp.features import EncodedMotion, LaMPConfig
from models.lamp.lamp import TEMP_INIT, LaMP, Negatives
from models.lamp.objectives import LABEL_SMOOTHING, next_word_targets, same_caption, similarity, smoothed_cross_entropy
from models.lamp.qformer import POSITION_IDS, TIED_NAMES, QFormer, QFormerConfig
from models.m2t.front import MotionPrefix, MotionPrefixConfig
from models.vq.model import VQConfig, build_tokenizer
from tests.golden.fill import fill, fill_state_dict
from tests.golden.report import Report

Arrays = dict[str, np.ndarray]
Shapes = dict[str, tuple[int, ...]]

HEAD_WIDTH = 64
LOOSE_NAMES = (*TIED_NAMES, POSITION_IDS)


def shapes_of(manifest: dict[str, Any]) -> Shapes:
    """Shape by parameter name, as the manifest lists them."""
    return {name: tuple(shape) for name, shape, *_ in manifest["parameters"]}


def qformer_config(shapes: Shapes, hyper: dict[str, Any], prefix: str = "Qformer.") -> QFormerConfig:
    """Sizes of the Q-Former under ``prefix``."""
    vocab, hidden = shapes[f"{prefix}bert.embeddings.word_embeddings.weight"]
    layer = f"{prefix}bert.encoder.layer."
    layers = {int(name[len(layer):].split(".")[0]) for name in shapes if name.startswith(layer)}
    crossing = sorted(index for index in layers if f"{layer}{index}.crossattention.self.key.weight" in shapes)
    heads = hyper.get("qformer_heads", hidden // HEAD_WIDTH) if prefix else hyper["heads"]  # else a trunk's own
    queries = shapes.get("query_tokens", (1, hyper.get("num_query_tokens", hyper.get("num_query_token", 49))))[1]
    return QFormerConfig(
        hidden=hidden, layers=len(layers), heads=heads,
        intermediate=shapes[f"{layer}0.intermediate.dense.weight"][0],
        max_positions=shapes[f"{prefix}bert.embeddings.position_embeddings.weight"][0], vocab=vocab,
        encoder_width=shapes[f"{layer}0.crossattention.self.key.weight"][1],
        cross_attention_freq=crossing[1] - crossing[0] if len(crossing) > 1 else len(layers),
        num_query_tokens=queries, layer_norm_eps=float(hyper.get("layer_norm_eps", 1e-12)))


def vq_config(shapes: Shapes, hyper: dict[str, Any], encoder: str, codebook: str | None) -> VQConfig:
    """Sizes of the tokenizer whose encoder lies under ``encoder``; without a codebook it stays the published one."""
    width, dim_pose, _ = shapes[f"{encoder}model.0.weight"]
    prefix = re.escape(encoder)
    stages = [name for name in shapes if re.fullmatch(prefix + r"model\.\d+\.0\.weight", name)]
    blocks = [name for name in shapes if re.fullmatch(prefix + r"model\.2\.1\.model\.\d+\.conv1\.weight", name)]
    last = shapes[f"{encoder}model.{2 + len(stages)}.weight"]
    kernel = shapes[stages[0]][2]
    codes = shapes[codebook][0] if codebook else 512
    return VQConfig(
        dim_pose=dim_pose, nb_code=codes, code_dim=last[0], output_emb_width=last[0], down_t=len(stages),
        stride_t=kernel // 2, width=width, depth=len(blocks), num_quantizers=1,
        dilation_growth_rate=hyper.get("dilation_growth_rate", 3), vq_act=hyper.get("vq_act", "relu"),
        vq_norm=hyper.get("vq_norm"))


def _every(manifest: dict[str, Any], name: str, length: int, stored: int) -> slice:
    """Which positions a fixture kept of ``length``: every so many, as its words say or its size tells."""
    said = re.search(r"\b0,\s*(\d+),", manifest.get("arrays", {}).get(name, {}).get("meaning", ""))
    steps = [int(said[1])] if said else []
    steps += range(1, length + 1)
    step = next((step for step in steps if -(-length // step) == stored), 1)
    return slice(None, None, step)


def _tensors(arrays: Arrays, report: Report, *names: str) -> list[Tensor]:
    report.inputs(*names)
    return [torch.from_numpy(arrays[name]) for name in names]


@torch.no_grad()
def check_qformer(manifest: dict, arrays: Arrays, report: Report) -> None:
    model = QFormer(qformer_config(shapes_of(manifest), manifest["hyperparameters"], prefix="")).eval()
    report.parameters(model.state_dict(), ignore=LOOSE_NAMES)
    fill_state_dict(model.state_dict(), manifest["fill"]["skip"])
    ids, mask, states, states_mask = _tensors(
        arrays, report, "input_ids", "attention_mask", "encoder_states", "encoder_mask")
    size = (1, model.config.num_query_tokens, model.config.hidden)
    queries = torch.from_numpy(fill("query_tokens", size))
    report.close("query_tokens", queries, 1e-7)
    query = model.query(queries, states, states_mask)
    report.close("text_hidden", model.text(ids, mask), 1e-5)
    report.close("query_hidden", query.hidden, 1e-5)
    joint = model.joint(queries, ids, mask, states, states_mask)
    kept = _every(manifest, "joint_hidden", joint.shape[1], arrays["joint_hidden"].shape[1])
    report.close("joint_hidden", joint[:, kept], 1e-5)
    for name, layer, part in (("past_key0", 0, 0), ("past_value_last", -1, 1)):
        if name in arrays:
            report.close(name, query.cache[layer][part][:, :arrays[name].shape[1]], 1e-5)
    _check_language_model(model, ids, mask, query.cache, manifest, arrays, report)


def _check_language_model(model: QFormer, ids: Tensor, mask: Tensor, cache: list, manifest: dict, arrays: Arrays,
                          report: Report) -> None:
    decoder_ids = ids.clone()
    decoder_ids[:, 0] = model.config.vocab - 1
    report.exact("decoder_input_ids", decoder_ids)
    logits = model.lm_logits(model.language_model(decoder_ids, mask, cache))
    kept = _every(manifest, "lm_logits", logits.shape[-1], arrays["lm_logits"].shape[-1])
    report.close("lm_logits", logits[..., kept], 1e-5)
    report.close("lm_logsumexp", logits.logsumexp(-1), 1e-5)
    where, targets = next_word_targets(ids, mask)
    report.close("lm_loss", smoothed_cross_entropy(logits[where], targets), 1e-5)
    losses = F.cross_entropy(logits[where], targets, label_smoothing=LABEL_SMOOTHING, reduction="none")
    per_sample = torch.zeros(where.shape).masked_scatter_(where, losses).sum(1)
    report.close("lm_loss_per_sample", per_sample, 1e-4)


def check_lamp(manifest: dict, arrays: Arrays, report: Report) -> None:
    hyper, shapes = manifest["hyperparameters"], shapes_of(manifest)
    vq = vq_config(shapes, hyper, "vq_model.vqvae.encoder.", "vq_model.vqvae.quantizer.codebook")
    config = LaMPConfig(qformer_config(shapes, hyper), vq, shapes["text_proj.weight"][0], published=True)
    model = LaMP(config, build_tokenizer(vq)).eval()
    report.parameters(model.state_dict(), ignore=LOOSE_NAMES)
    if "temp_init" in hyper:
        report.equal("initial temp", round(TEMP_INIT, 6), round(hyper["temp_init"], 6))
    fill_state_dict(model.state_dict(), manifest["fill"]["skip"])
    frozen = sorted({name.split(".")[0] for name, value in model.named_parameters() if not value.requires_grad})
    report.equal("frozen modules", frozen, sorted(manifest.get("frozen_modules", frozen)))
    motion, ids, mask = _tensors(arrays, report, "motion", "input_ids", "attention_mask")
    encoded = model.encode_motion(motion)
    report.exact("motion_ids", encoded.ids)
    _check_features(model, encoded, ids, mask, report)
    _check_parts(model, encoded, ids, mask, manifest, arrays, report)
    _check_losses_and_gradients(model, encoded, ids, mask, arrays, report)


@torch.no_grad()
def _check_features(model: LaMP, encoded: EncodedMotion, ids: Tensor, mask: Tensor, report: Report) -> None:
    text = model.text_features(ids, mask)
    report.close("text_feat", text, 1e-5)
    report.close("motion_feat", model.motion_features(encoded), 1e-5)
    report.close("retrieval_text", model.text_embedding(ids, mask), 1e-5)
    report.close("retrieval_motion", model.motion_embedding(encoded), 1e-5)
    cosines = similarity(text, model.motion_query_features(encoded))
    report.close("sim_m2t", cosines.T, 1e-5)
    to_motion, to_text = model.negative_chances(model.scaled(cosines), ids)
    report.close("weights_t2m", to_motion, 1e-5)
    report.close("weights_m2t", to_text, 1e-5)
    report.equal("each row's own caption", same_caption(ids).diagonal().all().item(), True)


@torch.no_grad()
def _check_parts(model: LaMP, encoded: EncodedMotion, ids: Tensor, mask: Tensor, manifest: dict, arrays: Arrays,
                 report: Report) -> None:
    logits, _ = model.matching(model.motion_states(encoded), None, ids, mask, _negatives(arrays, report))
    report.close("ptm_logits", logits, 1e-5)
    logits = model.generation_logits(model.word_states(ids), mask)
    kept = _every(manifest, "gen_logits", logits.shape[1], arrays["gen_logits"].shape[1])
    report.close("gen_logits", logits[:, kept], 1e-5)
    logits = model.caption_logits(ids, mask, model.query_motion(encoded))
    report.close("lm_logsumexp", logits.logsumexp(-1), 1e-5)


def _negatives(arrays: Arrays, report: Report, choice: str = "") -> Negatives:
    return Negatives(*_tensors(arrays, report, f"neg_motion{choice}", f"neg_text{choice}"))


def _check_losses_and_gradients(model: LaMP, encoded: EncodedMotion, ids: Tensor, mask: Tensor, arrays: Arrays,
                                report: Report) -> None:
    if "loss_b" in arrays:
        with torch.no_grad():
            result = model(encoded, ids, mask, negatives=_negatives(arrays, report, "_b"))
        report.close("loss_b", result.loss, 1e-5)
        report.close("loss_ptm_b", result.losses["ptm"], 1e-6)
    result = model(encoded, ids, mask, negatives=_negatives(arrays, report))
    for name, loss in result.losses.items():
        report.close(f"loss_{name}", loss, 1e-6 if name in ("ptc", "ptm") else 1e-5)
    report.close("loss", result.loss, 1e-5)
    result.loss.backward()
    gradients = {
        "query": model.query_tokens, "motion_projection": model.motion_projection,
        "text_projection": model.text_projection, "motion_cls": model.motion_cls.weight,
        "word_emb": model.Qformer.bert.embeddings.word_embeddings.weight,
    }
    for name, parameter in gradients.items():
        if f"grad_{name}_norm" in arrays:
            report.close(f"grad_{name}_norm", parameter.grad.norm(), 1e-4, relative=True)
    report.close("grad_temp", model.temp.grad, 1e-6)
    report.close("grad_itm_bias", model.itm_head.bias.grad, 1e-5)


@torch.no_grad()
def check_m2t_front(manifest: dict, arrays: Arrays, report: Report) -> None:
    hyper, shapes = manifest["hyperparameters"], shapes_of(manifest)
    config = MotionPrefixConfig(
        qformer_config(shapes, hyper), vq_config(shapes, hyper, "motion_encoder.", None),
        llm_width=shapes["opt_proj.weight"][0])
    model = MotionPrefix(config).eval()
    report.parameters(model.state_dict(), ignore=LOOSE_NAMES)
    fill_state_dict(model.state_dict(), manifest["fill"]["skip"])
    motion, = _tensors(arrays, report, "motion")
    states = model.motion_states(motion)
    report.close("motion_embeds", states[:, :arrays["motion_embeds"].shape[1]], 1e-5)
    hidden = model.query_motion(states)
    kept = _every(manifest, "query_out", hidden.shape[1], arrays["query_out"].shape[1])
    report.close("query_out", hidden[:, kept], 1e-5)
    report.close("llm_prefix", model(motion)[:, kept], 1e-5)


MODELS: dict[str, Callable[[dict, Arrays, Report], None]] = {
    "Q-Former (BERT language model with learned queries and cross attention)": check_qformer,
    "LaMP language-motion pretraining model": check_lamp,
    "M2T front end: everything before the language model": check_m2t_front,
}
