"""Export text-to-motion models as ONNX graphs, checked against torch, with vocabulary and settings.

    python prepare/export_onnx.py --out onnx
    python prepare/generate_onnx.py onnx "a person waves" 120 --out wave.npy        # needs no torch
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import utils  # noqa: F401, I001 (sets the thread policy before torch is loaded)

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from data.dataset import dataset_spec
from models.lamp.features import LaMPText
from models.text_to_motion import TextToMotion
from models.transformers.mask_transformer import TEXT_LENGTH, MaskTransformer, ReleasedText
from models.transformers.residual import ResidualTransformer
from models.transformers.trunk import cosine_mask_ratio
from motion.features import features_to_joints
from options.base import Parser, add_common, positive_int
from options.generate import add_models
from storage.generation import load_text_to_motion
from storage.checkpoint import model_names
from utils import InputError, script
from utils.files import atomic_path, write_text

SETTINGS_FILE, TOKENIZER_FILE = "settings.json", "tokenizer.json"
BATCH, TOKENS, PIECES = 2, 7, 9  # example sizes for tracing; all are dynamic in the graphs
OTHER_SIZES = {"batch": 3, "tokens": 12}  # sizes for checking
FREE = torch.export.Dim.DYNAMIC
SAMPLING = ("cond_scale", "res_cond_scale", "temperature", "res_temperature", "topkr", "text_noise")
TOLERANCE = 1e-3  # maximum absolute difference of logits, features and joints
PACKAGES = ("onnx", "onnxscript", "onnxruntime")


class TextStep(nn.Module):
    """Network that computes the text condition (b, c) from word pieces ``ids`` and ``mask`` (b, t)."""

    def __init__(self, text: LaMPText | ReleasedText) -> None:
        super().__init__()
        self.model, self.kind = text.model, getattr(text, "kind", None)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        if self.kind is None:
            return self.model.text_condition(ids, mask).cond
        return self.model.make_condition(ids, mask, self.kind)


class MaskedStep(nn.Module):
    """Network that computes base-layer logits (b, n, K) with classifier-free guidance.

    Inputs: ``ids`` (b, n), ``cond`` (b, c), ``padding`` (b, n), ``cond_scale`` ().
    """

    def __init__(self, model: MaskTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, cond: Tensor, padding: Tensor, cond_scale: Tensor) -> Tensor:
        return self.model.guided_logits(ids, cond, padding, cond_scale)


class ResidualStep(nn.Module):
    """Network that computes the logits of residual ``layer`` (b,) from the lower layers of ``ids`` (b, n, q).

    Other inputs are as in ``MaskedStep``. The logits are (b, n, K), or (b, n, K + 1) if padding can be sampled.
    """

    def __init__(self, model: ResidualTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, layer: Tensor, cond: Tensor, padding: Tensor, cond_scale: Tensor) -> Tensor:
        history = self.model.history_of(ids, layer)
        logits = self.model.guided_logits(history, layer, cond, padding, cond_scale)
        return logits if self.model.config.published else logits[..., :-1]


class DecodeStep(nn.Module):
    """Network that decodes ``ids`` (b, n, q) to unnormalised features (b, t, d) and joints (b, t, J, 3) in metres.

    ``token_lens`` (b,) are lengths in tokens. The outputs are valid up to these lengths.
    """

    def __init__(self, pipeline: TextToMotion) -> None:
        super().__init__()
        self.model, self.skeleton, self.metres = pipeline.tokenizer, pipeline.skeleton, pipeline.metres
        zero = torch.zeros(pipeline.tokenizer.config.dim_pose, dtype=torch.float64)
        mean = pipeline.denormalise(zero)
        self.register_buffer("mean", mean.float())
        self.register_buffer("std", (pipeline.denormalise(zero + 1) - mean).float())

    def forward(self, ids: Tensor, token_lens: Tensor) -> tuple[Tensor, Tensor]:
        features = self.model.forward_decoder(ids, token_lens) * self.std + self.mean
        return features, self.metres * features_to_joints(features, self.skeleton)


@dataclass(frozen=True)
class Graph:
    """A network to export, with example inputs for tracing and checking."""

    network: nn.Module
    inputs: Mapping[str, Tensor]        # keyed by name, in the order of the network's arguments
    outputs: tuple[str, ...]

    def run(self) -> tuple[Tensor, ...]:
        """Run the network in torch on the example inputs."""
        with torch.no_grad():
            made = self.network(*self.inputs.values())
        return made if isinstance(made, tuple) else (made,)


def graphs_of(pipeline: TextToMotion, batch: int = BATCH, tokens: int = TOKENS) -> dict[str, Graph]:
    """Build the graphs of a pipeline on the CPU. Returns a dictionary keyed by file name without suffix.

    Raises ``InputError`` for unsupported models: CLIP, two different text encoders, or a tokenizer with group norm.
    """
    if not isinstance(pipeline.text, (LaMPText, ReleasedText)):
        raise InputError("only models whose text features come from LaMP can be exported")
    if pipeline.residual is not None and pipeline.residual_text is not pipeline.text:
        raise InputError("the masked and residual transformers must use the same text encoder for export")
    if pipeline.tokenizer.config.vq_norm == "GN":
        raise InputError("a tokenizer with group norm cannot be exported")
    draw = torch.Generator().manual_seed(0)
    ends = torch.arange(batch) % 2  # every other row is one token shorter
    padding = torch.arange(tokens) >= (tokens - ends)[:, None]
    cond = torch.randn(batch, pipeline.transformer.config.cond_dim, generator=draw)
    codes = pipeline.tokenizer.config.nb_code
    ids = torch.randint(codes, (batch, tokens, pipeline.layers), generator=draw)
    pieces = TEXT_LENGTH if isinstance(pipeline.text, ReleasedText) else PIECES
    words = torch.randint(5, len(pipeline.text.pieces), (batch, pieces), generator=draw)
    seen = torch.arange(pieces) < (pieces - 2 * ends)[:, None]
    scale = torch.tensor(4.0)
    graphs = {
        "text_encoder": Graph(TextStep(pipeline.text), {"ids": words, "mask": seen}, ("cond",)),
        "masked_step": Graph(MaskedStep(pipeline.transformer), {
            "ids": ids[..., 0].masked_fill(torch.arange(tokens) % 2 == 0, pipeline.transformer.mask_id),
            "cond": cond, "padding": padding, "cond_scale": scale}, ("logits",)),
        "decoder": Graph(DecodeStep(pipeline), {"ids": ids, "token_lens": tokens - ends}, ("features", "joints")),
    }
    if pipeline.residual is not None:
        layer = torch.arange(batch) % (pipeline.layers - 1) + 1
        graphs["residual_step"] = Graph(ResidualStep(pipeline.residual), {
            "ids": ids, "layer": layer, "cond": cond, "padding": padding, "cond_scale": scale}, ("logits",))
    return graphs


def export(graph: Graph, path: str) -> None:
    """Write a graph to ``path`` with dynamic batch size and lengths. Requires the packages onnx and onnxscript."""
    free = {name: dict.fromkeys(range(min(tensor.dim(), 1 if name == "cond" else 2)), FREE)
            for name, tensor in graph.inputs.items()}
    torch.onnx.export(graph.network.eval(), tuple(graph.inputs.values()), path, dynamo=True, external_data=False,
                      input_names=list(graph.inputs), output_names=list(graph.outputs),
                      dynamic_shapes=tuple(free.values()), verbose=False)


def settings_of(pipeline: TextToMotion, time_steps: int) -> dict[str, Any]:
    """Return the settings needed to run the graphs. ``mask_shares`` are the mask ratios of the ``time_steps`` steps."""
    published = isinstance(pipeline.text, ReleasedText) or pipeline.text.model.config.published
    longest = TEXT_LENGTH if isinstance(pipeline.text, ReleasedText) else pipeline.text.max_text_len
    return {"codes": pipeline.tokenizer.config.nb_code, "layers": pipeline.layers, "frames_of_a_token": pipeline.unit,
            "mask_shares": cosine_mask_ratio(torch.linspace(0, 1, time_steps)).tolist(),
            "mask_id": pipeline.transformer.mask_id, "longest_text": longest, "pad_texts": published,
            "sampling": {name: getattr(pipeline.sampling, name) for name in SAMPLING},
            "pad_is_drawn": pipeline.residual is not None and pipeline.residual.config.published}


@script
def main() -> None:
    parser = Parser("Export text to motion as ONNX graphs, for use without torch.")
    add_common(parser)
    add_models(parser, lengths=False)
    parser.add_argument("--time_steps", type=positive_int,
                        help="steps of iterative unmasking (default: value of the model)")
    parser.add_argument("--out", type=Path, default=Path("onnx"), help="output folder")
    opt = parser.parse_args()
    if absent := [name for name in PACKAGES if find_spec(name) is None]:
        raise InputError(f"export needs the package{'s' * (len(absent) > 1)} {', '.join(absent)}: "
                         f"pip install {' '.join(absent)}")
    pipeline, files = load_text_to_motion(opt.name, None, dataset_spec(opt.dataset_name), opt.checkpoints_dir,
                                          which=opt.which_epoch, res_name=opt.res_name)
    print(f"models: {model_names(files)}")
    others = graphs_of(pipeline, **OTHER_SIZES)
    for name, graph in graphs_of(pipeline).items():
        path = opt.out / f"{name}.onnx"
        with atomic_path(path) as temporary:
            export(graph, str(temporary))
            apart = max(difference(temporary, graph), difference(temporary, others[name]))
            if not apart < TOLERANCE:
                raise InputError(f"{name} differs between onnxruntime and torch by {apart:.2g}")
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, maximum difference to torch {apart:.1g}")
    with atomic_path(opt.out / TOKENIZER_FILE) as temporary:
        pipeline.text.pieces.save_tokenizer(temporary)
    settings = settings_of(pipeline, opt.time_steps or pipeline.sampling.time_steps)
    write_text(opt.out / SETTINGS_FILE, json.dumps(settings, indent=1) + "\n")


def difference(path: Path, graph: Graph) -> float:
    """Return the largest difference between the outputs of ``path`` in onnxruntime and ``graph`` in torch."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    made = session.run(list(graph.outputs), {name: tensor.numpy() for name, tensor in graph.inputs.items()})
    return max(float((torch.from_numpy(ours) - theirs).abs().max())
               for ours, theirs in zip(made, graph.run(), strict=True))


if __name__ == "__main__":
    main()
