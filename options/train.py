"""Options of the training scripts."""
import argparse
from collections.abc import Sequence
from typing import get_args

from models.config import (
    ATTENTION_KINDS,
    BASE_SAMPLING,
    DECODERS,
    GROUPS,
    LENGTH_SAMPLING,
    OBJECTIVES,
    PRECISIONS,
    RESIDUAL_SAMPLING,
    STEP_FRAMES,
    WRITING,
    ConditionKind,
    DecoderConfig,
    EvaluatorConfig,
    LaMPConfig,
    MaskTransformerConfig,
    QFormerConfig,
    ResidualTransformerConfig,
    TransformerConfig,
    VQConfig,
    Writing,
)
from options.base import (
    DashedParser,
    Parser,
    add_caption_tokenizer,
    add_chosen_by_fid,
    add_common,
    add_data,
    add_training,
    add_writing,
    bounded,
    natural,
    non_negative,
    positive_int,
    share,
)
from options.generate import add_model_sampling
from utils import InputError


def parse_vq_options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line of ``train_vq.py``."""
    parser = Parser("Train the motion tokenizer: encoder, residual codebooks, decoder.")
    add_common(parser)
    add_data(parser)
    add_training(parser, batch_size=256, max_epoch=50, lr=2e-4, warm_up_iter=2000, gamma=0.1,
                 milestones=[150000, 250000], weight_decay=0.0)
    add_chosen_by_fid(parser)
    data = parser.add_argument_group("data")
    data.add_argument("--window_size", type=positive_int, default=64, help="frames of a training window")
    data.add_argument("--time_warp", type=bounded(float, 0, 0.5), default=0.0,
                      help="augmentation: random playback speed from 1 - TIME_WARP to 1 + TIME_WARP")
    data.add_argument("--add_turn", type=bounded(float, 0, 360), default=0.0, metavar="DEGREES",
                      help="augmentation: random constant turn of up to DEGREES per second, for motions that turn "
                           "differently from the training clips")
    data.add_argument("--feat_bias", type=bounded(float, 0.01), default=5.0,
                      help="weight factor of root motion and foot contacts; copied from the model with --init_from")
    model = parser.add_argument_group("model")
    model.add_argument("--num_quantizers", type=positive_int,
                       help="residual layers; 1: the published LaMP tokenizer")
    model.add_argument("--shared_codebook", action="store_true", help="one codebook for all layers")
    model.add_argument("--quantize_dropout_prob", "--quantize_drop_prob", type=share,
                       help="probability that a batch uses only the first layers")
    model.add_argument("--nb_code", type=positive_int, help="codes per codebook")
    model.add_argument("--code_dim", type=positive_int, help="width of a code")
    model.add_argument("--output_emb_width", type=positive_int, help="latent width; must equal --code_dim")
    model.add_argument("--mu", type=share, help="EMA decay of the codebook")
    model.add_argument("--down_t", type=positive_int, help="downsampling stages; 2: 4 frames per token")
    model.add_argument("--stride_t", type=int, choices=(2,), help=argparse.SUPPRESS)
    model.add_argument("--width", type=positive_int, help="channels of the convolutions")
    model.add_argument("--depth", type=positive_int, help="residual blocks per stage")
    model.add_argument("--dilation_growth_rate", type=positive_int, help="dilation ratio between blocks")
    model.add_argument("--vq_act", choices=("relu", "silu", "gelu"), help="activation in the blocks")
    model.add_argument("--vq_norm", choices=("LN", "GN", "BN"), help="normalisation in the blocks")
    model.add_argument("--vq_dropout", type=share, help="dropout in the blocks")
    model.add_argument("--sample_codebook_temp", type=non_negative,
                       help="sampling temperature of codes in training; 0: nearest code")
    model.add_argument("--decoder_only", action="store_true",
                       help="freeze encoder and codebooks, so that models trained on the tokens stay valid")
    model.add_argument("--published_reset", action="store_true",
                       help="reset dead codes to the first rows of the batch, as the released code does")
    loss = parser.add_argument_group("loss")
    loss.add_argument("--recons_loss", choices=("l1", "l1_smooth"), default="l1_smooth", help="reconstruction loss")
    loss.add_argument("--loss_vel", type=non_negative, default=0.5, help="extra weight of the local joint positions")
    loss.add_argument("--loss_joint", type=non_negative, default=0.0,
                      help="weight of the global joint position error, which includes root drift")
    loss.add_argument("--loss_jerk", type=non_negative, default=0.0,
                      help="weight of the error of third differences of joints, which penalises jitter")
    loss.add_argument("--commit", type=non_negative, default=0.02, help="weight of the commitment loss")
    parser.take_defaults(VQConfig)
    opt = parser.parse_args(argv)
    frames = opt.stride_t**opt.down_t
    if opt.window_size % frames:
        raise InputError(f"--window_size {opt.window_size} must be a multiple of the {frames} frames of a token")
    if opt.code_dim != opt.output_emb_width:
        raise InputError(f"--code_dim {opt.code_dim} and --output_emb_width {opt.output_emb_width} must be equal")
    if opt.vq_norm == "GN" and opt.width % GROUPS:
        raise InputError(f"--vq_norm GN needs a --width that is a multiple of {GROUPS}, not {opt.width}")
    return opt


def weighted_objective(text: str) -> tuple[str, float]:
    """Argparse type for an objective with an optional weight, such as ``ptc`` or ``ptc=0.5``."""
    name, separator, weight = text.partition("=")
    if name not in OBJECTIVES:
        raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(OBJECTIVES)}")
    try:
        return name, bounded(float, 0.0)(weight) if separator else 1.0
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: the weight is not a number") from error


def parse_lamp_options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line of ``train_lamp.py``."""
    parser = Parser("Pretrain LaMP: a Q-Former on captions and motions with four objectives.")
    add_common(parser)
    add_data(parser, "balance", "balance_by", "paraphrases", "bank")
    add_training(parser, batch_size=64, max_epoch=200, lr=1e-4, warm_up_iter=2000, weight_decay=0.05)
    parser.add_argument_group("model").add_argument(
        "--vq_name", required=True, help="motion tokenizer")
    text = parser.add_argument_group("text")
    text.add_argument("--bert", default="bert-base-uncased",
                      help="BERT to initialise from: a folder or a Hugging Face name; defines the model sizes; not "
                           "used with --init_from")
    text.add_argument("--bert_layers", type=natural, default=0, help="keep only the first N layers; 0: all")
    text.add_argument("--random_start", action="store_true",
                      help="use only the sizes and vocabulary of --bert, with random weights")
    text.add_argument("--freeze_words", action="store_true",
                      help="freeze BERT's word embeddings, so that words unseen in training keep their meaning")
    text.add_argument("--text_lr", type=non_negative, default=1.0, metavar="FACTOR",
                      help="learning rate factor of the text encoder; small values preserve BERT's language knowledge")
    text.add_argument("--text_layers", type=natural, metavar="N",
                      help="train only the last N layers of BERT and freeze its embeddings and the other layers")
    text.add_argument("--text_only", action="store_true",
                      help="fine-tune the text side of --init_from: train only the weights that motions do not use, so "
                           "that motion features stay the same")
    text.add_argument("--keep_condition", type=non_negative, default=0.0, metavar="WEIGHT",
                      help="weight of a loss that keeps the text features for generation close to those of "
                           "--init_from, so that transformers trained on them stay valid")
    text.add_argument("--distill", type=non_negative, default=0.0, metavar="WEIGHT",
                      help="weight of a distillation loss that preserves the text similarities of the original --bert; "
                           "for BERTs trained on sentences")
    text.add_argument("--max_text_len", type=bounded(int, 3), default=32, help="maximum caption length in word pieces")
    model = parser.add_argument_group("model")
    model.add_argument("--encoder_width", type=positive_int, help="width of the cross-attention input")
    model.add_argument("--embed_dim", type=positive_int, help="width of the joint embedding space")
    model.add_argument("--cross_attention_freq", type=positive_int, help="cross-attention every N layers")
    model.add_argument("--dropout", type=share, help="dropout of the Q-Former")
    model.add_argument("--attention_dropout", type=share,
                       help="dropout of the attention weights; 0 is much faster on a CPU")
    model.add_argument("--published_behaviour", action="store_true",
                       help="reproduce the released code: true pairs among the negatives, multiplied temperature, "
                            "random motion encoder; no mask for motion padding and, in the condition, text padding")
    loss = parser.add_argument_group("objectives")
    loss.add_argument("--objectives", nargs="+", type=weighted_objective, metavar="NAME[=WEIGHT]",
                      default=[(name, 1.0) for name in OBJECTIVES],
                      help="contrastive (ptc), matching (ptm), motion to text (lm), text to motion (gen), with "
                           "weights, for example: --objectives ptc=1 lm=0.5")
    loss.add_argument("--mirrored_negatives", "--side_decoys", dest="side_decoys", action="store_true",
                      help="contrastive: add each caption with left and right swapped as a hard negative")
    loss.add_argument("--text_pairs", type=non_negative, default=0.0, metavar="WEIGHT",
                      help="weight of a contrastive loss between two texts of each clip, which helps with unseen "
                           "wordings; with --bank, texts of the same content are not negatives; each process compares "
                           "only its own texts")
    loss.add_argument("--matching_rows", type=natural, default=0,
                      help="samples of a batch used for matching (three passes each); 0: all")
    parser.take_defaults(QFormerConfig, inherit=False)
    parser.take_defaults(LaMPConfig, only=["embed_dim"])
    parser.inherit(("max_text_len", "encoder_width", "cross_attention_freq", "published_behaviour"))
    opt = parser.parse_args(argv)
    if opt.distill and (opt.init_from or opt.random_start):
        parser.error("--distill needs a pretrained --bert: leave out --init_from and --random_start")
    if (opt.text_only or opt.keep_condition) and not opt.init_from:
        parser.error("--text_only and --keep_condition need --init_from")
    if opt.balance_by == "content" and not (opt.balance and opt.bank):
        parser.error("--balance_by content needs --balance and --bank")
    opt.objectives = dict(opt.objectives)
    return opt


