"""Masked transformer, which generates base-layer tokens (MaskGIT, MoMask, LaMP). Also published text encoders."""
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.config import BASE_SAMPLING, DEFAULT_SAMPLING, INIT_STD, MaskTransformerConfig, Sampling
from models.lamp.bert import WordPieces
from models.lamp.qformer import QFormer, QFormerConfig
from models.layers import Linear, is_packed, take_positions
from models.transformers.trunk import (
    StaticBatch,
    TokenLoss,
    Trunk,
    attention_mask,
    cosine_mask_ratio,
    distinct_rows,
    needed_width,
    padding_of,
    sample_tokens,
    static_batches,
    token_loss,
)
from utils import InputError
from utils.files import model_folder, silent_transformers
from utils.runtime import WHOLE, BatchSlice, report_step

KEPT = 1e5           # score of a token that stays unmasked
RANDOM_SHARE = 0.1   # share of the predicted positions that are replaced by a random code
MASK_SHARE = 0.88    # share of the other predicted positions that are masked; the rest is unchanged, as in BERT
CLASS_STD = 0.05     # std of the initial output weights
CLIP_NAME = "openai/clip-vit-base-patch32"
CLIP_WIDTH = 512  # width of CLIP's text features
CLIP_TOKENIZERS = ("tokenizer.json", "vocab.json")  # either file suffices
CLIP_FILES = ("config.json", "tokenizer_config.json", "special_tokens_map.json", "merges.txt", *CLIP_TOKENIZERS)


@dataclass(frozen=True)
class Corrupted:
    """Training batch in which some tokens are masked or replaced by random codes."""

    ids: Tensor      # (b, n) model input
    labels: Tensor   # (b, n) ground-truth token at predicted positions, the mask id elsewhere
    padding: Tensor  # (b, n) True at padding


@dataclass(frozen=True)
class Generated:
    """Generated tokens and the model input of each sampling step."""

    ids: Tensor    # (b, n) int64, ``padding_value`` at padding
    steps: Tensor  # (timesteps, b, n), the mask id at predicted positions


