"""Q-Former: a BERT with learned queries, which attend to motion or text states by cross-attention.

Queries and text share self-attention layers and have separate feed-forward blocks (BLIP-2; Li et al. 2023, sec. 3.1).
Parameters have the names used in published checkpoints.
"""
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.config import QFormerConfig
from models.layers import Linear, attention_bias, initialise

PAD_ID = 0  # [PAD] of every BERT vocabulary
TIED_NAMES = {  # parameters that have two names in a state dict
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}
POSITION_IDS = "bert.embeddings.position_ids"

Cache = tuple[Tensor, Tensor]  # keys and values, each (b, heads, n, width of a head)


@dataclass(frozen=True)
class QueryPass:
    """Output of the queries after attending to motion or text states."""

    hidden: Tensor      # (b, queries, h)
    cache: list[Cache]  # self-attention keys and values of each layer, for ``QFormer.language_model``


class Attention(nn.Module):
    """Multi-head attention with residual connection and layer norm."""

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
        """Attend from ``x`` (b, n, h) to ``prefix``, if given, and ``source`` (b, s, w).

        Args:
            mask: (b or 1, 1, n or 1, prefix + s) boolean, True at visible keys, or an additive bias.
            prefix: cached keys and values.
            rows: (b,) row of ``source`` (m, s, w) that each row of ``x`` attends to.

        Returns the output (b, n, h), and the keys and values of ``source``.
        """
        query = self._split(self.self["query"](x))
        own = self._split(self.self["key"](source)), self._split(self.self["value"](source))
        if rows is not None:
            own = own[0][rows], own[1][rows]
        key, value = own if prefix is None else (torch.cat(pair, 2) for pair in zip(prefix, own, strict=True))
        dropout = self.dropout if self.training else 0.0
        if x.device.type == "cpu" and query.dtype != torch.float32:
            # On the CPU, the bfloat16 kernel is ten times slower than the float32 kernel at these sizes.
            query, key, value = query.float(), key.float(), value.float()
            with torch.autocast("cpu", enabled=False):
                context = F.scaled_dot_product_attention(query, key, value, mask, dropout)
        else:
            context = F.scaled_dot_product_attention(query, key, value, mask, dropout)
        return self.output(context.transpose(1, 2).flatten(2).to(x.dtype), x), own

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (b, heads, n, h / heads)


class ResidualNorm(nn.Module):
    """Projection of an update, followed by dropout, residual connection and layer norm."""

    def __init__(self, config: QFormerConfig, width: int) -> None:
        super().__init__()
        self.dense = Linear(width, config.hidden)
        self.LayerNorm = nn.LayerNorm(config.hidden, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, update: Tensor, x: Tensor) -> Tensor:
        return self.LayerNorm(x + self.dropout(self.dense(update)))


class Layer(nn.Module):
    """Q-Former layer: shared self-attention, cross-attention of the queries, and separate feed-forward blocks."""

    def __init__(self, config: QFormerConfig, cross: bool) -> None:
        super().__init__()
        self.attention = Attention(config, config.hidden)
        self.crossattention = Attention(config, config.encoder_width) if cross else None
        self.intermediate = nn.ModuleDict({"dense": Linear(config.hidden, config.intermediate)})
        self.output = ResidualNorm(config, config.intermediate)
        self.intermediate_query = nn.ModuleDict({"dense": Linear(config.hidden, config.intermediate)})
        self.output_query = ResidualNorm(config, config.intermediate)

    def forward(self, x: Tensor, queries: int, mask: Tensor | None, states: Tensor | None, states_mask: Tensor | None,
                prefix: Cache | None, rows: Tensor | None = None) -> tuple[Tensor, Cache]:
        x, cache = self.attention(x, x, mask, prefix)  # (b, queries + text, h)
        parts = []
        if queries:
            query = x[:, :queries]
            if self.crossattention is not None:
                query, _ = self.crossattention(query, states, states_mask, rows=rows)
            parts.append(self.output_query(self.intermediate_query.dense(query, "gelu"), query))
        if queries < x.shape[1]:
            text = x[:, queries:]
            parts.append(self.output(self.intermediate.dense(text, "gelu"), text))
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1), cache


class Embeddings(nn.Module):
    """Input embeddings: queries without positions, followed by words with positions."""

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