def parse_t2m_options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line of ``train_t2m_transformer.py``."""
    parser = Parser("Train the masked transformer, which predicts base-layer motion tokens from text features.")
    model = add_token_transformer(parser)
    model.add_argument("--attention", choices=ATTENTION_KINDS,
                       help="full: bidirectional, best on openmotion; causal: as in the paper; additive: as in the "
                            "released weights")
    return parse_token_transformer(parser, MaskTransformerConfig, BASE_SAMPLING, argv)


def add_token_transformer(parser: Parser) -> argparse._ArgumentGroup:
    """Add the flags for training a token transformer. Returns the group of flags about the model."""
    add_common(parser)
    add_data(parser, "balance", "group_by_length", "paraphrases", "bank")
    add_chosen_by_fid(parser)
    add_training(parser, batch_size=64, max_epoch=500, lr=2e-4, warm_up_iter=2000, gamma=0.1, milestones=[50000],
                 weight_decay=1e-5)
    parser.add_argument_group("model").add_argument(
        "--vq_name", required=True, help="motion tokenizer")
    add_text_condition(parser)
    model = parser.add_argument_group("model")
    model.add_argument("--latent_dim", type=positive_int, help="width")
    model.add_argument("--n_heads", type=positive_int, help="attention heads")
    model.add_argument("--n_layers", type=positive_int, help="layers")
    model.add_argument("--ff_size", type=positive_int, help="width of the feed-forward blocks")
    model.add_argument("--dropout", type=share, help="dropout")
    model.add_argument("--cond_drop_prob", type=share,
                       help="probability of dropping the text, for classifier-free guidance")
    model.add_argument("--cond_noise", type=non_negative, default=0.0, metavar="STD",
                       help="noise on text features in training, relative to their std, for robustness to unseen "
                            "wordings")
    model.add_argument("--encode_crops", action="store_true",
                       help="encode every training crop separately, as published, instead of cropping the tokens of "
                            "the whole clip; slower")
    model.add_argument("--codebook_start", action=argparse.BooleanOptionalAction, default=True,
                       help="initialise token embeddings from the codebook; otherwise randomly, as published")
    return model


def parse_token_transformer(parser: Parser, config: type[TransformerConfig], sampling: Sequence[str],
                            argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line of a transformer's training script, with the defaults of ``config``.

    ``sampling`` lists the sampling settings to save with the model. Raises ``InputError`` for incompatible sizes.
    """
    add_model_sampling(parser, sampling)
    parser.take_defaults(config)
    opt = parser.parse_args(argv)
    if opt.latent_dim % opt.n_heads:
        raise InputError(f"--latent_dim {opt.latent_dim} must be a multiple of --n_heads {opt.n_heads}")
    return opt


