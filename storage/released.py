"""Released files of other projects: infer settings from tensor shapes, and identify the contents of a file.

This is the only module that infers settings; our own checkpoints contain theirs.
"""
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from models.config import FOOT_CONTACTS, DecoderConfig, EvaluatorConfig
from models.lamp.qformer import OPTION_PREFIX
from models.text_to_motion import LengthEstimator
from models.transformers.mask_transformer import CLIP_WIDTH
from storage.checkpoint import EARLIER_SAMPLING, Source, is_state
from utils import InputError

State = Mapping[str, Tensor]
HEAD_WIDTH = 64  # width per head of published transformers, as tensors do not show the number of heads
PUBLISHED_META = "Comp_v6_KLD005"  # folder next to the published evaluator with its normalisation
NETWORKS = ("movement_encoder", "text_encoder", "motion_encoder")  # networks of an evaluator, with a state dict each
# Unused parts of the released M2T file: stacks, a tokenizer, and a second copy of the language model.
M2T_UNUSED = ("trans_base.", "trans_head.", "vq_model.", "opt_model.")
PUBLISHED_WRITING = {"num_beams": 5, "prompt": "a man is", "prompt_in_caption": False}
PUBLISHED_SCALE = {"kit": 2.0}  # guidance scales by data set that differ from ``Sampling``
_ADAPTED = re.compile(r"(llm\..*\.[qv]_proj)\.(weight|bias)")  # names of adapted layers in old releases of peft
_RANK = re.compile(r"llm\..*\.lora_A\.default\.weight")


def _sizes(state: State, **places: tuple[str, int]) -> dict[str, int]:
    """Option by name from (tensor, dimension); absent ones are left out."""
    return {option: state[name].shape[dimension] for option, (name, dimension) in places.items()
            if name in state and state[name].dim() > dimension}


def _numbers(state: State, before: str, after: str = r"\..*") -> list[int]:
    """Numbers between ``before`` and ``after`` (a pattern) in names, ascending."""
    pattern = re.compile(re.escape(before) + r"(\d+)" + after)
    return sorted({int(match[1]) for name in state if (match := pattern.fullmatch(name))})


def tokenizer_sizes(state: State) -> dict[str, Any]:
    """Options of a tokenizer with one or several codebooks."""
    single = "vqvae.quantizer.codebook" in state
    encoder, quantizer = ("vqvae.encoder.model.", "vqvae.quantizer") if single else (
        "encoder.model.", "quantizer.layers.0")
    down_t = len(_numbers(state, encoder, r"\.0\.weight"))
    sizes: dict[str, Any] = _sizes(
        state, width=(f"{encoder}0.weight", 0), nb_code=(f"{quantizer}.codebook", 0),
        code_dim=(f"{quantizer}.codebook", 1), output_emb_width=(f"{encoder}{2 + down_t}.weight", 0),
        stride_t=(f"{encoder}2.0.weight", 2))
    if "stride_t" in sizes:
        sizes["stride_t"] //= 2  # the kernel size is twice the stride
    depth = len(_numbers(state, f"{encoder}2.1.model.", r"\.conv1\.weight"))
    layers = 1 if single else len(_numbers(state, "quantizer.layers."))
    counts = {"down_t": down_t, "depth": depth, "num_quantizers": layers}
    sizes |= {name: count for name, count in counts.items() if count}
    if depth and f"{encoder}2.1.model.0.norm1.weight" not in state:
        sizes["vq_norm"] = "None"
    return sizes


def with_tokenizer_sizes(source: Source, state: State) -> Source:
    """The source of a tokenizer with its sizes."""
    return source.with_sizes(tokenizer_sizes(state))


def transformer_sizes(state: State) -> dict[str, int]:
    """Options of a masked transformer; its table of codes includes mask and padding."""
    sizes = _trunk_sizes(state) | _sizes(state, num_tokens=("token_emb.weight", 0))
    if "num_tokens" in sizes:
        sizes["num_tokens"] -= 2
    return sizes


def residual_sizes(state: State) -> dict[str, Any]:
    """Options of a residual transformer; its table of codes includes padding."""
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
    """Options of a LaMP model, without its tokenizer."""
    return qformer_sizes(state) | _sizes(state, embed_dim=("text_proj.weight", 0))


def with_lamp_sizes(source: Source, state: State) -> Source:
    """The source of a LaMP model with its sizes."""
    sizes = lamp_sizes(state)
    return source.with_sizes(sizes, usual_heads(sizes))


def qformer_sizes(state: State) -> dict[str, int]:
    """Options of the Q-Former in a model."""
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


