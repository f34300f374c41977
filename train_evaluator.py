"""Train the evaluator: a movement autoencoder, then text-motion matching."""
from options.train import parse_evaluator_options
from utils import script


@script
def main() -> None:
    opt = parse_evaluator_options()  # before torch is imported, which takes seconds
    from data.dataset import dataset_spec
    from data.language import WORD_CLASSES, MatchingPairs, WordVectors
    from data.text_motion import load_pairs
    from models.config import EvaluatorConfig
    from models.evaluator import Evaluator
    from storage.evaluation import GLOVE
    from training.optimization import warmup_milestones
    from training.runs import checked_run_folder, is_main, latest_checkpoint, start_run, starting_normalisation
    from training.stages.evaluator import MatchingStage, matching_options, movement_options, train_movements
    from training.trainer import Trainer

    start_run(opt)
    movement_opt, opt = movement_options(opt), matching_options(opt)
    spec = dataset_spec(opt.dataset_name, opt.data_root)
    normalisation = starting_normalisation(opt, spec)
    words = WordVectors.load(opt.glove)
    folder = checked_run_folder(opt)
    print(f"data set {spec.root}; {len(words)} word vectors of {opt.glove}")
    if is_main():
        words.save(folder / GLOVE)
        normalisation.save(folder / "meta")

    config = EvaluatorConfig.from_options({**vars(opt), "dim_pose": spec.dim_pose, "dim_word": words.dim,
                                           "dim_pos_ohot": len(WORD_CLASSES)})
    model = Evaluator(config)
    if not opt.is_continue and opt.init_from is None:
        # If this run is interrupted now, --is_continue must not resume from an earlier run with this name.
        latest_checkpoint(opt).unlink(missing_ok=True)
        movements = train_movements(movement_opt, spec, normalisation, config)
        model.movement_encoder.load_state_dict(movements.encoder.state_dict())

    train_pairs, val_pairs = (load_pairs(spec, split, quiet=opt.quiet) for split in ("train", "val"))
    print(f"{len(train_pairs)} training pairs, {len(val_pairs)} validation pairs")
    stage = MatchingStage(model, opt, normalisation, words, val_pairs)
    pairs = MatchingPairs(train_pairs, normalisation, words, training=True, seed=opt.seed)
    Trainer(stage, opt, pairs, warmup_milestones(opt.warm_up_iter, opt.milestones, opt.gamma)).run()


if __name__ == "__main__":
    main()