def add_text_condition(parser: Parser) -> None:
    """Add the flags that select the text features of a model."""
    parser.inherit(("text_encoder", "lamp_name", "condition"))
    parser.add_argument("--text_encoder", choices=("lamp", "clip"), default="lamp", help="source of text features")
    parser.add_argument("--lamp_name", help="LaMP model of the text features; default: the latest one")
    parser.add_argument("--condition", choices=get_args(ConditionKind), default="both",
                        help="LaMP text feature: mean of the query tokens (as in the paper), [CLS] state, or both")


def parse_res_options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line of ``train_res_transformer.py``."""
    parser = Parser("Train the residual transformer, which predicts the tokens of each layer from the layers below.")
    model = add_token_transformer(parser)
    model.add_argument("--share_weight", action=argparse.BooleanOptionalAction,
                       help="share weights between the token embedding and the output projection of a layer")
    model.add_argument("--published_behaviour", action="store_true",
                       help="reproduce the released code: the padding class can be sampled; without "
                            "--share_weight, the logits are 2 W h + bias")
    parser.inherit(("published_behaviour",))
    return parse_token_transformer(parser, ResidualTransformerConfig, RESIDUAL_SAMPLING, argv)


def parse_length_options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line of ``train_len_estimator.py``."""
    parser = Parser("Train the length estimator, which predicts the number of motion tokens from text features.")
    add_common(parser)
    add_data(parser, "paraphrases", "bank")
    add_training(parser, batch_size=64, max_epoch=300, lr=1e-4, warm_up_iter=0, gamma=0.1, milestones=[],
                 weight_decay=0.0)
    add_text_condition(parser)
    add_model_sampling(parser, LENGTH_SAMPLING)
    return parser.parse_args(argv)


