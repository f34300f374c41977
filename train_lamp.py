"""Pretrain LaMP (stage 2): one Q-Former that reads captions and motions."""
from options.lamp import parse_lamp_options
from utils.errors import script

if __name__ == "__main__":
    script(parse_lamp_options)()  # --help and wrong flags are answered before torch is imported

from data.paraphrase import with_paraphrases
from data.specs import MAX_TOKENS, dataset_spec
from data.text_motion import TextMotion, load_pairs, rarity_weights
from models.lamp.bert import bert_folder, from_bert
from models.lamp.features import LaMPConfig
from models.lamp.lamp import LaMP
from models.lamp.qformer import QFormer
from models.lamp.tokenizer import WordPieces
from storage.load import lamp_to_start_from, load_tokenizer
from storage.source import origin, run_folder
from training import distributed
from training.distributed import start_run
from training.lamp_stage import LaMPStage
from training.loop import Trainer
from training.schedule import warmup_cosine
from utils.errors import InputError


@script
def main() -> None:
    opt = parse_lamp_options()
    start_run(opt)
    spec = dataset_spec(opt.dataset_name, opt.data_root)
    tokenizer = load_tokenizer(opt.vq_name, spec, opt.checkpoints_dir)
    dropouts = {"dropout": opt.dropout, "attention_dropout": opt.attention_dropout}
    if name := origin(opt):
        qformer, pieces = lamp_to_start_from(name, spec, opt.checkpoints_dir, **dropouts)
    else:
        pieces = WordPieces(bert_folder(opt.bert))
        qformer = from_bert(opt.bert, layers=opt.bert_layers or None, encoder_width=opt.encoder_width,
                            cross_attention_freq=opt.cross_attention_freq, num_query_tokens=MAX_TOKENS, **dropouts)
    print(f"data set {spec.root}; tokenizer {tokenizer.source}; word pieces {pieces.path}")

    pairs = {split: load_pairs(spec, split, quiet=opt.quiet) for split in ("train", "val")}
    pairs["train"] = with_paraphrases(pairs["train"], opt.paraphrases, opt.seed)
    train_set = TextMotion(pairs["train"], tokenizer.normalisation, training=True, seed=opt.seed)
    val_set = TextMotion(pairs["val"], tokenizer.normalisation, training=False)
    print(f"{len(train_set)} training pairs, {len(val_set)} validation pairs")
    if min(opt.batch_size, len(train_set)) < 2 * opt.grad_accum and {"ptc", "ptm"} & set(opt.objectives):
        raise InputError("the objectives ptc and ptm compare pairs: a batch, or a part of it, needs at least two")

    if opt.max_text_len > qformer.config.max_positions:
        raise InputError(f"--max_text_len {opt.max_text_len}: the model reads at most {qformer.config.max_positions}")
    if opt.random_start:
        qformer = QFormer(qformer.config)
    config = LaMPConfig(qformer.config, tokenizer.model.config, opt.embed_dim, opt.published_behaviour)
    model = LaMP(config, tokenizer.model, qformer)
    model.Qformer.bert.embeddings.word_embeddings.requires_grad_(not opt.freeze_words)
    vars(opt).update(config.to_options())
    if distributed.is_main():
        pieces.save(run_folder(opt))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    print(f"LaMP with {trained / 1e6:.1f} M trained parameters -> {run_folder(opt)}")

    stage = LaMPStage(model, opt, pieces, val_set)
    steps = opt.total_iter or opt.max_epoch * max(1, len(train_set) // opt.batch_size)
    Trainer(stage, opt, train_set, warmup_cosine(opt.warm_up_iter, steps),
            weights=rarity_weights(pairs["train"], opt.balance) if opt.balance else None).run()


if __name__ == "__main__":
    main()
