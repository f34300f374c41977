"""The language models that write captions: a small GPT or OPT with adapters, and their vocabularies."""
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from models.config import PRECISIONS, DecoderConfig
from models.hub import model_folder, silent_transformers
from models.lamp.bert import WordPieces
from utils.errors import InputError
from utils.seeding import WHOLE, BatchSlice


class Words(Protocol):
    """A vocabulary, with the ids that start, end and pad a caption."""

    start_id: int
    end_id: int
    pad_id: int

    def __len__(self) -> int:
        """Number of ids."""

    def ids(self, text: str) -> list[int]:
        """Ids of a text, without start and end."""

    def text(self, ids: Sequence[int]) -> str:
        """The text of ids, without start, end and padding."""


class PieceWords:
    """BERT's word pieces: a caption starts with [DEC], as in LaMP, and ends with [SEP]."""

    def __init__(self, pieces: WordPieces) -> None:
        self.pieces = pieces
        self.start_id, self.end_id, self.pad_id = pieces.dec_id, pieces.sep_id, pieces.pad_id

    def __len__(self) -> int:
        return len(self.pieces)

    def ids(self, text: str) -> list[int]:
        """Word pieces of a text."""
        return self.pieces.ids(text)

    def text(self, ids: Sequence[int]) -> str:
        """The text of word pieces."""
        return self.pieces.decode(ids)


class HubWords:
    """The vocabulary of a language model on the hub: a caption ends with a line break, as in the paper.

    ``tokenizer`` is one of ``transformers``; if it has no line-break token, its end-of-text token ends a caption.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        breaks = tokenizer("\n", add_special_tokens=False)["input_ids"]
        known = len(breaks) == 1 and breaks[0] != tokenizer.unk_token_id
        self.end_id = breaks[0] if known else tokenizer.eos_token_id
        self.start_id = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        self.pad_id = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id

    def __len__(self) -> int:
        return len(self.tokenizer)

    def ids(self, text: str) -> list[int]:
        """Tokens of a text."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def text(self, ids: Sequence[int]) -> str:
        """The text of tokens."""
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()


@dataclass(frozen=True)
class Captions:
    """Captions as ids: start, words, end, then padding."""

    ids: Tensor   # (b, t) int64
    mask: Tensor  # (b, t) bool, False at padding


def encode_captions(words: Words, texts: Sequence[str], longest: int) -> Captions:
    """Ids of captions, including start and end, cut to ``longest``."""
    rows = [[words.start_id, *words.ids(text)[:longest - 2], words.end_id] for text in texts]
    ids = torch.full((len(rows), max(map(len, rows))), words.pad_id)
    mask = torch.zeros_like(ids, dtype=torch.bool)
    for number, row in enumerate(rows):
        ids[number, :len(row)] = torch.tensor(row)
        mask[number, :len(row)] = True
    return Captions(ids, mask)


def with_noise(words: Words, captions: Captions, keep: float, longest: int, generator: torch.Generator,
               batch_slice: BatchSlice = WHOLE) -> Tensor:
    """Ids (b, t) of captions, t <= ``longest``, in which each word is kept with probability ``keep`` and is otherwise a
    random id. ``batch_slice``: rows of the whole batch.

    A decoder trained on them relies on the motion more than on the previous words (T2M-GPT, section 3.2).
    """
    rows, length = captions.ids.shape
    noise = batch_slice.randint(generator, len(words), rows, longest)[:, :length]
    replaced = (batch_slice.rand(generator, rows, longest)[:, :length] >= keep) & captions.mask
    replaced[:, 0] = False
    return torch.where(replaced, noise, captions.ids)


_HUB_FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "vocab.json",
              "merges.txt", "special_tokens_map.json", "*.safetensors", "*.safetensors.index.json",
              "pytorch_model*.bin", "pytorch_model.bin.index.json", "tokenizer.model")


@dataclass(frozen=True)
class CaptionDecoder:
    """A causal language model of ``transformers`` and its vocabulary."""

    model: nn.Module
    words: Words
    width: int  # of its embeddings


def build_decoder(config: DecoderConfig, pieces: WordPieces, prefix: int) -> CaptionDecoder:
    """Build the decoder of ``config`` for ``prefix`` embeddings of motion.

    Raises ``InputError`` if a package or the pretrained model is missing.
    """
    return _gpt(config, pieces, prefix) if config.decoder == "gpt" else _pretrained(config, prefix)


def _gpt(config: DecoderConfig, pieces: WordPieces, prefix: int) -> CaptionDecoder:
    from transformers import GPT2Config, GPT2LMHeadModel  # slow to import, and only captions need it

    words = PieceWords(pieces)
    # No dropout on attention weights: CPUs have no fast kernel for it.
    sizes = GPT2Config(
        vocab_size=len(words), n_positions=prefix + config.block_size, n_embd=config.embed_dim_gpt,
        n_layer=config.num_layers, n_head=config.n_head_gpt, n_inner=config.ff_rate * config.embed_dim_gpt,
        resid_pdrop=config.drop_out_rate, embd_pdrop=config.drop_out_rate, attn_pdrop=0.0,
        bos_token_id=words.start_id, eos_token_id=words.end_id, pad_token_id=words.pad_id)
    return CaptionDecoder(GPT2LMHeadModel(sizes), words, config.embed_dim_gpt)


def _pretrained(config: DecoderConfig, prefix: int) -> CaptionDecoder:
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
    except Exception as error:  # both raise many kinds; all mean that this folder cannot be used
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
    return CaptionDecoder(adapted, words, model.get_input_embeddings().embedding_dim)
