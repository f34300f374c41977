"""Vector quantizer with a codebook learned by exponential moving averages (EMA), with resets of dead codes.

A code is dead if its running count is below one use per step on average. By default it is replaced by a random row of
the batch (distinct rows if the batch has enough) and its running sums restart, so that it has a fair chance of being
used. ``published`` reproduces the released code: code k takes row k of the batch and its sums continue to decay, so it
is replaced at every step until a row is assigned to it.

Statistics are summed over the processes of a run, which keep the same codebook, and over the micro-batches of a step.
The codebook is updated after the last micro-batch.
"""
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.config import SAMPLE_TEMPERATURE
from models.layers import linear
from utils.runtime import WHOLE, BatchSlice, sample_columns

ALIVE = 1.0  # running count, in rows per step, from which a code counts as used
TILE_NOISE = 0.01  # std of copies times sqrt(dim), if a batch has fewer rows than the codebook


@dataclass(frozen=True)
class Quantized:
    """Output of one quantizer."""

    latent: Tensor      # (b, dim, n) chosen codes, straight-through
    codes: Tensor       # (b, n) int64
    commitment: Tensor  # () mean squared distance to the chosen codes
    perplexity: Tensor  # () exp of the entropy of the code histogram


class EmaQuantizer(nn.Module):
    """A codebook (codes, dim) learned by moving averages (van den Oord et al. 2017, appendix A.1).

    The state dict has only ``codebook``, like published files; training checkpoints also store ``running_state``.
    """

    def __init__(self, codes: int, dim: int, mu: float = 0.99, published: bool = False) -> None:
        super().__init__()
        self.mu = mu
        self.published = published
        self.register_buffer("codebook", torch.zeros(codes, dim))
        self.register_buffer("code_sum", torch.zeros(codes, dim), persistent=False)
        self.register_buffer("code_count", torch.zeros(codes), persistent=False)
        self.initialised = False
        self._pending: dict[int, Tensor] = {}  # statistics of the step's earlier micro-batches, by layer
        self._starting: int | None = None      # layer that initialised the codebook in this step

    def forward(self, latent: Tensor, temperature: float = 0.0, generator: torch.Generator | None = None,
                batch_slice: BatchSlice = WHOLE, layer: int = 0) -> Quantized:
        """Quantize (b, dim, n); in training mode also update the codebook, after using it.

        Args:
            latent: vectors to quantize, of b clips.
            temperature: above 0 the codes are sampled, as ``sample`` does.
            generator: for sampled codes and replacements of dead codes; the same in all processes and micro-batches of
                a step. By default torch's global generator.
            batch_slice: clips of the whole batch. The codebook is updated after the last micro-batch of a step.
            layer: number of the layer, if several share this codebook.

        Before the last micro-batch, the perplexity is that of the micro-batch alone.
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
        """Ids (r,) of the codes nearest to rows (r, dim); the lowest id on ties."""
        return self._distances(rows).argmin(1)

    @torch.no_grad()
    def sample(self, rows: Tensor, temperature: float, uniform: Tensor) -> Tensor:
        """Ids (r,) sampled from the softmax of ``-distance / temperature`` with random numbers ``uniform`` (r,) in
        [0, 1)."""
        return sample_columns((self._distances(rows) / -temperature).softmax(1), uniform)

    def _distances(self, rows: Tensor) -> Tensor:
        """Squared distances (r, codes)."""
        products = linear(rows, self.codebook)
        return products.mul_(-2).add_(rows.square().sum(1, keepdim=True)).add_(self.codebook.square().sum(1))

    def lookup(self, ids: Tensor) -> Tensor:
        """Vectors (..., dim) of ids (...); id -1 is the zero vector."""
        vectors = self.codebook[ids.clamp_min(0)]
        return vectors * (ids >= 0).unsqueeze(-1)

    def running_state(self) -> dict[str, Tensor]:
        """The running sums, for a training checkpoint."""
        return {"code_sum": self.code_sum, "code_count": self.code_count,
                "initialised": torch.tensor(self.initialised)}

    def load_running_state(self, state: dict[str, Tensor]) -> None:
        """Load the running sums of a training checkpoint."""
        self.code_sum.copy_(state["code_sum"])
        self.code_count.copy_(state["code_count"])
        self.initialised = bool(state["initialised"])

    def seed_running_state(self) -> None:
        """Initialise the running sums with one use per code, for files without them."""
        self.code_sum.copy_(self.codebook)
        self.code_count.fill_(1.0)
        self.initialised = True

    def _uses(self, ids: Tensor) -> Tensor:
        """Number of uses of each code in ids (r,), float32 (codes,); ``bincount`` would wait for the device."""
        return torch.zeros_like(self.code_count).index_add_(0, ids, torch.ones_like(ids, dtype=self.code_count.dtype))

    def _candidates(self, rows: Tensor, generator: torch.Generator, start: int, whole: int) -> Tensor:
        """Part of the replacements for all codes: (codes, dim), one row of the whole batch for each code if it is among
        the local ``rows`` (r, dim), which are rows ``start`` ... of ``whole``, else zero. The sum over all parts is
        complete."""
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
    def _initialise(self, rows: Tensor, generator: torch.Generator, batch_slice: BatchSlice = WHOLE,
                    layer: int = 0) -> None:
        """Initialise the codebook with rows of the first micro-batch. Later micro-batches of the step consume the same
        random numbers to keep generators in sync."""
        whole = batch_slice.world_size * len(rows)
        fresh = self._candidates(rows, generator, batch_slice.rank * len(rows), whole)
        if self._starting is None:
            self.codebook.copy_(batch_slice.sum(fresh))
            self.seed_running_state()
        self._starting = None if batch_slice.last else layer

    @torch.no_grad()
    def _learn(self, rows: Tensor, ids: Tensor, uses: Tensor, generator: torch.Generator, batch_slice: BatchSlice,
               n: int, layer: int) -> Tensor:
        """Accumulate statistics of rows (r, dim), n per clip, with their codes ids (r,) and ``uses`` (codes,), and
        update the codebook with the last micro-batch of a step. Returns the uses of each code in the whole batch or,
        before the last micro-batch, in this one."""
        dim = self.codebook.shape[1]
        if batch_slice.total is None:
            start, whole = 0, len(rows)
        else:
            start, whole = n * batch_slice.first, n * batch_slice.total
        sums = torch.zeros_like(self.code_sum).index_add_(0, ids, rows)
        # Concatenated for a single all-reduce.
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
        """Update the running sums with the sums (codes, dim) and counts (codes,) of a batch; replace dead codes by
        their rows of ``fresh`` (codes, dim)."""
        self.code_sum.mul_(self.mu).add_(sums, alpha=1 - self.mu)
        self.code_count.mul_(self.mu).add_(counts, alpha=1 - self.mu)
        alive = (self.code_count >= ALIVE).unsqueeze(1)
        means = self.code_sum / self.code_count.clamp_min(1e-12).unsqueeze(1)
        self.codebook.copy_(torch.where(alive, means, fresh))
        if not self.published:
            self.code_sum.copy_(torch.where(alive, self.code_sum, fresh))
            self.code_count.copy_(torch.where(alive.squeeze(1), self.code_count, torch.ones_like(counts)))


def perplexity(counts: Tensor) -> Tensor:
    """Exponential () of the entropy of code counts (codes,)."""
    shares = counts / counts.sum()
    return torch.exp(-(shares * torch.log(shares + 1e-7)).sum())


@dataclass(frozen=True)
class ResidualQuantized:
    """Output of a stack of quantizers."""

    latent: Tensor      # (b, dim, n) sum of the chosen codes, straight-through
    codes: Tensor       # (b, n, q) int64, -1 where quantizer dropout skipped a layer
    commitment: Tensor  # () mean over the layers that ran
    perplexity: Tensor  # () mean over the layers that ran


class ResidualQuantizer(nn.Module):
    """``num_quantizers`` codebooks over successive residuals (RVQ; Zeghidour et al. 2021, alg. 1)."""

    def __init__(self, num_quantizers: int, codes: int, dim: int, mu: float = 0.99, shared: bool = False,
                 dropout_prob: float = 0.2, published: bool = False,
                 temperature: float = SAMPLE_TEMPERATURE) -> None:
        super().__init__()
        first = EmaQuantizer(codes, dim, mu, published)
        rest = [first if shared else EmaQuantizer(codes, dim, mu, published) for _ in range(num_quantizers - 1)]
        self.layers = nn.ModuleList([first, *rest])
        self.dropout_prob = dropout_prob
        self.temperature = temperature

    def forward(self, latent: Tensor, generator: torch.Generator | None = None, batch_slice: BatchSlice = WHOLE,
                ) -> ResidualQuantized:
        """Quantize (b, dim, n). In training, codes are sampled, and with ``dropout_prob`` only the first 1..q layers
        run (sampled once per batch), so that every prefix of the layers can be decoded. ``generator`` and
        ``batch_slice`` as in ``EmaQuantizer``."""
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
        """Vectors of each layer (q', b, n, dim) for codes (b, n, q'), q' <= q; -1 is the zero vector."""
        return torch.stack([layer.lookup(codes[..., i]) for i, layer in enumerate(self.layers[:codes.shape[-1]])])
