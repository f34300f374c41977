"""The Q-Former: a BERT with learned queries as a second input, which attend to other states by cross-attention.

Queries and text share self-attention weights and have separate feed-forward blocks (Li et al. 2023, BLIP-2, section
3.1). The same weights run in four ways, a method each: ``text`` alone, ``query`` alone, ``joint``, and
``language_model`` on the cached query pass. Parameter names are those of published checkpoints.
"""
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.config import INIT_STD
from models.layers import Linear, attention_bias

OPTION_PREFIX = "qformer_"
PAD_ID = 0  # [PAD] of every BERT vocabulary
TIED_NAMES = {  # one tensor each, under two names in a state dict
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}
POSITION_IDS = "bert.embeddings.position_ids"

Cache = tuple[Tensor, Tensor]  # keys and values, each (b, heads, n, width of a head)


@dataclass(frozen=True)
class QFormerConfig:
    """Sizes of a Q-Former; the defaults are the published ones (BERT base)."""

    hidden: int = 768
    layers: int = 12
    heads: int = 12
    intermediate: int = 3072
    max_positions: int = 512
    vocab: int = 30523            # BERT's word pieces and [DEC]
    encoder_width: int = 1408     # of the states that queries attend to
    cross_attention_freq: int = 2  # period of layers with cross-attention, from the first
    num_query_tokens: int = 49
    dropout: float = 0.1
    attention_dropout: float = 0.1  # dropout on attention weights; 0 allows the fast CPU kernel in training
    layer_norm_eps: float = 1e-12

    def __post_init__(self) -> None:
        if self.hidden % self.heads:
            raise ValueError(f"hidden {self.hidden} is not a multiple of {self.heads} heads")

    def to_options(self) -> dict[str, Any]:
        """Flat options with the prefix ``qformer_``."""
        return {OPTION_PREFIX + name: value for name, value in asdict(self).items()}

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> "QFormerConfig":
        """Select the sizes from a larger mapping; missing ones are the published sizes."""
        names = (field.name for field in fields(cls))
        return cls(**{name: options[OPTION_PREFIX + name] for name in names if OPTION_PREFIX + name in options})


@dataclass(frozen=True)
class QueryPass:
    """Hidden states and cache of the queries after attending to states."""

    hidden: Tensor      # (b, queries, h)
    cache: list[Cache]  # self-attention keys and values of each layer, the prefix of the language model


class Attention(nn.Module):
    """Multi-head attention and its residual: ``norm(x + dense(attend(x, source)))``."""

    def __init__(self, config: QFormerConfig, source_width: int) -> None:
        super().__init__()
        self.heads = config.heads
        self.dropout = config.attention_dropout
        self.self = nn.ModuleDict({
            "query": Linear(config.hidden, config.hidden),
            "key": Linear(source_width, config.hidden),
            "value": Linear(source_width, config.hidden),
        })
        self.output = ResidualNorm(config, config.hidden)

    def forward(self, x: Tensor, source: Tensor, mask: Tensor | None = None, prefix: Cache | None = None,
                rows: Tensor | None = None) -> tuple[Tensor, Cache]:
        """Attend from x (b, n, h) to source (b, s, w), after a cached prefix if given; with ``rows`` (b,), to
        these rows of source (m, s, w).

        ``mask`` is boolean, (b or 1, 1, n or 1, prefix + s), True at visible keys. Also returns the keys and
        values of the source.
        """
        query = self._split(self.self["query"](x))
        own = self._split(self.self["key"](source)), self._split(self.self["value"](source))
        if rows is not None:
            own = own[0][rows], own[1][rows]
        key, value = own if prefix is None else (torch.cat(pair, 2) for pair in zip(prefix, own, strict=True))
        dropout = self.dropout if self.training else 0.0
        if x.device.type == "cpu" and query.dtype != torch.float32:
            # The CPU's bfloat16 kernel is an order of magnitude slower than its float32 one at these sizes.
            query, key, value = query.float(), key.float(), value.float()
            with torch.autocast("cpu", enabled=False):
                context = F.scaled_dot_product_attention(query, key, value, mask, dropout)
        else:
            context = F.scaled_dot_product_attention(query, key, value, mask, dropout)
        return self.output(context.transpose(1, 2).flatten(2).to(x.dtype), x), own

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (b, heads, n, h / heads)


