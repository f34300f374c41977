"""Train motion captioning: a language model with LaMP's motion features as its prefix."""
from options.base import TOKENIZER_FACTS
from options.train import parse_m2t_options
from utils import script


@script
def main() -> None:
    opt = parse_m2t_options()  # before torch is imported, which takes seconds
    from data.dataset import dataset_spec
    from data.language import load_text_motion
    from models.config import DecoderConfig
    from storage.evaluation import build_captioner, check_tokenizer, differing_facts, tokenizer_name
    from storage.generation import load_lamp, load_tokenizer
    from training.optimization import warmup_milestones
    from training.runs import settle_lamp, start_run
    from training.stages.m2t import CaptionStage
    from training.trainer import Trainer

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
    train_set, val_set = load_text_motion(spec, lamp.normalisation, opt)

    model = build_captioner(DecoderConfig.from_options(vars(opt)), lamp)
    stage = CaptionStage(model, opt, val_set)
    opt.eval_every_e = opt.eval_every_e or max(1, round(opt.eval_iter * opt.batch_size / len(train_set)))
    schedule = warmup_milestones(opt.warm_up_iter, opt.milestones, opt.gamma, after_warmup=False)
    Trainer(stage, opt, train_set, schedule).run()


if __name__ == "__main__":
    main()