def parse_evaluator_options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line of ``train_evaluator.py``."""
    parser = Parser("Train the evaluator: a movement autoencoder, then text-motion matching.")
    add_common(parser)
    add_data(parser)
    add_training(parser, batch_size=32, max_epoch=300, lr=1e-4, warm_up_iter=0, gamma=0.1, milestones=[],
                 weight_decay=0.0)
    data = parser.add_argument_group("data")
    data.add_argument("--glove", default="glove", help="folder of word vectors (our_vab_*); copied into the run")
    data.add_argument("--feat_bias", type=bounded(float, 0.01), default=5.0,
                      help="weight factor of root motion")
    movement = parser.add_argument_group("movement autoencoder, trained first as run <name>_movement")
    movement.add_argument("--movement_iter", type=positive_int, default=30000, help="steps")
    movement.add_argument("--movement_batch_size", type=positive_int, default=128, help="windows per step")
    movement.add_argument("--movement_lr", type=non_negative, default=1e-4, help="learning rate")
    movement.add_argument("--window_size", type=bounded(int, 8), default=64, help="frames of a window")
    movement.add_argument("--smoothness", type=non_negative, default=0.001,
                          help="weight of the difference of successive latents")
    movement.add_argument("--sparsity", type=non_negative, default=0.001, help="weight of the latent norm")
    matching = parser.add_argument_group("matching")
    matching.add_argument("--margin", type=non_negative, default=10.0,
                          help="contrastive margin between texts and unrelated motions")
    matching.add_argument("--negatives", type=positive_int, default=1,
                          help="negatives per text, taken from shifted copies of the batch")
    matching.add_argument("--tune_movement", action="store_true", help="fine-tune the movement encoder")
    model = parser.add_argument_group("model")
    model.add_argument("--dim_movement_enc_hidden", type=positive_int, help="channels of the movement encoder")
    model.add_argument("--dim_movement_latent", type=positive_int, help="width of the movement latent")
    model.add_argument("--dim_motion_hidden", type=positive_int, help="width of the motion GRU")
    model.add_argument("--dim_text_hidden", type=positive_int, help="width of the text GRU")
    model.add_argument("--dim_coemb_hidden", type=positive_int, help="width of the embeddings")
    parser.take_defaults(EvaluatorConfig)
    opt = parser.parse_args(argv)
    if opt.window_size % STEP_FRAMES:
        raise InputError(f"--window_size {opt.window_size} must be a multiple of a movement's {STEP_FRAMES} frames")
    if opt.batch_size < 2:
        raise InputError("--batch_size must be at least 2: negatives come from the batch")
    return opt


def parse_m2t_options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line of ``train_m2t.py``."""
    parser = DashedParser("Train motion captioning: a language model with LaMP's motion features as its prefix.")
    add_common(parser)
    add_data(parser, "balance", "paraphrases", "bank")
    add_training(parser, batch_size=80, max_epoch=100000, lr=5e-5, warm_up_iter=0, gamma=0.05, milestones=[75000],
                 weight_decay=1e-6)
    parser.set_defaults(total_iter=150000, eval_every_e=0)
    parser.add_argument("--lamp_name", help="LaMP model; default: the latest one trained on the tokenizer")
    parser.add_argument("--eval_iter", type=positive_int, default=10000,
                        help="steps between validations, rounded to epochs; ignored with --eval_every_e")
    parser.add_argument("--pkeep", type=share, default=1.0,
                        help="probability of keeping an input word in training; others are replaced")
    parser.add_argument("--qformer_lr", type=non_negative, default=0.0,
                        help="learning rate factor of LaMP's Q-Former and query tokens; 0 freezes them")
    add_caption_tokenizer(parser)
    _add_decoder(parser)
    parser.add_argument("--out_dir", default="output",
                        help="captions of the validation clips go to <out_dir>/<name>")
    add_writing(parser, default=None)
    parser.take_defaults(DecoderConfig)
    parser.take_defaults(Writing, only=WRITING)
    parser.inherit(["lamp_name"])
    opt = parser.parse_args(argv)
    if opt.embed_dim_gpt % opt.n_head_gpt:
        raise InputError(f"--embed-dim-gpt {opt.embed_dim_gpt} must be a multiple of --n-head-gpt {opt.n_head_gpt}")
    return opt


