"""Released files of other projects: settings inferred from the shapes of their tensors, and what a file contains.

This is the only place that infers settings. Our own checkpoints contain theirs.
"""
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from data.specs import DATASETS
from models.clip_text import CLIP_WIDTH
from models.config import FOOT_CONTACTS, DecoderConfig, MaskTransformerConfig, ResidualTransformerConfig
from models.evaluator import Evaluator, EvaluatorConfig
from models.lamp.features import LaMPConfig
from models.lamp.lamp import LaMP
from models.lamp.qformer import OPTION_PREFIX, POSITION_IDS, TIED_NAMES, QFormerConfig
from models.length_estimator import LengthEstimator
from models.m2t.captioner import MotionPrefix, MotionPrefixConfig
from models.transformers.mask_transformer import UNUSED, LaMPMaskTransformer, MaskTransformer
from models.transformers.residual import ResidualTransformer
from models.transformers.trunk import FIXED_TABLE
from models.vq.model import VQConfig, build_tokenizer
from storage.checkpoint import incompatible_keys, is_state, load_checkpoint, load_weights
from storage.source import Source
from utils.errors import InputError

State = Mapping[str, Tensor]
HEAD_WIDTH = 64  # of published transformers; the number of heads does not show in the tensors
PUBLISHED_META = "Comp_v6_KLD005"  # folder beside the published evaluator with its normalisation
STATE_KEYS = ("vq_model", "net", "motion_qformer", "t2m_transformer", "trans", "res_transformer", "estimator")
NETWORKS = ("movement_encoder", "text_encoder", "motion_encoder")  # of an evaluator, a state dict each
# Of the released M2T file: stacks that are never called, a tokenizer, and a second copy of the language model.
M2T_UNUSED = ("trans_base.", "trans_head.", "vq_model.", "opt_model.")
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
        sizes["stride_t"] //= 2  # a kernel is twice its stride
    depth = len(_numbers(state, f"{encoder}2.1.model.", r"\.conv1\.weight"))
    layers = 1 if single else len(_numbers(state, "quantizer.layers."))
    counts = {"down_t": down_t, "depth": depth, "num_quantizers": layers}
    sizes |= {name: count for name, count in counts.items() if count}
    if depth and f"{encoder}2.1.model.0.norm1.weight" not in state:
        sizes["vq_norm"] = "None"
    return sizes


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
    """Attention heads of the trunk and the Q-Former among ``sizes``, 64 wide each."""
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
    matrices = {int(name.split(".")[1]): tensor.shape for name, tensor in state.items()
                if re.fullmatch(r"output\.\d+\.weight", name) and tensor.dim() == 2}
    if not matrices:
        raise ValueError("no layers output.<number>.weight")
    widths = [matrices[index] for index in sorted(matrices)]
    return LengthEstimator(widths[0][1], widths[-1][0], [rows for rows, _ in widths[:-1]])


def has_qformer(state: State) -> bool:
    """Whether a masked transformer is a released LaMP one, with a Q-Former inside."""
    return any(name.startswith("Qformer.") for name in state)


def with_masked_sizes(source: Source, state: State) -> Source:
    """The source of a masked transformer with its sizes. Attention of released files: LaMP's is additive, that of
    MoMask, which takes CLIP features, full."""
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
    """The source of a released M2T model with the rank of its adapters."""
    rank = next((tensor.shape[0] for name, tensor in state.items() if _RANK.fullmatch(name)), DecoderConfig.lora_r)
    return source.with_sizes({"decoder": "opt", "lora_r": rank}, {"llm_precision": "fp16"})


@dataclass(frozen=True)
class Identity:
    """What a file contains and how to use it."""

    what: str
    sizes: dict[str, Any]        # inferred from the tensors
    dataset: str | None          # if the tensors show it
    use: tuple[str, ...]         # commands; NAME stands for the folder
    needs: tuple[str, ...]       # files that must be beside it, or lines of opt.txt
    incompatible: tuple[str, ...]  # tensors that are missing, unexpected, or of another shape


def _tokenizer(state: State) -> tuple[str, dict[str, Any], nn.Module]:
    sizes = tokenizer_sizes(state)
    encoder = next(state[name] for name in ("encoder.model.0.weight", "vqvae.encoder.model.0.weight") if name in state)
    config = VQConfig.from_options({**sizes, "dim_pose": encoder.shape[1]})
    layers = "one codebook" if config.num_quantizers == 1 else f"{config.num_quantizers} layers of codes"
    return f"a motion tokenizer with {layers}", {**sizes, "dim_pose": config.dim_pose}, build_tokenizer(config)


def _lamp(state: State) -> tuple[str, dict[str, Any], nn.Module]:
    sizes = lamp_sizes(state)
    inner = {name.removeprefix("vq_model."): tensor for name, tensor in state.items() if name.startswith("vq_model.")}
    if not inner:
        raise InputError("this LaMP model lacks its tokenizer; it can only be checked by its name, in its folder")
    _, vq, tokenizer = _tokenizer(inner)
    qformer = QFormerConfig.from_options({**usual_heads(sizes), **sizes})
    own = "motion_encoder.model.0.weight" in state
    config = LaMPConfig(qformer, tokenizer.config, sizes.get("embed_dim", LaMPConfig.embed_dim), published=own)
    return "a LaMP model (language-motion pretraining)", {**sizes, "dim_pose": vq["dim_pose"]}, LaMP(config, tokenizer)


def _masked(state: State) -> tuple[str, dict[str, Any], nn.Module]:
    sizes = transformer_sizes(state)
    config = MaskTransformerConfig.from_options({**usual_heads(sizes), **sizes})
    if has_qformer(state):
        extra = qformer_sizes(state)
        qformer = QFormerConfig.from_options({**usual_heads(extra), **extra})
        return "a masked transformer of LaMP, with a Q-Former inside", sizes | extra, LaMPMaskTransformer(
            config, qformer)
    return f"a masked transformer on {_text(config.cond_dim)}", sizes, MaskTransformer(config)


