"""Convolutional motion tokenizers: ``HumanVQVAE`` with one codebook (LaMP) and residual ``RVQVAE`` (MoMask)."""
import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.config import GROUPS, VQConfig
from models.layers import Conv1d
from models.vq.quantizer import EmaQuantizer, ResidualQuantizer
from utils.runtime import WHOLE, BatchSlice

NORM_EPS = 1e-6  # eps of group norm and batch norm
ACTIVATIONS = {"relu": F.relu, "silu": F.silu, "gelu": F.gelu}


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of an input (b, c, t)."""

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
    """Set ``x`` (b, c, t) to zero where ``valid`` (b, 1, t) is zero."""
    return x if valid is None else x * valid.to(x.dtype)


class ResidualBlock(nn.Module):
    """Pre-activation residual block with a dilated convolution."""

    def __init__(self, config: VQConfig, dilation: int) -> None:
        super().__init__()
        if config.vq_act not in ACTIVATIONS:
            raise ValueError(f"vq_act {config.vq_act!r} is not one of {sorted(ACTIVATIONS)}")
        width, self.activation = config.width, ACTIVATIONS[config.vq_act]
        self.norm1 = _norm(config.vq_norm, width)
        self.norm2 = _norm(config.vq_norm, width)
        self.conv1 = Conv1d(width, width, 3, padding=dilation, dilation=dilation)
        self.conv2 = Conv1d(width, width, 1)
        self.dropout = nn.Dropout(config.vq_dropout)

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """Apply the block to ``x`` (b, width, t).

        Frames where ``valid`` (b, 1, t) is zero do not affect the others, except through the statistics of group norm
        or, in training, batch norm.
        """
        h = self.conv1(_cut(self.activation(self.norm1(x)), valid))
        h = self.conv2(self.activation(self.norm2(h)))
        return x + self.dropout(h)


class ResidualStack(nn.Module):
    """Residual blocks whose dilations decrease from ``dilation_growth_rate``^(depth-1) to 1."""

    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        self.model = nn.Sequential(*(ResidualBlock(config, config.dilation_growth_rate**level)
                                     for level in reversed(range(config.depth))))

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        for block in self.model:
            x = block(x, valid)
        return x


class Encoder(nn.Module):
    """Encoder that maps motion features (b, t, d) to latents (b, output_emb_width, t / stride_t^down_t)."""

    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        width, stride = config.width, config.stride_t
        layers: list[nn.Module] = [Conv1d(config.dim_pose, width, 3, padding=1), nn.ReLU()]
        layers += [nn.Sequential(Conv1d(width, width, 2 * stride, stride=stride, padding=stride // 2),
                                 ResidualStack(config)) for _ in range(config.down_t)]
        layers.append(Conv1d(width, config.output_emb_width, 3, padding=1))
        self.model = nn.Sequential(*layers)

    def forward(self, motion: Tensor) -> Tensor:
        *inner, last = self.model
        x = motion.transpose(1, 2).to(inner[0].weight.dtype)
        for layer in inner:
            x = layer(x)
        return last(x.to(last.weight.dtype))


class Decoder(nn.Module):
    """Decoder that maps latents (b, output_emb_width, n) to motion features (b, n * 2^down_t, d)."""

    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        width = config.width
        layers: list[nn.Module] = [Conv1d(config.output_emb_width, width, 3, padding=1), nn.ReLU()]
        layers += [nn.Sequential(ResidualStack(config), nn.Upsample(scale_factor=2, mode="nearest"),
                                 Conv1d(width, width, 3, padding=1)) for _ in range(config.down_t)]
        layers += [Conv1d(width, width, 3, padding=1), nn.ReLU(), Conv1d(width, config.dim_pose, 3, padding=1)]
        self.model = nn.Sequential(*layers)

    def forward(self, latent: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Decode ``latent`` (b, output_emb_width, n) to motion features.

        With ``lengths`` (b,), the numbers of valid latents, padding is zeroed before every convolution, so it does not
        affect valid frames. Padded output frames are undefined. Raises ``ValueError`` if ``lengths`` are given and the
        decoder uses group norm, whose statistics would include padding.
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
    """Output of a tokenizer's forward pass."""

    motion: Tensor      # (b, t, d) normalised features
    codes: Tensor       # (b, n, q) int64
    commitment: Tensor  # scalar, commitment loss
    perplexity: Tensor  # scalar, perplexity of the code usage


class _Tokenizer(nn.Module):
    """Base class of the tokenizers. Motion lengths must be multiples of ``config.unit_length``."""

    parts: nn.Module  # module that has the encoder, decoder and quantizer

    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        if config.code_dim != config.output_emb_width:
            raise ValueError(
                f"code_dim {config.code_dim} and output_emb_width {config.output_emb_width} must be equal")
        self.config = config

    @property
    def motion_encoder(self) -> Encoder:
        """The convolutional encoder."""
        return self.parts.encoder

    def forward(self, motion: Tensor, generator: torch.Generator | None = None, batch_slice: BatchSlice = WHOLE,
                ) -> Reconstruction:
        """Reconstruct normalised ``motion`` (b, t, d). The other arguments are as in ``EmaQuantizer.forward``."""
        quantized = self.parts.quantizer(self.parts.encoder(motion), generator=generator, batch_slice=batch_slice)
        recon = self.parts.decoder(quantized.latent).float()
        codes = quantized.codes.view(*quantized.codes.shape[:2], -1)
        return Reconstruction(recon, codes, quantized.commitment, quantized.perplexity)

    def forward_decoder(self, ids: Tensor, token_lens: Tensor | None = None) -> Tensor:
        """Decode tokens ``ids`` (b, n, q') of the first q' layers to normalised motion (b, t, d).

        A token of -1 stands for the zero vector. With ``token_lens`` (b,), padding does not affect valid frames, except
        for rounding errors.
        """
        return self.decode_latents(self.latents(ids), token_lens)

    def decode_latents(self, latents: Tensor, token_lens: Tensor | None = None) -> Tensor:
        """Decode latents (b, dim, n) to normalised motion (b, t, d). For ``token_lens``, see ``forward_decoder``."""
        return self.parts.decoder(latents, token_lens).float()


