"""Motion captioning: a language model with LaMP's motion features as its prefix (LaMP paper, section 3.4).

The language model is a small GPT, or OPT with LoRA adapters. Parameters have the names used in published M2T
checkpoints.
"""
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.config import INIT_STD, PRECISIONS, DecoderConfig, LaMPConfig, Writing
from models.lamp.bert import Pieces, WordPieces, padded_pieces
from models.lamp.features import LaMPFeatures, padded_motion
from models.lamp.qformer import QFormer
from models.layers import Linear, sinusoid_table
from models.vq.model import Encoder
from utils import InputError
from utils.files import model_folder, silent_transformers
from utils.runtime import WHOLE, BatchSlice


@dataclass(frozen=True)
class Words:
    """Vocabulary of captions."""

    size: int
    start_id: int
    end_id: int
    pad_id: int
    ids: Callable[[str], list[int]]       # encodes a text, without start and end tokens
    text: Callable[[Sequence[int]], str]  # decodes token ids, skipping special tokens


def hub_words(tokenizer: Any) -> Words:
    """Return the vocabulary of a pretrained language model from its ``transformers`` tokenizer.

    Captions end with a line break, as in the paper, or with the end-of-text token if there is no line-break token.
    """
    end = tokenizer.eos_token_id
    start, pad = (end if token is None else token for token in (tokenizer.bos_token_id, tokenizer.pad_token_id))
    breaks = tokenizer("\n", add_special_tokens=False)["input_ids"]
    if len(breaks) == 1 and breaks[0] != tokenizer.unk_token_id:
        end = breaks[0]
    return Words(len(tokenizer), start, end, pad, lambda text: tokenizer(text, add_special_tokens=False)["input_ids"],
                 lambda ids: tokenizer.decode(ids, skip_special_tokens=True).strip())


def encode_captions(words: Words, texts: Sequence[str], longest: int) -> Pieces:
    """Encode captions with start and end tokens, truncated to ``longest`` tokens."""
    rows = [[words.start_id, *words.ids(text)[:longest - 2], words.end_id] for text in texts]
    return padded_pieces(rows, words.pad_id)


def with_noise(words: Words, captions: Pieces, keep: float, longest: int, generator: torch.Generator,
               batch_slice: BatchSlice = WHOLE) -> Tensor:
    """Keep each word with probability ``keep`` and replace the others by random tokens. Returns ids (b, t).

    A decoder trained on such captions relies less on the previous words and more on the motion (T2M-GPT, section 3.2).
    ``batch_slice`` is the position of the local rows in the whole batch. Captions have at most ``longest`` tokens. The
    start token is always kept.
    """
    rows, length = captions.ids.shape
    noise = batch_slice.randint(generator, words.size, rows, longest)[:, :length]
    replaced = (batch_slice.rand(generator, rows, longest)[:, :length] >= keep) & captions.mask
    replaced[:, 0] = False
    return torch.where(replaced, noise, captions.ids)


_HUB_FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "vocab.json",
              "merges.txt", "special_tokens_map.json", "*.safetensors", "*.safetensors.index.json",
              "pytorch_model*.bin", "pytorch_model.bin.index.json", "tokenizer.model")


def build_decoder(config: DecoderConfig, pieces: WordPieces, prefix: int) -> tuple[nn.Module, Words]:
    """Build a causal language model, which writes captions after ``prefix`` motion embeddings, and its vocabulary.

    Raises ``InputError`` if a package or the pretrained language model is missing.
    """
    return _gpt(config, pieces, prefix) if config.decoder == "gpt" else _pretrained(config, prefix)


def _gpt(config: DecoderConfig, pieces: WordPieces, prefix: int) -> tuple[nn.Module, Words]:
    from transformers import GPT2Config, GPT2LMHeadModel  # slow to import, and only captions need it

    # Captions start with [DEC], as in LaMP, and end with [SEP].
    words = Words(len(pieces), pieces.dec_id, pieces.sep_id, pieces.pad_id, pieces.ids, pieces.decode)
    # The fast attention kernel for CPUs has no dropout.
    sizes = GPT2Config(
        vocab_size=words.size, n_positions=prefix + config.block_size, n_embd=config.embed_dim_gpt,
        n_layer=config.num_layers, n_head=config.n_head_gpt, n_inner=config.ff_rate * config.embed_dim_gpt,
        resid_pdrop=config.drop_out_rate, embd_pdrop=config.drop_out_rate, attn_pdrop=0.0,
        bos_token_id=words.start_id, eos_token_id=words.end_id, pad_token_id=words.pad_id)
    return GPT2LMHeadModel(sizes), words


