"""Text-to-motion pipeline, from text features to joint positions, and options for faster inference."""
import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import overload

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from models.config import PRECISIONS, Sampling
from models.lamp.qformer import Layer as QFormerLayer
from models.layers import EncoderLayer, can_pack, choose_linear, initialise, is_packed, pack_linears, packs
from models.transformers.mask_transformer import MaskTransformer
from models.transformers.residual import ResidualTransformer
from models.transformers.trunk import (
    GraphCache,
    OutputProcess,
    Trunk,
    default_rows,
    sample_generators,
    static_batches,
    unit_noise,
)
from models.vq.model import RVQVAE, Decoder, Encoder, HumanVQVAE
from models.vq.quantizer import EmaQuantizer
from motion.features import features_to_joints
from motion.skeleton import Skeleton
from utils import InputError
from utils.runtime import select_device, stream_seed


class LengthEstimator(nn.Module):
    """Classifier that predicts the length of a motion in tokens (T2M, Guo et al. 2022; MoMask).

    Class k means k tokens. Class 0 exists for compatibility with published files and is never predicted.
    """

    def __init__(self, input_size: int = 512, output_size: int = 50, hidden: Sequence[int] = (512, 256, 128),
                 leaky_slope: float = 0.2, dropout: float = 0.2) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = input_size
        for next_width in hidden:
            layers += [nn.Linear(width, next_width), nn.LayerNorm(next_width), nn.LeakyReLU(leaky_slope),
                       nn.Dropout(dropout)]
            width = next_width
        layers[-1:] = [nn.Linear(width, output_size)]  # no dropout before the last layer
        self.output = nn.Sequential(*layers)
        self.apply(initialise)

    def forward(self, text_emb: Tensor) -> Tensor:
        """Compute the logits (b, classes) for text features ``text_emb`` (b, c)."""
        return self.output(text_emb)

    def loss(self, text_emb: Tensor, token_lens: Tensor) -> Tensor:
        """Compute the cross-entropy with the ground-truth lengths ``token_lens`` (b,)."""
        return F.cross_entropy(self(text_emb).float(), token_lens)

    def probabilities(self, text_emb: Tensor) -> Tensor:
        """Compute the probabilities (b, classes - 1) of the lengths 1, 2, ... tokens."""
        return F.softmax(self(text_emb).float()[:, 1:], -1)

    @torch.no_grad()
    def sample(self, text_emb: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Sample lengths (b,) in tokens, each with its own generator."""
        cumulative = self.probabilities(text_emb).double().cpu().cumsum(-1)
        uniform = torch.tensor([torch.rand((), generator=stream, device=stream.device).item() for stream in generators])
        target = uniform[:, None] * cumulative[:, -1:]
        return torch.searchsorted(cumulative, target, right=True).squeeze(1).to(text_emb.device) + 1

    @torch.no_grad()
    def expected(self, text_emb: Tensor) -> Tensor:
        """Compute the expected lengths (b,) in tokens, rounded."""
        probabilities = self.probabilities(text_emb)
        lengths = torch.arange(1, probabilities.shape[1] + 1, device=text_emb.device)
        return (probabilities * lengths).sum(-1).round().long()


TextFeatures = Callable[[Sequence[str]], Tensor]
DEFAULT_SEED = 3407
# Numbers of the random streams derived from a sample's seed.
RESIDUAL_STREAM = 1
LENGTH_STREAM = 1 << 32
TEXT_STREAM = 1 << 33


@dataclass(frozen=True)
class Sample:
    """Request for one generated motion."""

    text: str
    seed: int
    m_len: int | None = None  # length in frames; None: predicted by the length estimator


class TextToMotion:
    """Text-to-motion pipeline. All networks must be in eval mode and on the same device.

    Args:
        tokenizer: decodes tokens to normalised features.
        denormalise: converts normalised to unnormalised features (..., d).
        transformer: generates base-layer tokens from text features.
        text: encodes texts to the features (b, c) that ``transformer`` was trained with.
        skeleton: skeleton of the motions.
        metres: length of the skeleton's unit in metres.
        length_estimator, length_text: length estimator for samples without a length, and its text encoder.
        clean: cleans texts as in training.
        residual, residual_text: residual transformer and its text encoder. Without a residual transformer, motions are
            decoded from the base layer only.
        normalise: inverse of ``denormalise`` for arrays, to encode motions.
        sampling: default sampling settings.
    """

    def __init__(self, tokenizer: HumanVQVAE | RVQVAE, denormalise: Callable[[Tensor], Tensor],
                 transformer: MaskTransformer, text: TextFeatures, skeleton: Skeleton, metres: float = 1.0,
                 length_estimator: LengthEstimator | None = None, length_text: TextFeatures | None = None,
                 clean: Callable[[str], str] = str, residual: ResidualTransformer | None = None,
                 residual_text: TextFeatures | None = None,
                 normalise: Callable[[np.ndarray], np.ndarray] = np.asarray,
                 sampling: Sampling | None = None) -> None:
        self.tokenizer, self.denormalise, self.transformer, self.text = tokenizer, denormalise, transformer, text
        self.skeleton, self.metres, self.clean = skeleton, metres, clean
        self.length_estimator, self.length_text = length_estimator, length_text or text
        self.residual, self.residual_text = residual, residual_text or text
        self.normalise, self.sampling = normalise, sampling or Sampling()

    @property
    def device(self) -> torch.device:
        """Device of the networks."""
        return next(self.transformer.parameters()).device

    @property
    def networks(self) -> list[nn.Module]:
        """All networks except the length estimator."""
        encoders = (getattr(text, "model", None) for text in (self.text, self.residual_text, self.length_text))
        return [part for part in (self.tokenizer, self.transformer, self.residual, *encoders)
                if isinstance(part, nn.Module)]

    @cached_property
    def differentiable_tokenizer(self) -> HumanVQVAE | RVQVAE:
        """Tokenizer for decoding latents with gradients: on the CPU, a copy with packed layers, which is faster."""
        if self.device.type != "cpu" or is_packed(self.tokenizer) or not can_pack():
            return self.tokenizer
        tokenizer = copy.deepcopy(self.tokenizer)
        pack_linears(tokenizer)
        return tokenizer

    @property
    def unit(self) -> int:
        """Number of frames per token."""
        return self.tokenizer.config.unit_length

    @property
    def layers(self) -> int:
        """Number of generated token layers."""
        return 1 if self.residual is None else self.residual.config.num_quantizers

    @overload
    def generate(self, samples: str, sampling: Sampling | None = None, *, seed: int = DEFAULT_SEED,
                 m_len: int | None = None) -> np.ndarray: ...

    @overload
    def generate(self, samples: Sequence[Sample], sampling: Sampling | None = None) -> list[np.ndarray]: ...

    def generate(self, samples: str | Sequence[Sample], sampling: Sampling | None = None, *, seed: int = DEFAULT_SEED,
                 m_len: int | None = None) -> np.ndarray | list[np.ndarray]:
        """Generate motions. Returns joint positions (T, J, 3) in metres, float32, for each sample.

        Lengths are rounded down to whole tokens. A motion depends only on its text, seed, length and the sampling
        settings. The rest of the batch does not change its tokens, and changes its joints by less than 1e-4 m.

        For a single text, pass a string with ``seed`` and ``m_len`` (in frames, None: predicted); the result is one
        array. Raises ``ValueError`` for a string without words, a length below one token, or a missing length without a
        length estimator.
        """
        if isinstance(samples, str):
            if not self.clean(samples):
                raise ValueError("the text has no words")
            return self.generate([Sample(samples, seed, m_len)], sampling)[0]
        return [self.joints(features) for features in self.features(samples, sampling)]

    def features(self, samples: Sequence[Sample], sampling: Sampling | None = None) -> list[np.ndarray]:
        """Generate motions. Returns unnormalised features (T, d), float32, for each sample."""
        return self.features_of(self.tokens(samples, sampling), (sampling or self.sampling).group_rows)

    def features_of(self, tokens: Sequence[Tensor], rows: int | None = None) -> list[np.ndarray]:
        """Decode token sequences, (n,) or (n, q) each, to unnormalised features (T, d), at most ``rows`` per pass."""
        if not tokens:
            return []
        lengths = list(map(len, tokens))
        padded = pad_sequence(list(tokens), batch_first=True, padding_value=-1)
        rows = 1 if self.tokenizer.config.vq_norm == "GN" else rows  # group norm statistics would include padding
        made: list[np.ndarray] = [np.empty(0)] * len(tokens)
        # On the CPU, convolutions compute each row independently.
        independent = padded.device.type == "cpu" and is_packed(self.transformer)
        for batch in static_batches(lengths, padded.device, rows, independent=independent):
            own = batch.pick(lengths)
            ends = None if min(own) == batch.length else torch.tensor(own, device=padded.device)
            decoded = self._decoded(batch.take_tokens(padded), ends).float().cpu().numpy()
            for number, features in zip(batch.rows, decoded, strict=False):  # extra rows are padding
                made[number] = features[:self.unit * lengths[number]]
        return made

    def tokens(self, samples: Sequence[Sample], sampling: Sampling | None = None) -> list[Tensor]:
        """Generate tokens. Returns (n, q) for each sample, or base-layer tokens (n,) without a residual transformer."""
        sampling = sampling or self.sampling
        features = _Features(self.device, sampling.group_rows)
        lengths = self.token_lengths(samples, sampling, features)
        return self.fill([sample.text for sample in samples], lengths, [sample.seed for sample in samples],
                         sampling=sampling, features=features)

    def fill(self, texts: Sequence[str], lengths: Sequence[int], seeds: Sequence[int], known: Tensor | None = None,
             sampling: Sampling | None = None, stream: int = 0, features: "_Features | None" = None) -> list[Tensor]:
        """Generate tokens, as ``tokens`` does, for ``lengths`` in tokens.

        ``known`` (b, n, q) has the tokens to keep, and negative values where tokens are generated (in-painting).
        ``stream`` numbers the calls with the same seed, so that each call uses different noise; that of
        ``Sampling.text_noise`` depends on the seed only. ``features`` is a cache of text features.
        """
        sampling = sampling or self.sampling
        features = features or _Features(self.device, sampling.group_rows)
        texts = [self.clean(text) for text in texts]
        number, negative = 2 * stream, [self.clean(sampling.negative_prompt or "")] * len(texts)
        streams = sample_generators([stream_seed(seed, *([number] if stream else [])) for seed in seeds])
        # Additive attention reads padding, so only samples of equal length may share a forward pass.
        base_rows = sampling.group_rows or default_rows(is_packed(self.transformer))
        cond = noisy_features(features(self.text, texts), seeds, sampling.text_noise)
        ids = self.transformer.generate(
            cond, lengths, streams, replace(sampling, group_rows=base_rows),
            known=None if known is None else known[..., 0],
            negative=features(self.text, negative) if sampling.negative_prompt else None).ids
        if self.residual is not None:
            streams = sample_generators([stream_seed(seed, number + RESIDUAL_STREAM) for seed in seeds])
            ids = self.residual.generate(
                ids, features(self.residual_text, texts), lengths, streams, sampling, known=known,
                negative=features(self.residual_text, negative) if sampling.negative_prompt else None)
        return [row[:length] for row, length in zip(ids, lengths, strict=True)]

    def condition(self, texts: Sequence[str], rows: int | None = None) -> Tensor:
        """Encode texts to features (b, c) for the masked transformer, at most ``rows`` texts per pass."""
        return _Features(self.device, rows)(self.text, [self.clean(text) for text in texts])

    def token_lengths(self, samples: Sequence[Sample], sampling: Sampling | None = None,
                      features: "_Features | None" = None) -> list[int]:
        """Return the length of each sample in tokens, predicted by the length estimator if it is not given.

        Raises ``ValueError`` for a length below one token, and for a missing length without an estimator.
        """
        sampling = sampling or self.sampling
        lengths = [None if sample.m_len is None else sample.m_len // self.unit for sample in samples]
        unknown = [number for number, length in enumerate(lengths) if length is None]
        if unknown:
            if self.length_estimator is None:
                raise ValueError("a sample without a length needs a length estimator")
            known = features or _Features(self.device, sampling.group_rows)
            cond = known(self.length_text, [self.clean(samples[number].text) for number in unknown])
            if sampling.length == "mean":
                estimates = self.length_estimator.expected(cond)
            else:
                streams = sample_generators([stream_seed(samples[number].seed, LENGTH_STREAM) for number in unknown])
                estimates = self.length_estimator.sample(cond, streams)
            for number, length in zip(unknown, estimates.tolist(), strict=True):
                lengths[number] = length
        if min(lengths, default=1) < 1:
            raise ValueError(f"a motion needs at least {self.unit} frames")
        return lengths

    def encode(self, features: np.ndarray) -> Tensor:
        """Encode unnormalised ``features`` (T, d) to tokens (n, q). T must be a multiple of ``unit``."""
        motion = torch.as_tensor(self.normalise(features), dtype=torch.float32, device=self.device)
        return self.tokenizer.encode(motion[None])[0].view(len(features) // self.unit, -1)

    def decode(self, ids: Tensor) -> np.ndarray:
        """Decode tokens (n,) or (n, q) to joint positions (T, J, 3) in metres."""
        return self.joints(self._decoded(ids[None])[0])

    def joints(self, features: Tensor | np.ndarray) -> np.ndarray:
        """Convert unnormalised ``features`` (T, d) to joint positions (T, J, 3) in metres, float32."""
        return (self.metres * features_to_joints(torch.as_tensor(features), self.skeleton)).float().cpu().numpy()

    @torch.no_grad()
    def _decoded(self, ids: Tensor, token_lens: Tensor | None = None) -> Tensor:
        """Decode tokens (b, n) or (b, n, q) to unnormalised features (b, T, d), valid up to ``token_lens`` (b,)."""
        return self.denormalise(self.tokenizer.forward_decoder(ids.view(*ids.shape[:2], -1), token_lens))


def load(name: str = "t2m_demo", *, len_name: str | None = "len_demo", res_name: str | None = None,
         dataset_name: str = "t2m", checkpoints_dir: str | Path = "checkpoints",
         gpu_id: int | None = None) -> TextToMotion:
    """Load the pipeline of a bundled model or of a run in ``checkpoints_dir``.

    Args:
        name: run of the masked transformer.
        len_name: run of the length estimator. With None, every sample needs a length.
        res_name: run of the residual transformer, or "none" to decode the base layer only. None selects the bundled
            residual transformer if ``name`` is a bundled model.
        gpu_id: CUDA device, or -1 for the CPU. None selects the first CUDA device, or the CPU if there is none.

    Raises ``InputError`` for a missing or damaged model.
    """
    # Imported late: only this function uses packages above ``models``, and they import this module.
    from data.dataset import dataset_spec
    from storage.generation import load_text_to_motion

    pipeline, _ = load_text_to_motion(name, len_name, dataset_spec(dataset_name), checkpoints_dir,
                                      select_device(gpu_id), res_name=res_name)
    speed_up(pipeline.networks)
    return pipeline


def noisy_features(cond: Tensor, seeds: Sequence[int], scale: float) -> Tensor:
    """Add uniform noise to text features (b, c), each row from its own seed.

    The std of the noise is ``scale`` times the root mean square of the row. Raises ``ValueError`` for another number of
    seeds.
    """
    if not scale:
        return cond
    if len(seeds) != len(cond):
        raise ValueError(f"{len(cond)} text features and {len(seeds)} seeds differ in number")
    streams = sample_generators([stream_seed(seed, TEXT_STREAM) for seed in seeds])
    noise = unit_noise(torch.stack([torch.rand(cond.shape[1], generator=stream) for stream in streams]).double())
    rms = cond.double().square().mean(1, keepdim=True).sqrt()  # double: it must not depend on the number of rows
    return (cond + scale * rms * noise.to(cond.device)).to(cond.dtype)


class _Features:
    """Cache of text features, so that each encoder encodes a text only once.

    A forward pass has at most ``rows`` texts. On the CPU, if the encoder has a method ``lengths``, texts are grouped by
    length and padded to a fixed width. Rounding errors then do not depend on the other texts.
    """

    def __init__(self, device: torch.device, rows: int | None = None) -> None:
        self.device, self.rows = device, rows
        self.known: dict[TextFeatures, dict[str, Tensor]] = {}

    def __call__(self, encoder: TextFeatures, texts: Sequence[str]) -> Tensor:
        """Return the features (b, c) of ``texts``."""
        known = self.known.setdefault(encoder, {})
        new = [text for text in dict.fromkeys(texts) if text not in known]
        padded = self.device.type == "cpu" and hasattr(encoder, "lengths")
        lengths = encoder.lengths(new) if padded and new else [1] * len(new)
        independent = is_packed(getattr(encoder, "model", None))
        for batch in static_batches(lengths, self.device, self.rows, independent=independent):
            chosen = batch.pick(new)
            features = encoder(chosen, batch.length) if padded else encoder(chosen)
            known |= zip(chosen[:len(batch.rows)], features.split(1), strict=False)
        return torch.cat([known[text] for text in texts])


AUTO = "auto"


def speed_up(networks: Iterable[nn.Module], precision: str = "fp32", compiled: bool = False,
             cpu_linear: str = "auto") -> None:
    """Prepare networks in eval mode for faster inference, in place.

    ``precision`` is a key of ``PRECISIONS`` or ``AUTO``. ``cpu_linear`` selects the library for linear layers on the
    CPU (see ``models.layers.choose_linear``). With ``compiled``, layers are compiled; on CUDA, the sampling loops of
    the transformers are recorded as CUDA graphs instead. Raises ``InputError`` for fp16 on the CPU.
    """
    choose_linear(cpu_linear)
    for network in dict.fromkeys(networks):
        on_cpu = next(network.parameters()).device.type == "cpu"
        dtype = getattr(torch, PRECISIONS[automatic_precision(on_cpu) if precision == AUTO else precision])
        if dtype == torch.float16 and on_cpu:
            raise InputError("fp16 needs a CUDA device; use bf16 on the CPU")
        if dtype != torch.float32:
            _lower(network, dtype)
        if compiled and not on_cpu and isinstance(network, Trunk):
            network.graphs = GraphCache()
        elif compiled:
            compile_layers(network)
        elif on_cpu and packs():
            pack_linears(network)


def automatic_precision(on_cpu: bool) -> str:
    """Return ``bf16`` if the hardware supports bfloat16 matrix products, else ``fp32``."""
    if on_cpu:
        has = torch.cpu.get_capabilities()
        return "bf16" if has.get("avx512_bf16") or has.get("amx_bf16") or has.get("bf16") else "fp32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"


def _lower(network: nn.Module, dtype: torch.dtype) -> None:
    """Convert weights to ``dtype``, except those whose rounding errors are visible in the motion.

    These are output heads and residual embeddings (guidance amplifies their errors), codebooks, and the last
    convolution of the tokenizer (its errors cause jitter).
    """
    kept: set[int] = set()
    for part in network.modules():
        if isinstance(part, (Encoder, Decoder)):
            kept |= {id(tensor) for tensor in part.model[-1].parameters()}
        elif isinstance(part, (OutputProcess, EmaQuantizer)):
            kept |= {id(tensor) for tensor in (*part.parameters(), *part.buffers())}
        elif isinstance(part, ResidualTransformer):
            kept |= {id(tensor) for tensor in part.parameters(recurse=False)}
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.is_floating_point() and id(tensor) not in kept:
            tensor.data = tensor.data.to(dtype)


def compile_layers(network: nn.Module) -> None:
    """Compile each layer separately, so that layers with the same structure share compiled code."""
    for part in network.modules():
        if isinstance(part, (QFormerLayer, EncoderLayer, Encoder, Decoder)):
            part.compile(dynamic=True)
