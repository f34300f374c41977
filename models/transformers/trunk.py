"""The transformer of both token models: post-norm encoder layers with the published parameter names, and their loss.

Sequences are batch first, (b, n, dim); only the position table keeps its published layout, time first.
"""
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.config import ATTENTION_KINDS, TransformerConfig
from models.layers import Linear, linear, pack_weight, sinusoid_table
from utils.seeding import WHOLE, BatchSlice

POSITIONS = 5000
FIXED_TABLE = "position_enc.pe"  # not trained, so files may lack it
INIT_STD = 0.02


class SelfAttention(nn.Module):
    """Multi-head self attention with packed projections (Vaswani et al. 2017, section 3.2.2)."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"latent_dim {dim} must be a multiple of n_heads {heads}")
        self.heads = heads
        self.dropout = dropout
        self._packed: dict[tuple[int, int], Tensor] | None = None
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, x: Tensor, mask: Tensor | None, asked: Tensor | None = None) -> Tensor:
        """``x`` (b, s, dim); ``mask`` broadcasts to (b, heads, s, s): False masks, a number is added to the score.

        With ``asked`` (b, c, dim) only these attend to ``x``, and the mask is (b, heads, c, s).
        """
        dropout = self.dropout if self.training else 0.0
        if asked is None:
            query, key, value = self._project(x, 0, 3).chunk(3, -1)
        else:
            query = self._project(asked, 0, 1)
            key, value = self._project(x, 1, 3).chunk(2, -1)
        mixed = F.scaled_dot_product_attention(*map(self._split, (query, key, value)), attn_mask=mask,
                                               dropout_p=dropout)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))

    def pack(self) -> None:
        """Pack projections when first needed, in addition to the parameters (``models.layers``)."""
        self._packed = {}

    def _project(self, x: Tensor, first: int, end: int) -> Tensor:
        """Queries, keys and values, or some of these, side by side: (b, s, (end - first) dim)."""
        rows = slice(first * x.shape[-1], end * x.shape[-1])
        weight, bias = self.in_proj_weight[rows], self.in_proj_bias[rows]
        if self._packed is not None:
            if (first, end) not in self._packed:
                self._packed[first, end] = pack_weight(weight)
            weight = self._packed[first, end]
        return linear(x, weight, bias)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (b, heads, s, dim / heads)


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each followed by residual and layer norm."""

    def __init__(self, dim: int, heads: int, ff_size: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = SelfAttention(dim, heads, dropout)
        self.linear1 = Linear(dim, ff_size)
        self.linear2 = Linear(ff_size, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None, asked: Tensor | None = None) -> Tensor:
        """Outputs of ``x`` (b, s, dim), or of ``asked`` (b, c, dim), positions of it."""
        x = self.norm1((x if asked is None else asked) + self.dropout(self.self_attn(x, mask, asked)))
        h = self.linear2(self.dropout(self.linear1(x, "gelu")))
        return self.norm2(x + self.dropout(h))


class TransformerEncoder(nn.Module):
    """A stack of layers, each with its own initial weights."""

    def __init__(self, layers: int, dim: int, heads: int, ff_size: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(dim, heads, ff_size, dropout) for _ in range(layers))

    def forward(self, x: Tensor, mask: Tensor | None, at: Tensor | None = None) -> Tensor:
        """Outputs of ``x`` (b, s, dim) at all positions, or at those of ``at`` (b, c), which saves work."""
        *below, last = self.layers
        for layer in below:
            x = layer(x, mask)
        if at is None:
            return last(x, mask)
        if mask is not None and mask.shape[2] > 1:  # a row for every query
            mask = mask.expand(len(x), -1, -1, -1).gather(2, at[:, None, :, None].expand(-1, 1, -1, mask.shape[3]))
        return last(x, mask, take_positions(x, at))


class InputProcess(nn.Module):
    """Token embeddings to the width of the trunk."""

    def __init__(self, code_dim: int, dim: int) -> None:
        super().__init__()
        self.poseEmbedding = Linear(code_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.poseEmbedding(x)


class PositionalEncoding(nn.Module):
    """Adds the sinusoid table, then dropout.

    A state dict may lack the table, which is not trained.
    """

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.register_buffer("pe", sinusoid_table(POSITIONS, dim)[:, None])
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(x + self.pe[: x.shape[1], 0])

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        state_dict.setdefault(f"{prefix}pe", self.pe)
        super()._load_from_state_dict(state_dict, prefix, *args)


class OutputProcess(nn.Module):
    """Head: dense, GELU, layer norm, projection to the output width."""

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.dense = Linear(dim, dim)
        self.LayerNorm = nn.LayerNorm(dim, eps=1e-12)
        self.poseFinal = Linear(dim, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.dense.weight.dtype)  # float32 in a model of lower precision, see models.speed
        return self.poseFinal(self.LayerNorm(self.dense(x, "gelu")))


class Trunk(nn.Module):
    """Base of both token models: prefix tokens (text, layer) before motion tokens, encoder, head."""

    def __init__(self, config: TransformerConfig, out_dim: int) -> None:
        super().__init__()
        dim = config.latent_dim
        self.config = config
        self.input_process = InputProcess(config.code_dim, dim)
        self.position_enc = PositionalEncoding(dim, config.dropout)
        self.seqTransEncoder = TransformerEncoder(config.n_layers, dim, config.n_heads, config.ff_size, config.dropout)
        self.cond_emb = Linear(config.cond_dim, dim)
        self.output_process = OutputProcess(dim, out_dim)

    def initialise(self) -> None:
        """Initialise the weights, after all modules are created.

        The bias of ``cond_emb`` is the embedding of "no text", and with causal attention the only input of the first
        position. At zero, that position would have no variance in any layer, and every layer norm would multiply its
        gradient by 1 / sqrt(eps) = 316.
        """
        self.apply(initialise)
        nn.init.normal_(self.cond_emb.bias, std=INIT_STD)

    def encode(self, x: Tensor, prefix: Tensor, mask: Tensor | None, at: Tensor | None = None) -> Tensor:
        """Motion-token embeddings ``x`` (b, n, code_dim) after ``prefix`` (b, p, dim) to outputs (b, n, out_dim).

        ``mask`` covers all p + n positions (``attention_mask``). With ``at`` (b, c), outputs (b, c, out_dim) of these
        motion tokens only.
        """
        x = self.position_enc(self.input_process(x.to(self.input_process.poseEmbedding.weight.dtype)))
        if mask is not None and mask.is_floating_point():
            mask = mask.to(x.dtype)
        x = torch.cat([prefix.to(x.dtype), x], 1)
        if at is not None:
            return self.output_process(self.seqTransEncoder(x, mask, at + prefix.shape[1]))
        return self.output_process(self.seqTransEncoder(x, mask)[:, prefix.shape[1]:])

    @torch.no_grad()
    def start_codes(self, tables: Iterable[Tensor], codebooks: Tensor) -> None:
        """Initialise embedding ``tables`` (more than K, code_dim) with the codes (K, code_dim) of their layers.

        Codes are centred and scaled by the std of the first layer. With ``initialise``, tokens would be a hundredth
        of the position encoding, which costs thousands of training steps. Other rows (mask, padding) are normal.
        """
        centred = (codebooks - codebooks.mean(1, keepdim=True)).float()
        centred = centred / centred[0].std()
        for table, codes in zip(tables, centred, strict=True):
            table[:len(codes)] = codes
            nn.init.normal_(table[len(codes):])
        nn.init.normal_(self.input_process.poseEmbedding.weight, std=self.config.code_dim**-0.5)

    def embed_condition(self, cond: Tensor) -> Tensor:
        """Text features (b, c) projected to the trunk's width, (b, dim)."""
        return self.cond_emb(cond.to(self.cond_emb.weight.dtype))

    def drop_condition(self, cond: Tensor, generator: torch.Generator, batch_slice: BatchSlice = WHOLE) -> Tensor:
        """In training mode zero whole rows of ``cond`` (b, c) with probability ``cond_drop_prob``.

        The rows still pass through ``cond_emb``, so "no text" is its bias (classifier-free guidance, Ho and
        Salimans 2022).
        """
        if not self.training or self.config.cond_drop_prob == 0:
            return cond
        draw = batch_slice.rand(generator, len(cond), 1).to(cond.device, non_blocking=True)
        return cond * (draw >= self.config.cond_drop_prob)


def take_positions(x: Tensor, at: Tensor) -> Tensor:
    """Rows (b, c, ...) of ``x`` (b, s, ...) at the positions ``at`` (b, c)."""
    return x[torch.arange(len(x), device=x.device)[:, None], at]


def distinct_rows(parts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Find equal rows of tensors (b, n) taken together: indices (m,) of the distinct rows, and for each row (b,) the
    distinct row that it equals."""
    _, inverse = torch.cat([part.float() for part in parts], 1).unique(dim=0, return_inverse=True)
    order = torch.arange(len(inverse), device=inverse.device)
    first = order.new_full((int(inverse.max()) + 1,), len(order)).scatter_reduce(0, inverse, order, "amin")
    return first, inverse


def attention_mask(kind: str, prefix: int, length: int, padding: Tensor | None, device: torch.device) -> Tensor | None:
    """Mask for ``prefix`` + ``length`` positions, or None if nothing is masked.

    - ``causal``: masks keys after the query, and padding.
    - ``full``: masks padding.
    - ``additive``: as in the released LaMP, adds 1 to the scores of keys up to the query and masks nothing.

    ``padding`` (b, length), True at padding; the prefix is never masked. Returns a mask that broadcasts to
    (b, heads, s, s). Raises ``ValueError`` for another kind.
    """
    if kind not in ATTENTION_KINDS:
        raise ValueError(f"attention {kind!r} is not one of {', '.join(ATTENTION_KINDS)}")
    size = prefix + length
    past = torch.ones(size, size, dtype=torch.bool, device=device).tril()
    if kind == "additive":
        return past.float()[None, None]
    visible = None if padding is None else F.pad(~padding, (prefix, 0), value=True)[:, None, None]  # (b, 1, 1, s)
    if kind == "full":
        return visible
    return past[None, None] if visible is None else past & visible


def initialise(module: nn.Module) -> None:
    """For ``Module.apply``: N(0, 0.02) for linear and embedding weights, zero biases. Packed projections and
    layer norms keep their default initialisation."""
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=INIT_STD)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


@dataclass(frozen=True)
class TokenLoss:
    """Cross-entropy over the predicted positions."""

    loss: Tensor         # () mean over the predicted positions
    accuracy: Tensor     # () top-1, in [0, 1]
    predictions: Tensor  # (b, n) best class everywhere
    count: Tensor        # () number of predicted positions


def token_loss(logits: Tensor, labels: Tensor, ignore: int) -> TokenLoss:
    """Cross-entropy of logits (b, n, classes), in float32, with labels (b, n) that are not ``ignore``."""
    logits = logits.float()
    loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=ignore)
    predictions = logits.argmax(-1)
    counted = labels != ignore
    count = counted.sum()
    accuracy = ((predictions == labels) & counted).sum() / count.clamp_min(1)
    return TokenLoss(loss, accuracy, predictions, count)


def padding_of(token_lens: Tensor, length: int) -> Tensor:
    """(b, length), True from each length in ``token_lens`` (b,) on."""
    return torch.arange(length, device=token_lens.device) >= token_lens[:, None]


def needed_width(token_lens: Tensor, length: int) -> int:
    """Number of positions to compute for samples of ``token_lens`` (b,): on the CPU the longest length, elsewhere
    ``length``, to keep shapes fixed and avoid waiting for the device."""
    return min(length, int(token_lens.max())) if token_lens.device.type == "cpu" else length
