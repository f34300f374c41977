"""Support for released checkpoints, whose settings are inferred from tensor shapes.

Checkpoints of this project contain their settings.
"""
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from models.config import FOOT_CONTACTS, QFORMER_PREFIX, DecoderConfig, EvaluatorConfig
from models.text_to_motion import LengthEstimator
from models.transformers.mask_transformer import CLIP_WIDTH
from storage.checkpoint import EARLIER_SAMPLING, Source

State = Mapping[str, Tensor]
HEAD_WIDTH = 64  # width per attention head of published transformers; shapes do not show the number of heads
PUBLISHED_META = "Comp_v6_KLD005"  # folder next to the published evaluator that contains its normalisation
NETWORKS = ("movement_encoder", "text_encoder", "motion_encoder")  # keys of the networks of an evaluator
M2T_UNUSED = ("trans_base.", "trans_head.", "vq_model.", "opt_model.")  # unused parts of the released M2T checkpoint
PUBLISHED_WRITING = {"num_beams": 5, "prompt": "a man is", "prompt_in_caption": False}
PUBLISHED_SCALE = {"kit": 2.0}  # guidance scales that differ from the default, by data set
_ADAPTED = re.compile(r"(llm\..*\.[qv]_proj)\.(weight|bias)")  # names of LoRA layers in old versions of peft
_RANK = re.compile(r"llm\..*\.lora_A\.default\.weight")


def _sizes(state: State, **places: tuple[str, int]) -> dict[str, int]:
    """Read sizes from tensor shapes. ``places`` maps options to (tensor name, dimension). Ignores missing tensors."""
    return {option: state[name].shape[dimension] for option, (name, dimension) in places.items()
            if name in state and state[name].dim() > dimension}


def _numbers(state: State, before: str, after: str = r"\..*") -> list[int]:
    """List the numbers in parameter names between ``before`` and the pattern ``after``, in ascending order."""
    pattern = re.compile(re.escape(before) + r"(\d+)" + after)
    return sorted({int(match[1]) for name in state if (match := pattern.fullmatch(name))})


def tokenizer_sizes(state: State) -> dict[str, Any]:
    """Infer the options of a tokenizer."""
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


def transformer_sizes(state: State) -> dict[str, int]:
    """Infer the sizes of a masked transformer."""
    sizes = _trunk_sizes(state) | _sizes(state, num_tokens=("token_emb.weight", 0))
    if "num_tokens" in sizes:
        sizes["num_tokens"] -= 2  # mask and padding
    return sizes


def residual_sizes(state: State) -> dict[str, Any]:
    """Infer the options of a residual transformer."""
    shared = "token_embed_weight_" in state
    table = "token_embed_weight_" if shared else "token_embed_weight"
    sizes = _trunk_sizes(state) | _sizes(state, num_tokens=(table, 1), num_quantizers=("quant_emb.weight", 1))
    if "num_tokens" in sizes:
        sizes["num_tokens"] -= 1  # padding
        sizes["share_weight"] = shared
    return sizes


def _trunk_sizes(state: State) -> dict[str, int]:
    sizes = _sizes(
        state, latent_dim=("input_process.poseEmbedding.weight", 0), code_dim=("input_process.poseEmbedding.weight", 1),
        cond_dim=("cond_emb.weight", 1), ff_size=("seqTransEncoder.layers.0.linear1.weight", 0))
    layers = len(_numbers(state, "seqTransEncoder.layers."))
    return sizes | ({"n_layers": layers} if layers else {})


def lamp_sizes(state: State) -> dict[str, int]:
    """Infer the sizes of a LaMP model, except those of its tokenizer."""
    return qformer_sizes(state) | _sizes(state, embed_dim=("text_proj.weight", 0))


def qformer_sizes(state: State) -> dict[str, int]:
    """Infer the options of the Q-Former in a model."""
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
    return {QFORMER_PREFIX + name: size for name, size in sizes.items()}


