"""What a checkpoint file holds, told from its tensors alone."""
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.clip_text import CLIP_WIDTH
from models.evaluator.model import Evaluator, EvaluatorConfig
from models.lamp.features import LaMPConfig
from models.lamp.lamp import LaMP
from models.lamp.qformer import OPTION_PREFIX, POSITION_IDS, TIED_NAMES, QFormerConfig
from models.length_estimator import LengthEstimator
from models.m2t.front import MotionPrefix, MotionPrefixConfig
from models.transformers.config import MaskTransformerConfig, ResidualTransformerConfig
from models.transformers.lamp_text import UNUSED, LaMPMaskTransformer
from models.transformers.mask_transformer import MaskTransformer
from models.transformers.residual import ResidualTransformer
from models.transformers.trunk import FIXED_TABLE
from models.vq.model import VQConfig, build_tokenizer
from training.checkpoint import load_checkpoint, load_weights, misfits
from training.load_evaluator import PUBLISHED_META, read_networks
from training.load_m2t import is_released, living_part
from training.sizes import lamp_sizes, qformer_sizes, residual_sizes, tokenizer_sizes, transformer_sizes, usual_heads
from utils.errors import InputError

State = Mapping[str, Tensor]
OPTIONAL = (FIXED_TABLE, *TIED_NAMES, POSITION_IDS, *UNUSED)
STATE_KEYS = ("vq_model", "net", "motion_qformer", "t2m_transformer", "trans", "res_transformer", "estimator")
FEATURES = {263: "t2m", 251: "kit"}  # widths of motions -> data set


@dataclass(frozen=True)
class Identity:
    """What a file is good for."""

    what: str
    sizes: dict[str, Any]        # that its tensors tell
    dataset: str | None          # where they tell that too
    use: tuple[str, ...]         # commands, NAME standing for the folder
    needs: tuple[str, ...]       # files that must lie beside it, or lines of opt.txt
    misfits: tuple[str, ...]     # tensors that are missing, unexpected, or of another shape


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
        raise InputError("this LaMP model lacks its tokenizer, so it can only be checked where it lies, by its name")
    _, vq, tokenizer = _tokenizer(inner)
    qformer = QFormerConfig.from_options({**usual_heads(sizes, OPTION_PREFIX), **sizes})
    own = "motion_encoder.model.0.weight" in state
    config = LaMPConfig(qformer, tokenizer.config, sizes.get("embed_dim", LaMPConfig.embed_dim), published=own)
    return "a LaMP model (language-motion pretraining)", {**sizes, "dim_pose": vq["dim_pose"]}, LaMP(config, tokenizer)


def _masked(state: State) -> tuple[str, dict[str, Any], nn.Module]:
    sizes = transformer_sizes(state)
    config = MaskTransformerConfig.from_options({**usual_heads(sizes), **sizes})
    if any(name.startswith("Qformer.") for name in state):
        extra = qformer_sizes(state)
        qformer = QFormerConfig.from_options({**usual_heads(extra, OPTION_PREFIX), **extra})
        return "a masked transformer of LaMP, with a Q-Former of its own", sizes | extra, LaMPMaskTransformer(
            config, qformer)
    return f"a masked transformer on {_text(config.cond_dim)}", sizes, MaskTransformer(config)


def _residual(state: State) -> tuple[str, dict[str, Any], nn.Module]:
    sizes = residual_sizes(state)
    config = ResidualTransformerConfig.from_options({**usual_heads(sizes), **sizes})
    return f"a residual transformer on {_text(config.cond_dim)}", sizes, ResidualTransformer(config)


def _length(state: State) -> tuple[str, dict[str, Any], nn.Module]:
    model = LengthEstimator.sized_like(state)
    width = model.output[0].in_features
    return f"a length estimator on {_text(width)}", {"cond_dim": width}, model


def _evaluator(state: State) -> tuple[str, dict[str, Any], nn.Module]:
    config = EvaluatorConfig.from_state_dict(state)
    return "an evaluator (text-motion matching)", dict(vars(config)), Evaluator(config)


def _captioner(state: State) -> tuple[str, dict[str, Any], nn.Module]:
    encoder = tokenizer_sizes({name.removeprefix("motion_"): tensor for name, tensor in state.items()})
    encoder |= {"code_dim": encoder["output_emb_width"], "dim_pose": state["motion_encoder.model.0.weight"].shape[1]}
    sizes, width = qformer_sizes(state), state["opt_proj.weight"].shape[0]
    qformer = QFormerConfig.from_options({**usual_heads(sizes, OPTION_PREFIX), **sizes})
    model = MotionPrefix(MotionPrefixConfig(qformer, VQConfig.from_options(encoder), width))
    return (f"the captioning model (M2T) of LaMP, with a language model of {width} numbers a word inside",
            {**sizes, "dim_pose": encoder["dim_pose"]}, model)


def _text(width: int) -> str:
    return f"text features of {width} numbers{', as wide as those of CLIP' if width == CLIP_WIDTH else ''}"


@dataclass(frozen=True)
class _Kind:
    telling: tuple[str, ...]  # tensors, one of which tells this kind
    read: Callable[[State], tuple[str, dict[str, Any], nn.Module]]
    use: tuple[str, ...]
    needs: tuple[str, ...]


# The first whose telling tensor is there decides: some models hold others.
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
    """What lies in a file: a torch file or safetensors. Raises ``InputError`` where it is none that is known."""
    state = _state(path)
    if is_released(state):  # the language model in it is checked by loading, beside the files that describe it
        state = {name: tensor for name, tensor in living_part(state).items() if not name.startswith("llm.")}
    elif "opt_proj.weight" in state:  # of our own: only what learned, which fits its LaMP and language model or not
        return Identity("a captioning model (M2T)", {}, None, ("M2T_eval.py --resume-trans FILE",), (), ())
    kind = next((kind for kind in _KINDS if any(name in state for name in kind.telling)), None)
    if kind is None:
        raise InputError(f"{path} holds {len(state)} tensors of no model that is known here, {next(iter(state))} among "
                         "them")
    try:
        with torch.device("meta"):  # names and shapes are enough
            what, sizes, model = kind.read(state)
    except (ValueError, RuntimeError, KeyError, StopIteration) as error:
        raise InputError(f"{path} cannot be a whole model: {error or 'tensors are missing'}") from error
    return Identity(what, sizes, FEATURES.get(sizes.get("dim_pose", 0)), kind.use, kind.needs,
                    tuple(misfits(model, state, OPTIONAL)))


def _state(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return load_weights(path)
    content = load_checkpoint(path)
    if "movement_encoder" in content:
        return read_networks(path)
    for part in [content.get(key) for key in STATE_KEYS] + [content]:
        if isinstance(part, dict) and part and all(isinstance(value, Tensor) for value in part.values()):
            return part
    raise InputError(f"{path} has no weights under a name that is known here; it has {', '.join(map(str, content))}")
