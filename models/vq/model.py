"""The two tokenizers, convolutional encoder and decoder: HumanVQVAE (one codebook, LaMP), RVQVAE (residual, MoMask)."""
import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.config import DROPOUT, GROUPS, VQConfig
from models.layers import Conv1d
from models.vq.quantizer import EmaQuantizer, ResidualQuantizer
from utils.runtime import WHOLE, BatchSlice

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
        self.conv1 = Conv1d(width, width, 3, padding=dilation, dilation=dilation)
        self.conv2 = Conv1d(width, width, 1)
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
        layers: list[nn.Module] = [Conv1d(input_width, width, 3, padding=1), nn.ReLU()]
        for _ in range(down_t):
            layers.append(nn.Sequential(
                Conv1d(width, width, 2 * stride_t, stride=stride_t, padding=stride_t // 2),
                ResidualStack(width, depth, dilation_growth_rate, activation, norm, dropout),
            ))
        layers.append(Conv1d(width, output_emb_width, 3, padding=1))
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
        layers: list[nn.Module] = [Conv1d(output_emb_width, width, 3, padding=1), nn.ReLU()]
        for _ in range(down_t):
            layers.append(nn.Sequential(
                ResidualStack(width, depth, dilation_growth_rate, activation, norm, dropout),
                nn.Upsample(scale_factor=2, mode="nearest"),
                Conv1d(width, width, 3, padding=1),
            ))
        layers += [Conv1d(width, width, 3, padding=1), nn.ReLU(), Conv1d(width, input_width, 3, padding=1)]
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


@dataclass(frozen=True)
class Reconstruction:
    """Output of a tokenizer."""

    motion: Tensor      # (b, t, d) normalised features
    codes: Tensor       # (b, n, q) int64
    commitment: Tensor  # ()
    perplexity: Tensor  # ()


def _encoder_decoder(config: VQConfig) -> tuple[Encoder, Decoder]:
    if config.code_dim != config.output_emb_width:
        raise ValueError(f"code_dim {config.code_dim} and output_emb_width {config.output_emb_width} must be equal")
    stacks = {"width": config.width, "depth": config.depth, "dilation_growth_rate": config.dilation_growth_rate,
              "activation": config.vq_act, "norm": config.vq_norm, "dropout": config.vq_dropout}
    encoder = Encoder(config.dim_pose, config.output_emb_width, config.down_t, config.stride_t, **stacks)
    return encoder, Decoder(config.dim_pose, config.output_emb_width, config.down_t, **stacks)


class RVQVAE(nn.Module):
    """Residual VQ-VAE (MoMask, section 3.1). Motion lengths must be multiples of ``config.unit_length``."""

    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.decoder = _encoder_decoder(config)
        self.quantizer = ResidualQuantizer(
            config.num_quantizers, config.nb_code, config.code_dim, config.mu, config.shared_codebook,
            config.quantize_dropout_prob, config.published_reset, config.sample_codebook_temp)

    @property
    def motion_encoder(self) -> Encoder:
        """The convolutional encoder."""
        return self.encoder

    @property
    def quantizers(self) -> list[EmaQuantizer]:
        """Every distinct codebook."""
        return list(dict.fromkeys(self.quantizer.layers))

    @property
    def codebooks(self) -> Tensor:
        """The vectors (q, K, code_dim) of every layer."""
        return torch.stack([layer.codebook for layer in self.quantizer.layers])

    def forward(self, motion: Tensor, generator: torch.Generator | None = None, batch_slice: BatchSlice = WHOLE,
                ) -> Reconstruction:
        """Reconstruct normalised motion (b, t, d). ``generator`` and ``batch_slice`` as in ``EmaQuantizer``."""
        quantized = self.quantizer(self.encoder(motion), generator, batch_slice)
        recon = self.decoder(quantized.latent).float()
        return Reconstruction(recon, quantized.codes, quantized.commitment, quantized.perplexity)

    @torch.no_grad()
    def encode(self, motion: Tensor) -> Tensor:
        """Ids (b, n, q) of motion (b, t, d), by nearest codes in every mode."""
        residual = self.encoder(motion).float().transpose(1, 2)  # (b, n, dim)
        ids = []
        for layer in self.quantizer.layers:
            ids.append(layer.nearest(residual.flatten(0, 1)).view(residual.shape[:2]))
            residual = residual - layer.lookup(ids[-1])
        return torch.stack(ids, -1)

    def forward_decoder(self, ids: Tensor, token_lens: Tensor | None = None) -> Tensor:
        """Motion (b, t, d) of ids (b, n, q'), the first q' <= q layers; id -1 adds nothing. With ``token_lens``
        (b,) each row is decoded as if it ended there, up to rounding."""
        return self.decode_latents(self.latents(ids), token_lens)

    def latents(self, ids: Tensor) -> Tensor:
        """Input of the decoder (b, dim, n) for ids (b, n, q'): the sum of all layers' vectors."""
        return self.quantizer.lookup(ids).sum(0).transpose(1, 2)

    def decode_latents(self, latents: Tensor, token_lens: Tensor | None = None) -> Tensor:
        """Motion (b, t, d) of latents (b, dim, n)."""
        return self.decoder(latents, token_lens).float()


class _VQVAE(nn.Module):
    """Holds the three parts under the published prefix ``vqvae.``."""

    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        self.encoder, self.decoder = _encoder_decoder(config)
        self.quantizer = EmaQuantizer(config.nb_code, config.code_dim, config.mu, config.published_reset)


class HumanVQVAE(nn.Module):
    """Single-codebook VQ-VAE (LaMP's tokenizer). Codes come as (b, n), or (b, n, 1) inside ``Reconstruction``."""

    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        self.config = config
        self.vqvae = _VQVAE(config)

    @property
    def motion_encoder(self) -> Encoder:
        """The convolutional encoder."""
        return self.vqvae.encoder

    @property
    def quantizers(self) -> list[EmaQuantizer]:
        """Every distinct codebook."""
        return [self.vqvae.quantizer]

    @property
    def codebooks(self) -> Tensor:
        """The vectors (1, K, code_dim) of the one layer."""
        return self.vqvae.quantizer.codebook[None]

    def forward(self, motion: Tensor, generator: torch.Generator | None = None, batch_slice: BatchSlice = WHOLE,
                ) -> Reconstruction:
        """Reconstruct normalised motion (b, t, d). ``generator`` and ``batch_slice`` as in ``EmaQuantizer``."""
        quantized = self.vqvae.quantizer(self.vqvae.encoder(motion), generator=generator, batch_slice=batch_slice)
        recon = self.vqvae.decoder(quantized.latent).float()
        return Reconstruction(recon, quantized.codes.unsqueeze(-1), quantized.commitment, quantized.perplexity)

    @torch.no_grad()
    def encode(self, motion: Tensor) -> Tensor:
        """Ids (b, n) of motion (b, t, d)."""
        latent = self.vqvae.encoder(motion).float().transpose(1, 2)
        return self.vqvae.quantizer.nearest(latent.flatten(0, 1)).view(latent.shape[:2])

    def forward_decoder(self, ids: Tensor, token_lens: Tensor | None = None) -> Tensor:
        """Motion (b, t, d) of ids (b, n) or (b, n, 1), each row decoded on its own, with ``token_lens`` (b,) as if it
        ended there, up to rounding."""
        return self.decode_latents(self.latents(ids), token_lens)

    def latents(self, ids: Tensor) -> Tensor:
        """Input of the decoder (b, dim, n) for ids (b, n) or (b, n, 1)."""
        ids = ids.squeeze(-1) if ids.dim() == 3 else ids
        return self.vqvae.quantizer.lookup(ids).transpose(1, 2)

    def decode_latents(self, latents: Tensor, token_lens: Tensor | None = None) -> Tensor:
        """Motion (b, t, d) of latents (b, dim, n)."""
        return self.vqvae.decoder(latents, token_lens).float()


def build_tokenizer(config: VQConfig) -> HumanVQVAE | RVQVAE:
    """Build the published LaMP tokenizer for one quantizer, else the residual one."""
    return HumanVQVAE(config) if config.num_quantizers == 1 else RVQVAE(config)


@dataclass(frozen=True)
class TokenizerLoss:
    """Parts of the tokenizer's loss, all ()."""

    total: Tensor
    reconstruction: Tensor
    local_positions: Tensor
    commitment: Tensor


def tokenizer_loss(result: Reconstruction, motion: Tensor, joints: int, recons_loss: str = "l1_smooth",
                   loss_vel: float = 0.5, commit: float = 0.02) -> TokenizerLoss:
    """Reconstruction loss + ``loss_vel`` x reconstruction loss of local joint positions + ``commit`` x commitment loss.

    ``motion`` (b, t, d) normalised. The weight is called velocity in options and logs for the sake of published
    ``opt.txt`` files, although columns 4 .. 4 + 3 (joints - 1) are positions.
    """
    distance = {"l1_smooth": F.smooth_l1_loss, "l1": F.l1_loss}[recons_loss]
    local = slice(4, 4 + 3 * (joints - 1))
    reconstruction = distance(result.motion, motion)
    positions = distance(result.motion[..., local], motion[..., local])
    total = reconstruction + loss_vel * positions + commit * result.commitment
    return TokenizerLoss(total, reconstruction, positions, result.commitment)
