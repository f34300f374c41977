"""Parity checks of the tokenizers."""
import re

import torch
from torch import Tensor

from models.vq.model import RVQVAE, HumanVQVAE, Reconstruction, VQConfig, tokenizer_loss
from models.vq.quantizer import EmaQuantizer
from storage.released import tokenizer_sizes
from tests.golden.manifest import Manifest, filled, indices, setting, shapes_of, state_of
from tests.golden.report import Report

TOLERANCE = 1e-5
LOSS_TOLERANCE = 1e-6
MARGIN_TOLERANCE = 5e-3    # relative to the margin
DISTANCE_ROUNDING = 5e-8   # relative to the squared lengths whose difference is a distance


def vq_config(manifest: Manifest, prefix: str = "", new: str = "", **more: int) -> VQConfig:
    """Infer the settings of a tokenizer from the parameters under ``prefix``, which ``new`` replaces."""
    state = state_of(manifest, prefix, new)
    sizes = tokenizer_sizes(state)
    inputs, = (tensor.shape[1] for name, tensor in state.items() if name.endswith("encoder.model.0.weight"))
    batch_norm = any("encoder" in name and name.endswith("norm1.running_mean") for name in state)
    norm = sizes.get("vq_norm", "BN" if batch_norm else setting(manifest, "norm", "vq_norm", default="LN"))
    return VQConfig.from_options(sizes | {
        "code_dim": sizes["output_emb_width"], "dim_pose": inputs, "vq_norm": norm,
        "dilation_growth_rate": setting(manifest, "dilation_growth_rate", "dilation_growth", default=3),
        "vq_act": setting(manifest, "activation", "vq_act", default="relu"),
        "mu": setting(manifest, "mu", default=VQConfig.mu),
        "shared_codebook": setting(manifest, "shared_codebook", default=False)} | more)


@torch.no_grad()
def check_human_vqvae(report: Report) -> None:
    config = vq_config(report.manifest)
    model = filled(HumanVQVAE(config), report)
    motion, = report.required("motion")
    given, = report.tensors("decoder_ids")
    if given is not None:
        report.close("decoded", model.forward_decoder(given.view(1, -1)), TOLERANCE)
    latent = model.vqvae.encoder(motion)
    ids = model.encode(motion)
    report.close("encoder_out", latent, TOLERANCE)
    report.exact("ids", ids)
    if report.has("decoded_two_rows"):
        # Published decoding joins the rows of an id array into one sequence; ours decodes rows apart.
        tokens = report.arrays["decoded_two_rows"].shape[1] // (2 * 2**config.down_t)
        report.close("decoded_two_rows", model.forward_decoder(ids[:2, :tokens].reshape(1, -1)), TOLERANCE)
    _check_reconstruction(model(motion), motion, report)
    _check_margin([model.vqvae.quantizer], [latent], report)


@torch.no_grad()
def check_rvqvae(report: Report) -> None:
    stored = len(indices(shapes_of(report.manifest), "quantizer.layers.", r"\.codebook"))
    layers = setting(report.manifest, "num_quantizers", default=stored)
    config = vq_config(report.manifest, num_quantizers=layers)
    # A shared codebook is one tensor, listed under all of its names or only the first.
    model = filled(RVQVAE(config), report, (".codebook",) if config.shared_codebook else ())
    motion, = report.required("motion")
    ids = model.encode(motion)
    report.exact("code_idx", ids)
    vectors = model.quantizer.lookup(ids).transpose(2, 3)  # (q, b, dim, n)
    report.close("all_codes", report.part("all_codes", vectors, 1), TOLERANCE)
    report.close("decoded", model.forward_decoder(ids), TOLERANCE)
    for name in report.arrays:
        if match := re.fullmatch(r"decoded_first(\d+)", name):
            report.close(name, model.forward_decoder(ids[..., :int(match[1])]), TOLERANCE)
    masked = ids.clone()
    masked[:, -2:] = -1
    report.close("decoded_masked", model.forward_decoder(masked), TOLERANCE)
    latent = model.encoder(motion)
    report.close("encoder_out", latent, TOLERANCE)
    _check_reconstruction(model(motion), motion, report)
    residuals = [latent - vectors[:layer].sum(0) for layer in range(layers)]
    _check_margin(list(model.quantizer.layers), residuals, report)


def _check_reconstruction(result: Reconstruction, motion: Tensor, report: Report) -> None:
    manifest = report.manifest
    report.close("recon", result.motion, TOLERANCE)
    report.close("commit_loss", result.commitment, TOLERANCE)
    report.close("perplexity", result.perplexity, 1e-4)
    joints = setting(manifest, "joints", "joints_num", default=(motion.shape[-1] + 1) // 12)
    losses = tokenizer_loss(
        result, motion, joints, setting(manifest, "recons_loss", default="l1_smooth"),
        setting(manifest, "loss_vel", default=0.5), setting(manifest, "commit", default=0.02))
    report.close("loss_rec", losses.reconstruction, LOSS_TOLERANCE)
    report.close("loss_explicit", losses.local_positions, LOSS_TOLERANCE)
    report.close("loss_total", losses.total, LOSS_TOLERANCE)


def _check_margin(quantizers: list[EmaQuantizer], latents: list[Tensor], report: Report) -> None:
    """Check the smallest gap between the best and second-best squared distance over all tokens and layers."""
    if not report.has("min_margin"):
        return
    margins, lengths = [], []
    for quantizer, latent in zip(quantizers, latents, strict=True):
        rows, codebook = latent.transpose(1, 2).flatten(0, 1).double(), quantizer.codebook.double()
        nearest = torch.cdist(rows, codebook).square().topk(2, largest=False).values
        margins.append((nearest[:, 1] - nearest[:, 0]).min())
        lengths.append(rows.square().sum(1).max() + codebook.square().sum(1).max())
    margin = torch.stack(margins).min()
    rounding = DISTANCE_ROUNDING * torch.stack(lengths).max()
    report.close("min_margin", margin, float(torch.maximum(MARGIN_TOLERANCE * margin, rounding)))


@torch.no_grad()
def check_quantizer(report: Report) -> None:
    codes, dim = shapes_of(report.manifest)["codebook"]
    quantizer = EmaQuantizer(codes, dim, setting(report.manifest, "mu", default=0.99), published=True).train()
    report.parameters(quantizer.state_dict())
    for step in sorted(int(name[1:]) for name in report.arrays if re.fullmatch(r"x\d+", name)):
        latent, = report.tensors(f"x{step}")
        result = quantizer(latent)
        report.close(f"out{step}", result.latent, TOLERANCE)
        report.close(f"commit{step}", result.commitment, TOLERANCE)
        report.close(f"perplexity{step}", result.perplexity, 1e-4)
        report.close(f"codebook{step}", quantizer.codebook, TOLERANCE)
        report.close(f"code_sum{step}", quantizer.code_sum, TOLERANCE)
        report.close(f"code_count{step}", quantizer.code_count, TOLERANCE)
    quantizer.eval()
    first, = report.required("x0")
    report.exact("ids_after", quantizer(first).codes.flatten())