def usual_heads(sizes: Mapping[str, int]) -> dict[str, int]:
    """Guess the number of attention heads from each width in ``sizes``."""
    widths = {"n_heads": sizes.get("latent_dim"), f"{QFORMER_PREFIX}heads": sizes.get(f"{QFORMER_PREFIX}hidden")}
    return {key: max(1, width // HEAD_WIDTH) for key, width in widths.items() if width}


def evaluator_config(state: State) -> EvaluatorConfig:
    """Infer the settings of an evaluator. Raises ``ValueError`` if a tensor is missing or has too few dimensions."""
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
    """Create a length estimator with sizes inferred from ``state``. Raises ``ValueError`` if it lacks linear layers."""
    shapes = _linear_shapes(state)
    if not shapes:
        raise ValueError("no layers output.<number>.weight")
    return LengthEstimator(shapes[0][1], shapes[-1][0], [rows for rows, _ in shapes[:-1]])


def _linear_shapes(state: State) -> list[tuple[int, int]]:
    """List the shapes of the linear layers of a length estimator."""
    return [tuple(state[f"output.{number}.weight"].shape) for number in _numbers(state, "output.", r"\.weight")
            if state[f"output.{number}.weight"].dim() == 2]


def length_sizes(state: State) -> dict[str, int]:
    """Infer the options of a length estimator."""
    shapes = _linear_shapes(state)
    return {"cond_dim": shapes[0][1]} if shapes else {}


def with_sampling(source: Source, dataset_name: str) -> Source:
    """Add missing sampling settings: the published guidance scale or, for our own checkpoints, ``EARLIER_SAMPLING``."""
    if source.is_complete or {"published_behaviour", "condition"} & source.options.keys():
        return source.with_options({}, EARLIER_SAMPLING)
    scale = PUBLISHED_SCALE.get(dataset_name)
    return source if scale is None else source.with_options({}, {"cond_scale": scale})


def has_qformer(state: State) -> bool:
    """Return whether a masked transformer contains a Q-Former, as released LaMP transformers do."""
    return any(name.startswith("Qformer.") for name in state)


def with_sizes(sizes_of: Callable[[State], dict[str, Any]], source: Source, state: State) -> Source:
    """Add the sizes that ``sizes_of`` infers from ``state`` to a source.

    If no text encoder is named and the condition is as wide as CLIP's features, CLIP is set as text encoder.
    """
    sizes = sizes_of(state)
    source = source.with_options(sizes, usual_heads(sizes))
    if sizes.get("cond_dim") == CLIP_WIDTH and not {"text_encoder", "lamp_name"} & source.options.keys():
        return source.with_options({"text_encoder": "clip"})
    return source


def with_masked_options(source: Source, state: State) -> Source:
    """Add the inferred sizes, attention and text encoder of a masked transformer to its source."""
    if "time_steps" not in source.options:  # in published options, gumbel_sample does not affect the evaluation
        source = replace(source, options={
            key: value for key, value in source.options.items() if key != "gumbel_sample"})
    source = with_sizes(lambda state: transformer_sizes(state) | qformer_sizes(state), source, state)
    if has_qformer(state):
        return source.with_options({}, {"attention": "additive"})
    clip = source.options.get("text_encoder") == "clip"
    return source.with_options({}, {"attention": "full"} if clip else {})


def is_released_m2t(state: State) -> bool:
    """Return whether a state dict comes from the released M2T model."""
    return any(name.startswith("opt_model.") for name in state)


def used_part(state: State) -> dict[str, Tensor]:
    """Select the tensors of the released M2T model that are used, and rename them for current versions of peft."""
    return {_ADAPTED.sub(r"\1.base_layer.\2", name): tensor for name, tensor in state.items()
            if not name.startswith(M2T_UNUSED)}


def with_m2t_options(source: Source, state: State) -> Source:
    """Add the options of the released M2T model to its source. Other sources are returned unchanged."""
    if not is_released_m2t(state):
        return source
    rank = next((tensor.shape[0] for name, tensor in state.items() if _RANK.fullmatch(name)), DecoderConfig.lora_r)
    return source.with_options({"decoder": "opt", "lora_r": rank}, {"llm_precision": "fp16", **PUBLISHED_WRITING})
