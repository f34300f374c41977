"""Parity checks of the token transformers and the length estimator."""
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.lamp.qformer import QFormerConfig
from models.length_estimator import LengthEstimator
from models.transformers.config import MaskTransformerConfig, ResidualTransformerConfig
from models.transformers.lamp_text import LaMPMaskTransformer
from models.transformers.losses import token_loss
from models.transformers.mask_transformer import MaskTransformer
from models.transformers.residual import ResidualTransformer
from models.transformers.sampling import sample_generators
from tests.golden.fill import fill_state_dict
from tests.golden.report import Report

Arrays = dict[str, np.ndarray]

TOLERANCE = 1e-5       # absolute, hidden states and logits
LOSS_TOLERANCE = 1e-6
UNREGISTERED = ("token_embed_weight", "output_proj_weight", "output_proj_bias")


def _sizes(hyper: dict[str, Any]) -> dict[str, Any]:
    given = {
        "num_tokens": ("num_tokens",), "code_dim": ("code_dim",), "cond_dim": ("cond_dim", "clip_dim"),
        "latent_dim": ("latent_dim",), "n_heads": ("heads", "n_heads"), "n_layers": ("layers", "n_layers"),
        "ff_size": ("ff_size",), "dropout": ("dropout",),
    }
    return {ours: hyper[theirs] for ours, names in given.items() for theirs in names if theirs in hyper}


def _fill(model: nn.Module, manifest: dict, report: Report, ignore: tuple[str, ...] = ()) -> None:
    report.parameters(model.state_dict(), ignore)
    fill_state_dict(model.state_dict(), manifest["fill"]["skip"])
    model.eval()


def _tensors(arrays: Arrays, report: Report, *names: str) -> list[Tensor | None]:
    report.inputs(*names)
    return [torch.from_numpy(arrays[name]) if name in arrays else None for name in names]


def _guided(arrays: Arrays, pattern: str) -> Iterator[tuple[str, float, re.Match]]:
    """Names of the arrays of guided logits, with their scales."""
    for name in arrays:
        if match := re.fullmatch(pattern, name):
            yield name, float(match["scale"].replace("_", ".")), match


def _guided_tolerance(scale: float) -> float:
    """Guidance multiplies the rounding errors of its two parts."""
    return TOLERANCE * max(1.0, abs(scale) + abs(scale - 1))


def _generations(arrays: Arrays) -> list[str]:
    return sorted({name.split("_")[0] for name in arrays if re.match(r"gen\d+_", name)})


def _best_only(classes: int) -> float:
    """The filter that leaves one class, so that sampling needs no luck."""
    return 1 - 0.5 / classes


