"""Train motion to text: LaMP's features of a motion as the prefix of a language model that tells it."""
from options.m2t import parse_m2t_options
from utils.errors import script

if __name__ == "__main__":
    script(parse_m2t_options)()  # --help and wrong flags are answered before torch is imported

from data.paraphrase import with_paraphrases
from data.specs import dataset_spec
from data.text_motion import TextMotion, load_pairs, rarity_weights
from models.m2t.config import DecoderConfig
from options.m2t import TOKENIZER_FACTS
from storage.load import load_lamp, load_tokenizer, settle_lamp
from storage.load_captioner import build_captioner, check_tokenizer, differing_facts, tokenizer_name
from storage.source import run_folder
from training.distributed import start_run
from training.loop import Trainer
from training.m2t_stage import CaptionStage
from training.schedule import warmup_milestones


@script
def main() -> None:
    opt = parse_m2t_options()
    start_run(opt)
    spec = dataset_spec(opt.dataset_name, opt.data_root)
    facts = {fact: vars(opt).pop(fact) for fact in TOKENIZER_FACTS}
    opt.vq_name = tokenizer_name(opt, spec)
    settle_lamp(opt, spec, opt.vq_name)
    lamp = load_lamp(opt.lamp_name, spec, opt.checkpoints_dir)
    check_tokenizer(lamp, opt.vq_name)
    opt.vq_name = lamp.source.needed("vq_name")
    tokenizer = load_tokenizer(opt.vq_name, spec, opt.checkpoints_dir)
    print(f"data set {spec.root}; LaMP {lamp.source}; tokenizer {tokenizer.source}")
    for sentence in differing_facts(facts, tokenizer.source):
        print(sentence)
    vars(opt).update((fact, getattr(tokenizer.model.config, fact)) for fact in TOKENIZER_FACTS)

    pairs = {split: load_pairs(spec, split, quiet=opt.quiet) for split in ("train", "val")}
    pairs["train"] = with_paraphrases(pairs["train"], opt.paraphrases, opt.seed)
    train_set = TextMotion(pairs["train"], lamp.normalisation, training=True, seed=opt.seed)
    val_set = TextMotion(pairs["val"], lamp.normalisation, training=False)
    print(f"{len(train_set)} training pairs, {len(val_set)} validation pairs")

    model = build_captioner(DecoderConfig.from_options(vars(opt)), lamp)
    stage = CaptionStage(model, opt, val_set)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    print(f"M2T with {trained / 1e6:.1f} M trained parameters -> {run_folder(opt)}")
    opt.eval_every_e = opt.eval_every_e or max(1, round(opt.eval_iter * opt.batch_size / len(train_set)))
    schedule = warmup_milestones(opt.warm_up_iter, opt.milestones, opt.gamma, after_warmup=False)
    weights = rarity_weights(train_set.pairs, opt.balance) if opt.balance else None
    Trainer(stage, opt, train_set, schedule, weights=weights).run()


if __name__ == "__main__":
    main()
