"""Base class of the masked and the residual transformer, their loss, and token sampling.

Parameters have the published names. Sequences are batch-first (b, n, dim); the position table has its published shape
(positions, 1, dim).
"""
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.config import ATTENTION_KINDS, INIT_STD, TransformerConfig
from models.layers import Linear, TransformerEncoder, attention_bias, initialise, sinusoid_table
from utils.runtime import WHOLE, BatchSlice

POSITIONS = 5000
FIXED_TABLE = "position_enc.pe"  # not trained, so checkpoints may lack it


class PositionalEncoding(nn.Module):
    """Sinusoidal position encoding with dropout. Its table is optional in state dicts."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.register_buffer("pe", sinusoid_table(POSITIONS, dim)[:, None])
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(x + self.pe[: x.shape[1], 0])

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        state_dict.setdefault(f"{prefix}pe", self.pe)
        super()._load_from_state_dict(state_dict, prefix, *args)


MOST_GRAPHS = 64  # maximum number of recorded graphs per model; each has its own memory


class GraphCache:
    """Cache of CUDA graphs, each of which replaces thousands of kernel launches with a single launch.

    A graph is recorded for each combination of function, input shapes and settings. If there are more than
    ``MOST_GRAPHS``, the oldest is dropped. Functions must not wait for the device and must depend only on their
    arguments.
    """

    def __init__(self) -> None:
        self.recorded: dict[object, tuple[torch.cuda.CUDAGraph, list[Tensor | None], Tensor]] = {}

    def __call__(self, function: Callable[..., Tensor], *inputs: Tensor | None, **settings: object) -> Tensor:
        """Return ``function(*inputs, **settings)`` as a new tensor."""
        device = next(x.device for x in inputs if x is not None)
        key = (function.__name__, device, *(None if x is None else (x.shape, x.dtype) for x in inputs),
               *settings.items())
        with torch.cuda.device(device):
            if key not in self.recorded:
                if len(self.recorded) >= MOST_GRAPHS:
                    self.recorded.pop(next(iter(self.recorded)))
                self.recorded[key] = self._record(function, inputs, settings)
            graph, own, made = self.recorded[key]
            for buffer, given in zip(own, inputs, strict=True):
                if buffer is not None:
                    buffer.copy_(given)
            graph.replay()
            return made.clone()

    @staticmethod
    def _record(function: Callable[..., Tensor], inputs: Sequence[Tensor | None], settings: dict[str, object],
                ) -> tuple[torch.cuda.CUDAGraph, list[Tensor | None], Tensor]:
        own = [None if x is None else x.clone() for x in inputs]
        side = torch.cuda.Stream()  # libraries allocate memory in a first run, before the recording
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            function(*own, **settings)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=side):
            made = function(*own, **settings)
        return graph, own, made


class OutputProcess(nn.Module):
    """Output head: linear layer, GELU, layer norm and projection to ``out_dim``."""

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.dense = Linear(dim, dim)
        self.LayerNorm = nn.LayerNorm(dim, eps=1e-12)
        self.poseFinal = Linear(dim, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.dense.weight.dtype)  # the head stays in float32, see models.text_to_motion
        return self.poseFinal(self.LayerNorm(self.dense(x, "gelu")))


class Trunk(nn.Module):
    """Transformer encoder over prefix tokens (text, layer number) and motion tokens, with an output head."""

    def __init__(self, config: TransformerConfig, out_dim: int) -> None:
        super().__init__()
        dim = config.latent_dim
        self.config = config
        self.input_process = nn.ModuleDict({"poseEmbedding": Linear(config.code_dim, dim)})
        self.position_enc = PositionalEncoding(dim, config.dropout)
        self.seqTransEncoder = TransformerEncoder(config.n_layers, dim, config.n_heads, config.ff_size, config.dropout)
        self.cond_emb = Linear(config.cond_dim, dim)
        self.output_process = OutputProcess(dim, out_dim)
        self.graphs: GraphCache | None = None

    def run_loop(self, loop: Callable[..., Tensor], *inputs: Tensor | None, **settings: object) -> Tensor:
        """Run the sampling ``loop(*inputs, **settings)``, as a CUDA graph if the model has a ``GraphCache``.

        A graph is recorded for each combination of settings, so ``settings`` must contain only those the loop uses.
        """
        return loop(*inputs, **settings) if self.graphs is None else self.graphs(loop, *inputs, **settings)

    def checked_lengths(self, token_lens: Sequence[int], generators: Sequence[torch.Generator], cond: Tensor,
                        *tokens: Tensor) -> list[int]:
        """Check the arguments of ``generate`` and return ``token_lens`` as a list.

        Raises ``RuntimeError`` in training mode, and ``ValueError`` for a length below 1 or if the arguments differ in
        the number of samples.
        """
        if self.training:
            raise RuntimeError("generation needs eval mode")
        if len({len(each) for each in (token_lens, generators, cond, *tokens)}) > 1:
            given = "".join(f"{len(each)} rows of tokens, " for each in tokens)
            raise ValueError(f"{given}{len(cond)} text features, {len(token_lens)} lengths and {len(generators)} "
                             "generators differ in number")
        lengths = list(map(int, token_lens))
        require_tokens(lengths)
        return lengths

    def sampling_inputs(self, batch: "StaticBatch", cond: Tensor, negative: Tensor | None, token_lens: Sequence[int],
                        generators: Sequence[torch.Generator], rounds: int, classes: Sequence[int],
                        ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Return padding (b, n), noise (b, rounds, n, ...), ``cond`` and ``negative`` for the samples in ``batch``."""
        lengths, streams = batch.pick(token_lens), [generators[row] for row in batch.rows]
        noise = draw_uniform(streams, lengths, rounds, (batch.size, batch.length, *classes), cond.device)
        padding = padding_of(torch.tensor(lengths, device=cond.device), batch.length)
        return padding, noise, batch.take(cond), None if negative is None else batch.take(negative)

    def initialise(self) -> None:
        """Initialise all weights.

        The bias of ``cond_emb`` represents "no text" and must not be zero: with causal attention it is the only input
        of the first position, and layer norm would multiply the gradient of a constant vector by 1 / sqrt(eps) = 316.
        """
        self.apply(initialise)
        nn.init.normal_(self.cond_emb.bias, std=INIT_STD)

    def encode(self, x: Tensor, prefix: Tensor, mask: Tensor | None, at: Tensor | None = None) -> Tensor:
        """Encode token embeddings ``x`` (b, n, code_dim), preceded by ``prefix`` (b, p, dim). Returns (b, n, out_dim).

        ``mask`` is an ``attention_mask`` for all p + n positions. With ``at`` (b, c), only the outputs (b, c, out_dim)
        at these tokens are computed.
        """
        embedding = self.input_process.poseEmbedding
        x = self.position_enc(embedding(x.to(embedding.weight.dtype)))
        mask = attention_bias(mask, x.dtype)
        x = torch.cat([prefix.to(x.dtype), x], 1)
        if at is not None:
            return self.output_process(self.seqTransEncoder(x, mask, at + prefix.shape[1]))
        return self.output_process(self.seqTransEncoder(x, mask)[:, prefix.shape[1]:])

    @torch.no_grad()
    def start_codes(self, tables: Iterable[Tensor], codebooks: Tensor) -> None:
        """Initialise embedding ``tables``, (K + extra, code_dim) per layer, from ``codebooks`` (layers, K, code_dim).

        Codes are centred and divided by the std of the first layer. Extra rows (mask, padding) are sampled from
        N(0, 1). Embeddings initialised by ``initialise`` are small compared with the position encoding, which slows
        down training.
        """
        centred = (codebooks - codebooks.mean(1, keepdim=True)).float()
        centred = centred / centred[0].std()
        for table, codes in zip(tables, centred, strict=True):
            table[:len(codes)] = codes
            nn.init.normal_(table[len(codes):])
        nn.init.normal_(self.input_process.poseEmbedding.weight, std=self.config.code_dim**-0.5)

    def embed_condition(self, cond: Tensor) -> Tensor:
        """Project text features ``cond`` (b, c) to the width of the transformer. Returns (b, dim)."""
        return self.cond_emb(cond.to(self.cond_emb.weight.dtype))

    def drop_condition(self, cond: Tensor, generator: torch.Generator, batch_slice: BatchSlice = WHOLE) -> Tensor:
        """In training mode, zero rows of ``cond`` (b, c) at random for classifier-free guidance (Ho and Salimans 2022).

        Zeroed rows are embedded as the bias of ``cond_emb``, which represents "no text".
        """
        if not self.training or self.config.cond_drop_prob == 0:
            return cond
        draw = batch_slice.rand(generator, len(cond), 1).to(cond.device, non_blocking=True)
        return cond * (draw >= self.config.cond_drop_prob)


