"""Pack trained models for pretrained/: safetensors in 16 and 8 bits, options without local paths, and required files.

    python prepare/bundle_model.py vq_demo lamp_demo t2m_demo res_demo len_demo evaluator_demo
"""
import shutil
import sys
from pathlib import Path
from typing import NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import utils  # noqa: F401 (sets the thread policy before torch is loaded)

# isort: split
from torch import Tensor

from models.lamp.qformer import POSITION_IDS, TIED_NAMES
from options.base import Parser, add_common
from prepare.inspect_checkpoint import STATE_KEYS
from storage.checkpoint import PRETRAINED, Source, find_source, open_source, save_weights, write_options
from storage.generation import FAMILIARITY_FILE
from utils import InputError, script
from utils.files import atomic_path

# Options specific to one machine or run, which are not needed to load the model.
LEFT_OUT = {"data_root", "bert", "checkpoints_dir", "gpu_id", "is_continue", "init_from", "is_train", "quiet",
            "num_workers", "glove", "resume_pth", "out_dir"}
EXTRAS = ("meta/mean.npy", "meta/std.npy", "vocab.txt", FAMILIARITY_FILE, "glove/our_vab_data.npy",
          "glove/our_vab_words.txt")
# Stored in 8 bits: word embeddings and linear layers, two thirds of the bundle.
EIGHT_BITS = ("word_embeddings.weight", "wte.weight", "dense.weight", "query.weight", "key.weight", "value.weight",
              "linear1.weight", "linear2.weight")
FIXED = (POSITION_IDS, *TIED_NAMES, "position_enc.pe")  # regenerated when a model is built


def refuse(source: Source, _: object) -> NoReturn:
    """Raise ``InputError`` for a released file, which contains no settings, so that its sizes would be lost."""
    raise InputError(f"{source.file} was not trained by these scripts: it does not contain its settings")


def own_part(source: Source, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Select the weights of a model that are neither regenerated nor stored in its tokenizer's file."""
    if "dim_coemb_hidden" in source.options:  # an evaluator
        return state
    own_encoder = source.options.get("published_behaviour", False)
    tokenizer = ("vq_model.",) if own_encoder else ("vq_model.", "motion_encoder.")
    return {key: tensor for key, tensor in state.items() if not key.startswith(tokenizer) and not key.endswith(FIXED)}


@script
def main() -> None:
    parser = Parser("Pack trained models for pretrained/.")
    add_common(parser)
    parser.add_argument("names", nargs="+", help="runs under checkpoints/<dataset_name>")
    parser.add_argument("--out", type=Path, default=PRETRAINED, help="output folder")
    opt = parser.parse_args()
    for name in opt.names:
        source, state = open_source(find_source(name, opt.dataset_name, opt.checkpoints_dir), STATE_KEYS, refuse)
        folder = opt.out / opt.dataset_name / source.folder.name
        save_weights(folder / "model" / f"{source.file.stem}.safetensors", own_part(source, state), EIGHT_BITS)
        write_options(folder / "opt.txt", {key: value for key, value in source.options.items() if key not in LEFT_OUT})
        for extra in EXTRAS:
            if (source.folder / extra).is_file():
                with atomic_path(folder / extra) as temporary:
                    shutil.copyfile(source.folder / extra, temporary)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        print(f"{source.file} -> {folder} ({size / 1e6:.1f} MB)")


if __name__ == "__main__":
    main()