def _qformer_config(manifest: dict) -> QFormerConfig:
    """Sizes of the Q-Former inside a transformer, read off the shapes of its parameters."""
    shapes = {name: shape for name, shape, *_ in manifest["parameters"]}
    layer = "Qformer.bert.encoder.layer."
    vocab, hidden = shapes["Qformer.bert.embeddings.word_embeddings.weight"]
    crossing = sorted(int(name.removeprefix(layer).split(".")[0]) for name in shapes
                      if name.endswith("crossattention.self.key.weight"))
    told = manifest["hyperparameters"].get("qformer")
    heads = told.get("heads") if isinstance(told, dict) else None
    layers = 1 + max(int(name.removeprefix(layer).split(".")[0]) for name in shapes if name.startswith(layer))
    return QFormerConfig(
        hidden=hidden, layers=layers, heads=heads or max(1, hidden // 64), vocab=vocab,
        intermediate=shapes[f"{layer}0.intermediate.dense.weight"][0],
        max_positions=shapes["Qformer.bert.embeddings.position_embeddings.weight"][0],
        encoder_width=shapes["text2former.weight"][0], num_query_tokens=shapes["query_tokens"][1],
        cross_attention_freq=crossing[1] if len(crossing) > 1 else layers)


def _check_logits(model: MaskTransformer, arrays: Arrays, report: Report) -> None:
    ids, cond, padding = _tensors(arrays, report, "ids", "cond", "padding_mask")
    if ids is None:
        return
    logits = model(ids, cond, padding)
    report.close("logits", logits.transpose(1, 2), TOLERANCE)
    report.close("logits_force_mask", model(ids, torch.zeros_like(cond), padding).transpose(1, 2), TOLERANCE)
    for name, scale, _ in _guided(arrays, r"logits_cfg(?P<scale>[\d._]+)"):
        guided = model.guided_logits(ids, cond, padding, scale)
        report.close(name, guided.transpose(1, 2), _guided_tolerance(scale))
    labels, = _tensors(arrays, report, "train_labels")
    if labels is not None:
        result = token_loss(logits, labels, model.mask_id)
        report.close("train_loss", result.loss, LOSS_TOLERANCE)
        report.close("train_acc", result.accuracy, LOSS_TOLERANCE)
        report.exact("train_pred", result.predictions)


def _check_generation(model: MaskTransformer, manifest: dict, arrays: Arrays, conds: dict[str, Tensor],
                      padding_value: int, report: Report) -> None:
    settings = manifest.get("generation", {})
    for run, cond in conds.items():
        lens, = _tensors(arrays, report, f"{run}_lens")
        result = model.generate(
            cond, lens, sample_generators(range(len(lens))), timesteps=settings["timesteps"],
            cond_scale=settings["cond_scale"], temperature=settings.get("temperature", 1),
            topk_filter_thres=_best_only(model.config.num_tokens), gumbel=settings.get("gumbel", False),
            padding_value=padding_value)
        report.exact(f"{run}_ids", result.ids)
        report.exact(f"{run}_steps", result.steps)


@torch.no_grad()
def check_lamp(manifest: dict, arrays: Arrays, report: Report) -> None:
    config = MaskTransformerConfig(**_sizes(manifest["hyperparameters"]), attention="additive")
    model = LaMPMaskTransformer(config, _qformer_config(manifest))
    _fill(model, manifest, report)
    _check_logits(model, arrays, report)
    _check_causal(model, arrays, report)
    ids, mask = _tensors(arrays, report, "prompt_input_ids", "prompt_attention_mask")
    if ids is not None:
        text = model.text_condition(ids, mask)
        for name, values in (("text_hidden_first", text.hidden), ("text2former_first", text.states)):
            for array in arrays:
                if array.startswith(name):
                    report.close(array, values[:, :arrays[array].shape[1]], TOLERANCE)
        report.close("cond_from_text", text.cond, TOLERANCE)
        conds = {run: text.cond[:len(arrays[f"{run}_lens"])] for run in _generations(arrays)}
        _check_generation(model, manifest, arrays, conds, model.pad_id, report)


def _check_causal(released: MaskTransformer, arrays: Arrays, report: Report) -> None:
    """The same weights with a mask that hides the future; the fixture leaves padding visible there."""
    if "logits_causal" not in arrays:
        return
    ids, cond = _tensors(arrays, report, "ids", "cond")
    sizes = {name: value for name, value in vars(released.config).items() if name != "attention"}
    causal = MaskTransformer(MaskTransformerConfig(**sizes, attention="causal")).eval()
    own = causal.state_dict().keys()
    causal.load_state_dict({name: tensor for name, tensor in released.state_dict().items() if name in own})
    report.close("logits_causal", causal(ids, cond).transpose(1, 2), TOLERANCE)


@torch.no_grad()
def check_momask(manifest: dict, arrays: Arrays, report: Report) -> None:
    model = MaskTransformer(MaskTransformerConfig(**_sizes(manifest["hyperparameters"]), attention="full"))
    _fill(model, manifest, report)
    _check_logits(model, arrays, report)
    runs = _generations(arrays)
    conds = dict(zip(runs, _tensors(arrays, report, *(f"{run}_cond" for run in runs)), strict=True))
    _check_generation(model, manifest, arrays, conds, -1, report)


@torch.no_grad()
def check_residual(manifest: dict, arrays: Arrays, report: Report) -> None:
    hyper = manifest["hyperparameters"]
    config = ResidualTransformerConfig(
        **_sizes(hyper), num_quantizers=hyper["num_quantizers"], share_weight=hyper["share_weight"], published=True)
    model = ResidualTransformer(config)
    # With one codebook for all layers and unshared weights the released code keeps its tables out of the file.
    unregistered = hyper.get("shared_codebook", False) and not config.share_weight
    _fill(model, manifest, report, UNREGISTERED if unregistered else ())
    codes, cond, padding, layers = _tensors(arrays, report, "motion_codes", "cond", "padding_mask", "qids")
    if codes is not None:
        hidden = model(codes, layers, cond, padding)
        report.close("hidden_out", hidden.transpose(1, 2), TOLERANCE)
        report.close("logits", model.project(hidden, layers).transpose(1, 2), TOLERANCE)
        for name, scale, match in _guided(arrays, r"logits_cfg(?P<scale>[\d._]+?)_q(?P<layer>\d+)"):
            guided = model.guided_logits(codes, torch.full_like(layers, int(match["layer"])), cond, padding, scale)
            report.close(name, guided.transpose(1, 2), _guided_tolerance(scale))
    ids, lens = _tensors(arrays, report, "train_ids", "train_lens")
    if ids is not None:
        result = model.loss(ids, cond, lens, torch.Generator(), layers)
        report.close("train_loss", result.loss, LOSS_TOLERANCE)
        report.close("train_acc", result.accuracy, LOSS_TOLERANCE)
    settings = manifest.get("generation", {})
    for run in _generations(arrays):
        base, run_lens, run_cond = _tensors(arrays, report, f"{run}_base", f"{run}_lens", f"{run}_cond")
        ids = model.generate(
            base, run_cond, run_lens, sample_generators(range(len(base))), cond_scale=settings["cond_scale"],
            temperature=settings.get("temperature", 1), topk_filter_thres=_best_only(config.num_tokens + 1))
        report.exact(f"{run}_ids", ids)


@torch.no_grad()
def check_length_estimator(manifest: dict, arrays: Arrays, report: Report) -> None:
    hyper = manifest["hyperparameters"]
    model = LengthEstimator(
        hyper["input_size"], hyper["output_size"], hyper.get("hidden", (512, 256, 128)),
        hyper.get("leaky_slope", 0.2), hyper.get("dropout", 0.2))
    _fill(model, manifest, report)
    text, = _tensors(arrays, report, "text_emb")
    report.close("logits", model(text), TOLERANCE)


MODELS: dict[str, Callable[[dict, Arrays, Report], None]] = {
    "LaMP MaskTransformer (text to motion)": check_lamp,
    "MoMask MaskTransformer": check_momask,
    "MoMask ResidualTransformer, share_weight=True": check_residual,
    "MoMask ResidualTransformer, share_weight=False": check_residual,
    "LengthEstimator (text embedding to number of 4-frame tokens)": check_length_estimator,
}
