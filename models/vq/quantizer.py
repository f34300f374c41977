"""Vector quantizer whose codebook follows the encoder by exponential moving averages, with reset of dead codes.

Two rules for what a dead code becomes. By default it takes a random row of the batch (all distinct where the batch
has enough) and its running sums start again, so that it has a fair chance to be used. ``published`` repeats the
released code: code k takes row k of the batch and its sums go on decaying, so it is replaced at every step until a
row falls to it. A code is dead when its running count is below one use a step on average (both rules).
"""
from dataclasses import dataclass

import torch
from torch import Tensor, nn

ALIVE = 1.0  # running count, in rows a step, from which on a code counts as in use
TILE_NOISE = 0.01  # spread of the copies where a batch has fewer rows than the codebook, over sqrt(dim)


@dataclass(frozen=True)
class Quantized:
    """What one quantizer makes of a latent sequence."""

    latent: Tensor      # (b, dim, n) chosen codes, straight-through
    codes: Tensor       # (b, n) int64
    commitment: Tensor  # () mean squared distance to the chosen codes
    perplexity: Tensor  # () exp of the entropy of the code histogram


class EmaQuantizer(nn.Module):
    """A codebook (codes, dim) learned by moving averages (van den Oord et al. 2017, appendix A.1).

    The state dict holds ``codebook`` alone, as published files do; the running sums are asked for with
    ``running_state`` and go into a training checkpoint beside it.
    """

    def __init__(self, codes: int, dim: int, mu: float = 0.99, published: bool = False) -> None:
        super().__init__()
        self.mu = mu
        self.published = published
        self.register_buffer("codebook", torch.zeros(codes, dim))
        self.register_buffer("code_sum", torch.zeros(codes, dim), persistent=False)
        self.register_buffer("code_count", torch.zeros(codes), persistent=False)
        self.initialised = False

    def forward(self, latent: Tensor, temperature: float = 0.0) -> Quantized:
        """Quantize (b, dim, n); in training mode also update the codebook, after using it.

        ``temperature`` > 0 adds Gumbel noise to ``-distance / temperature`` before the choice.
        """
        b, dim, n = latent.shape
        with torch.autocast(latent.device.type, enabled=False):
            latent = latent.float()
            rows = latent.transpose(1, 2).reshape(-1, dim)
            if self.training and not self.initialised:
                self._initialise(rows.detach())
            ids = self.nearest(rows, temperature)
            chosen = self.codebook[ids]
            if self.training:
                self._update(rows.detach(), ids)
            chosen = chosen.view(b, n, dim).transpose(1, 2)
            commitment = (latent - chosen.detach()).square().mean()
            straight = latent + (chosen - latent).detach()
            return Quantized(straight, ids.view(b, n), commitment, self._perplexity(ids))

    @torch.no_grad()
    def nearest(self, rows: Tensor, temperature: float = 0.0) -> Tensor:
        """Ids (r,) of the codes nearest to rows (r, dim), the lowest id among equals."""
        distance = (rows.square().sum(1, keepdim=True) - 2 * rows @ self.codebook.T
                    + self.codebook.square().sum(1))
        if temperature > 0:
            # The negative log of an exponential variable is Gumbel noise, at half the cost of two logs.
            noise = torch.empty_like(distance).exponential_().clamp_min_(1e-20).log_()
            distance = (distance / temperature).add_(noise)
        return distance.argmin(1)

    def lookup(self, ids: Tensor) -> Tensor:
        """Vectors (..., dim) of ids (...); id -1 is the zero vector."""
        vectors = self.codebook[ids.clamp_min(0)]
        return vectors * (ids >= 0).unsqueeze(-1)

    def running_state(self) -> dict[str, Tensor]:
        """The running sums, for a training checkpoint."""
        return {"code_sum": self.code_sum, "code_count": self.code_count,
                "initialised": torch.tensor(self.initialised)}

    def load_running_state(self, state: dict[str, Tensor]) -> None:
        """Take up the running sums of a training checkpoint."""
        self.code_sum.copy_(state["code_sum"])
        self.code_count.copy_(state["code_count"])
        self.initialised = bool(state["initialised"])

    def seed_running_state(self) -> None:
        """Treat the codebook at hand as learned: one use a code. For files that carry no running sums."""
        self.code_sum.copy_(self.codebook)
        self.code_count.fill_(1.0)
        self.initialised = True

    def _perplexity(self, ids: Tensor) -> Tensor:
        share = torch.bincount(ids, minlength=len(self.codebook)).float() / ids.numel()
        return torch.exp(-(share * torch.log(share + 1e-7)).sum())

    def _candidates(self, rows: Tensor) -> Tensor:
        """One row a code, (codes, dim): what a code is set to when it starts or is reset."""
        codes, dim = self.codebook.shape
        if len(rows) < codes:
            copies = -(-codes // len(rows))
            rows = rows.repeat(copies, 1)
            rows = rows + torch.randn_like(rows) * (TILE_NOISE / dim**0.5)
        if self.published:
            return rows[:codes]
        return rows[torch.randperm(len(rows), device=rows.device)[:codes]]

    @torch.no_grad()
    def _initialise(self, rows: Tensor) -> None:
        self.codebook.copy_(self._candidates(rows))
        self.seed_running_state()

    @torch.no_grad()
    def _update(self, rows: Tensor, ids: Tensor) -> None:
        sums = torch.zeros_like(self.code_sum).index_add_(0, ids, rows)
        counts = torch.bincount(ids, minlength=len(self.codebook)).to(rows.dtype)
        self.code_sum.mul_(self.mu).add_(sums, alpha=1 - self.mu)
        self.code_count.mul_(self.mu).add_(counts, alpha=1 - self.mu)
        alive = (self.code_count >= ALIVE).unsqueeze(1)
        fresh = self._candidates(rows)
        means = self.code_sum / self.code_count.clamp_min(1e-12).unsqueeze(1)
        self.codebook.copy_(torch.where(alive, means, fresh))
        if not self.published:
            self.code_sum.copy_(torch.where(alive, self.code_sum, fresh))
            self.code_count.copy_(torch.where(alive.squeeze(1), self.code_count, torch.ones_like(counts)))
