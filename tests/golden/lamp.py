"""Parity checks of the Q-Former, the pretraining model and the motion prefix of captioning."""
import re
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from models.config import QFORMER_PREFIX
from models.lamp.features import EncodedMotion, LaMPConfig
from models.lamp.lamp import OBJECTIVES, TEMP_INIT, LaMP, LaMPResult, Negatives
from models.lamp.objectives import LABEL_SMOOTHING, next_word_targets, same_caption, similarity, smoothed_cross_entropy
from models.lamp.qformer import POSITION_IDS, TIED_NAMES, QFormer, QFormerConfig, QueryPass
from models.m2t import MotionPrefix
from models.vq.model import build_tokenizer
from storage.released import HEAD_WIDTH, qformer_sizes
from tests.golden.manifest import Manifest, fill, filled, setting, shapes_of, state_of
from tests.golden.report import Report
from tests.golden.vq import vq_config

TOLERANCE = 1e-5
LOOSE_NAMES = (*TIED_NAMES, POSITION_IDS)


def qformer_config(manifest: Manifest, prefix: str = "Qformer.") -> QFormerConfig:
    """Infer the sizes of the Q-Former under ``prefix``."""
    queries = setting(manifest, "num_query_tokens", "num_query_token", "query_tokens",
                      default=QFormerConfig.num_query_tokens)
    eps = setting(manifest, "layer_norm_eps", default=QFormerConfig.layer_norm_eps)
    sizes = qformer_sizes(state_of(manifest, prefix, "Qformer.") | state_of(manifest, "query_tokens", "query_tokens"))
    sizes = {name.removeprefix(QFORMER_PREFIX): size for name, size in sizes.items()}
    heads = _heads(manifest, sizes["hidden"])
    return QFormerConfig(**{"num_query_tokens": queries, "layer_norm_eps": float(eps), "heads": heads} | sizes)


