"""Convolutional encoder and decoder of both tokenizers, under the published parameter names."""
import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.config import DROPOUT, GROUPS

NORM_EPS = 1e-6  # of group and batch norm
ACTIVATIONS = {"relu": F.relu, "silu": F.silu, "gelu": F.gelu}


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of (b, c, t)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


def _norm(kind: str | None, width: int) -> nn.Module:
    if kind in (None, "None"):
        return nn.Identity()
    makers = {
        "LN": lambda: ChannelNorm(width),
        "GN": lambda: nn.GroupNorm(GROUPS, width, eps=NORM_EPS),
        "BN": lambda: nn.BatchNorm1d(width, eps=NORM_EPS),
    }
    if kind not in makers:
        raise ValueError(f"vq_norm {kind!r} is not one of {sorted(makers)} or None")
    return makers[kind]()


def _cut(x: Tensor, valid: Tensor | None) -> Tensor:
    """Zero ``x`` (b, c, t) where ``valid`` (b, 1, t) is zero."""
    return x if valid is None else x * valid.to(x.dtype)


class ResidualBlock(nn.Module):
    """``x + dropout(conv1x1(act(norm(conv3(act(norm(x)))))))`` with a dilated first convolution."""

    def __init__(self, width: int, dilation: int, activation: str, norm: str | None, dropout: float) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"vq_act {activation!r} is not one of {sorted(ACTIVATIONS)}")
        self.activation = ACTIVATIONS[activation]
        self.norm1 = _norm(norm, width)
        self.norm2 = _norm(norm, width)
        self.conv1 = nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation)
        self.conv2 = nn.Conv1d(width, width, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """Apply to (b, width, t). Frames where ``valid`` (b, 1, t) is zero do not affect other frames."""
        h = self.conv1(_cut(self.activation(self.norm1(x)), valid))
        h = self.conv2(self.activation(self.norm2(h)))
        return x + self.dropout(h)


class ResidualStack(nn.Module):
    """Blocks with dilations g^(depth-1), ..., g, 1."""

    def __init__(self, width: int, depth: int, growth: int, activation: str, norm: str | None,
                 dropout: float) -> None:
        super().__init__()
        self.model = nn.Sequential(*(
            ResidualBlock(width, growth**level, activation, norm, dropout) for level in reversed(range(depth))
        ))

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        for block in self.model:
            x = block(x, valid)
        return x


class Encoder(nn.Module):
    """Motion features (b, t, d) to latents (b, output_emb_width, t / stride_t^down_t)."""

    def __init__(self, input_width: int, output_emb_width: int = 512, down_t: int = 2, stride_t: int = 2,
                 width: int = 512, depth: int = 3, dilation_growth_rate: int = 3, activation: str = "relu",
                 norm: str | None = None, dropout: float = DROPOUT) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv1d(input_width, width, 3, padding=1), nn.ReLU()]
        for _ in range(down_t):
            layers.append(nn.Sequential(
                nn.Conv1d(width, width, 2 * stride_t, stride=stride_t, padding=stride_t // 2),
                ResidualStack(width, depth, dilation_growth_rate, activation, norm, dropout),
            ))
        layers.append(nn.Conv1d(width, output_emb_width, 3, padding=1))
        self.model = nn.Sequential(*layers)

    def forward(self, motion: Tensor) -> Tensor:
        *inner, last = self.model
        x = motion.transpose(1, 2).to(inner[0].weight.dtype)
        for layer in inner:
            x = layer(x)
        return last(x.to(last.weight.dtype))


class Decoder(nn.Module):
    """Latents (b, output_emb_width, n) to motion features (b, n * 2^down_t, d)."""

    def __init__(self, input_width: int, output_emb_width: int = 512, down_t: int = 2, width: int = 512,
                 depth: int = 3, dilation_growth_rate: int = 3, activation: str = "relu",
                 norm: str | None = None, dropout: float = DROPOUT) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv1d(output_emb_width, width, 3, padding=1), nn.ReLU()]
        for _ in range(down_t):
            layers.append(nn.Sequential(
                ResidualStack(width, depth, dilation_growth_rate, activation, norm, dropout),
                nn.Upsample(scale_factor=2, mode="nearest"),
                nn.Conv1d(width, width, 3, padding=1),
            ))
        layers += [nn.Conv1d(width, width, 3, padding=1), nn.ReLU(), nn.Conv1d(width, input_width, 3, padding=1)]
        self.model = nn.Sequential(*layers)

    def forward(self, latent: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Motion features (b, n * 2^down_t, d) of latents (b, width, n).

        With ``lengths`` (b,) in latents, padded latents are zeroed before every convolution, so they do not leak into
        valid ones; frames beyond a row's end are meaningless. Raises ``ValueError`` with group norm, whose statistics
        are those of the whole row.
        """
        *inner, last = self.model
        x = latent.to(inner[0].weight.dtype)
        valid = None
        if lengths is not None:
            if any(isinstance(part, nn.GroupNorm) for part in self.modules()):
                raise ValueError("a decoder with group norm needs motions of equal length")
            valid = (torch.arange(x.shape[-1], device=x.device) < lengths[:, None])[:, None].to(x.dtype)  # (b, 1, n)
        for layer in [inner[0], inner[1], *itertools.chain(*inner[2:-2]), *inner[-2:], last]:
            if isinstance(layer, ResidualStack):
                x = layer(x, valid)
            elif isinstance(layer, nn.Upsample):
                x, valid = layer(x), None if valid is None else layer(valid)
            else:
                x = layer(_cut(x.to(last.weight.dtype) if layer is last else x, valid))
        return x.transpose(1, 2)