def _pretrained(config: DecoderConfig, prefix: int) -> tuple[nn.Module, Words]:
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise InputError("the decoder opt needs the package peft: pip install peft") from error
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = model_folder(config.llm, "language model", _HUB_FILES)
    try:
        with silent_transformers():
            words = hub_words(AutoTokenizer.from_pretrained(folder, local_files_only=True))
            model, report = AutoModelForCausalLM.from_pretrained(
                folder, local_files_only=True, dtype=getattr(torch, PRECISIONS[config.llm_precision]),
                output_loading_info=True)
    except Exception as error:  # transformers raises many kinds of errors for unusable files
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"the language model in {Path(folder)} cannot be loaded: {reason}") from error
    if report["missing_keys"]:
        raise InputError(f"the language model in {folder} lacks {sorted(report['missing_keys'])[0]}")
    most = getattr(model.config, "max_position_embeddings", None)
    if most is not None and most < prefix + config.block_size:
        raise InputError(f"the language model in {folder} reads {most} positions, fewer than the {prefix} of a motion "
                         f"and the {config.block_size} of a caption (--block-size)")
    model.requires_grad_(False)
    adapters = LoraConfig(r=config.lora_r, lora_alpha=config.lora_alpha, lora_dropout=config.lora_dropout,
                          target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    try:
        return get_peft_model(model, adapters), words
    except ValueError as error:
        raise InputError(f"the language model in {folder} has no layers q_proj and v_proj for LoRA") from error


class MotionPrefix(nn.Module):
    """Network that maps a motion to prefix embeddings (queries, width) for a language model.

    There is one embedding per query token of LaMP. Published models use no position encodings for motion latents.
    """

    def __init__(self, config: LaMPConfig, width: int) -> None:
        super().__init__()
        self.config = config
        sizes, vq = config.qformer, config.vq
        self.query_tokens = nn.Parameter(torch.randn(1, sizes.num_query_tokens, sizes.hidden) * INIT_STD)
        self.motion_projection = nn.Parameter(
            torch.randn(vq.output_emb_width, sizes.encoder_width) * sizes.encoder_width**-0.5)
        self.Qformer = QFormer(sizes)
        self.motion_encoder = Encoder(replace(vq, vq_dropout=0.0))
        self.motion_encoder.requires_grad_(False)
        self.opt_proj = Linear(sizes.hidden, width)
        positions = None if config.published else sinusoid_table(sizes.num_query_tokens, sizes.encoder_width)
        self.register_buffer("positions", positions, persistent=False)

    def take(self, lamp: LaMPFeatures) -> None:
        """Copy all weights except the last projection from ``lamp``. Raises ``RuntimeError`` if one is missing."""
        own = self.state_dict()
        given = {name: value for name, value in lamp.state_dict().items() if name in own}
        missing = [name for name in self.load_state_dict(given, strict=False).missing_keys
                   if name.startswith(("query_tokens", "motion_projection", "Qformer.", "motion_encoder."))]
        if missing:
            raise RuntimeError(f"the LaMP model lacks {', '.join(missing[:3])}")

    def forward(self, motion: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map normalised ``motion`` (b, t, d) to prefix embeddings (b, queries, width).

        ``mask`` (b, n) is False at padded tokens. Published models use no mask.
        """
        return self.opt_proj(self.query_motion(self.motion_states(motion), mask))

    def motion_states(self, motion: Tensor) -> Tensor:
        """Encode ``motion`` (b, t, d) to the states (b, n, encoder_width) that the queries attend to, one per token."""
        states = self.motion_encoder(motion).transpose(1, 2).float() @ self.motion_projection
        return states if self.positions is None else states + self.positions[:states.shape[1]]

    def queried(self) -> list[nn.Parameter]:
        """Return the parameters that affect the prefix: query tokens, motion projection and parts of the Q-Former."""
        embeddings, encoder = self.Qformer.bert.embeddings, self.Qformer.bert.encoder
        text_only = (".intermediate.", ".output.dense.", ".output.LayerNorm.")
        layers = [parameter for layer in encoder.layer for name, parameter in layer.named_parameters()
                  if not f".{name}".startswith(text_only)]
        return [self.query_tokens, self.motion_projection, *embeddings.LayerNorm.parameters(), *layers]

    def query_motion(self, states: Tensor, mask: Tensor | None = None) -> Tensor:
        """Let the queries attend to motion ``states``. Returns their hidden states (b, queries, h)."""
        return self.Qformer.query(self.query_tokens, states, mask).hidden


IGNORED = -100  # target at padding


@dataclass(frozen=True)
class CaptionLoss:
    """Loss and accuracy of next-word prediction on ground-truth captions. All are scalars."""

    loss: Tensor      # mean cross-entropy per word, in nats
    accuracy: Tensor  # share of words that are predicted correctly
    words: Tensor     # number of words


class MotionCaptioner(MotionPrefix):
    """Captioning model: a LaMP motion prefix and a caption decoder.

    In all methods, ``motion`` (b, t, d) is normalised and zero-padded, and ``m_lens`` (b,) are lengths in frames.
    Motions are padded to a fixed length, so that a caption does not depend on the rest of the batch.
    """

    def __init__(self, config: LaMPConfig, decoder: nn.Module, words: Words, longest: int) -> None:
        """Create a captioner whose captions have at most ``longest`` tokens, including start and end."""
        super().__init__(config, decoder.get_input_embeddings().embedding_dim)
        self.llm, self.words, self.longest = decoder, words, longest
        self.freeze_queries()

    def freeze_queries(self, frozen: bool = True) -> None:
        """Freeze the Q-Former, or make its parameters trainable (see ``MotionPrefix.queried``)."""
        for part in (self.query_tokens, self.motion_projection):
            part.requires_grad_(False)
        self.Qformer.requires_grad_(False)
        for parameter in self.queried():
            parameter.requires_grad_(not frozen)

    def train(self, mode: bool = True) -> "MotionCaptioner":
        """Set the mode of all parts except the motion encoder and a frozen Q-Former."""
        super().train(mode)
        self.motion_encoder.eval()
        if not self.query_tokens.requires_grad:
            self.Qformer.eval()
        return self

    def prefix(self, motion: Tensor, m_lens: Tensor) -> Tensor:
        """Map motions to prefix embeddings (b, queries, width). Raises ``InputError`` for a motion that is too long."""
        return self(*padded_motion(self.config, motion, m_lens))

    def loss(self, motion: Tensor, m_lens: Tensor, captions: Sequence[str], keep: float = 1.0,
             generator: torch.Generator | None = None, batch_slice: BatchSlice = WHOLE) -> CaptionLoss:
        """Compute the loss of ``captions``. ``keep``, ``generator`` and ``batch_slice`` are as in ``with_noise``."""
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
        """Generate ``writing.num_captions`` captions per motion. Beam search returns the best caption first."""
        writing = writing or Writing()
        prefix = self.prefix(motion, m_lens)
        if writing.top_p >= 1:
            return self._continue(prefix, writing)
        captions = []
        for row in prefix:  # one at a time, so that a caption does not depend on the rest of the batch
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
        with silent_transformers():  # hides a wrong warning about a missing mask
            made = self.llm.generate(inputs_embeds=given, attention_mask=mask, generation_config=settings).tolist()
        prompt = writing.prompt if writing.prompt_in_caption else ""
        texts = [f"{prompt} {self._text(row)}".strip() for row in made]
        return [texts[first:first + writing.num_captions] for first in range(0, len(texts), writing.num_captions)]

    def _text(self, ids: list[int]) -> str:
        return self.words.text(ids[:ids.index(self.words.end_id)] if self.words.end_id in ids else ids)

    def _inputs(self, prefix: Tensor, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Concatenate the prefix and the embeddings of ``ids`` (b, t). Also returns the mask (b, queries + t)."""
        words = self.llm.get_input_embeddings()(ids)
        return (torch.cat([prefix.to(words.dtype), words], 1),
                F.pad(mask, (prefix.shape[1], 0), value=True).long())
