"""Evaluate LaMP: retrieval by text and by motion, and whether left and right are told apart."""
from pathlib import Path

import torch

from data.specs import dataset_spec
from data.text_motion import load_pairs
from evaluation.language import score_language
from evaluation.report import write_report
from options.evaluate import parse_evaluate_options
from training.load import load_lamp
from utils.device import select_device
from utils.errors import script
from utils.seeding import seed_everything


@script
def main() -> None:
    opt = parse_evaluate_options("Evaluate retrieval both ways on whole clips of a split.", "LaMP model")
    seed_everything(opt.seed)
    device = select_device(opt.gpu_id)
    spec = dataset_spec(opt.dataset_name, opt.data_root)
    lamp = load_lamp(opt.name, spec, opt.checkpoints_dir, device, opt.which_epoch)
    pairs = load_pairs(spec, opt.split, whole_clips_only=True, quiet=opt.quiet)
    print(f"{lamp.source} on {len(pairs)} clips of {spec.root}, {opt.split}")

    def motion_features(motion: torch.Tensor, m_lens: torch.Tensor) -> torch.Tensor:
        return lamp.model.motion_query_features(motion.to(device), m_lens.to(device))

    scores = score_language(pairs, lamp.normalisation.apply, lamp.text_features, motion_features, opt.seed)
    tables = dict(scores.retrieval)
    if scores.sides is not None:
        tables["sides"] = {"right_percent": scores.sides, "captions": scores.sided}
    folder = Path(opt.checkpoints_dir) / spec.name / lamp.source.folder.name / "eval"
    write_report(folder, opt.ext, {"checkpoint": lamp.source, "clips": len(pairs), **vars(opt)}, tables)


if __name__ == "__main__":
    main()
