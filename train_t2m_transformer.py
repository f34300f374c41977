"""Train the masked transformer (stage 3): text features of a frozen LaMP to motion tokens of the base layer."""
from options.t2m import parse_t2m_options
from utils.errors import script

if __name__ == "__main__":
    script(parse_t2m_options)()  # --help and wrong flags are answered before torch is imported

from data.specs import dataset_spec
from data.text_motion import rarity_weights
from models.transformers.config import MaskTransformerConfig
from models.transformers.mask_transformer import MaskTransformer
from storage.load import load_text_encoder, load_tokenizer, settle_lamp
from storage.source import run_folder
from training.distributed import start_run
from training.judge import generates, validation_fid
from training.loop import Trainer
from training.schedule import warmup_milestones
from training.token_stage import MaskStage
from training.tokens import load_token_sets


@script
def main() -> None:
    opt = parse_t2m_options()
    device = start_run(opt)
    spec = dataset_spec(opt.dataset_name, opt.data_root)
    tokenizer = load_tokenizer(opt.vq_name, spec, opt.checkpoints_dir, device)
    settle_lamp(opt, spec, opt.vq_name)
    text = load_text_encoder(vars(opt), spec, opt.checkpoints_dir, device)
    print(f"data set {spec.root}; tokenizer {tokenizer.source}; text features of {opt.lamp_name or opt.text_encoder}")
    sets = load_token_sets(opt, spec, tokenizer, text, device)

    vq = tokenizer.model.config
    vars(opt).update(num_tokens=vq.nb_code, code_dim=vq.code_dim, num_quantizers=vq.num_quantizers, cond_dim=text.dim)
    model = MaskTransformer(MaskTransformerConfig.from_options(vars(opt)))
    if opt.codebook_start:
        model.start_from(tokenizer.model.codebooks)
    print(f"transformer with {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters -> {run_folder(opt)}")
    shown = [pair.features[:sets.val.crop(row).length] for row, pair in enumerate(sets.val.pairs)]
    fid = validation_fid(opt, spec, device, shown, generates(tokenizer, spec, sets.val, sets.features["val"], opt.seed),
                         otherwise="acc")
    stage = MaskStage(model, opt, sets.features, sets.val, fid)
    schedule = warmup_milestones(opt.warm_up_iter, opt.milestones, opt.gamma, after_warmup=False)
    weights = rarity_weights(sets.train.pairs, opt.balance) if opt.balance else None
    lengths = sets.train.lengths() if opt.group_by_length else None
    Trainer(stage, opt, sets.train, schedule, weights=weights, lengths=lengths).run()


if __name__ == "__main__":
    main()