class MaskTransformer(Trunk):
    """Transformer that predicts masked tokens from the other tokens and text features.

    Token ids 0 to K-1 are codes, K is the mask, and K+1 is padding.
    """

    config: MaskTransformerConfig

    def __init__(self, config: MaskTransformerConfig) -> None:
        super().__init__(config, config.num_tokens)
        self.mask_id = config.num_tokens
        self.pad_id = config.num_tokens + 1
        self.token_emb = nn.Embedding(config.num_tokens + 2, config.code_dim)
        self.initialise()

    @torch.no_grad()
    def initialise_from(self, codebooks: Tensor) -> None:
        """Initialise the embeddings from the first of ``codebooks`` (q, K, code_dim).

        The output weights are a random projection of the codes, so that similar codes have similar logits.
        """
        self.start_codes([self.token_emb.weight], codebooks[:1])
        weight = self.output_process.poseFinal.weight
        projection = torch.randn(self.config.code_dim, weight.shape[1]) * self.config.code_dim**-0.5
        weight.copy_(CLASS_STD * self.token_emb.weight[:len(weight)] @ projection)

    def forward(self, ids: Tensor, cond: Tensor, padding: Tensor | None = None, at: Tensor | None = None) -> Tensor:
        """Compute logits (b, n, K), or (b, c, K) at the positions ``at`` (b, c) only.

        Args:
            ids: (b, n) tokens.
            cond: (b, c) text features; zeros mean no text.
            padding: (b, n) True at padding. Additive attention ignores it.
        """
        mask = attention_mask(self.config.attention, 1, ids.shape[1], padding, ids.device)
        return self.encode(self.token_emb(ids), self.embed_condition(cond)[:, None], mask, at)

    def guided_logits(self, ids: Tensor, cond: Tensor, padding: Tensor | None,
                      cond_scale: float | Tensor, at: Tensor | None = None, negative: Tensor | None = None) -> Tensor:
        """Compute logits (b, n, K), float32, with classifier-free guidance of scale ``cond_scale``.

        ``negative`` (b, c) are text features to guide away from, by default zeros, which mean no text. Other arguments
        are as in ``forward``.
        """
        negative = torch.zeros_like(cond) if negative is None else negative
        known = None if isinstance(cond_scale, Tensor) else cond_scale  # reading a tensor would wait for the device
        if known == 1:
            return self(ids, cond, padding, at).float()
        if known == 0:
            return self(ids, negative, padding, at).float()
        inputs = [ids.repeat(2, 1), torch.cat([cond, negative]),
                  *(None if each is None else each.repeat(2, 1) for each in (padding, at))]
        if is_packed(self) and len(ids) > 1:  # rows are independent: compute equal ones (as in the first step) once
            first, inverse = distinct_rows([each for each in inputs if each is not None])
            both = self(*(None if each is None else each[first] for each in inputs))[inverse].float()
        else:
            both = self(*inputs).float()
        conditional, unconditional = both.unflatten(0, (2, -1))
        return unconditional + cond_scale * (conditional - unconditional)

    def corrupt(self, ids: Tensor, token_lens: Tensor, generator: torch.Generator,
                batch_slice: BatchSlice = WHOLE) -> Corrupted:
        """Mask tokens of ``ids`` (b, n) for training, where ``token_lens`` (b,) are lengths in tokens.

        The share of tokens to predict is sampled from the cosine schedule. Of these tokens, 10 % become random codes,
        and 88 % of the others are masked. ``batch_slice`` is the position of the local rows in the whole batch.
        """
        b, n = ids.shape
        uniform = batch_slice.rand(generator, b, 3, n).to(ids.device, non_blocking=True).unbind(1)
        progress = batch_slice.rand(generator, b).to(ids.device, non_blocking=True)
        codes = batch_slice.randint(generator, self.config.num_tokens, b, n).to(ids.device, non_blocking=True)
        padding = padding_of(token_lens, n)
        counts = (cosine_mask_ratio(progress) * token_lens).round().clamp_min(1)
        ranks = uniform[0].masked_fill(padding, KEPT).argsort(dim=1, stable=True).argsort(dim=1)
        chosen = (ranks < counts[:, None]) & ~padding
        at_random = chosen & (uniform[1] < RANDOM_SHARE)
        at_mask = chosen & ~at_random & (uniform[2] < MASK_SHARE)
        seen = ids.masked_fill(padding, self.pad_id)
        seen = torch.where(at_random, codes, seen).masked_fill(at_mask, self.mask_id)
        return Corrupted(seen, ids.masked_fill(~chosen, self.mask_id), padding)

    def loss(self, ids: Tensor, cond: Tensor, token_lens: Tensor, generator: torch.Generator,
             batch_slice: BatchSlice = WHOLE) -> TokenLoss:
        """Compute the loss of predicting masked tokens.

        ``ids`` (b, n) are tokens, ``cond`` (b, c) are text features, and ``token_lens`` (b,) are lengths in tokens.
        """
        batch = self.corrupt(ids, token_lens, generator, batch_slice)
        width = ids.shape[1]
        if self.config.attention != "additive":  # additive attention reads the padding
            width = needed_width(token_lens, width)
        cond = self.drop_condition(cond, generator, batch_slice)
        logits = self(batch.ids[:, :width], cond, batch.padding[:, :width])
        return token_loss(logits, batch.labels[:, :width], self.mask_id)

    @torch.no_grad()
    def generate(self, cond: Tensor, token_lens: Sequence[int], generators: Sequence[torch.Generator],
                 sampling: Sampling = DEFAULT_SAMPLING, *, known: Tensor | None = None, padding_value: int = -1,
                 negative: Tensor | None = None) -> Generated:
        """Generate tokens for text features ``cond`` (b, c) by iterative unmasking (MaskGIT, section 3.3).

        Initially, all tokens except ``known`` ones are masked. Each step samples the masked tokens, keeps the most
        probable of them, and masks the others again.

        Args:
            token_lens: length of each sample in tokens, at least 1.
            generators: one generator per sample. The tokens of a sample do not depend on the rest of the batch, except
                with ``additive`` attention and no ``group_rows``.
            sampling: settings for the base layer.
            known: (b, n) tokens to keep, negative where tokens are generated (in-painting).
            padding_value: token id at padding.
            negative: (b, c) text features to guide away from, by default zeros, which mean no text.

        Raises ``RuntimeError`` in training mode, and ``ValueError`` for a length below 1 or a wrong number of rows.
        """
        token_lens = self.checked_lengths(token_lens, generators, cond)
        sees_padding = self.config.attention == "additive"
        longest = max(token_lens)
        if sees_padding and sampling.group_rows is None:
            batches = [StaticBatch(list(range(len(token_lens))), len(token_lens), longest)]
        else:
            batches = static_batches(token_lens, cond.device, sampling.group_rows, sees_padding, is_packed(self))
        ids = torch.full((len(cond), longest), self.pad_id, device=cond.device)
        steps = ids.repeat(sampling.time_steps, 1, 1)
        for batch in batches:
            classes = (self.config.num_tokens,) if sampling.gumbel_sample else ()
            inputs = self.sampling_inputs(batch, cond, negative, token_lens, generators, sampling.time_steps, classes)
            start = torch.full(inputs[0].shape, self.mask_id, device=cond.device).masked_fill(inputs[0], self.pad_id)
            if known is not None:
                given = batch.take_tokens(known)
                start = torch.where((given >= 0) & ~inputs[0], given, start)
            made = self.run_loop(self._unmasked, start, *inputs, sampling=sampling.only(BASE_SAMPLING))
            width = min(longest, batch.length)
            ids[batch.rows, :width] = made[-1, :len(batch.rows), :width]
            steps[:, batch.rows, :width] = made[:-1, :len(batch.rows), :width]
        padding = padding_of(torch.tensor(token_lens, device=ids.device), longest)
        return Generated(ids.masked_fill(padding, padding_value), steps)

    def _unmasked(self, ids: Tensor, padding: Tensor, noise: Tensor, cond: Tensor, negative: Tensor | None, *,
                  sampling: Sampling) -> Tensor:
        """Generate the masked tokens of ``ids`` (b, n) with ``noise`` (b, timesteps, n, ...).

        Returns the input of each step and the result, (timesteps + 1, b, n).
        """
        timesteps = noise.shape[1]
        shares = cosine_mask_ratio(torch.linspace(0, 1, timesteps))
        fixed = ids != self.mask_id
        free = (~fixed).sum(1)
        scores = torch.zeros(ids.shape, device=ids.device).masked_fill(fixed, KEPT)
        steps = []
        # The number of masked positions differs between samples. To avoid waiting for the device, each step computes
        # the maximum number for this length, and ``masked`` selects the positions that are really masked.
        most = (shares * ids.shape[1]).round().clamp_min(1).long().tolist()
        for step, share in enumerate(shares.tolist()):
            at = scores.argsort(dim=1, stable=True)[:, :most[step]]  # (b, c) positions of the least probable tokens
            counts = (share * free).round().clamp_min(1)
            masked = (torch.arange(most[step], device=ids.device) < counts[:, None]) & ~fixed.gather(1, at)
            ids = ids.scatter(1, at, ids.gather(1, at).masked_fill(masked, self.mask_id))
            steps.append(ids)
            logits = self.guided_logits(ids, cond, padding, sampling.cond_scale, at, negative)
            drawn = sample_tokens(logits, sampling.topkr, sampling.temperature, sampling.gumbel_sample,
                                  take_positions(noise[:, step], at))
            ids = ids.scatter(1, at, torch.where(masked, drawn, ids.gather(1, at)))
            certainty = F.softmax(logits, -1).gather(-1, drawn[..., None]).squeeze(-1)
            scores = torch.full_like(scores, KEPT).scatter(1, at, certainty.masked_fill(~masked, KEPT))
            report_step("tokens", step + 1, timesteps)
        return torch.stack([*steps, ids])