def usual_heads(sizes: Mapping[str, int]) -> dict[str, int]:
    """Numbers of attention heads of the trunk and the Q-Former in ``sizes``, with a width of 64 each."""
    widths = {"n_heads": sizes.get("latent_dim"), f"{OPTION_PREFIX}heads": sizes.get(f"{OPTION_PREFIX}hidden")}
    return {key: max(1, width // HEAD_WIDTH) for key, width in widths.items() if width}


def evaluator_config(state: State) -> EvaluatorConfig:
    """Settings of an evaluator. Raises ``ValueError`` naming a tensor that is missing or of another shape."""
    places = {
        "dim_pose": ("movement_encoder.main.0.weight", 1), "dim_movement_enc_hidden": (
            "movement_encoder.main.0.weight", 0), "dim_movement_latent": ("movement_encoder.main.3.weight", 0),
        "dim_motion_hidden": ("motion_encoder.input_emb.weight", 0), "dim_coemb_hidden": (
            "motion_encoder.output_net.3.weight", 0), "dim_word": ("text_encoder.input_emb.weight", 1),
        "dim_pos_ohot": ("text_encoder.pos_emb.weight", 1), "dim_text_hidden": ("text_encoder.input_emb.weight", 0)}
    for name, dimension in places.values():
        if name not in state:
            raise ValueError(f"{name} is missing")
        if state[name].dim() <= dimension:
            raise ValueError(f"{name} has shape {tuple(state[name].shape)}")
    sizes = _sizes(state, **places)
    return EvaluatorConfig(**sizes | {"dim_pose": sizes["dim_pose"] + FOOT_CONTACTS})


def length_estimator(state: State) -> LengthEstimator:
    """An untrained length estimator with the sizes of ``state``. Raises ``ValueError`` for other tensors."""
    shapes = _linear_shapes(state)
    if not shapes:
        raise ValueError("no layers output.<number>.weight")
    return LengthEstimator(shapes[0][1], shapes[-1][0], [rows for rows, _ in shapes[:-1]])


def _linear_shapes(state: State) -> list[tuple[int, int]]:
    """Shapes of the linear layers of a length estimator, in order."""
    return [tuple(state[f"output.{number}.weight"].shape) for number in _numbers(state, "output.", r"\.weight")
            if state[f"output.{number}.weight"].dim() == 2]


def with_length_sizes(source: Source, state: State) -> Source:
    """The source of a length estimator with its text encoder."""
    shapes = _linear_shapes(state)
    return with_text_encoder(source, shapes[0][1] if shapes else None)


def with_sampling(source: Source, dataset_name: str) -> Source:
    """A source with the sampling settings that its options lack: those of our early checkpoints, or the published ones
    of the data set, else the defaults of ``Sampling``."""
    if {"published_behaviour", "condition"} & source.options.keys():  # published files have none
        return source.with_sizes({}, EARLIER_SAMPLING)
    scale = PUBLISHED_SCALE.get(dataset_name)
    return source if scale is None else source.with_sizes({}, {"cond_scale": scale})


def has_qformer(state: State) -> bool:
    """Whether a masked transformer is a released LaMP one, with a Q-Former inside."""
    return any(name.startswith("Qformer.") for name in state)


def with_masked_sizes(source: Source, state: State) -> Source:
    """Add the sizes of a released masked transformer to its source. Attention is additive for LaMP and full for MoMask,
    which takes CLIP features."""
    if "time_steps" not in source.options:  # a training option of the published code that its evaluation ignores
        source = source.without("gumbel_sample")
    sizes = transformer_sizes(state) | (qformer_sizes(state) if has_qformer(state) else {})
    source = with_text_encoder(source.with_sizes(sizes, usual_heads(sizes)), sizes.get("cond_dim"))
    if has_qformer(state):
        return source.with_sizes({}, {"attention": "additive"})
    clip = source.options.get("text_encoder") == "clip"
    return source.with_sizes({}, {"attention": "full"} if clip else {})


def with_residual_sizes(source: Source, state: State) -> Source:
    """The source of a residual transformer with its sizes."""
    sizes = residual_sizes(state)
    return with_text_encoder(source.with_sizes(sizes, usual_heads(sizes)), sizes.get("cond_dim"))


def with_text_encoder(source: Source, width: int | None) -> Source:
    """A source without a text encoder takes CLIP if its text features are as wide as CLIP's."""
    if width == CLIP_WIDTH and not {"text_encoder", "lamp_name"} & source.options.keys():
        return source.with_sizes({"text_encoder": "clip"})
    return source


def is_released_m2t(state: State) -> bool:
    """Whether a state dict is that of the released M2T model, which contains the language model."""
    return any(name.startswith("opt_model.") for name in state)


def used_part(state: State) -> dict[str, Tensor]:
    """The tensors of a released M2T model that are used, under peft's current names."""
    return {_ADAPTED.sub(r"\1.base_layer.\2", name): tensor for name, tensor in state.items()
            if not name.startswith(M2T_UNUSED)}


def with_m2t_sizes(source: Source, state: State) -> Source:
    """The source of a released M2T model with the rank of its adapters; others are returned as they are."""
    if not is_released_m2t(state):
        return source
    rank = next((tensor.shape[0] for name, tensor in state.items() if _RANK.fullmatch(name)), DecoderConfig.lora_r)
    return source.with_sizes({"decoder": "opt", "lora_r": rank}, {"llm_precision": "fp16", **PUBLISHED_WRITING})


def join_networks(content: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """The state dict of an evaluator from one state dict per network. Raises ``InputError`` if one is missing."""
    for network in NETWORKS:
        if not is_state(content.get(network)):
            raise InputError(f"checkpoint {path} has no weights under {network}; it has {', '.join(map(str, content))}")
    return {f"{network}.{name}": tensor for network in NETWORKS for name, tensor in content[network].items()}