class RVQVAE(_Tokenizer):
    """Residual VQ-VAE (MoMask, section 3.1)."""

    def __init__(self, config: VQConfig) -> None:
        super().__init__(config)
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.quantizer = ResidualQuantizer(
            config.num_quantizers, config.nb_code, config.code_dim, config.mu, config.shared_codebook,
            config.quantize_dropout_prob, config.published_reset, config.sample_codebook_temp)

    @property
    def parts(self) -> nn.Module:
        return self

    @property
    def quantizers(self) -> list[EmaQuantizer]:
        """Quantizers with distinct codebooks."""
        return list(dict.fromkeys(self.quantizer.layers))

    @property
    def codebooks(self) -> Tensor:
        """Codebooks (q, K, code_dim) of all layers."""
        return torch.stack([layer.codebook for layer in self.quantizer.layers])

    @torch.no_grad()
    def encode(self, motion: Tensor) -> Tensor:
        """Encode normalised ``motion`` (b, t, d) to tokens (b, n, q)."""
        residual = self.encoder(motion).float().transpose(1, 2)  # (b, n, dim)
        ids = []
        for layer in self.quantizer.layers:
            ids.append(layer.nearest(residual.flatten(0, 1)).view(residual.shape[:2]))
            residual = residual - layer.lookup(ids[-1])
        return torch.stack(ids, -1)

    def latents(self, ids: Tensor) -> Tensor:
        """Sum the code vectors of tokens ``ids`` (b, n, q') over the layers. Returns latents (b, dim, n)."""
        return self.quantizer.lookup(ids).sum(0).transpose(1, 2)


class HumanVQVAE(_Tokenizer):
    """VQ-VAE with a single codebook, the tokenizer of LaMP."""

    def __init__(self, config: VQConfig) -> None:
        super().__init__(config)
        self.vqvae = nn.ModuleDict({  # gives the parameters their published prefix
            "encoder": Encoder(config), "decoder": Decoder(config),
            "quantizer": EmaQuantizer(config.nb_code, config.code_dim, config.mu, config.published_reset)})

    @property
    def parts(self) -> nn.Module:
        return self.vqvae

    @property
    def quantizers(self) -> list[EmaQuantizer]:
        """The quantizer, as a list."""
        return [self.vqvae.quantizer]

    @property
    def codebooks(self) -> Tensor:
        """The codebook (1, K, code_dim)."""
        return self.vqvae.quantizer.codebook[None]

    @torch.no_grad()
    def encode(self, motion: Tensor) -> Tensor:
        """Encode normalised ``motion`` (b, t, d) to tokens (b, n)."""
        latent = self.vqvae.encoder(motion).float().transpose(1, 2)
        return self.vqvae.quantizer.nearest(latent.flatten(0, 1)).view(latent.shape[:2])

    def latents(self, ids: Tensor) -> Tensor:
        """Look up the code vectors of tokens ``ids`` (b, n) or (b, n, 1). Returns latents (b, dim, n)."""
        ids = ids.squeeze(-1) if ids.dim() == 3 else ids
        return self.vqvae.quantizer.lookup(ids).transpose(1, 2)


def build_tokenizer(config: VQConfig) -> HumanVQVAE | RVQVAE:
    """Build a ``HumanVQVAE`` if ``config`` has one quantizer, else an ``RVQVAE``."""
    return HumanVQVAE(config) if config.num_quantizers == 1 else RVQVAE(config)


@dataclass(frozen=True)
class TokenizerLoss:
    """Terms of the tokenizer's loss. All are scalars."""

    total: Tensor
    reconstruction: Tensor
    local_positions: Tensor
    commitment: Tensor


def tokenizer_loss(result: Reconstruction, motion: Tensor, joints: int, recons_loss: str, loss_vel: float,
                   commit: float) -> TokenizerLoss:
    """Compute the reconstruction losses of all features and of the local joint positions, and the total loss.

    ``motion`` (b, t, d) is normalised, and ``recons_loss`` is "l1" or "l1_smooth". ``loss_vel``, named as in published
    ``opt.txt`` files, is the weight of the position loss, and ``commit`` is the weight of the commitment loss.
    """
    distance = {"l1_smooth": F.smooth_l1_loss, "l1": F.l1_loss}[recons_loss]
    local = slice(4, 4 + 3 * (joints - 1))
    reconstruction = distance(result.motion, motion)
    positions = distance(result.motion[..., local], motion[..., local])
    total = reconstruction + loss_vel * positions + commit * result.commitment
    return TokenizerLoss(total, reconstruction, positions, result.commitment)