class _Predictions(nn.Module):
    """Language-model head, whose output weights are the word embeddings."""

    def __init__(self, config: QFormerConfig, words: nn.Parameter) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(config.vocab))
        self.transform = nn.ModuleDict({
            "dense": Linear(config.hidden, config.hidden),
            "LayerNorm": nn.LayerNorm(config.hidden, eps=config.layer_norm_eps),
        })
        self.decoder = Linear(config.hidden, config.vocab)
        self.decoder.weight = words
        self.decoder.bias = self.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.transform.LayerNorm(self.transform.dense(x, "gelu")))


class QFormer(nn.Module):
    """Q-Former without its query tokens, which are arguments of the methods.

    In all methods, ``ids`` (b, t) are word pieces. ``mask`` (b, t) for text and ``states_mask`` (b, s) are 1 or True at
    visible positions. Each row needs at least one visible position.
    """

    def __init__(self, config: QFormerConfig) -> None:
        super().__init__()
        self.config = config
        embeddings = Embeddings(config)
        layers = nn.ModuleList(
            Layer(config, cross=index % config.cross_attention_freq == 0) for index in range(config.layers))
        self.bert = nn.ModuleDict({"embeddings": embeddings, "encoder": nn.ModuleDict({"layer": layers})})
        self.cls = nn.ModuleDict({"predictions": _Predictions(config, embeddings.word_embeddings.weight)})
        self.apply(initialise)
        self.copy_text_to_query_feed_forward()
        self.register_load_state_dict_pre_hook(_complete_state)

    def text(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Encode text with bidirectional attention. Returns hidden states (b, t, h)."""
        hidden, _ = self._run(self.bert.embeddings(ids), 0, _keys(mask))
        return hidden

    def query(self, queries: Tensor, states: Tensor, states_mask: Tensor | None = None) -> QueryPass:
        """Run ``queries`` (1 or b, n, h), which attend to each other and to ``states`` (b, s, encoder_width)."""
        queries = queries.expand(len(states), -1, -1)
        hidden, cache = self._run(
            self.bert.embeddings(None, queries), queries.shape[1], None, states, _keys(states_mask))
        return QueryPass(hidden, cache)

    def joint(self, queries: Tensor, ids: Tensor, mask: Tensor | None, states: Tensor,
              states_mask: Tensor | None = None, rows: Tensor | None = None) -> Tensor:
        """Encode queries and text together with bidirectional attention. Returns hidden states (b, n + t, h).

        Queries also attend to ``states`` (b, s, encoder_width): those of row i attend to row i or, with ``rows`` (b,),
        to row ``rows[i]``.
        """
        queries = queries.expand(len(ids), -1, -1)
        if mask is not None:
            mask = F.pad(mask.bool(), (queries.shape[1], 0), value=True)
        hidden, _ = self._run(
            self.bert.embeddings(ids, queries), queries.shape[1], _keys(mask), states, _keys(states_mask), rows=rows)
        return hidden

    def language_model(self, ids: Tensor, mask: Tensor | None, prefix: list[Cache]) -> Tensor:
        """Encode text with causal attention. Text also attends to the queries, through ``prefix``.

        ``prefix`` is the cache of ``query``. The first word piece should be [DEC]. Returns hidden states (b, t, h), the
        input of ``lm_logits``.
        """
        queries, length = prefix[0][0].shape[2], ids.shape[1]
        visible = torch.ones(length, length, dtype=torch.bool, device=ids.device).tril()[None, None]
        if mask is not None:
            visible = visible & _keys(mask)
        hidden, _ = self._run(self.bert.embeddings(ids), 0, F.pad(visible, (queries, 0), value=True), prefix=prefix)
        return hidden

    def lm_logits(self, hidden: Tensor) -> Tensor:
        """Compute next-word logits (..., vocab) from hidden states (..., h)."""
        return self.cls.predictions(hidden)

    def copy_text_to_query_feed_forward(self) -> None:
        """Copy the weights of the text's feed-forward blocks to the queries' feed-forward blocks."""
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
    """Expand a mask (b, s) of visible keys to (b, 1, 1, s)."""
    return None if mask is None else mask.bool()[:, None, None, :]


def _complete_state(module: QFormer, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Fill in tied parameters and position ids that a state dict lacks."""
    for tied, source in TIED_NAMES.items():
        if prefix + source in state:
            state.setdefault(prefix + tied, state[prefix + source])
    state.setdefault(prefix + POSITION_IDS, module.bert.embeddings.position_ids)
