"""Parity checks of the token transformers and the length estimator."""
import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from models.config import MaskTransformerConfig, ResidualTransformerConfig, Sampling
from models.transformers.mask_transformer import UNUSED, LaMPMaskTransformer, MaskTransformer
from models.transformers.residual import ResidualTransformer
from models.transformers.trunk import FIXED_TABLE, sample_generators, token_loss
from storage.released import HEAD_WIDTH, length_estimator, residual_sizes, transformer_sizes
from tests.golden.lamp import LOOSE_NAMES, qformer_config
from tests.golden.manifest import Manifest, filled, setting, state_of
from tests.golden.report import Report

TOLERANCE = 1e-5       # absolute, hidden states and logits
LOSS_TOLERANCE = 1e-6
UNREGISTERED = ("token_embed_weight", "output_proj_weight", "output_proj_bias")


def _sizes(manifest: Manifest, infer: Callable[[dict[str, Tensor]], dict[str, Any]]) -> dict[str, Any]:
    """Infer the sizes of the transformer, under our option names."""
    sizes = infer(state_of(manifest))
    heads = max(1, sizes["latent_dim"] // HEAD_WIDTH)
    return sizes | {"n_heads": setting(manifest, "heads", "n_heads", "num_heads", "nhead", default=heads)}


def _guided(report: Report, pattern: str) -> Iterator[tuple[str, float, re.Match]]:
    """Yield the names of arrays of guided logits, with their scales."""
    for name in report.arrays:
        if match := re.fullmatch(pattern, name):
            yield name, float(match["scale"].replace("_", ".").replace("p", ".")), match


def _guided_tolerance(scale: float) -> float:
    """Return the tolerance of guided logits, as guidance multiplies rounding errors."""
    return TOLERANCE * max(1.0, abs(scale) + abs(scale - 1))


def _generations(report: Report) -> list[str]:
    """Return the names of the generations in a fixture: ``gen0``, ``gen1``, ..."""
    return sorted({name.split("_")[0] for name in report.arrays if re.match(r"gen\d+_lens$", name)})


def _told(manifest: Manifest, *names: str, default: Any) -> Any:
    """Return a generation setting from the manifest."""
    return setting(manifest, *names, default=setting(manifest, *names, default=default), inside="generation")


def _best_only(classes: int) -> float:
    """Return the filter threshold that keeps one class, so that sampling is deterministic."""
    return 1 - 0.5 / classes


def _check_logits(model: MaskTransformer, report: Report) -> None:
    ids, cond, padding, labels = report.tensors("ids", "cond", "padding_mask", "train_labels")
    if ids is None or cond is None:
        return
    padding = None if padding is None else padding.bool()
    logits = model(ids, cond, padding)
    report.close("logits", logits.transpose(1, 2), TOLERANCE)
    report.close("logits_force_mask", model(ids, torch.zeros_like(cond), padding).transpose(1, 2), TOLERANCE)
    for name, scale, _ in _guided(report, r"logits_cfg(?P<scale>\d+(?:[._p]\d+)?)"):
        guided = model.guided_logits(ids, cond, padding, scale)
        report.close(name, guided.transpose(1, 2), _guided_tolerance(scale))
    if labels is not None:
        result = token_loss(logits, labels, model.mask_id)
        report.close("train_loss", result.loss, LOSS_TOLERANCE)
        report.close("train_acc", result.accuracy, LOSS_TOLERANCE)
        report.exact("train_pred", result.predictions)


def _check_generation(model: MaskTransformer, run: str, cond: Tensor, lens: Tensor, padding_value: int,
                      report: Report) -> None:
    manifest, steps = report.manifest, report.arrays.get(f"{run}_steps", ())
    sampling = Sampling(
        time_steps=_told(manifest, "timesteps", "time_steps", default=len(steps) or 10),
        cond_scale=_told(manifest, "cond_scale", default=4),
        temperature=_told(manifest, "temperature", default=1),
        topkr=_best_only(model.config.num_tokens),
        gumbel_sample=_told(manifest, "gumbel", "gumbel_sample", default=False))
    result = model.generate(cond, lens, sample_generators(range(len(lens))), sampling, padding_value=padding_value)
    report.exact(f"{run}_ids", result.ids)
    report.exact(f"{run}_steps", result.steps)


def _mask_config(manifest: Manifest, attention: str) -> MaskTransformerConfig:
    return MaskTransformerConfig(**_sizes(manifest, transformer_sizes), attention=attention)


@torch.no_grad()
def check_lamp(report: Report) -> None:
    manifest = report.manifest
    model = LaMPMaskTransformer(_mask_config(manifest, "additive"), qformer_config(manifest))
    filled(model, report, (*LOOSE_NAMES, FIXED_TABLE, *UNUSED))
    _check_logits(model, report)
    _check_causal(model, report)
    ids, mask = report.tensors("prompt_input_ids", "prompt_attention_mask")
    if ids is None:
        return
    text = model.text_condition(ids, torch.ones_like(ids) if mask is None else mask)
    for first, values in (("text_hidden", text.hidden), ("text2former", text.states)):
        for name in report.arrays:
            if re.fullmatch(first + r"(_first\d+)?", name):
                report.close(name, report.part(name, values, 1), TOLERANCE)
    report.close("cond_from_text", text.cond, TOLERANCE)
    for run in _generations(report):
        lens, = report.required(f"{run}_lens")
        _check_generation(model, run, text.cond[:len(lens)], lens, model.pad_id, report)


def _check_causal(released: MaskTransformer, report: Report) -> None:
    """Check the same weights with causal attention, without a padding mask as in the fixture."""
    ids, cond = report.tensors("ids", "cond")
    if ids is None or cond is None or not report.has("logits_causal"):
        return
    sizes = {name: value for name, value in vars(released.config).items() if name != "attention"}
    causal = MaskTransformer(MaskTransformerConfig(**sizes, attention="causal")).eval()
    own = causal.state_dict().keys()
    causal.load_state_dict({name: tensor for name, tensor in released.state_dict().items() if name in own})
    report.close("logits_causal", causal(ids, cond).transpose(1, 2), TOLERANCE)


@torch.no_grad()
def check_momask(report: Report) -> None:
    model = MaskTransformer(_mask_config(report.manifest, "full"))
    filled(model, report, (FIXED_TABLE,))
    _check_logits(model, report)
    for run in _generations(report):
        lens, cond = report.required(f"{run}_lens", f"{run}_cond")
        _check_generation(model, run, cond, lens, -1, report)


def _residual_config(manifest: Manifest) -> ResidualTransformerConfig:
    told = {"num_tokens": setting(manifest, "num_tokens", "codes", "nb_code", default=512),
            "share_weight": setting(manifest, "share_weight", default=False)}  # if the file has no tables
    return ResidualTransformerConfig(**told | _sizes(manifest, residual_sizes), published=True)


@torch.no_grad()
def check_residual(report: Report) -> None:
    manifest = report.manifest
    config = _residual_config(manifest)
    model = ResidualTransformer(config)
    # With one codebook for all layers and unshared weights, the released file lacks these tables.
    unregistered = setting(manifest, "shared_codebook", default=False) and not config.share_weight
    filled(model, report, (FIXED_TABLE, *(UNREGISTERED if unregistered else ())))
    codes, cond, padding, layers, ids, lens = report.tensors(
        "motion_codes", "cond", "padding_mask", "qids", "train_ids", "train_lens")
    padding = None if padding is None else padding.bool()
    if codes is not None and cond is not None:
        _check_residual_logits(model, codes, cond, padding, layers, report)
    if ids is not None and cond is not None:
        result = model.loss(ids, cond, lens, torch.Generator(), layers)
        report.close("train_loss", result.loss, LOSS_TOLERANCE)
        report.close("train_acc", result.accuracy, LOSS_TOLERANCE)
    for run in _generations(report):
        base, run_lens, run_cond = report.required(f"{run}_base", f"{run}_lens", f"{run}_cond")
        ids = model.generate(
            base, run_cond, run_lens, sample_generators(range(len(base))),
            Sampling(res_cond_scale=_told(manifest, "cond_scale", default=5),
                     res_temperature=_told(manifest, "temperature", default=1),
                     topkr=_best_only(config.num_tokens + 1)))
        report.exact(f"{run}_ids", ids)


def _check_residual_logits(model: ResidualTransformer, codes: Tensor, cond: Tensor, padding: Tensor | None,
                           layers: Tensor | None, report: Report) -> None:
    if layers is not None:
        hidden = model(codes, layers, cond, padding)
        report.close("hidden_out", hidden.transpose(1, 2), TOLERANCE)
        report.close("logits", model.project(hidden, layers).transpose(1, 2), TOLERANCE)
    for name, scale, match in _guided(report, r"logits_cfg(?P<scale>\d+(?:[._p]\d+)?)_q(?P<layer>\d+)"):
        chosen = torch.full((len(codes),), int(match["layer"]))
        guided = model.guided_logits(codes, chosen, cond, padding, scale)
        report.close(name, guided.transpose(1, 2), _guided_tolerance(scale))


@torch.no_grad()
def check_length_estimator(report: Report) -> None:
    manifest = report.manifest
    model = filled(length_estimator(state_of(manifest)), report)
    for layer in model.modules():
        if isinstance(layer, nn.LeakyReLU):
            layer.negative_slope = setting(manifest, "leaky_slope", "leaky", "negative_slope", default=0.2)
    text, = report.required("text_emb")
    report.close("logits", model(text), TOLERANCE)
