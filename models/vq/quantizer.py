"""Vector quantizers whose codebooks are learned by exponential moving averages (EMA), with resets of dead codes.

A code is dead if it is used less than once per step on average. It is replaced by a random vector from the batch, and
its running sums are reset. ``published`` reproduces the released code: code k is replaced by vector k of the batch, and
its sums continue to decay, so it is replaced at every step until enough vectors are assigned to it.

Statistics are summed over processes and micro-batches. The codebook is updated after the last micro-batch of a step.
"""
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.config import VQConfig
from models.layers import linear
from utils.runtime import WHOLE, BatchSlice, sample_columns

ALIVE = 1.0  # average uses per step below which a code is dead
TILE_NOISE = 0.01  # sqrt(dim) times the std of the noise on repeated vectors, if a batch has fewer vectors than codes


@dataclass(frozen=True)
class Quantized:
    """Output of one quantizer."""

    latent: Tensor      # (b, dim, n) chosen codes, with straight-through gradient
    codes: Tensor       # (b, n) int64
    commitment: Tensor  # scalar, mean squared distance to the chosen codes
    perplexity: Tensor  # scalar, exp of the entropy of the code usage


class EmaQuantizer(nn.Module):
    """Quantizer with a codebook (codes, dim) learned by moving averages (van den Oord et al. 2017, appendix A.1).

    As in published checkpoints, the state dict contains only ``codebook``. Training checkpoints also contain
    ``running_state``.
    """

    def __init__(self, codes: int, dim: int, mu: float = VQConfig.mu, published: bool = False) -> None:
        super().__init__()
        self.mu = mu
        self.published = published
        self.register_buffer("codebook", torch.zeros(codes, dim))
        self.register_buffer("code_sum", torch.zeros(codes, dim), persistent=False)
        self.register_buffer("code_count", torch.zeros(codes), persistent=False)
        self.initialised = False
        self._pending: dict[int, Tensor] = {}  # statistics of earlier micro-batches of the step, keyed by layer
        self._starting: int | None = None      # layer that initialises the codebook in this step

    def forward(self, latent: Tensor, temperature: float = 0.0, generator: torch.Generator | None = None,
                batch_slice: BatchSlice = WHOLE, layer: int = 0) -> Quantized:
        """Quantize ``latent`` (b, dim, n). In training mode, the codebook is updated afterwards.

        Args:
            latent: vectors to quantize, n per clip for b clips.
            temperature: if above 0, codes are sampled (see ``sample``); otherwise the nearest code is chosen.
            generator: generator for sampling and for replacing dead codes. It must have the same state in all processes
                and micro-batches of a step. The default is torch's global generator.
            batch_slice: position of the local rows in the whole batch.
            layer: index of the layer, if several layers share this codebook.

        The returned perplexity refers to the micro-batch; in the last micro-batch of a step, it refers to the whole
        batch.
        """
        b, dim, n = latent.shape
        with torch.autocast(latent.device.type, enabled=False):
            latent = latent.float()
            rows = latent.transpose(1, 2).reshape(-1, dim)
            generator = generator or torch.default_generator
            if self.training and (not self.initialised or self._starting == layer):
                self._initialise(rows.detach(), generator, batch_slice, layer)
            if temperature > 0:
                uniform = batch_slice.rand(generator, b, n).flatten().to(rows.device, non_blocking=True)
                ids = self.sample(rows, temperature, uniform)
            else:
                ids = self.nearest(rows)
            chosen = self.codebook[ids]
            counts = self._uses(ids)
            if self.training:
                counts = self._learn(rows.detach(), ids, counts, generator, batch_slice, n, layer)
            chosen = chosen.view(b, n, dim).transpose(1, 2)
            commitment = (latent - chosen.detach()).square().mean()
            straight = latent + (chosen - latent).detach()
            return Quantized(straight, ids.view(b, n), commitment, perplexity(counts))

    @torch.no_grad()
    def nearest(self, rows: Tensor) -> Tensor:
        """Return the index (r,) of the code nearest to each of ``rows`` (r, dim)."""
        return self._distances(rows).argmin(1)

    @torch.no_grad()
    def sample(self, rows: Tensor, temperature: float, uniform: Tensor) -> Tensor:
        """Sample a code for each of ``rows`` (r, dim) from the softmax of ``-distance**2 / temperature``.

        ``uniform`` (r,) are random numbers in [0, 1). Returns indices (r,).
        """
        return sample_columns((self._distances(rows) / -temperature).softmax(1), uniform)

    def _distances(self, rows: Tensor) -> Tensor:
        """Compute the squared distances (r, codes) between ``rows`` (r, dim) and the codes."""
        products = linear(rows, self.codebook)
        return products.mul_(-2).add_(rows.square().sum(1, keepdim=True)).add_(self.codebook.square().sum(1))

    def lookup(self, ids: Tensor) -> Tensor:
        """Look up the vectors (..., dim) of the codes ``ids`` (...); -1 gives the zero vector."""
        vectors = self.codebook[ids.clamp_min(0)]
        return vectors * (ids >= 0).unsqueeze(-1)

    def running_state(self) -> dict[str, Tensor]:
        """Return the running sums for a training checkpoint."""
        return {"code_sum": self.code_sum, "code_count": self.code_count,
                "initialised": torch.tensor(self.initialised)}

    def load_running_state(self, state: dict[str, Tensor]) -> None:
        """Load the running sums from a training checkpoint."""
        self.code_sum.copy_(state["code_sum"])
        self.code_count.copy_(state["code_count"])
        self.initialised = bool(state["initialised"])

    def seed_running_state(self) -> None:
        """Initialise the running sums with one use of each code."""
        self.code_sum.copy_(self.codebook)
        self.code_count.fill_(1.0)
        self.initialised = True

    def _uses(self, ids: Tensor) -> Tensor:
        """Count how often each code occurs in ``ids`` (r,). Returns (codes,)."""
        # ``bincount`` would wait for the device.
        return torch.zeros_like(self.code_count).index_add_(0, ids, torch.ones_like(ids, dtype=self.code_count.dtype))

    def _candidates(self, rows: Tensor, generator: torch.Generator, start: int, whole: int) -> Tensor:
        """For each code, choose a row of the whole batch to replace it if it is dead. Returns vectors (codes, dim).

        ``rows`` (r, dim) are the local rows; the first is row ``start`` of the ``whole`` rows of the batch. If the
        chosen row is not local, the vector is zero; the sum over processes and micro-batches then contains every
        vector. If the batch has fewer rows than there are codes, rows are repeated and noise is added.
        """
        codes, dim = self.codebook.shape
        copies = -(-codes // whole)
        if self.published:
            chosen = torch.arange(codes)
        else:
            chosen = torch.randperm(copies * whole, generator=generator, device=generator.device)[:codes]
        here = chosen.to(rows.device, non_blocking=True) % whole - start
        fresh = rows[here.clamp(0, len(rows) - 1)]
        if copies > 1:
            noise = torch.randn(codes, dim, generator=generator, device=generator.device).to(rows, non_blocking=True)
            fresh = fresh + noise * (TILE_NOISE / dim**0.5)
        if len(rows) == whole:
            return fresh
        return torch.where(((here >= 0) & (here < len(rows))).unsqueeze(1), fresh, 0)

    @torch.no_grad()
    def _initialise(self, rows: Tensor, generator: torch.Generator, batch_slice: BatchSlice, layer: int) -> None:
        """Initialise the codebook with rows of the first micro-batch.

        Later micro-batches of the step draw the same random numbers and discard them, to keep the generators in sync.
        """
        whole = batch_slice.world_size * len(rows)
        fresh = self._candidates(rows, generator, batch_slice.rank * len(rows), whole)
        if self._starting is None:
            self.codebook.copy_(batch_slice.sum(fresh))
            self.seed_running_state()
        self._starting = None if batch_slice.last else layer

    @torch.no_grad()
    def _learn(self, rows: Tensor, ids: Tensor, uses: Tensor, generator: torch.Generator, batch_slice: BatchSlice,
               n: int, layer: int) -> Tensor:
        """Accumulate statistics of ``rows`` (r, dim), n per clip, and update the codebook after the last micro-batch.

        ``ids`` (r,) are the codes of ``rows``, and ``uses`` (codes,) is how often each code is used. Returns the counts
        for the whole batch if this is the last micro-batch, else ``uses``.
        """
        dim = self.codebook.shape[1]
        if batch_slice.total is None:
            start, whole = 0, len(rows)
        else:
            start, whole = n * batch_slice.first, n * batch_slice.total
        sums = torch.zeros_like(self.code_sum).index_add_(0, ids, rows)
        # Concatenate them for a single all-reduce.
        seen = torch.cat([sums, self._candidates(rows, generator, start, whole), uses.unsqueeze(1)], 1)
        if layer in self._pending:
            seen += self._pending.pop(layer)
        if not batch_slice.last:
            self._pending[layer] = seen
            return uses
        sums, fresh, counts = batch_slice.sum(seen).split([dim, dim, 1], 1)
        self._update(sums, fresh, counts.squeeze(1))
        return counts.squeeze(1)

    def _update(self, sums: Tensor, fresh: Tensor, counts: Tensor) -> None:
        """Update the running sums and the codebook, and replace dead codes.

        ``sums`` (codes, dim) and ``counts`` (codes,) are statistics of the batch. ``fresh`` (codes, dim) are the
        vectors that replace dead codes.
        """
        self.code_sum.mul_(self.mu).add_(sums, alpha=1 - self.mu)
        self.code_count.mul_(self.mu).add_(counts, alpha=1 - self.mu)
        alive = (self.code_count >= ALIVE).unsqueeze(1)
        means = self.code_sum / self.code_count.clamp_min(1e-12).unsqueeze(1)
        self.codebook.copy_(torch.where(alive, means, fresh))
        if not self.published:
            self.code_sum.copy_(torch.where(alive, self.code_sum, fresh))
            self.code_count.copy_(torch.where(alive.squeeze(1), self.code_count, torch.ones_like(counts)))


def perplexity(counts: Tensor) -> Tensor:
    """Compute the perplexity of code usage from ``counts`` (codes,)."""
    shares = counts / counts.sum()
    return torch.exp(-(shares * torch.log(shares + 1e-7)).sum())


@dataclass(frozen=True)
class ResidualQuantized:
    """Output of a residual quantizer."""

    latent: Tensor      # (b, dim, n) sum of the chosen codes, with straight-through gradient
    codes: Tensor       # (b, n, q) int64, -1 in layers skipped by quantizer dropout
    commitment: Tensor  # scalar, mean over the layers used
    perplexity: Tensor  # scalar, mean over the layers used


class ResidualQuantizer(nn.Module):
    """Residual vector quantizer (RVQ) with ``num_quantizers`` layers (Zeghidour et al. 2021, alg. 1)."""

    def __init__(self, num_quantizers: int, codes: int, dim: int, mu: float = VQConfig.mu,
                 shared: bool = False, dropout_prob: float = VQConfig.quantize_dropout_prob, published: bool = False,
                 temperature: float = VQConfig.sample_codebook_temp) -> None:
        super().__init__()
        first = EmaQuantizer(codes, dim, mu, published)
        rest = [first if shared else EmaQuantizer(codes, dim, mu, published) for _ in range(num_quantizers - 1)]
        self.layers = nn.ModuleList([first, *rest])
        self.dropout_prob = dropout_prob
        self.temperature = temperature

    def forward(self, latent: Tensor, generator: torch.Generator | None = None, batch_slice: BatchSlice = WHOLE,
                ) -> ResidualQuantized:
        """Quantize ``latent`` (b, dim, n). The other arguments are as in ``EmaQuantizer.forward``.

        In training mode, codes are sampled at ``temperature`` and, with probability ``dropout_prob``, only a random
        number of the first layers is used for the batch (quantizer dropout), so that the decoder also learns to decode
        fewer layers.
        """
        generator = generator or torch.default_generator
        residual, total = latent.float(), torch.zeros_like(latent, dtype=torch.float32)
        codes, commitments, perplexities = [], [], []
        last = self._last_layer(generator) if self.training else len(self.layers) - 1
        temperature = self.temperature if self.training else 0.0
        for number, layer in enumerate(self.layers[:last + 1]):
            result = layer(residual, temperature, generator, batch_slice, number)
            residual = residual - result.latent.detach()
            total = total + result.latent
            codes.append(result.codes)
            commitments.append(result.commitment)
            perplexities.append(result.perplexity)
        codes += [torch.full_like(codes[0], -1)] * (len(self.layers) - len(codes))
        return ResidualQuantized(total, torch.stack(codes, -1), torch.stack(commitments).mean(),
                                 torch.stack(perplexities).mean())

    def _last_layer(self, generator: torch.Generator) -> int:
        drops, last = torch.rand(2, generator=generator, device=generator.device).tolist()
        return int(last * len(self.layers)) if drops < self.dropout_prob else len(self.layers) - 1

    def lookup(self, codes: Tensor) -> Tensor:
        """Look up the vectors (q', b, n, dim) of ``codes`` (b, n, q') in each layer; -1 gives the zero vector."""
        return torch.stack([layer.lookup(codes[..., i]) for i, layer in enumerate(self.layers[:codes.shape[-1]])])