def _add_decoder(parser: argparse.ArgumentParser) -> None:
    decoder = parser.add_argument_group("decoder")
    decoder.add_argument("--decoder", choices=DECODERS,
                         help="gpt: trained from scratch; opt: a pretrained model with LoRA (needs peft)")
    decoder.add_argument("--num-layers", type=positive_int, help="gpt: layers")
    decoder.add_argument("--embed-dim-gpt", type=positive_int, help="gpt: width")
    decoder.add_argument("--n-head-gpt", type=positive_int, help="gpt: attention heads")
    decoder.add_argument("--ff-rate", type=positive_int, help="gpt: feed-forward width as a multiple of the width")
    decoder.add_argument("--drop-out-rate", type=share, help="gpt: dropout")
    decoder.add_argument("--block-size", type=bounded(int, 3),
                         help="maximum caption length in word pieces, including start and end")
    decoder.add_argument("--llm", help="opt: causal language model, a folder or a Hugging Face name")
    decoder.add_argument("--llm-precision", choices=tuple(PRECISIONS),
                         help="opt: precision of the frozen weights")
    decoder.add_argument("--lora-r", type=positive_int, help="opt: LoRA rank")
    decoder.add_argument("--lora-alpha", type=positive_int, help="opt: LoRA alpha (scale times rank)")
    decoder.add_argument("--lora-dropout", type=share, help="opt: LoRA dropout")
