"""Train the residual transformer, which predicts the tokens of each layer from the layers below (stage 4)."""
from options.train import parse_res_options
from utils import script


@script
def main() -> None:
    opt = parse_res_options()  # before torch is imported, which takes seconds
    from models.config import ResidualTransformerConfig
    from models.transformers.residual import ResidualTransformer
    from training.optimization import warmup_milestones
    from training.runs import start_run
    from training.stages.tokens import ResidualStage, completes, load_token_data, token_fid
    from training.trainer import Trainer

    device = start_run(opt)
    data = load_token_data(opt, device, min_layers=2)
    model = ResidualTransformer(ResidualTransformerConfig.from_options(vars(opt)))
    if opt.codebook_start:
        model.initialise_from(data.tokenizer.model.codebooks)
    stage = ResidualStage(model, opt, data.features, data.val,
                          token_fid(opt, data, device, completes, otherwise="loss"), data.tokenizer)
    schedule = warmup_milestones(opt.warm_up_iter, opt.milestones, opt.gamma, after_warmup=False)
    Trainer(stage, opt, data.train, schedule).run()


if __name__ == "__main__":
    main()