def _residual(state: State) -> tuple[str, dict[str, Any], nn.Module]:
    sizes = residual_sizes(state)
    config = ResidualTransformerConfig.from_options({**usual_heads(sizes), **sizes})
    return f"a residual transformer on {_text(config.cond_dim)}", sizes, ResidualTransformer(config)


def _length(state: State) -> tuple[str, dict[str, Any], nn.Module]:
    model = length_estimator(state)
    width = model.output[0].in_features
    return f"a length estimator on {_text(width)}", {"cond_dim": width}, model


def _evaluator(state: State) -> tuple[str, dict[str, Any], nn.Module]:
    config = evaluator_config(state)
    return "an evaluator (text-motion matching)", dict(vars(config)), Evaluator(config)


def _captioner(state: State) -> tuple[str, dict[str, Any], nn.Module]:
    encoder = tokenizer_sizes({name.removeprefix("motion_"): tensor for name, tensor in state.items()})
    encoder |= {"code_dim": encoder["output_emb_width"], "dim_pose": state["motion_encoder.model.0.weight"].shape[1]}
    sizes, width = qformer_sizes(state), state["opt_proj.weight"].shape[0]
    qformer = QFormerConfig.from_options({**usual_heads(sizes), **sizes})
    model = MotionPrefix(MotionPrefixConfig(qformer, VQConfig.from_options(encoder), width))
    return (f"the captioning model (M2T) of LaMP, with a language model of width {width} inside",
            {**sizes, "dim_pose": encoder["dim_pose"]}, model)


def _text(width: int) -> str:
    return f"text features of width {width}{', that of CLIP' if width == CLIP_WIDTH else ''}"


@dataclass(frozen=True)
class _Kind:
    signature: tuple[str, ...]  # tensors, one of which is present
    read: Callable[[State], tuple[str, dict[str, Any], nn.Module]]
    use: tuple[str, ...]
    needs: tuple[str, ...]


# The first kind with a match counts, as some models contain others.
_KINDS = (
    _Kind(("opt_proj.weight",), _captioner, ("M2T_eval.py --resume-trans NAME", "gen_m2t.py --name NAME"),
          ("opt.txt with a line 'lamp_name: ' and the name of its LaMP model",)),
    _Kind(("motion_projection",), _lamp, ("eval_retrieval.py --name NAME", "train_t2m_transformer.py --lamp_name NAME"),
          ("opt.txt with a line 'vq_name: ' and the name of its tokenizer", "vocab.txt, of the BERT it began with")),
    _Kind(("token_emb.weight",), _masked, ("gen_t2m.py --name NAME",),
          ("opt.txt with a line 'vq_name: ' and the name of its tokenizer",)),
    _Kind(("quant_emb.weight",), _residual, ("gen_t2m.py --res_name NAME",), ()),
    _Kind(("movement_encoder.main.0.weight",), _evaluator, ("the evaluation of generated motions",),
          (f"meta/mean.npy and meta/std.npy, or {PUBLISHED_META}/meta in the folder above",)),
    _Kind(("vqvae.quantizer.codebook", "quantizer.layers.0.codebook"), _tokenizer,
          ("eval_t2m_vq.py --name NAME", "train_lamp.py --vq_name NAME"), ("meta/mean.npy", "meta/std.npy")),
    _Kind(("output.0.weight",), _length, ("gen_t2m.py --len_name NAME",), ()),
)


def identify(path: Path) -> Identity:
    """Recognise the model in a torch or safetensors file. Raises ``InputError`` if it is none of the known ones."""
    state = _read_any_state(path)
    if is_released_m2t(state):  # its language model is checked on loading, with the files that describe it
        state = {name: tensor for name, tensor in used_part(state).items() if not name.startswith("llm.")}
    elif "opt_proj.weight" in state:  # our own files hold the trained part only
        return Identity("a captioning model (M2T)", {}, None, ("M2T_eval.py --resume-trans FILE",), (), ())
    kind = next((kind for kind in _KINDS if any(name in state for name in kind.signature)), None)
    if kind is None:
        raise InputError(f"{path} holds {len(state)} tensors of no known model, such as {next(iter(state))}")
    try:
        with torch.device("meta"):  # names and shapes are enough
            what, sizes, model = kind.read(state)
    except (ValueError, RuntimeError, KeyError, StopIteration) as error:
        raise InputError(f"{path} cannot be a whole model: {error or 'tensors are missing'}") from error
    optional = (FIXED_TABLE, *TIED_NAMES, POSITION_IDS, *UNUSED)
    dataset = next((spec.name for spec in DATASETS.values() if spec.dim_pose == sizes.get("dim_pose")), None)
    return Identity(what, sizes, dataset, kind.use, kind.needs,
                    tuple(incompatible_keys(model, state, optional)))


def _read_any_state(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return load_weights(path)
    content = load_checkpoint(path)
    if "movement_encoder" in content:
        return join_networks(content, path)
    for part in [content.get(key) for key in STATE_KEYS] + [content]:
        if part and is_state(part):
            return part
    raise InputError(f"{path} has no weights under a known name; it has {', '.join(map(str, content))}")


def join_networks(content: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """The state dict of an evaluator from one state dict per network. Raises ``InputError`` if one is missing."""
    for network in NETWORKS:
        if not is_state(content.get(network)):
            raise InputError(f"checkpoint {path} has no weights under {network}; it has {', '.join(map(str, content))}")
    return {f"{network}.{name}": tensor for network in NETWORKS for name, tensor in content[network].items()}
