"""The language models that tell a motion: causal ones of ``transformers``, which stand behind a motion's prefix.

``gpt``: a small GPT-2 with the word pieces of LaMP, trained from nothing. ``opt``: a pretrained model of the hub
(OPT-2.7B in the paper), frozen, with low-rank adapters (Hu et al. 2021, LoRA) that learn.
"""
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from models.hub import model_folder, silent_transformers
from models.lamp.tokenizer import WordPieces
from models.m2t.config import PRECISIONS, DecoderConfig
from models.m2t.words import HubWords, PieceWords, Words
from utils.errors import InputError

_HUB_FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "vocab.json",
              "merges.txt", "special_tokens_map.json", "*.safetensors", "*.safetensors.index.json",
              "pytorch_model*.bin", "pytorch_model.bin.index.json", "tokenizer.model")


@dataclass(frozen=True)
class Decoder:
    """A causal language model of ``transformers`` and its vocabulary."""

    model: nn.Module
    words: Words
    width: int  # of its embeddings


def build_decoder(config: DecoderConfig, pieces: WordPieces, prefix: int) -> Decoder:
    """The decoder that ``config`` describes, behind ``prefix`` embeddings of motion.

    Raises ``InputError`` where a package, or the pretrained model, is missing.
    """
    return _gpt(config, pieces, prefix) if config.decoder == "gpt" else _pretrained(config, prefix)


def _gpt(config: DecoderConfig, pieces: WordPieces, prefix: int) -> Decoder:
    from transformers import GPT2Config, GPT2LMHeadModel  # slow to import, and only captions need it

    words = PieceWords(pieces)
    # No dropout on attention weights: CPUs lose their fast kernel by it.
    sizes = GPT2Config(
        vocab_size=len(words), n_positions=prefix + config.block_size, n_embd=config.embed_dim_gpt,
        n_layer=config.num_layers, n_head=config.n_head_gpt, n_inner=config.ff_rate * config.embed_dim_gpt,
        resid_pdrop=config.drop_out_rate, embd_pdrop=config.drop_out_rate, attn_pdrop=0.0,
        bos_token_id=words.start_id, eos_token_id=words.end_id, pad_token_id=words.pad_id)
    return Decoder(GPT2LMHeadModel(sizes), words, config.embed_dim_gpt)


def _pretrained(config: DecoderConfig, prefix: int) -> Decoder:
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise InputError("the decoder opt needs the package peft: pip install peft") from error
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = model_folder(config.llm, "language model", _HUB_FILES)
    try:
        with silent_transformers():
            words = HubWords(AutoTokenizer.from_pretrained(folder, local_files_only=True))
            model, report = AutoModelForCausalLM.from_pretrained(
                folder, local_files_only=True, dtype=getattr(torch, PRECISIONS[config.llm_precision]),
                output_loading_info=True)
    except Exception as error:  # both raise many kinds; all mean that this folder is of no use
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"the language model in {Path(folder)} cannot be loaded: {reason}") from error
    if report["missing_keys"]:
        raise InputError(f"the language model in {folder} lacks {sorted(report['missing_keys'])[0]}")
    most = getattr(model.config, "max_position_embeddings", None)
    if most is not None and most < prefix + config.block_size:
        raise InputError(f"the language model in {folder} reads {most} positions: too few for a motion's {prefix} and "
                         f"a caption's {config.block_size} (--block-size)")
    model.requires_grad_(False)
    adapters = LoraConfig(r=config.lora_r, lora_alpha=config.lora_alpha, lora_dropout=config.lora_dropout,
                          target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    try:
        adapted = get_peft_model(model, adapters)
    except ValueError as error:
        raise InputError(f"the language model in {folder} has no q_proj and v_proj to adapt") from error
    return Decoder(adapted, words, model.get_input_embeddings().embedding_dim)
