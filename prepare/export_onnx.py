"""Export text to motion for other runtimes: four ONNX graphs, compared with torch, word pieces and settings.

    python prepare/export_onnx.py --out onnx
    python prepare/generate_onnx.py onnx "a person waves" 120 --out wave.npy        # needs no torch
"""
import json
import sys
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import utils  # noqa: F401 (sets the thread policy before torch is loaded)

# isort: split
import torch

from data.specs import dataset_spec
from models.onnx_export import SETTINGS_FILE, TOKENIZER_FILE, Graph, export, graphs_of, settings_of
from options.base import Parser, add_common, positive_int
from options.generate import add_models
from storage.load import load_text_to_motion
from storage.source import model_names
from utils.errors import InputError, script
from utils.files import atomic_path, write_text

TOLERANCE = 1e-3  # absolute: of logits, features and metres
OTHER_SIZES = {"batch": 3, "tokens": 12}  # than those that graphs are traced with
PACKAGES = ("onnx", "onnxscript", "onnxruntime")


@script
def main() -> None:
    parser = Parser("Export text to motion as ONNX graphs, for programs without torch.")
    add_common(parser)
    add_models(parser, lengths=False)
    parser.add_argument("--time_steps", type=positive_int, default=10, help="steps of iterative unmasking")
    parser.add_argument("--out", type=Path, default=Path("onnx"), help="folder to write to")
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
                raise InputError(f"{name} gives other numbers in onnxruntime than in torch, {apart:.2g} apart")
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, at most {apart:.1g} from torch")
    with atomic_path(opt.out / TOKENIZER_FILE) as temporary:
        pipeline.text.pieces.save_tokenizer(temporary)
    write_text(opt.out / SETTINGS_FILE, json.dumps(settings_of(pipeline, opt.time_steps), indent=1) + "\n")


def difference(path: Path, graph: Graph) -> float:
    """The largest difference between what onnxruntime and torch make of a graph's inputs."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    made = session.run(list(graph.outputs), {name: tensor.numpy() for name, tensor in graph.inputs.items()})
    return max(float((torch.from_numpy(ours) - theirs).abs().max())
               for ours, theirs in zip(made, graph.run(), strict=True))


if __name__ == "__main__":
    main()
