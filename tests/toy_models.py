"""Untrained toy models in the layout of checkpoints/."""
import shutil
from pathlib import Path

import numpy as np
import torch

from data.dataset import MAX_TOKENS, dataset_spec
from models.config import EvaluatorConfig, MaskTransformerConfig, ResidualTransformerConfig
from models.evaluator import Evaluator
from models.lamp.bert import from_bert
from models.lamp.features import LaMPConfig
from models.lamp.lamp import LaMP
from models.m2t import DecoderConfig
from models.text_to_motion import LengthEstimator
from models.transformers.mask_transformer import MaskTransformer
from models.transformers.residual import ResidualTransformer
from models.vq.model import RVQVAE, HumanVQVAE, VQConfig, build_tokenizer
from storage.checkpoint import save_checkpoint, write_options
from storage.evaluation import STATE_KEY, build_captioner, learned_state
from storage.generation import load_lamp
from tests.toy import make_bert, make_glove
from utils.files import save_npy

CODES = 16
VQ = {"nb_code": CODES, "code_dim": 8, "output_emb_width": 8, "width": 8, "depth": 1, "num_quantizers": 2}
T2M = {"num_tokens": CODES, "code_dim": 8, "latent_dim": 16, "n_heads": 2, "n_layers": 1, "ff_size": 16,
       "attention": "causal"}
M2T = {"decoder": "gpt", "num_layers": 1, "embed_dim_gpt": 16, "n_head_gpt": 2, "block_size": 16, "ff_rate": 2}
RES = {"num_quantizers": 2, "share_weight": True, "published_behaviour": False}


def make_models(folder: Path, dataset_name: str = "t2m") -> Path:
    """Write the models ``vq``, ``lamp``, ``t2m``, ``res`` and ``len`` under ``folder``, each using previous ones."""
    torch.manual_seed(0)
    home = folder / dataset_name
    tokenizer = make_tokenizer(home / "vq", dataset_spec(dataset_name).dim_pose)

    bert = make_bert(folder / "bert", hidden=8)
    qformer = from_bert(bert, encoder_width=8, num_query_tokens=MAX_TOKENS)
    lamp = LaMP(LaMPConfig(qformer.config, tokenizer.config, embed_dim=4), tokenizer, qformer)
    save(home / "lamp", {"vq_name": "vq", "max_text_len": 16, **lamp.config.to_options()},
         {"motion_qformer": lamp.state_dict()})
    shutil.move(bert / "vocab.txt", home / "lamp" / "vocab.txt")
    shutil.rmtree(bert)

    text = {"lamp_name": "lamp", "text_encoder": "lamp", "condition": "query"}
    settings = T2M | {"cond_dim": qformer.config.hidden}
    save(home / "t2m", {"vq_name": "vq", **text, **settings},
         {"t2m_transformer": MaskTransformer(MaskTransformerConfig(**settings)).state_dict()})
    residual = ResidualTransformer(ResidualTransformerConfig.from_options(settings | RES))
    save(home / "res", {"vq_name": "vq", **text, **settings, **RES}, {"res_transformer": residual.state_dict()})
    save(home / "len", text, {"estimator": LengthEstimator(qformer.config.hidden, MAX_TOKENS + 1, (8,)).state_dict()})
    return folder


def make_captioner(folder: Path, dataset_name: str = "t2m") -> None:
    """Write a captioning model ``m2t`` for the LaMP of ``make_models`` in ``folder``."""
    torch.manual_seed(1)
    options = M2T | {"lamp_name": "lamp", "vq_name": "vq"}
    model = build_captioner(DecoderConfig.from_options(options), load_lamp("lamp", dataset_spec(dataset_name), folder))
    save(folder / dataset_name / "m2t", options, {STATE_KEY: learned_state(model)})


def make_tokenizer(folder: Path, dim: int, **settings: object) -> HumanVQVAE | RVQVAE:
    """Write and return a tokenizer for features of width ``dim``, with normalisation statistics."""
    options = VQ | settings
    tokenizer = build_tokenizer(VQConfig(dim_pose=dim, **options))
    for quantizer in tokenizer.quantizers:
        quantizer.codebook.normal_()
    save(folder, options, {"vq_model": tokenizer.state_dict()})
    save_meta(folder, dim)
    return tokenizer


def make_evaluator(folder: Path, dataset_name: str = "t2m") -> Path:
    """Write an untrained evaluator with normalisation statistics and word vectors to ``folder``."""
    dim = dataset_spec(dataset_name).dim_pose
    config = EvaluatorConfig(dim_pose=dim, dim_movement_enc_hidden=8, dim_movement_latent=8, dim_word=6,
                             dim_motion_hidden=8, dim_text_hidden=8, dim_coemb_hidden=5)
    save(folder, {}, Evaluator(config).checkpoint())
    make_glove(folder / "glove")
    save_meta(folder, dim)
    return folder


def save_meta(folder: Path, dim: int) -> None:
    """Write normalisation statistics."""
    save_npy(folder / "meta" / "mean.npy", np.zeros(dim, np.float32))
    save_npy(folder / "meta" / "std.npy", np.full(dim, 0.1, np.float32))


def save(folder: Path, options: dict[str, object], content: dict[str, object]) -> None:
    """Write a model folder with options and a checkpoint ``latest.tar``."""
    write_options(folder / "opt.txt", {"name": folder.name, **options})
    save_checkpoint(folder / "model" / "latest.tar", content)
