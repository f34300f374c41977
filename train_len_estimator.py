"""Train the length estimator: text features to how many tokens a motion should have."""
from options.length import parse_length_options
from utils.errors import script

if __name__ == "__main__":
    script(parse_length_options)()  # --help and wrong flags are answered before torch is imported

from data.paraphrase import with_paraphrases
from data.specs import MAX_TOKENS, dataset_spec
from data.text_motion import caption_texts, load_pairs
from models.length_estimator import LengthEstimator
from storage.load import load_text_encoder, settle_lamp
from storage.source import run_folder
from training.distributed import start_run
from training.length_stage import CaptionLengths, LengthStage
from training.loop import Trainer
from training.schedule import warmup_milestones
from training.text_features import cached_text_features


@script
def main() -> None:
    opt = parse_length_options()
    device = start_run(opt)
    spec = dataset_spec(opt.dataset_name, opt.data_root)
    settle_lamp(opt, spec)
    text = load_text_encoder(vars(opt), spec, opt.checkpoints_dir, device)
    print(f"data set {spec.root}; text features of {opt.lamp_name or opt.text_encoder}")

    sets = {}
    for split in ("train", "val"):
        pairs = with_paraphrases(load_pairs(spec, split, quiet=opt.quiet),
                                 opt.paraphrases if split == "train" else 0, opt.seed)
        texts = caption_texts(pairs)
        features = cached_text_features(spec, split, texts, text, opt.quiet)
        sets[split] = CaptionLengths(pairs, dict(zip(texts, features, strict=True)))
    print(f"{len(sets['train'])} training captions, {len(sets['val'])} to validate -> {run_folder(opt)}")

    model = LengthEstimator(text.dim, MAX_TOKENS + 1)
    opt.cond_dim = text.dim
    schedule = warmup_milestones(opt.warm_up_iter, opt.milestones, opt.gamma)
    Trainer(LengthStage(model, sets["val"]), opt, sets["train"], schedule, clip_norm=0.5).run()


if __name__ == "__main__":
    main()
