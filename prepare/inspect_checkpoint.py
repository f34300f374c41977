"""Identify a checkpoint file: its model, the commands that use it, its folder, and missing files.

    python prepare/inspect_checkpoint.py t2m.tar
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import utils  # noqa: F401, I001 (sets the thread policy before torch is loaded)

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from data.dataset import DATASETS
from models.config import MaskTransformerConfig, ResidualTransformerConfig, VQConfig
from models.evaluator import Evaluator
from models.lamp.features import LaMPConfig
from models.lamp.lamp import LaMP
from models.lamp.qformer import POSITION_IDS, TIED_NAMES, QFormerConfig
from models.m2t import MotionPrefix
from models.transformers.mask_transformer import CLIP_WIDTH, UNUSED, LaMPMaskTransformer, MaskTransformer
from models.transformers.residual import ResidualTransformer
from models.transformers.trunk import FIXED_TABLE
from models.vq.model import build_tokenizer
from options.base import Parser
from storage.checkpoint import (
    PREFERRED,
    SUFFIXES,
    find_state,
    incompatible_keys,
    is_state,
    load_checkpoint,
    load_weights,
)
from storage.released import (
    NETWORKS,
    PUBLISHED_META,
    State,
    evaluator_config,
    has_qformer,
    is_released_m2t,
    lamp_sizes,
    length_estimator,
    qformer_sizes,
    residual_sizes,
    tokenizer_sizes,
    transformer_sizes,
    used_part,
    usual_heads,
)
from utils import InputError, script

STATE_KEYS = ("vq_model", "net", "motion_qformer", "t2m_transformer", "trans", "res_transformer", "estimator",
              NETWORKS)


@dataclass(frozen=True)
class Identity:
    what: str
    sizes: dict[str, Any]        # inferred from the tensors
    dataset: str | None          # None if it cannot be inferred from the tensors
    use: tuple[str, ...]         # commands; NAME stands for the folder
    needs: tuple[str, ...]       # further required files, or lines of opt.txt
    incompatible: tuple[str, ...]  # tensors that are missing, unexpected or have a wrong shape


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
        raise InputError("this LaMP model has no tokenizer; it can only be checked by name, in its folder")
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
    model = MotionPrefix(LaMPConfig(qformer, VQConfig.from_options(encoder), published=True), width)
    return (f"the captioning model (M2T) of LaMP, with a language model of width {width} inside",
            {**sizes, "dim_pose": encoder["dim_pose"]}, model)


def _text(width: int) -> str:
    return f"text features of width {width}{', the width of CLIP' if width == CLIP_WIDTH else ''}"


@dataclass(frozen=True)
class _Kind:
    signature: tuple[str, ...]  # at least one of these tensors is present
    read: Callable[[State], tuple[str, dict[str, Any], nn.Module]]
    use: tuple[str, ...]
    needs: tuple[str, ...]


# The first matching kind is used, as some models contain others.
_KINDS = (
    _Kind(("opt_proj.weight",), _captioner, ("M2T_eval.py --resume-trans NAME", "gen_m2t.py --name NAME"),
          ("opt.txt with a line 'lamp_name: ' and the name of its LaMP model",)),
    _Kind(("motion_projection",), _lamp, ("eval_retrieval.py --name NAME", "train_t2m_transformer.py --lamp_name NAME"),
          ("opt.txt with a line 'vq_name: ' and the name of its tokenizer", "vocab.txt of its initial BERT")),
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
    """Identify the model in a torch or safetensors file. Raises ``InputError`` if it is unknown or incomplete."""
    state = _read_any_state(path)
    if is_released_m2t(state):  # its language model is checked when loading it, with its configuration files
        state = {name: tensor for name, tensor in used_part(state).items() if not name.startswith("llm.")}
    elif "opt_proj.weight" in state:  # our own files contain the trained part only
        return Identity("a captioning model (M2T)", {}, None, ("M2T_eval.py --resume-trans FILE",), (), ())
    kind = next((kind for kind in _KINDS if any(name in state for name in kind.signature)), None)
    if kind is None:
        raise InputError(f"{path} contains {len(state)} tensors of an unknown model, such as {next(iter(state))}")
    try:
        with torch.device("meta"):  # only names and shapes are needed
            what, sizes, model = kind.read(state)
    except (ValueError, RuntimeError, KeyError, StopIteration) as error:
        raise InputError(f"{path} is not a complete model: {error or 'tensors are missing'}") from error
    optional = (FIXED_TABLE, *TIED_NAMES, POSITION_IDS, *UNUSED)
    dataset = next((spec.name for spec in DATASETS.values() if spec.dim_pose == sizes.get("dim_pose")), None)
    return Identity(what, sizes, dataset, kind.use, kind.needs,
                    tuple(incompatible_keys(model, state, optional)))


def _read_any_state(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return load_weights(path)
    content = load_checkpoint(path)
    if content and is_state(content):
        return content
    if not {*STATE_KEYS, *NETWORKS} & content.keys():
        raise InputError(f"{path} has no weights under a known key; its keys are {', '.join(map(str, content))}")
    return find_state(content, STATE_KEYS, path)


@script
def main() -> None:
    parser = Parser("Identify a checkpoint file: model, commands, folder, missing files.")
    parser.add_argument("file", type=Path, help="torch or safetensors file")
    opt = parser.parse_args()
    if not opt.file.is_file():
        raise InputError(f"{opt.file}: no such file")
    found = identify(opt.file)
    stem = opt.file.stem if opt.file.stem in PREFERRED else "latest"
    suffix = opt.file.suffix if opt.file.suffix in SUFFIXES else ".tar"
    print(f"{opt.file}: {found.what}")
    if found.sizes:
        print(f"sizes: {', '.join(f'{key} {value}' for key, value in sorted(found.sizes.items()))}")
        print(f"put it at: checkpoints/{found.dataset or '<t2m or kit>'}/NAME/model/{stem}{suffix}")
    for need in found.needs:
        print(f"also required, next to model/: {need}")
    print(f"used by: {'; '.join(found.use)}")
    if found.incompatible:
        raise InputError(f"{opt.file} will be refused: {'; '.join(found.incompatible)}")
    if found.sizes:
        print("complete: all tensors are present and have the expected shapes")


if __name__ == "__main__":
    main()
