"""Residual transformer, which predicts the tokens of a layer from all layers below (MoMask, section 3.3)."""
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.config import DEFAULT_SAMPLING, INIT_STD, RESIDUAL_SAMPLING, ResidualTransformerConfig, Sampling
from models.layers import Linear, is_packed
from models.transformers.trunk import (
    TokenLoss,
    Trunk,
    attention_mask,
    cosine_mask_ratio,
    needed_width,
    padding_of,
    sample_tokens,
    static_batches,
    token_loss,
)
from utils.runtime import WHOLE, BatchSlice, report_step


class ResidualTransformer(Trunk):
    """Transformer that predicts the residual layers 1 to q-1, one layer per forward pass.

    Token ids 0 to K-1 are codes; K is padding, which also has a class in the logits.
    """

    config: ResidualTransformerConfig

    def __init__(self, config: ResidualTransformerConfig) -> None:
        super().__init__(config, config.code_dim)
        self.pad_id = config.num_tokens
        q = config.num_quantizers
        if q < 2:
            raise ValueError(f"num_quantizers is {q}, so there is no residual layer to predict")
        self.quant_emb = Linear(q, config.latent_dim)
        if config.share_weight:
            self.token_embed_weight_ = self._table(1)
            self.embed_proj_shared_weight = self._table(q - 2)
            self.output_proj_weight_ = self._table(1)
        else:
            self.token_embed_weight = self._table(q - 1)
            self.output_proj_weight = self._table(q - 1)
            self.output_proj_bias = nn.Parameter(torch.zeros(q, config.num_tokens + 1))  # the last row is never used
        self.initialise()

    def _table(self, layers: int) -> nn.Parameter:
        return nn.Parameter(torch.randn(layers, self.config.num_tokens + 1, self.config.code_dim) * INIT_STD)

    def initialise_from(self, codebooks: Tensor) -> None:
        """Initialise embeddings and output weights from the tokenizer's ``codebooks`` (q, K, code_dim)."""
        if self.config.share_weight:
            tables = [*self.token_embed_weight_, *self.embed_proj_shared_weight, *self.output_proj_weight_]
        else:
            tables = [*self.token_embed_weight, self.output_proj_weight[-1]]
        self.start_codes(tables, codebooks)
        if not self.config.share_weight:
            with torch.no_grad():
                self.output_proj_weight[:-1] = self.token_embed_weight[1:]

    def input_tables(self) -> Tensor:
        """Return the embedding tables (q-1, K+1, code_dim) of layers 0 to q-2."""
        if self.config.share_weight:
            return torch.cat([self.token_embed_weight_, self.embed_proj_shared_weight])
        return self.token_embed_weight

    def output_tables(self) -> Tensor:
        """Return the output weights (q-1, K+1, code_dim) of layers 1 to q-1."""
        if self.config.share_weight:
            return torch.cat([self.embed_proj_shared_weight, self.output_proj_weight_])
        return self.output_proj_weight

    def forward(self, history: Tensor, layers: Tensor, cond: Tensor, padding: Tensor | None = None) -> Tensor:
        """Compute hidden states (b, n, code_dim) for predicting one layer of each sample.

        Args:
            history: (b, n, code_dim) sum of the embeddings of the layers below.
            layers: (b,) layers to predict, from 1 to q-1.
            cond: (b, c) text features.
            padding: (b, n) True at padding.
        """
        layer = self.quant_emb(F.one_hot(layers, self.config.num_quantizers).to(self.quant_emb.weight.dtype))
        prefix = torch.stack([self.embed_condition(cond), layer], 1)
        return self.encode(history, prefix, attention_mask("full", 2, history.shape[1], padding, history.device))

    def project(self, hidden: Tensor, layers: Tensor) -> Tensor:
        """Compute logits (b, n, K+1), float32, of ``layers`` (b,) from hidden states (b, n, code_dim)."""
        tables = self.output_tables()[layers - 1]
        logits = (hidden.to(tables.dtype) @ tables.transpose(1, 2)).float()
        if self.config.share_weight:
            return logits
        doubled = 2 if self.config.published else 1
        return doubled * logits + self.output_proj_bias[layers - 1][:, None]

    def guided_logits(self, history: Tensor, layers: Tensor, cond: Tensor, padding: Tensor | None,
                      cond_scale: float | Tensor, negative: Tensor | None = None) -> Tensor:
        """Compute logits (b, n, K+1), float32, with classifier-free guidance of scale ``cond_scale``.

        ``negative`` (b, c) are text features to guide away from, by default zeros, which mean no text.
        """
        if not isinstance(cond_scale, Tensor) and cond_scale == 1:
            return self.project(self(history, layers, cond, padding), layers)
        negative = torch.zeros_like(cond) if negative is None else negative
        hidden = self(history.repeat(2, 1, 1), layers.repeat(2), torch.cat([cond, negative]),
                      None if padding is None else padding.repeat(2, 1)).float()
        conditional, unconditional = hidden.unflatten(0, (2, -1))
        # Logits are affine in the hidden states, so guidance can be applied before the projection.
        return self.project(unconditional + cond_scale * (conditional - unconditional), layers)

    def history_of(self, ids: Tensor, layers: Tensor) -> Tensor:
        """Sum the embeddings of ``ids`` (b, n, q) over the layers below ``layers`` (b,). Returns (b, n, code_dim)."""
        tables = self.input_tables()
        below = torch.arange(len(tables), device=ids.device)  # (q-1,)
        rows = ids[..., :-1] + below * tables.shape[1]
        used = (below < layers[:, None]).to(tables.dtype)     # (b, q-1)
        return torch.einsum("bnqc,bq->bnc", F.embedding(rows, tables.flatten(0, 1)), used)

    def draw_layers(self, count: int, generator: torch.Generator, batch_slice: BatchSlice = WHOLE) -> Tensor:
        """Sample the layers (count,) to train on, from 1 to q-1. Lower layers are sampled more often."""
        progress = batch_slice.rand(generator, count)
        return ((1 - cosine_mask_ratio(progress)) * (self.config.num_quantizers - 2)).round().long() + 1

    def loss(self, ids: Tensor, cond: Tensor, token_lens: Tensor, generator: torch.Generator,
             layers: Tensor | None = None, batch_slice: BatchSlice = WHOLE) -> TokenLoss:
        """Compute the loss of predicting one layer per sample. By default, ``layers`` (b,) are sampled.

        ``ids`` (b, n, q) are tokens, ``cond`` (b, c) are text features, and ``token_lens`` (b,) are lengths in tokens.
        """
        if layers is None:
            layers = self.draw_layers(len(ids), generator, batch_slice).to(ids.device, non_blocking=True)
        ids = ids[:, :needed_width(token_lens, ids.shape[1])]
        padding = padding_of(token_lens, ids.shape[1])
        ids = ids.masked_fill(padding[..., None], self.pad_id)
        cond = self.drop_condition(cond, generator, batch_slice)
        logits = self.project(self(self.history_of(ids, layers), layers, cond, padding), layers)
        labels = ids.gather(2, layers[:, None, None].expand(-1, ids.shape[1], 1)).squeeze(2)
        return token_loss(logits, labels, self.pad_id)

    @torch.no_grad()
    def generate(self, base: Tensor, cond: Tensor, token_lens: Sequence[int], generators: Sequence[torch.Generator],
                 sampling: Sampling = DEFAULT_SAMPLING, *, known: Tensor | None = None,
                 negative: Tensor | None = None) -> Tensor:
        """Generate the residual layers for base-layer tokens ``base`` (b, n).

        ``known`` (b, n, q) has the tokens to keep, and negative values where tokens are generated. Other arguments and
        errors are as in ``MaskTransformer.generate``. Returns the tokens (b, n, q) of all layers, -1 at padding.
        """
        token_lens = self.checked_lengths(token_lens, generators, cond, base)
        layers, classes = self.config.num_quantizers - 1, self.config.num_tokens + self.config.published
        used = sampling.only(("topkr", *RESIDUAL_SAMPLING))
        ids = base.new_full((*base.shape, self.config.num_quantizers), -1)
        for batch in static_batches(token_lens, base.device, sampling.group_rows, independent=is_packed(self)):
            inputs = self.sampling_inputs(batch, cond, negative, token_lens, generators, layers, (classes,))
            start = batch.take_tokens(base).masked_fill(inputs[0], self.pad_id)
            given = None if known is None else batch.take_tokens(known)
            part = self.run_loop(self._layers_above, start, *inputs, given, sampling=used)
            width = min(base.shape[1], batch.length)
            ids[batch.rows, :width] = part[:len(batch.rows), :width]
        return ids

    def _layers_above(self, base: Tensor, padding: Tensor, noise: Tensor, cond: Tensor, negative: Tensor | None,
                      given: Tensor | None, *, sampling: Sampling) -> Tensor:
        """Generate layers 1 to q-1 from ``base`` (b, n) with ``noise`` (b, q-1, n, classes). Returns (b, n, q).

        Non-negative values in ``given`` (b, n, q) replace the generated tokens.
        """
        layers = self.config.num_quantizers - 1
        ids, history, tables = [base], 0, self.input_tables()
        for layer in range(1, self.config.num_quantizers):
            history = history + tables[layer - 1][ids[-1]]
            numbers = torch.full((len(base),), layer, device=base.device)
            logits = self.guided_logits(history, numbers, cond, padding, sampling.res_cond_scale, negative)
            if not self.config.published:
                logits = logits[..., :-1]
            drawn = sample_tokens(logits, sampling.topkr, sampling.res_temperature, True, noise[:, layer - 1])
            if given is not None:
                drawn = torch.where(given[..., layer] >= 0, given[..., layer], drawn)
            ids.append(drawn.masked_fill(padding, self.pad_id))
            report_step("residual layers", layer, layers)
        made = torch.stack(ids, -1)
        return made.masked_fill(made == self.pad_id, -1)
