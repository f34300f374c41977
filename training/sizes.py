"""Settings that the tensors of a checkpoint tell: ``opt.txt`` may be missing or of another run.

Every function gives options by their names, as many as can be read; what a file lacks is reported when it is loaded.
"""
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from models.lamp.qformer import OPTION_PREFIX

State = Mapping[str, Tensor]
HEAD_WIDTH = 64  # of published transformers; the number of heads leaves no trace in the tensors


def _sizes(state: State, **places: tuple[str, int]) -> dict[str, int]:
    """Option by name from (tensor, dimension); those that are not there are left out."""
    return {option: state[name].shape[dimension] for option, (name, dimension) in places.items()
            if name in state and state[name].dim() > dimension}


def _numbers(state: State, before: str, after: str = r"\..*") -> list[int]:
    """The numbers that stand between ``before`` and ``after`` (a pattern) in names, ascending."""
    pattern = re.compile(re.escape(before) + r"(\d+)" + after)
    return sorted({int(match[1]) for name in state if (match := pattern.fullmatch(name))})


def tokenizer_sizes(state: State) -> dict[str, Any]:
    """Of a tokenizer, single or residual."""
    single = "vqvae.quantizer.codebook" in state
    encoder, quantizer = ("vqvae.encoder.model.", "vqvae.quantizer") if single else (
        "encoder.model.", "quantizer.layers.0")
    down_t = len(_numbers(state, encoder, r"\.0\.weight"))
    sizes: dict[str, Any] = _sizes(
        state, width=(f"{encoder}0.weight", 0), nb_code=(f"{quantizer}.codebook", 0),
        code_dim=(f"{quantizer}.codebook", 1), output_emb_width=(f"{encoder}{2 + down_t}.weight", 0),
        stride_t=(f"{encoder}2.0.weight", 2))
    if "stride_t" in sizes:
        sizes["stride_t"] //= 2  # a kernel is twice its stride
    depth = len(_numbers(state, f"{encoder}2.1.model.", r"\.conv1\.weight"))
    layers = 1 if single else len(_numbers(state, "quantizer.layers."))
    counts = {"down_t": down_t, "depth": depth, "num_quantizers": layers}
    sizes |= {name: count for name, count in counts.items() if count}
    if depth and f"{encoder}2.1.model.0.norm1.weight" not in state:
        sizes["vq_norm"] = "None"
    return sizes


def transformer_sizes(state: State) -> dict[str, int]:
    """Of a masked transformer: its trunk, and the codes without mask and padding."""
    sizes = _trunk_sizes(state) | _sizes(state, num_tokens=("token_emb.weight", 0))
    if "num_tokens" in sizes:
        sizes["num_tokens"] -= 2
    return sizes


def residual_sizes(state: State) -> dict[str, Any]:
    """Of a residual transformer: its trunk, the codes without padding, the layers, and whether they share tables."""
    shared = "token_embed_weight_" in state
    table = "token_embed_weight_" if shared else "token_embed_weight"
    sizes = _trunk_sizes(state) | _sizes(state, num_tokens=(table, 1), num_quantizers=("quant_emb.weight", 1))
    if "num_tokens" in sizes:
        sizes["num_tokens"] -= 1
        sizes["share_weight"] = shared
    return sizes


def _trunk_sizes(state: State) -> dict[str, int]:
    sizes = _sizes(
        state, latent_dim=("input_process.poseEmbedding.weight", 0), code_dim=("input_process.poseEmbedding.weight", 1),
        cond_dim=("cond_emb.weight", 1), ff_size=("seqTransEncoder.layers.0.linear1.weight", 0))
    layers = len(_numbers(state, "seqTransEncoder.layers."))
    return sizes | ({"n_layers": layers} if layers else {})


def lamp_sizes(state: State) -> dict[str, int]:
    """Of a LaMP model, without its tokenizer."""
    return qformer_sizes(state) | _sizes(state, embed_dim=("text_proj.weight", 0))


def qformer_sizes(state: State) -> dict[str, int]:
    """Of the Q-Former in a model."""
    embeddings, layer = "Qformer.bert.embeddings.", "Qformer.bert.encoder.layer."
    sizes = _sizes(
        state, vocab=(f"{embeddings}word_embeddings.weight", 0), hidden=(f"{embeddings}word_embeddings.weight", 1),
        max_positions=(f"{embeddings}position_embeddings.weight", 0),
        intermediate=(f"{layer}0.intermediate.dense.weight", 0),
        encoder_width=(f"{layer}0.crossattention.self.key.weight", 1), num_query_tokens=("query_tokens", 1))
    layers = len(_numbers(state, layer))
    crossing = _numbers(state, layer, r"\.crossattention\.self\.key\.weight")
    if crossing:
        sizes |= {"layers": layers, "cross_attention_freq": crossing[1] if len(crossing) > 1 else layers}
    return {OPTION_PREFIX + name: size for name, size in sizes.items()}


def usual_heads(sizes: Mapping[str, int], prefix: str = "") -> dict[str, int]:
    """Attention heads of a trunk, or of the Q-Former with its ``prefix``, where the options do not say."""
    width = sizes.get(f"{prefix}hidden" if prefix else "latent_dim", HEAD_WIDTH)
    return {f"{prefix}heads" if prefix else "n_heads": max(1, width // HEAD_WIDTH)}