def distinct_rows(parts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Find the distinct rows of ``parts``, (b, n) each, which are concatenated along their columns.

    Returns the indices (m,) of their first occurrences, and the index (b,) of each row among the distinct rows.
    """
    _, inverse = torch.cat([part.float() for part in parts], 1).unique(dim=0, return_inverse=True)
    order = torch.arange(len(inverse), device=inverse.device)
    first = order.new_full((int(inverse.max()) + 1,), len(order)).scatter_reduce(0, inverse, order, "amin")
    return first, inverse


def attention_mask(kind: str, prefix: int, length: int, padding: Tensor | None, device: torch.device) -> Tensor | None:
    """Create an attention mask that broadcasts to (b, heads, s, s), where s is ``prefix`` + ``length``.

    - ``causal``: masks padding and the keys after the query.
    - ``full``: masks padding. Returns None if ``padding`` is None.
    - ``additive``: adds 1 to the scores of keys up to the query and masks nothing, as in the released LaMP.

    Boolean masks are True at visible keys; ``padding`` (b, length) is True at padding. Raises ``ValueError`` for an
    unknown ``kind``.
    """
    if kind not in ATTENTION_KINDS:
        raise ValueError(f"attention {kind!r} is not one of {', '.join(ATTENTION_KINDS)}")
    size = prefix + length
    past = torch.ones(size, size, dtype=torch.bool, device=device).tril()
    if kind == "additive":
        return past.float()[None, None]
    visible = None if padding is None else F.pad(~padding, (prefix, 0), value=True)[:, None, None]  # (b, 1, 1, s)
    if kind == "full":
        return visible
    return past[None, None] if visible is None else past & visible


@dataclass(frozen=True)
class TokenLoss:
    """Loss and accuracy of token prediction."""

    loss: Tensor         # scalar, mean cross-entropy over the predicted positions
    accuracy: Tensor     # scalar, top-1 accuracy in [0, 1]
    predictions: Tensor  # (b, n) most probable class at all positions
    count: Tensor        # scalar, number of predicted positions


def token_loss(logits: Tensor, labels: Tensor, ignore: int) -> TokenLoss:
    """Compute the cross-entropy of ``logits`` (b, n, classes) where ``labels`` (b, n) are not ``ignore``."""
    logits = logits.float()
    loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=ignore)
    predictions = logits.argmax(-1)
    counted = labels != ignore
    count = counted.sum()
    accuracy = ((predictions == labels) & counted).sum() / count.clamp_min(1)
    return TokenLoss(loss, accuracy, predictions, count)


def padding_of(token_lens: Tensor, length: int) -> Tensor:
    """Create a mask (b, length) that is True at padding, that is, at positions >= ``token_lens`` (b,)."""
    return torch.arange(length, device=token_lens.device) >= token_lens[:, None]


def needed_width(token_lens: Tensor, length: int) -> int:
    """Return the number of positions to compute: on the CPU the largest of ``token_lens`` (b,), elsewhere ``length``.

    On accelerators, fixed shapes are faster, and reading a length would wait for the device.
    """
    return min(length, int(token_lens.max())) if token_lens.device.type == "cpu" else length


SMALLEST_TEMPERATURE = 1e-10
ROUNDING = 1e-9  # tolerance for rounding errors: a threshold of 1 - 1/classes keeps one class, not two


def cosine_mask_ratio(progress: Tensor) -> Tensor:
    """Return the fraction of tokens that are masked at ``progress`` in [0, 1] (cosine schedule of MaskGIT, eq. 3)."""
    return torch.cos(progress * math.pi / 2)


def sample_generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """Create one generator per seed, on the CPU, so that a seed gives the same noise on every device."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def unit_noise(uniform: Tensor) -> Tensor:
    """Shift and scale uniform random numbers in [0, 1) to mean 0 and variance 1."""
    return 12**0.5 * (uniform - 0.5)


def kept_classes(classes: int, thres: float) -> int:
    """Return the number of classes that may be sampled, ``ceil((1 - thres) * classes)``, but at least one."""
    return max(1, math.ceil((1 - thres) * classes - ROUNDING))


def draw_uniform(generators: Sequence[torch.Generator], lengths: Sequence[int], rounds: int, size: Sequence[int],
                 device: torch.device) -> Tensor:
    """Draw uniform noise (b, rounds, n, ...) on ``device`` for tensors of ``size`` (b, n, ...).

    In row k, the first ``lengths[k]`` positions of each round are drawn from ``generators[k]``, so that the noise of a
    sample does not depend on its padding. All other values are 0.5.
    """
    rows, length, *rest = size
    noise = torch.full((rows, rounds, length, *rest), 0.5)
    for row, generator, own in zip(noise, generators, lengths, strict=False):
        row[:, :own] = torch.rand(rounds, own, *rest, generator=generator, device=generator.device)
    return noise.to(device)


def sample_tokens(logits: Tensor, thres: float, temperature: float, gumbel: bool, uniform: Tensor) -> Tensor:
    """Sample tokens (b, n) at ``temperature`` from the largest ``logits`` (b, n, classes).

    ``kept_classes(classes, thres)`` classes can be sampled. With ``gumbel``, the Gumbel-max trick (Maddison et al.
    2014) is used and ``uniform`` is (b, n, classes). Otherwise, the cumulative distribution is inverted and ``uniform``
    is (b, n).
    """
    temperature = max(temperature, SMALLEST_TEMPERATURE)
    values, indices = logits.topk(kept_classes(logits.shape[-1], thres), dim=-1, sorted=False)
    if gumbel:
        chosen = uniform.gather(-1, indices).clamp_min(torch.finfo(torch.float32).tiny)
        best = (values.float() / temperature - torch.log(-torch.log(chosen))).argmax(-1, keepdim=True)
        return indices.gather(-1, best).squeeze(-1)
    scaled = torch.full_like(logits, -math.inf).scatter(-1, indices, values).float() / temperature
    cumulative = F.softmax(scaled.double(), -1).cumsum(-1)
    target = uniform[..., None] * cumulative[..., -1:]
    return torch.searchsorted(cumulative, target, right=True).squeeze(-1)


PACKED_ROWS = 32     # rows per forward pass with packed linear layers
LENGTH_STEP = 49     # lengths are padded to multiples of this, the longest clip of HumanML3D in tokens
CPU_STEP = 3         # the same on the CPU, where padding costs time but new shapes do not

T = TypeVar("T")


@dataclass(frozen=True)
class StaticBatch:
    """Samples of one forward pass with a fixed shape."""

    rows: list[int]  # indices of the samples
    size: int        # batch size; rows beyond the samples repeat the last one
    length: int      # sequence length in tokens

    def take(self, x: Tensor) -> Tensor:
        """Select the samples of this batch from ``x`` (b, ...). Returns (size, ...)."""
        filled = self.rows + [self.rows[-1]] * (self.size - len(self.rows))
        return x[torch.tensor(filled, device=x.device)]

    def pick(self, things: Sequence[T]) -> list[T]:
        """Select the items of this batch from a sequence with one item per sample. Repeats the last up to ``size``."""
        return [things[row] for row in self.rows] + [things[self.rows[-1]]] * (self.size - len(self.rows))

    def take_tokens(self, ids: Tensor) -> Tensor:
        """Select the tokens of this batch from ``ids`` (b, n, ...), cut or padded with -1 to (size, length, ...)."""
        rows = self.take(ids)[:, :self.length]
        filler = rows.new_full((self.size, self.length - rows.shape[1], *rows.shape[2:]), -1)
        return torch.cat([rows, filler], 1)


def default_rows(independent: bool) -> int:
    """Return the default batch size, which is larger if rows do not depend on each other (see ``is_packed``)."""
    return PACKED_ROWS if independent else 1


def require_tokens(token_lens: Sequence[int]) -> None:
    """Raise ``ValueError`` for a length below 1."""
    if min(token_lens, default=1) < 1:
        raise ValueError(f"every sample needs at least one token, not {min(token_lens)}")


def static_batches(token_lens: Sequence[int], device: torch.device, rows: int | None = None, exact: bool = False,
                   independent: bool = False) -> list[StaticBatch]:
    """Group samples of similar length into batches of at most ``rows`` samples.

    A sample's padded length depends only on its own length. If ``exact`` is True, samples are not padded. Unless rows
    are ``independent``, all batches have exactly ``rows`` rows, so that rounding errors do not depend on the number of
    samples. Raises ``ValueError`` for a length below 1.
    """
    require_tokens(token_lens)
    rows = rows or default_rows(independent)
    if rows == 1 and not independent:
        return [StaticBatch([row], 1, length) for row, length in enumerate(token_lens)]
    step = 1 if exact else CPU_STEP if device.type == "cpu" else LENGTH_STEP
    by_length: dict[int, list[int]] = {}
    for row, length in enumerate(token_lens):
        padded = -(-length // step) * step
        # Clips of the maximum length are common, and it is not a multiple of the CPU's step.
        by_length.setdefault(LENGTH_STEP if length <= LENGTH_STEP < padded else padded, []).append(row)
    chunks = [(length, samples[start:start + rows]) for length, samples in sorted(by_length.items())
              for start in range(0, len(samples), rows)]
    return [StaticBatch(chunk, len(chunk) if independent else rows, length) for length, chunk in chunks]
