"""Train the length estimator, which predicts the number of motion tokens from text features."""
from options.train import parse_length_options
from utils import script


@script
def main() -> None:
    opt = parse_length_options()  # before torch is imported, which takes seconds
    from data.dataset import MAX_TOKENS, dataset_spec
    from data.language import training_pairs
    from data.text_motion import caption_texts, load_pairs
    from models.text_to_motion import LengthEstimator
    from storage.generation import load_text_encoder
    from training.optimization import warmup_milestones
    from training.runs import settle_lamp, start_run
    from training.stages.tokens import CaptionLengths, LengthStage, cached_text_features
    from training.trainer import Trainer

    device = start_run(opt)
    spec = dataset_spec(opt.dataset_name, opt.data_root)
    settle_lamp(opt, spec)
    text = load_text_encoder(vars(opt), spec, opt.checkpoints_dir, device)
    print(f"data set {spec.root}; text features of {opt.lamp_name or opt.text_encoder}")
    sets = {}
    for split in ("train", "val"):
        pairs = training_pairs(spec, opt) if split == "train" else load_pairs(spec, split, quiet=opt.quiet)
        texts = caption_texts(pairs)
        features = cached_text_features(spec, split, texts, text, opt.quiet)
        sets[split] = CaptionLengths(pairs, dict(zip(texts, features, strict=True)), opt.seed)
    print(f"{len(sets['train'])} training captions, {len(sets['val'])} validation captions")

    model, opt.cond_dim = LengthEstimator(text.dim, MAX_TOKENS + 1), text.dim
    schedule = warmup_milestones(opt.warm_up_iter, opt.milestones, opt.gamma)
    Trainer(LengthStage(model, sets["val"]), opt, sets["train"], schedule, clip_norm=0.5).run()


if __name__ == "__main__":
    main()
