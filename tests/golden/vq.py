"""Parity checks of the tokenizers."""
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from models.vq.model import RVQVAE, HumanVQVAE, Reconstruction, VQConfig, tokenizer_loss
from models.vq.quantizer import EmaQuantizer
from tests.golden.fill import fill_state_dict
from tests.golden.report import Report

Arrays = dict[str, np.ndarray]


def _config(hyper: dict[str, Any], num_quantizers: int) -> VQConfig:
    given = {
        "dim_pose": "input_width", "nb_code": "codes", "code_dim": "code_dim", "output_emb_width": "output_emb_width",
        "width": "width", "down_t": "down_t", "stride_t": "stride_t", "mu": "mu", "vq_act": "activation",
        "vq_norm": "norm", "dilation_growth_rate": "dilation_growth_rate", "shared_codebook": "shared_codebook",
        "quantize_dropout_prob": "quantize_dropout_prob",
    }
    settings = {ours: hyper[theirs] for ours, theirs in given.items() if theirs in hyper}
    settings["depth"] = hyper.get("depth", hyper.get("res_blocks_per_stage", 3))
    return VQConfig(num_quantizers=num_quantizers, **settings)


def _filled(model: torch.nn.Module, manifest: dict, report: Report) -> torch.nn.Module:
    report.parameters(model.state_dict())
    fill_state_dict(model.state_dict(), manifest["fill"]["skip"])
    return model.eval()


@torch.no_grad()
def check_human_vqvae(manifest: dict, arrays: Arrays, report: Report) -> None:
    hyper = manifest["hyperparameters"]
    model = _filled(HumanVQVAE(_config(hyper, 1)), manifest, report)
    report.inputs("motion")
    motion = torch.from_numpy(arrays["motion"])
    latent = model.vqvae.encoder(motion)
    report.close("encoder_out", latent, 1e-5)
    report.exact("ids", model.encode(motion))
    result = model(motion)
    report.close("recon", result.motion, 1e-5)
    report.close("commit_loss", result.commitment, 1e-5)
    report.close("perplexity", result.perplexity, 1e-4)
    if "decoder_ids" in arrays:
        report.inputs("decoder_ids")
        ids = torch.from_numpy(arrays["decoder_ids"])
        report.close("decoded", model.forward_decoder(ids.view(1, -1)), 1e-5)
    if "decoded_two_rows" in arrays:
        # Published decoding joins the rows of an id array into one sequence; ours decodes rows apart.
        tokens = arrays["decoded_two_rows"].shape[1] // (2 * model.config.unit_length)
        rows = model.encode(motion)[:2, :tokens]
        report.close("decoded_two_rows", model.forward_decoder(rows.reshape(1, -1)), 1e-5)
    _check_losses(manifest, result, motion, report)
    _check_margin(model.vqvae.quantizer, latent, report)


def _check_losses(manifest: dict, result: Reconstruction, motion: torch.Tensor, report: Report) -> None:
    joints = manifest["hyperparameters"].get("joints", (motion.shape[-1] + 1) // 12)
    losses = tokenizer_loss(result, motion, joints)
    report.close("loss_rec", losses.reconstruction, 1e-6)
    report.close("loss_explicit", losses.local_positions, 1e-6)
    report.close("loss_total", losses.total, 1e-6)


def _margin(quantizer: EmaQuantizer, rows: torch.Tensor) -> torch.Tensor:
    two = torch.cdist(rows.double(), quantizer.codebook.double()).square().topk(2, largest=False).values
    return (two[:, 1] - two[:, 0]).min()


def _check_margin(quantizer: EmaQuantizer, latent: torch.Tensor, report: Report) -> None:
    rows = latent.transpose(1, 2).flatten(0, 1)
    report.close("min_margin", _margin(quantizer, rows), 5e-3, relative=True)


@torch.no_grad()
def check_rvqvae(manifest: dict, arrays: Arrays, report: Report) -> None:
    hyper = manifest["hyperparameters"]
    model = _filled(RVQVAE(_config(hyper, hyper["num_quantizers"])), manifest, report)
    report.inputs("motion")
    motion = torch.from_numpy(arrays["motion"])
    latent = model.encoder(motion)
    report.close("encoder_out", latent, 1e-5)
    ids = model.encode(motion)
    report.exact("code_idx", ids)
    vectors = model.quantizer.lookup(ids).transpose(2, 3)  # (q, b, dim, n)
    if "all_codes" in arrays:
        report.close("all_codes", vectors[:, :arrays["all_codes"].shape[1]], 1e-5)
    result = model(motion)
    report.close("recon", result.motion, 1e-5)
    report.close("commit_loss", result.commitment, 1e-5)
    report.close("perplexity", result.perplexity, 1e-4)
    report.close("decoded", model.forward_decoder(ids), 1e-5)
    report.close("decoded_first2", model.forward_decoder(ids[..., :2]), 1e-5)
    masked = ids.clone()
    masked[:, -2:] = -1
    report.close("decoded_masked", model.forward_decoder(masked), 1e-5)
    margins, residual = [], latent
    for layer, chosen in zip(model.quantizer.layers, vectors, strict=True):
        margins.append(_margin(layer, residual.transpose(1, 2).flatten(0, 1)))
        residual = residual - chosen
    report.close("min_margin", torch.stack(margins).min(), 5e-3, relative=True)
    if "loss_rec" in arrays:
        _check_losses(manifest, result, motion, report)


@torch.no_grad()
def check_quantizer(manifest: dict, arrays: Arrays, report: Report) -> None:
    hyper = manifest["hyperparameters"]
    quantizer = EmaQuantizer(hyper["codes"], hyper["code_dim"], hyper["mu"], published=True).train()
    report.parameters(quantizer.state_dict())
    steps = sorted(int(name[1:]) for name in arrays if name[0] == "x" and name[1:].isdigit())
    for step in steps:
        report.inputs(f"x{step}")
        result = quantizer(torch.from_numpy(arrays[f"x{step}"]))
        report.close(f"out{step}", result.latent, 1e-5)
        report.close(f"commit{step}", result.commitment, 1e-5)
        report.close(f"perplexity{step}", result.perplexity, 1e-4)
        report.close(f"codebook{step}", quantizer.codebook, 1e-5)
        report.close(f"code_sum{step}", quantizer.code_sum, 1e-5)
        report.close(f"code_count{step}", quantizer.code_count, 1e-5)
    quantizer.eval()
    report.exact("ids_after", quantizer(torch.from_numpy(arrays["x0"])).codes.flatten())


MODELS: dict[str, Callable[[dict, Arrays, Report], None]] = {
    "LaMP HumanVQVAE (single-codebook VQ-VAE, EMA with code reset)": check_human_vqvae,
    "MoMask RVQVAE (residual VQ-VAE)": check_rvqvae,
    "EMA-with-reset vector quantizer of the VQ-VAE, alone": check_quantizer,
}
