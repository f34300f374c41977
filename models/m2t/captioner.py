"""Motion to text: LaMP's motion features as the prefix of a language model (paper, section 3.4).

Parameter names are those of published M2T checkpoints.
"""
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.config import Writing
from models.hub import silent_transformers
from models.lamp.features import LaMPFeatures
from models.lamp.qformer import INIT_STD, QFormer, QFormerConfig
from models.layers import Linear, sinusoid_table
from models.m2t.decoder import CaptionDecoder, encode_captions, with_noise
from models.vq.encdec import Encoder
from models.vq.model import VQConfig
from utils.seeding import WHOLE, BatchSlice

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

    @staticmethod
    def from_lamp(lamp: LaMPFeatures, llm_width: int = OPT_WIDTH) -> "MotionPrefix":
        """A prefix with the weights of a pretrained LaMP model, except the last projection."""
        prefix = MotionPrefix(MotionPrefixConfig.of_lamp(lamp, llm_width))
        prefix.take(lamp)
        return prefix

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
