"""Train the evaluator: an auto-encoder of movements, then the matching of captions and motions."""
from options.evaluator import parse_evaluator_options
from utils.errors import script

if __name__ == "__main__":
    script(parse_evaluator_options)()  # --help and wrong flags are answered before torch is imported

import argparse

import torch

from data.matching import MatchingPairs
from data.motion_windows import MotionWindows, Normalisation
from data.packed import read_features
from data.specs import DatasetSpec, dataset_spec
from data.text_motion import load_pairs
from data.word_vectors import WORD_CLASSES, WordVectors
from models.evaluator.model import Evaluator, EvaluatorConfig
from models.evaluator.training import MovementAutoEncoder
from storage.load import starting_normalisation
from storage.load_evaluator import GLOVE
from storage.source import latest_checkpoint, run_folder
from training import distributed
from training.distributed import start_run
from training.evaluator_stage import MatchingStage, MovementStage, matching_options, movement_options
from training.loop import Trainer
from training.schedule import warmup_milestones
from utils.files import save_npy


def learn_movements(opt: argparse.Namespace, spec: DatasetSpec, normalisation: Normalisation,
                    config: EvaluatorConfig) -> MovementAutoEncoder:
    """Train the auto-encoder, or the rest of it."""
    windows, firsts = (MotionWindows(read_features(spec, split, opt.quiet), normalisation,
                                     opt.window_size) for split in ("train", "val"))
    starts = [0, *firsts.ends[:-1].tolist()]
    model = MovementAutoEncoder(config.dim_pose, config.dim_movement_enc_hidden, config.dim_movement_latent)
    stage = MovementStage(model, opt, torch.stack([firsts[start] for start in starts]))
    print(f"movements: {len(windows)} windows of {spec.root} -> {run_folder(opt)}")
    Trainer(stage, opt, windows, warmup_milestones(0, [], 1.0)).run()
    return model


@script
def main() -> None:
    opt = parse_evaluator_options()
    start_run(opt)
    movement_opt, opt = movement_options(opt), matching_options(opt)
    spec = dataset_spec(opt.dataset_name, opt.data_root)
    normalisation = starting_normalisation(opt, spec)
    words = WordVectors.load(opt.glove)
    print(f"data set {spec.root}; {len(words)} word vectors of {opt.glove}")
    folder = run_folder(opt)
    if distributed.is_main():
        words.save(folder / GLOVE)
        save_npy(folder / "meta" / "mean.npy", normalisation.mean)
        save_npy(folder / "meta" / "std.npy", normalisation.std)

    config = EvaluatorConfig.from_options({**vars(opt), "dim_pose": spec.dim_pose, "dim_word": words.dim,
                                           "dim_pos_ohot": len(WORD_CLASSES)})
    model = Evaluator(config)
    if not opt.is_continue and opt.init_from is None:
        # What a former run of this name left: this one, stopped among its movements, would go on from it.
        latest_checkpoint(opt).unlink(missing_ok=True)
        movements = learn_movements(movement_opt, spec, normalisation, config)
        model.movement_encoder.load_state_dict(movements.encoder.state_dict())

    train_pairs, val_pairs = (load_pairs(spec, split, quiet=opt.quiet) for split in ("train", "val"))
    print(f"{len(train_pairs)} training pairs, {len(val_pairs)} to validate; "
          f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters -> {folder}")
    stage = MatchingStage(model, opt, normalisation, words, val_pairs)
    schedule = warmup_milestones(opt.warm_up_iter, opt.milestones, opt.gamma)
    pairs = MatchingPairs(train_pairs, normalisation, words, training=True, seed=opt.seed)
    Trainer(stage, opt, pairs, schedule).run()


if __name__ == "__main__":
    main()
