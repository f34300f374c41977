"""Motion to text: LaMP's motion features as the prefix of a language model (paper, section 3.4).

The language model is a small GPT, or OPT with adapters. Parameter names are those of published M2T checkpoints.
"""
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.config import PRECISIONS, DecoderConfig, Writing
from models.lamp.bert import WordPieces
from models.lamp.features import LaMPFeatures
from models.lamp.qformer import INIT_STD, QFormer, QFormerConfig
from models.layers import Linear, sinusoid_table
from models.vq.model import Encoder, VQConfig
from utils import InputError
from utils.files import model_folder, silent_transformers
from utils.runtime import WHOLE, BatchSlice


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


OPT_WIDTH = 2560  # of OPT-2.7B


@dataclass(frozen=True)
class MotionPrefixConfig:
    """Settings of ``MotionPrefix``; the defaults are the published sizes."""

    qformer: QFormerConfig = field(default_factory=QFormerConfig)
    vq: VQConfig = field(default_factory=lambda: VQConfig(num_quantizers=1))
    llm_width: int = OPT_WIDTH
    published: bool = True  # no position encoding of motion latents, see models.lamp.lamp

    @classmethod
    def of_lamp(cls, lamp: LaMPFeatures, llm_width: int = OPT_WIDTH) -> "MotionPrefixConfig":
        """The sizes of a LaMP model, for a language model of width ``llm_width``."""
        return cls(lamp.config.qformer, lamp.config.vq, llm_width, lamp.config.published)


class MotionPrefix(nn.Module):
    """Normalised motion (b, t, d) to prefix embeddings (b, queries, llm_width), one per query."""

    def __init__(self, config: MotionPrefixConfig) -> None:
        super().__init__()
        self.config = config
        sizes, vq = config.qformer, config.vq
        self.query_tokens = nn.Parameter(torch.randn(1, sizes.num_query_tokens, sizes.hidden) * INIT_STD)
        self.motion_projection = nn.Parameter(
            torch.randn(vq.output_emb_width, sizes.encoder_width) * sizes.encoder_width**-0.5)
        self.Qformer = QFormer(sizes)
        self.motion_encoder = Encoder(
            vq.dim_pose, vq.output_emb_width, vq.down_t, vq.stride_t, vq.width, vq.depth, vq.dilation_growth_rate,
            vq.vq_act, vq.vq_norm, dropout=0.0)
        self.motion_encoder.requires_grad_(False)
        self.opt_proj = Linear(sizes.hidden, config.llm_width)
        positions = None if config.published else sinusoid_table(sizes.num_query_tokens, sizes.encoder_width)
        self.register_buffer("positions", positions, persistent=False)

    def take(self, lamp: LaMPFeatures) -> None:
        """Copy the weights of a pretrained LaMP model, except the last projection. Raises ``RuntimeError`` if LaMP
        lacks one of them."""
        own = self.state_dict()
        given = {name: value for name, value in lamp.state_dict().items() if name in own}
        missing = [name for name in self.load_state_dict(given, strict=False).missing_keys
                   if name.startswith(("query_tokens", "motion_projection", "Qformer.", "motion_encoder."))]
        if missing:
            raise RuntimeError(f"LaMP lacks {', '.join(missing[:3])}")

    def forward(self, motion: Tensor, mask: Tensor | None = None) -> Tensor:
        """Prefix embeddings. ``mask`` (b, n) is False at padding; published models attend to it too."""
        return self.opt_proj(self.query_motion(self.motion_states(motion), mask))

    def motion_states(self, motion: Tensor) -> Tensor:
        """Motion states that the queries attend to, (b, n, encoder_width), n = t / unit length."""
        states = self.motion_encoder(motion).transpose(1, 2).float() @ self.motion_projection
        return states if self.positions is None else states + self.positions[:states.shape[1]]

    def queried(self) -> list[nn.Parameter]:
        """Parameters of the query pass, without the motion encoder and the last projection."""
        embeddings, encoder = self.Qformer.bert.embeddings, self.Qformer.bert.encoder
        text_only = (".intermediate.", ".output.dense.", ".output.LayerNorm.")
        layers = [parameter for layer in encoder.layer for name, parameter in layer.named_parameters()
                  if not f".{name}".startswith(text_only)]
        return [self.query_tokens, self.motion_projection, *embeddings.LayerNorm.parameters(), *layers]

    def query_motion(self, states: Tensor, mask: Tensor | None = None) -> Tensor:
        """The queries (b, queries, h) after attending to a motion."""
        return self.Qformer.query(self.query_tokens, states, mask).hidden


IGNORED = -100  # target of padding


@dataclass(frozen=True)
class CaptionLoss:
    """Loss and accuracy on ground-truth captions, all ()."""

    loss: Tensor      # mean cross-entropy per word, natural logarithm
    accuracy: Tensor  # share of words with the highest probability
    words: Tensor     # number of words


