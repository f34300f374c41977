"""Pretrain LaMP, a Q-Former for texts and motions (stage 2)."""
from options.train import parse_lamp_options
from utils import InputError, script


@script
def main() -> None:
    opt = parse_lamp_options()  # before torch is imported, which takes seconds
    from data.dataset import dataset_spec
    from data.language import load_text_motion
    from models.lamp.features import LaMPConfig
    from models.lamp.lamp import LaMP, freeze_motion, freeze_text
    from storage.generation import load_lamp, load_tokenizer
    from training.optimization import warmup_cosine
    from training.runs import checked_run_folder, initial_qformer, is_main, start_run, world_size
    from training.stages.lamp import LaMPStage
    from training.trainer import Trainer

    start_run(opt)
    spec = dataset_spec(opt.dataset_name, opt.data_root)
    tokenizer = load_tokenizer(opt.vq_name, spec, opt.checkpoints_dir)
    qformer, pieces = initial_qformer(opt, spec)
    print(f"data set {spec.root}; tokenizer {tokenizer.source}; word pieces {pieces.path}")
    train_set, val_set = load_text_motion(spec, tokenizer.normalisation, opt)
    compared = {"ptc", "ptm"} & set(opt.objectives)
    own = opt.text_pairs or opt.keep_condition  # each process compares its own texts
    parts = opt.grad_accum * (world_size() if own else 1)
    if min(opt.batch_size, len(train_set)) < 2 * parts and (compared or own):
        raise InputError("ptc, ptm, --text_pairs and --keep_condition need at least two pairs in each part of a batch")

    config = LaMPConfig(qformer.config, tokenizer.model.config, opt.embed_dim, opt.published_behaviour)
    model = LaMP(config, tokenizer.model, qformer)
    freeze_text(model, opt.freeze_words, opt.text_layers)
    if opt.text_only:
        freeze_motion(model)
    start = load_lamp(opt.init_from, spec, opt.checkpoints_dir).model if opt.keep_condition else None
    vars(opt).update(config.to_options())
    if is_main():
        pieces.save(checked_run_folder(opt))
    stage = LaMPStage(model, opt, pieces, val_set, start)
    steps = opt.total_iter or opt.max_epoch * max(1, len(train_set) // opt.batch_size)
    Trainer(stage, opt, train_set, warmup_cosine(opt.warm_up_iter, steps)).run()


if __name__ == "__main__":
    main()
