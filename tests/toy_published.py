"""Toy models in every published layout, with the published names and paths."""
import shutil
from collections import Counter
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from data.dataset import dataset_spec
from models.config import EvaluatorConfig, MaskTransformerConfig, ResidualTransformerConfig
from models.evaluator import Evaluator
from models.lamp.features import LaMPConfig
from models.lamp.lamp import LaMP
from models.lamp.qformer import QFormerConfig
from models.m2t import DecoderConfig
from models.text_to_motion import LengthEstimator
from models.transformers.mask_transformer import CLIP_WIDTH, LaMPMaskTransformer, MaskTransformer
from models.transformers.residual import ResidualTransformer
from models.vq.model import VQConfig, build_tokenizer
from storage.evaluation import build_captioner
from storage.generation import load_lamp
from storage.released import PUBLISHED_META
from tests.toy import make_bert, make_glove
from tests.toy_clip import make_clip
from tests.toy_models import save_meta

Network = TypeVar("Network", bound=nn.Module)
RVQ = "rvq_nq6_dc512_nc512_noshare_qdp0.2"
MOMASK = "t2m_nlayer8_nhead6_ld384_ff1024_cdp0.1_rvq6ns"
RESIDUAL = "tres_nlayer8_ld384_ff1024_rvq6ns_cdp0.2_sw"
SEPARATE = "tres_nlayer8_ld384_ff1024_rvq6ns_cdp0.2"
TRUNK = {"code_dim": 8, "latent_dim": 64, "n_heads": 2, "n_layers": 2, "ff_size": 24, "num_tokens": 16}
RUN = {"batch_size": 64, "gpu_id": 0, "is_continue": False, "is_train": True, "milestones": [50000], "seed": 3407,
       "checkpoints_dir": "./checkpoints", "dataset_name": "t2m", "cond_drop_prob": 0.1, "weight_decay": 1e-05,
       "dropout": 0.2, "force_mask": False, "gumbel_sample": True, "unit_length": 4, "max_motion_length": 196}
VQ_RUN = {"vq_norm": "None", "vq_act": "relu", "dilation_growth_rate": 3, "mu": 0.99, "quantize_dropout_prob": 0.2,
          "shared_codebook": False, "feat_bias": 5, "quantizer": "ema_reset"}


def put(folder: Path, file: str, content: dict[str, object], options: dict[str, object] | None = None) -> None:
    """Write a published folder: ``opt.txt`` as in the original code, and a checkpoint with trainer state."""
    (folder / "model").mkdir(parents=True)
    if options is not None:
        lines = [f"{key}: {value}" for key, value in sorted({"name": folder.name, **RUN, **options}.items())]
        (folder / "opt.txt").write_text("\n".join(
            ["------------ Options -------------", *lines, "-------------- End ----------------"]))
    scheduler = {"milestones": Counter({50000: 1}), "gamma": 0.1, "last_epoch": 3}
    torch.save({**content, "scheduler": scheduler, "ep": 3, "total_it": 100}, folder / "model" / file)


def live(model: Network, scale: float = 0.5) -> Network:
    """Scale up the weights so that every input affects the output."""
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=scale * parameter.shape[-1] ** -0.5)
    return model


def put_tokenizer(folder: Path, file: str, key: str, said: dict[str, object], layers: int) -> VQConfig:
    config = VQConfig(nb_code=16, code_dim=8, output_emb_width=8, width=8, depth=2, num_quantizers=layers)
    model = build_tokenizer(config)
    for quantizer in model.quantizers:
        quantizer.codebook.normal_()
    put(folder, file, {key: model.state_dict()}, VQ_RUN | said)
    save_meta(folder, 263)
    return config


def without(state: dict[str, Tensor], *names: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if not name.endswith(names)}


