"""Options of tokenizer training."""
import argparse
from collections.abc import Sequence
from dataclasses import fields

from models.config import GROUPS, VQConfig
from options.base import (
    Parser,
    add_chosen_by_fid,
    add_common,
    add_data,
    add_training,
    bounded,
    non_negative,
    positive_int,
    share,
)
from utils.errors import InputError


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
                      help="augmentation: random playback speed from 1 - W to 1 + W")
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
    parser.inherit([field.name for field in fields(VQConfig)])
    opt = parser.parse_args(argv)
    frames = opt.stride_t**opt.down_t
    if opt.window_size % frames:
        raise InputError(f"--window_size {opt.window_size} must be a multiple of the {frames} frames of a token")
    if opt.code_dim != opt.output_emb_width:
        raise InputError(f"--code_dim {opt.code_dim} and --output_emb_width {opt.output_emb_width} must be equal")
    if opt.vq_norm == "GN" and opt.width % GROUPS:
        raise InputError(f"--vq_norm GN needs a --width that is a multiple of {GROUPS}, not {opt.width}")
    return opt