TEXT_LENGTH = 49  # number of word pieces to which released models pad and truncate texts
UNUSED = ("clip2qformer.weight", "clip2qformer.bias")  # unused parameters of released checkpoints


@dataclass(frozen=True)
class TextCondition:
    """Text features for the transformer, and intermediate states."""

    cond: Tensor    # (b, h) text features
    hidden: Tensor  # (b, t, h) hidden states of the text alone
    states: Tensor  # (b, t, encoder_width) states that the queries attend to


class LaMPMaskTransformer(MaskTransformer):
    """Masked transformer with its own text encoder, as in released LaMP checkpoints."""

    def __init__(self, config: MaskTransformerConfig, qformer: QFormerConfig) -> None:
        super().__init__(config)
        self.Qformer = QFormer(qformer)
        self.query_tokens = nn.Parameter(torch.randn(1, qformer.num_query_tokens, qformer.hidden) * INIT_STD)
        self.text2former = Linear(qformer.hidden, qformer.encoder_width)
        self.clip2qformer = Linear(CLIP_WIDTH, qformer.hidden)
        self.register_load_state_dict_pre_hook(_complete_state)

    def text_condition(self, ids: Tensor, mask: Tensor) -> TextCondition:
        """Encode word pieces ``ids`` (b, t) to text features. ``mask`` (b, t) is 1 or True at words.

        The queries also attend to padding, so texts must be padded to ``TEXT_LENGTH`` as in the released model.
        """
        hidden = self.Qformer.text(ids, mask)
        states = self.text2former(hidden)
        return TextCondition(self.Qformer.query(self.query_tokens, states).hidden.mean(1), hidden, states)