def _heads(manifest: Manifest, hidden: int) -> int:
    """Return the number of attention heads of a Q-Former: its setting, or the model's if that is unambiguous."""
    names = ("heads", "n_heads", "num_heads", "num_attention_heads")
    told = setting(manifest, "qformer")
    if isinstance(told, str) and (words := re.search(r"\b(\d+) heads\b", told)):
        return int(words[1])
    own = setting({"told": told}, *names, inside="told") or setting(manifest, "qformer_heads", "num_attention_heads")
    if own is None and not any(name.startswith("seqTransEncoder.") for name in shapes_of(manifest)):
        own = setting(manifest, *names)
    return own or max(1, hidden // HEAD_WIDTH)


@torch.no_grad()
def check_qformer(report: Report) -> None:
    manifest = report.manifest
    ids, mask, states, states_mask = report.required("input_ids", "attention_mask", "encoder_states", "encoder_mask")
    config = qformer_config(manifest, prefix="")
    if "past_key0" in report.arrays:  # (b, heads, n, width of a head)
        config = replace(config, heads=config.hidden // report.arrays["past_key0"].shape[-1])
    model = filled(QFormer(config), report, LOOSE_NAMES)
    queries = torch.from_numpy(fill("query_tokens", (1, config.num_query_tokens, config.hidden)))
    report.close("query_tokens", queries, 1e-7)
    report.close("text_hidden", model.text(ids, mask), TOLERANCE)
    joint = model.joint(queries, ids, mask, states, states_mask)
    report.close("joint_hidden", report.part("joint_hidden", joint, 1), TOLERANCE)
    query = model.query(queries, states, states_mask)
    report.close("query_hidden", query.hidden, TOLERANCE)
    for name, values in (("past_key0", query.cache[0][0]), ("past_value_last", query.cache[-1][1])):
        report.close(name, report.part(name, values, 1), TOLERANCE)
    _check_language_model(model, ids, mask, query, report)


def _check_language_model(model: QFormer, ids: Tensor, mask: Tensor, query: QueryPass, report: Report) -> None:
    decoder_ids = ids.clone()
    decoder_ids[:, 0] = model.config.vocab - 1
    report.exact("decoder_input_ids", decoder_ids)
    logits = model.lm_logits(model.language_model(decoder_ids, mask, query.cache))
    report.close("lm_logits", report.part("lm_logits", logits, 2), TOLERANCE)
    report.close("lm_logsumexp", logits.logsumexp(-1), TOLERANCE)
    where, targets = next_word_targets(ids, mask)
    report.close("lm_loss", smoothed_cross_entropy(logits[where], targets), TOLERANCE)
    losses = F.cross_entropy(logits[where], targets, label_smoothing=LABEL_SMOOTHING, reduction="none")
    per_sample = torch.zeros(where.shape).masked_scatter_(where, losses).sum(1)
    report.close("lm_loss_per_sample", per_sample, 1e-4)


def check_lamp(report: Report) -> None:
    manifest = report.manifest
    motion, ids, mask = report.required("motion", "input_ids", "attention_mask")
    vq = vq_config(manifest, "vq_model.")
    config = LaMPConfig(qformer_config(manifest), vq, shapes_of(manifest)["text_proj.weight"][0], published=True)
    model = filled(LaMP(config, build_tokenizer(vq)), report, LOOSE_NAMES, gradients=True)
    initial = setting(manifest, "temp_init", default=TEMP_INIT)
    report.equal("initial temp", round(TEMP_INIT, 6), round(initial, 6))
    frozen = sorted({name.split(".")[0] for name, value in model.named_parameters() if not value.requires_grad})
    report.equal("frozen modules", frozen, sorted(manifest.get("frozen_modules", frozen)))
    encoded = model.encode_motion(motion)
    report.exact("motion_ids", encoded.ids)
    _check_features(model, encoded, ids, mask, report)
    _check_parts(model, encoded, ids, mask, report)
    _check_losses_and_gradients(model, encoded, ids, mask, report)


@torch.no_grad()
def _check_features(model: LaMP, encoded: EncodedMotion, ids: Tensor, mask: Tensor, report: Report) -> None:
    text = model.text_features(ids, mask)
    report.close("text_feat", text, TOLERANCE)
    report.close("motion_feat", model.motion_features(encoded), TOLERANCE)
    report.close("retrieval_text", model.text_embedding(ids, mask), TOLERANCE)
    report.close("retrieval_motion", model.motion_embedding(encoded), TOLERANCE)
    cosines = similarity(text, model.motion_query_features(encoded))
    report.close("sim_m2t", cosines.T, TOLERANCE)
    scaled = model.scaled(cosines)
    to_motion, to_text = (model.negative_probabilities(way, ids) for way in (scaled, scaled.T))
    report.close("weights_t2m", to_motion, TOLERANCE)
    report.close("weights_m2t", to_text, TOLERANCE)
    report.equal("each row's own caption", same_caption(ids).diagonal().all().item(), True)


@torch.no_grad()
def _check_parts(model: LaMP, encoded: EncodedMotion, ids: Tensor, mask: Tensor, report: Report) -> None:
    negatives = _negatives(report)
    if negatives is not None and report.has("ptm_logits"):
        logits, _ = model.matching(model.motion_states(encoded), None, ids, mask, negatives)
        report.close("ptm_logits", logits, TOLERANCE)
    logits = model.generation_logits(model.word_states(ids), mask)
    report.close("gen_logits", report.part("gen_logits", logits, 1), TOLERANCE)
    if report.has("lm_logsumexp"):
        logits = model.caption_logits(ids, mask, model.query_motion(encoded))
        report.close("lm_logsumexp", logits.logsumexp(-1), TOLERANCE)


def _negatives(report: Report, choice: str = "") -> Negatives | None:
    motion, text = report.tensors(f"neg_motion{choice}", f"neg_text{choice}")
    return None if motion is None or text is None else Negatives(motion, text)


def _check_losses_and_gradients(model: LaMP, encoded: EncodedMotion, ids: Tensor, mask: Tensor,
                                report: Report) -> None:
    other = _negatives(report, "_b")
    if other is not None and report.has("loss_b", "loss_ptm_b"):
        with torch.no_grad():
            result = model(encoded, ids, mask, negatives=other)
        report.close("loss_b", result.loss, TOLERANCE)
        report.close("loss_ptm_b", result.losses["ptm"], 1e-6)
    negatives = _negatives(report)
    objectives = [name for name in OBJECTIVES if name != "ptm" or negatives is not None]
    result = model(encoded, ids, mask, objectives=objectives, negatives=negatives)
    for name, loss in result.losses.items():
        report.close(f"loss_{name}", loss, 1e-6 if name in ("ptc", "ptm") else TOLERANCE)
    if negatives is not None:
        _check_sum(model, result, report)


def _check_sum(model: LaMP, result: LaMPResult, report: Report) -> None:
    report.close("loss", result.loss, TOLERANCE)
    result.loss.backward()
    gradients = {
        "query": model.query_tokens, "motion_projection": model.motion_projection,
        "text_projection": model.text_projection, "motion_cls": model.motion_cls.weight,
        "word_emb": model.Qformer.bert.embeddings.word_embeddings.weight,
    }
    for name, parameter in gradients.items():
        report.close(f"grad_{name}_norm", parameter.grad.norm(), 1e-4, relative=True)
    report.close("grad_temp", model.temp.grad, 1e-6)
    report.close("grad_itm_bias", model.itm_head.bias.grad, TOLERANCE)


@torch.no_grad()
def check_m2t_front(report: Report) -> None:
    manifest = report.manifest
    motion, = report.required("motion")
    config = LaMPConfig(
        qformer_config(manifest), vq_config(manifest, "motion_encoder.", "encoder."), published=True)
    model = filled(MotionPrefix(config, shapes_of(manifest)["opt_proj.weight"][0]), report, LOOSE_NAMES)
    states = model.motion_states(motion)
    for name, values in (("motion_embeds", states), ("query_out", model.query_motion(states)),
                         ("llm_prefix", model(motion))):
        report.close(name, report.part(name, values, 1), TOLERANCE)