class MotionCaptioner(MotionPrefix):
    """Motion (b, t, d), normalised, zero where padded, to captions. ``m_lens`` (b,) are its lengths in frames.

    Parameter names are those of published M2T checkpoints. Motions are padded to LaMP's fixed length and the
    padding is masked, so that a caption does not depend on the rest of the batch.
    """

    def __init__(self, config: MotionPrefixConfig, decoder: CaptionDecoder, longest: int) -> None:
        """``longest``: maximum ids of a caption, including start and end."""
        super().__init__(config)
        self.llm, self.words, self.longest = decoder.model, decoder.words, longest
        self.freeze_queries()

    def freeze_queries(self, frozen: bool = True) -> None:
        """Freeze LaMP's part, or train the parameters that the prefix depends on."""
        for part in (self.query_tokens, self.motion_projection):
            part.requires_grad_(False)
        self.Qformer.requires_grad_(False)
        for parameter in self.queried():
            parameter.requires_grad_(not frozen)

    def train(self, mode: bool = True) -> "MotionCaptioner":
        """Switch dropout, except in the motion encoder and a frozen Q-Former."""
        super().train(mode)
        self.motion_encoder.eval()
        if not self.query_tokens.requires_grad:
            self.Qformer.eval()
        return self

    def prefix(self, motion: Tensor, m_lens: Tensor) -> Tensor:
        """Prefix embeddings of motions, (b, queries, width)."""
        tokens, unit = self.config.qformer.num_query_tokens, self.config.vq.unit_length
        if motion.shape[1] > tokens * unit:
            raise ValueError(f"a motion has {motion.shape[1]} frames, the maximum is {tokens * unit}")
        motion = F.pad(motion, (0, 0, 0, tokens * unit - motion.shape[1]))
        mask = None
        if not self.config.published:
            counted = (m_lens // unit).clamp_min(1)
            mask = torch.arange(tokens, device=motion.device) < counted.unsqueeze(1)
        return self(motion, mask)

    def loss(self, motion: Tensor, m_lens: Tensor, captions: Sequence[str], keep: float = 1.0,
             generator: torch.Generator | None = None, batch_slice: BatchSlice = WHOLE) -> CaptionLoss:
        """Loss of the captions of motions. The decoder's input keeps each word with probability ``keep``; the others
        are replaced by random ones from ``generator``. ``batch_slice``: rows of the whole batch."""
        prefix = self.prefix(motion, m_lens)
        encoded = encode_captions(self.words, captions, self.longest)
        seen = encoded.ids if keep >= 1 else with_noise(
            self.words, encoded, keep, self.longest, generator, batch_slice)
        targets = encoded.ids[:, 1:].masked_fill(~encoded.mask[:, 1:], IGNORED)
        targets, seen, mask = (part.to(motion.device, non_blocking=True)
                               for part in (targets, seen[:, :-1], encoded.mask[:, :-1]))
        given, mask = self._inputs(prefix, seen, mask)
        logits = self.llm(inputs_embeds=given, attention_mask=mask, use_cache=False,
                          logits_to_keep=targets.shape[1]).logits.float()
        words = (targets != IGNORED).sum()
        hits = (logits.detach().argmax(-1) == targets).sum()  # zero for ignored words
        return CaptionLoss(F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED),
                           hits / words, words)

    @torch.no_grad()
    def write(self, motion: Tensor, m_lens: Tensor, writing: Writing | None = None) -> list[list[str]]:
        """Captions of motions, ``num_captions`` each, the best first (sampled ones in sampling order)."""
        writing = writing or Writing()
        prefix = self.prefix(motion, m_lens)
        if writing.top_p >= 1:
            return self._continue(prefix, writing)
        captions = []
        for row in prefix:  # one by one, each from the seed, so that a caption does not depend on the other motions
            with torch.random.fork_rng(devices=[row.device] if row.is_cuda else []):
                torch.manual_seed(writing.seed)
                captions += self._continue(row.unsqueeze(0), writing)
        return captions

    def _continue(self, prefix: Tensor, writing: Writing) -> list[list[str]]:
        from transformers import GenerationConfig

        begun = [self.words.start_id, *(self.words.ids(writing.prompt) if writing.prompt else [])]
        ids = torch.tensor([begun] * len(prefix), device=prefix.device)
        given, mask = self._inputs(prefix, ids, torch.ones_like(ids, dtype=torch.bool))
        how = {"num_beams": max(writing.num_beams, writing.num_captions)}
        if writing.top_p < 1:
            how = {"do_sample": True, "top_p": writing.top_p, "top_k": 0, "temperature": writing.temperature}
        settings = GenerationConfig(
            max_new_tokens=max(1, self.longest - len(begun)), num_return_sequences=writing.num_captions,
            bos_token_id=self.words.start_id, eos_token_id=self.words.end_id, pad_token_id=self.words.pad_id, **how)
        with silent_transformers():  # avoids a warning about a missing mask when a finished caption is padded
            made = self.llm.generate(inputs_embeds=given, attention_mask=mask, generation_config=settings).tolist()
        prompt = writing.prompt if writing.prompt_in_caption else ""
        texts = [f"{prompt} {self._text(row)}".strip() for row in made]
        return [texts[first:first + writing.num_captions] for first in range(0, len(texts), writing.num_captions)]

    def _text(self, ids: list[int]) -> str:
        return self.words.text(ids[:ids.index(self.words.end_id)] if self.words.end_id in ids else ids)

    def _inputs(self, prefix: Tensor, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings (b, queries + t, width) of prefix and words, and their mask."""
        words = self.llm.get_input_embeddings()(ids)
        return (torch.cat([prefix.to(words.dtype), words], 1),
                F.pad(mask, (prefix.shape[1], 0), value=True).long())
