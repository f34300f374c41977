"""Train the masked transformer, which predicts base-layer tokens from text features (stage 3)."""
from options.train import parse_t2m_options
from utils import script


@script
def main() -> None:
    opt = parse_t2m_options()  # before torch is imported, which takes seconds
    from models.config import MaskTransformerConfig
    from models.transformers.mask_transformer import MaskTransformer
    from training.optimization import warmup_milestones
    from training.runs import start_run
    from training.stages.tokens import MaskStage, generates, load_token_data, token_fid
    from training.trainer import Trainer

    device = start_run(opt)
    data = load_token_data(opt, device)
    model = MaskTransformer(MaskTransformerConfig.from_options(vars(opt)))
    if opt.codebook_start:
        model.initialise_from(data.tokenizer.model.codebooks)
    stage = MaskStage(model, opt, data.features, data.val, token_fid(opt, data, device, generates, otherwise="acc"),
                      data.tokenizer)
    schedule = warmup_milestones(opt.warm_up_iter, opt.milestones, opt.gamma, after_warmup=False)
    Trainer(stage, opt, data.train, schedule).run()


if __name__ == "__main__":
    main()