class ResidualNorm(nn.Module):
    """``norm(x + dropout(dense(update)))``."""

    def __init__(self, config: QFormerConfig, width: int) -> None:
        super().__init__()
        self.dense = Linear(width, config.hidden)
        self.LayerNorm = nn.LayerNorm(config.hidden, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, update: Tensor, x: Tensor) -> Tensor:
        return self.LayerNorm(x + self.dropout(self.dense(update)))


class Intermediate(nn.Module):
    """First half of a feed-forward block."""

    def __init__(self, config: QFormerConfig) -> None:
        super().__init__()
        self.dense = Linear(config.hidden, config.intermediate)

    def forward(self, x: Tensor) -> Tensor:
        return self.dense(x, "gelu")


class Layer(nn.Module):
    """Self-attention over queries and text, cross-attention of the queries, and separate feed-forward blocks."""

    def __init__(self, config: QFormerConfig, cross: bool) -> None:
        super().__init__()
        self.attention = Attention(config, config.hidden)
        self.crossattention = Attention(config, config.encoder_width) if cross else None
        self.intermediate = Intermediate(config)
        self.output = ResidualNorm(config, config.intermediate)
        self.intermediate_query = Intermediate(config)
        self.output_query = ResidualNorm(config, config.intermediate)

    def forward(self, x: Tensor, queries: int, mask: Tensor | None, states: Tensor | None, states_mask: Tensor | None,
                prefix: Cache | None, rows: Tensor | None = None) -> tuple[Tensor, Cache]:
        x, cache = self.attention(x, x, mask, prefix)  # (b, queries + text, h)
        parts = []
        if queries:
            query = x[:, :queries]
            if self.crossattention is not None:
                query, _ = self.crossattention(query, states, states_mask, rows=rows)
            parts.append(self.output_query(self.intermediate_query(query), query))
        if queries < x.shape[1]:
            text = x[:, queries:]
            parts.append(self.output(self.intermediate(text), text))
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1), cache


class Embeddings(nn.Module):
    """Embeddings of queries, without positions, then of words, with positions."""

    def __init__(self, config: QFormerConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab, config.hidden, padding_idx=PAD_ID)
        self.position_embeddings = nn.Embedding(config.max_positions, config.hidden)
        self.LayerNorm = nn.LayerNorm(config.hidden, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)
        self.register_buffer("position_ids", torch.arange(config.max_positions).unsqueeze(0))

    def forward(self, ids: Tensor | None, queries: Tensor | None = None) -> Tensor:
        parts = [] if queries is None else [queries]
        if ids is not None:
            positions = self.position_embeddings(self.position_ids[:, :ids.shape[1]])
            parts.append(self.word_embeddings(ids) + positions)
        return self.dropout(self.LayerNorm(torch.cat(parts, 1)))


class _Encoder(nn.Module):
    def __init__(self, config: QFormerConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(
            Layer(config, cross=index % config.cross_attention_freq == 0) for index in range(config.layers))


class _Bert(nn.Module):
    def __init__(self, config: QFormerConfig) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = _Encoder(config)


class _Transform(nn.Module):
    def __init__(self, config: QFormerConfig) -> None:
        super().__init__()
        self.dense = Linear(config.hidden, config.hidden)
        self.LayerNorm = nn.LayerNorm(config.hidden, eps=config.layer_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.LayerNorm(self.dense(x, "gelu"))


class _Predictions(nn.Module):
    """Language-model head; its output layer shares the word embeddings."""

    def __init__(self, config: QFormerConfig, words: nn.Parameter) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(config.vocab))
        self.transform = _Transform(config)
        self.decoder = Linear(config.hidden, config.vocab)
        self.decoder.weight = words
        self.decoder.bias = self.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.transform(x))


class _Head(nn.Module):
    def __init__(self, config: QFormerConfig, words: nn.Parameter) -> None:
        super().__init__()
        self.predictions = _Predictions(config, words)