class ReleasedText:
    """Text encoder of a released transformer. ``fingerprint`` is a hash of its weights, used in cache keys."""

    def __init__(self, model: LaMPMaskTransformer, pieces: WordPieces, fingerprint: str = "") -> None:
        self.model, self.pieces = model.eval(), pieces
        self.dim = model.Qformer.config.hidden
        self.fingerprint = f"released {fingerprint}"

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Encode texts to features (b, dim), float32, on the device of the model."""
        made = self.pieces.encode(texts, TEXT_LENGTH, TEXT_LENGTH)
        device = self.model.query_tokens.device
        return self.model.text_condition(made.ids.to(device), made.mask.to(device)).cond.float()


def _complete_state(module: LaMPMaskTransformer, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Add the unused parameters to a state dict that lacks them."""
    for name, tensor in module.clip2qformer.state_dict().items():
        state.setdefault(f"{prefix}clip2qformer.{name}", tensor)


class ClipText:
    """Frozen CLIP text encoder. Features are the projected hidden state of the end-of-text token, not normalised.

    ``source`` is a folder in the Hugging Face layout, or the name of a model on the hub. Raises ``InputError`` if the
    model is incomplete or ``transformers`` is not installed.
    """

    def __init__(self, source: str | Path = CLIP_NAME, device: torch.device | str = "cpu") -> None:
        try:
            from transformers import CLIPTextModelWithProjection, CLIPTokenizerFast
        except ImportError as error:
            raise InputError("CLIP text features need the package transformers: pip install transformers") from error
        folder = model_folder(source, "CLIP", CLIP_FILES)
        if not any((folder / name).is_file() for name in CLIP_TOKENIZERS):  # the library would create an empty one
            raise InputError(f"CLIP {folder} has no tokenizer: neither {' nor '.join(CLIP_TOKENIZERS)}")
        try:
            with silent_transformers():
                self.tokenizer = CLIPTokenizerFast.from_pretrained(folder)
                model, report = CLIPTextModelWithProjection.from_pretrained(
                    folder, output_loading_info=True, ignore_mismatched_sizes=True)
        except Exception as error:  # transformers raises many kinds of errors for unusable files
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(f"CLIP {folder} cannot be loaded: {reason}") from error
        # The library initialises missing weights at random.
        absent = sorted([*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])])
        if absent:
            raise InputError(f"CLIP {folder} cannot be loaded: no {absent[0]} of the size in config.json")
        self.model = model.float().to(device).eval().requires_grad_(False)
        self.device = device
        self.dim = self.model.config.projection_dim
        projection = self.model.text_projection.weight.cpu().numpy().tobytes()
        # The name of a folder does not identify its weights.
        self.fingerprint = f"clip {source} {hashlib.sha256(projection).hexdigest()}"

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Encode texts, truncated to CLIP's 77 tokens, to features (b, dim), float32."""
        pieces = self.tokenizer(list(texts), padding="max_length", truncation=True, return_tensors="pt",
                                max_length=self.model.config.max_position_embeddings)
        return self.model(**pieces.to(self.device)).text_embeds.float()
