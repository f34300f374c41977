"""Evaluate the tokenizer: how well whole clips come back from all its layers, and from the base layer alone."""
from dataclasses import asdict
from pathlib import Path

from data.motion_windows import read_whole_clips
from data.specs import dataset_spec
from evaluation.reconstruction import score_reconstruction
from evaluation.report import write_report
from options.evaluate import parse_evaluate_options
from training.load import load_tokenizer
from utils.device import select_device
from utils.errors import script
from utils.seeding import seed_everything


@script
def main() -> None:
    opt = parse_evaluate_options("Evaluate a tokenizer on whole clips of a split.", "tokenizer")
    seed_everything(opt.seed)
    spec = dataset_spec(opt.dataset_name, opt.data_root)
    tokenizer = load_tokenizer(opt.name, spec, opt.checkpoints_dir, select_device(opt.gpu_id), opt.which_epoch)
    clips = read_whole_clips(spec, opt.split, opt.quiet)
    print(f"{tokenizer.source} on {len(clips)} clips of {spec.root}, {opt.split}; lengths in millimetres")
    tables = {}
    for row, layers in (("all layers", None), ("base layer alone", 1)):
        scores = score_reconstruction(tokenizer.model, clips, tokenizer.normalisation, spec, layers)
        tables[row] = asdict(scores)
    folder = Path(opt.checkpoints_dir) / spec.name / tokenizer.source.folder.name / "eval"
    write_report(folder, opt.ext, {"checkpoint": tokenizer.source, "clips": len(clips), **vars(opt)}, tables)


if __name__ == "__main__":
    main()
