"""The two tokenizers: HumanVQVAE (one codebook, LaMP) and RVQVAE (residual codebooks, MoMask)."""
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.config import VQConfig
from models.vq.encdec import Decoder, Encoder
from models.vq.quantizer import EmaQuantizer, ResidualQuantizer
from utils.seeding import WHOLE, BatchSlice


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
