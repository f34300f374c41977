"""Train the masked transformer (stage 3): text features of a frozen LaMP to motion tokens of the base layer."""
from data.paraphrase import with_paraphrases
from data.specs import dataset_spec
from data.text_motion import TextTokens, load_pairs, rarity_weights
from models.transformers.config import MaskTransformerConfig
from models.transformers.mask_transformer import MaskTransformer
from options.t2m import parse_t2m_options
from training.load import load_text_encoder, load_tokenizer, settle_lamp
from training.loop import Trainer
from training.runs import run_folder
from training.schedule import warmup_milestones
from training.t2m_stage import MaskStage
from training.text_features import cached_text_features
from training.tokens import tokenize_pairs
from utils.device import select_device
from utils.errors import script
from utils.seeding import seed_everything


@script
def main() -> None:
    opt = parse_t2m_options()
    seed_everything(opt.seed)
    device = select_device(opt.gpu_id)
    spec = dataset_spec(opt.dataset_name, opt.data_root)
    tokenizer = load_tokenizer(opt.vq_name, spec, opt.checkpoints_dir, device)
    settle_lamp(opt, spec, opt.vq_name)
    text = load_text_encoder(vars(opt), spec, opt.checkpoints_dir, device)
    print(f"data set {spec.root}; tokenizer {tokenizer.source}; text features of {opt.lamp_name or opt.text_encoder}")

    sets, features = {}, {}
    for split in ("train", "val"):
        pairs = with_paraphrases(load_pairs(spec, split, quiet=opt.quiet),
                                 opt.paraphrases if split == "train" else 0, opt.seed)
        codes = tokenize_pairs(tokenizer, pairs, device, opt.quiet)
        sets[split] = TextTokens(pairs, codes, training=split == "train", seed=opt.seed)
        cache = run_folder(opt) / "cache" / f"text_features_{split}.pt"
        features[split] = cached_text_features(cache, sets[split].texts, text, opt.quiet)
    print(f"{len(sets['train'])} training pairs, {len(sets['train'].texts)} captions; {len(sets['val'])} to validate")

    vq = tokenizer.model.config
    vars(opt).update(num_tokens=vq.nb_code, code_dim=vq.code_dim, num_quantizers=vq.num_quantizers, cond_dim=text.dim)
    model = MaskTransformer(MaskTransformerConfig.from_options(vars(opt)))
    print(f"transformer with {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters -> {run_folder(opt)}")
    stage = MaskStage(model, opt, features, sets["val"])
    schedule = warmup_milestones(opt.warm_up_iter, opt.milestones, opt.gamma, after_warmup=False)
    weights = rarity_weights(sets["train"].pairs, opt.balance) if opt.balance else None
    Trainer(stage, opt, sets["train"], schedule, weights=weights).run()


if __name__ == "__main__":
    main()