class QFormer(nn.Module):
    """See the module. Ids are (b, t) int64; text masks (b, t) and state masks (b, s) are 1 or True if visible.

    A mask needs at least one visible position in every row. The learned query tokens (1, queries, h) belong to the
    surrounding model and are an argument of each call.
    """

    def __init__(self, config: QFormerConfig) -> None:
        super().__init__()
        self.config = config
        self.bert = _Bert(config)
        self.cls = _Head(config, self.bert.embeddings.word_embeddings.weight)
        self.apply(_initialise)
        self.copy_text_to_query_feed_forward()
        self.register_load_state_dict_pre_hook(_complete_state)

    def text(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Hidden states (b, t, h) of text alone, with bidirectional attention."""
        hidden, _ = self._run(self.bert.embeddings(ids), 0, _keys(mask))
        return hidden

    def embed_text(self, ids: Tensor) -> Tensor:
        """Embedded text (b, t, h), the input of the first layer."""
        return self.bert.embeddings(ids)

    def query(self, queries: Tensor, states: Tensor, states_mask: Tensor | None = None) -> QueryPass:
        """Queries (1 or b, n, h) attend to states (b, s, encoder_width) and to each other."""
        queries = queries.expand(len(states), -1, -1)
        hidden, cache = self._run(
            self.bert.embeddings(None, queries), queries.shape[1], None, states, _keys(states_mask))
        return QueryPass(hidden, cache)

    def joint(self, queries: Tensor, ids: Tensor, mask: Tensor | None, states: Tensor,
              states_mask: Tensor | None = None, rows: Tensor | None = None) -> Tensor:
        """Hidden states (b, n + t, h) of queries and text, with bidirectional attention; queries also attend to states
        (b, s, encoder_width), or with ``rows`` (b,) to these rows of states (m, s, encoder_width), mask (b, s)."""
        queries = queries.expand(len(ids), -1, -1)
        if mask is not None:
            mask = F.pad(mask.bool(), (queries.shape[1], 0), value=True)
        hidden, _ = self._run(
            self.bert.embeddings(ids, queries), queries.shape[1], _keys(mask), states, _keys(states_mask), rows=rows)
        return hidden

    def language_model(self, ids: Tensor, mask: Tensor | None, prefix: list[Cache]) -> Tensor:
        """Hidden states (b, t, h) of text that attends causally, after the cached query pass.

        The first id should be [DEC]. ``lm_logits`` maps the result to word logits.
        """
        queries, length = prefix[0][0].shape[2], ids.shape[1]
        visible = torch.ones(length, length, dtype=torch.bool, device=ids.device).tril()[None, None]
        if mask is not None:
            visible = visible & _keys(mask)
        hidden, _ = self._run(self.bert.embeddings(ids), 0, F.pad(visible, (queries, 0), value=True), prefix=prefix)
        return hidden

    def lm_logits(self, hidden: Tensor) -> Tensor:
        """Logits (..., vocab) of the next word piece after hidden states (..., h)."""
        return self.cls.predictions(hidden)

    def copy_text_to_query_feed_forward(self) -> None:
        """Initialise the queries' feed-forward blocks with those of the text."""
        for layer in self.bert.encoder.layer:
            layer.intermediate_query.load_state_dict(layer.intermediate.state_dict())
            layer.output_query.load_state_dict(layer.output.state_dict())

    def _run(self, x: Tensor, queries: int, mask: Tensor | None, states: Tensor | None = None,
             states_mask: Tensor | None = None, prefix: list[Cache] | None = None,
             rows: Tensor | None = None) -> tuple[Tensor, list[Cache]]:
        mask, states_mask = attention_bias(mask, x.dtype), attention_bias(states_mask, x.dtype)
        caches = []
        for index, layer in enumerate(self.bert.encoder.layer):
            x, cache = layer(x, queries, mask, states, states_mask, None if prefix is None else prefix[index], rows)
            caches.append(cache)
        return x, caches


def _keys(mask: Tensor | None) -> Tensor | None:
    """A padding mask (b, s), expanded for heads and queries."""
    return None if mask is None else mask.bool()[:, None, None, :]


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=INIT_STD)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def _complete_state(module: QFormer, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Files may lack tied names and fixed position ids."""
    for tied, source in TIED_NAMES.items():
        if prefix + source in state:
            state.setdefault(prefix + tied, state[prefix + source])
    state.setdefault(prefix + POSITION_IDS, module.bert.embeddings.position_ids)