def make_published(checkpoints: Path) -> Path:
    """Write all published layouts under ``checkpoints``, with the CLIP model and vocabulary they need."""
    torch.manual_seed(0)
    home = checkpoints / "t2m"
    sizes = {"width": 8, "code_dim": 8, "output_emb_width": 8, "nb_code": 16, "depth": 2, "stride_t": 2}

    # MoMask
    put_tokenizer(home / RVQ, "net_best_fid.tar", "vq_model", sizes | {"down_t": 2, "num_quantizers": 3}, layers=3)
    trunk = MaskTransformerConfig(**TRUNK, cond_dim=CLIP_WIDTH, attention="full")
    said = {key: TRUNK[key] for key in ("latent_dim", "n_heads", "n_layers", "ff_size")} | {"vq_name": RVQ}
    put(home / MOMASK, "latest.tar", {"t2m_transformer": live(MaskTransformer(trunk)).state_dict()}, said)
    for name, shared in ((RESIDUAL, True), (SEPARATE, False)):
        config = ResidualTransformerConfig(**TRUNK, cond_dim=CLIP_WIDTH, num_quantizers=3, share_weight=shared)
        put(home / name, "net_best_fid.tar", {"res_transformer": live(ResidualTransformer(config)).state_dict()},
            said | {"share_weight": shared})
    estimator = LengthEstimator(CLIP_WIDTH, 50, (16, 8))
    put(home / "length_estimator" / "length_estimator", "finest.tar", {"estimator": live(estimator).state_dict()})
    make_clip(checkpoints / "clip-vit-base-patch32", CLIP_WIDTH)

    # LaMP; its options have another depth of the tokenizer, and missing layers
    vq = put_tokenizer(home / "vq", "net_best_mm.tar", "net", sizes | {"down_t": 6, "num_quantizers": 6}, layers=1)
    shutil.move(make_bert(home / "bert") / "vocab.txt", checkpoints / "bert-base-uncased.txt")
    (checkpoints / "bert-base-uncased").mkdir()
    shutil.move(checkpoints / "bert-base-uncased.txt", checkpoints / "bert-base-uncased" / "vocab.txt")
    shutil.rmtree(home / "bert")
    qformer = QFormerConfig(hidden=64, layers=3, heads=1, intermediate=32, max_positions=64, vocab=200,
                            encoder_width=24, num_query_tokens=49)
    lamp = LaMP(LaMPConfig(qformer, vq, embed_dim=16, published=True), build_tokenizer(vq))
    put(home / "h3d-qformer", "net_best_acc.tar",
        {"motion_qformer": without(live(lamp).state_dict(), "decoder.weight", "decoder.bias")}, {"vq_name": "vq"})
    released = LaMPMaskTransformer(MaskTransformerConfig(**TRUNK, cond_dim=64, attention="additive"), qformer)
    state = without(live(released).state_dict(), "clip2qformer.weight", "clip2qformer.bias", "position_enc.pe")
    put(home / "t2m", "net_best_fid.tar", {"trans": state},
        {key: TRUNK[key] for key in ("latent_dim", "n_heads", "n_layers", "ff_size")} | {"vq_name": "vq"})
    return checkpoints


def put_evaluator(folder: Path) -> None:
    """Write the published evaluator under ``folder / "checkpoints"``, and its word vectors to ``folder / "glove"``."""
    home = folder / "checkpoints" / "t2m"
    model = Evaluator(EvaluatorConfig(dim_movement_enc_hidden=12, dim_movement_latent=10, dim_word=6,
                                      dim_motion_hidden=14, dim_text_hidden=8, dim_coemb_hidden=9))
    put(home / "text_mot_match", "finest.tar", model.checkpoint() | {"opt_text_encoder": {"state": {}}})
    save_meta(home / PUBLISHED_META, 263)
    make_glove(folder / "glove")


def put_captioner(checkpoints: Path, llm: Path, old_names: bool = False) -> dict[str, Tensor]:
    """Write the captioning model as released (``M2T/model/m2t.pth``). Returns the weights that it uses.

    The file has the language model twice, with adapters in both, and unused parts. ``old_names`` uses the parameter
    names of early peft releases.
    """
    torch.manual_seed(2)
    lamp = load_lamp("h3d-qformer", dataset_spec("t2m"), checkpoints)
    settings = {"llm": str(llm), "block_size": 24}
    model = live(build_captioner(DecoderConfig(decoder="opt", **settings), lamp))
    living = model.state_dict()
    state = {name.replace(".base_layer.", "." if old_names else ".base_layer."): tensor
             for name, tensor in living.items()}
    state |= {name.replace("llm.base_model.model.", "opt_model."): tensor for name, tensor in state.items()
              if name.startswith("llm.")}
    state |= {f"vq_model.{name}": torch.zeros(3) for name in ("vqvae.quantizer.codebook", "vqvae.encoder.model.0.bias")}
    state |= {"trans_base.tok_emb.weight": torch.zeros(2), "trans_head.blocks.0.attn.mask": torch.zeros(1)}
    shutil.rmtree(checkpoints / "t2m" / "M2T", ignore_errors=True)
    put(checkpoints / "t2m" / "M2T", "m2t.pth", {"trans": state}, {"lamp_name": "h3d-qformer", **settings})
    return living
