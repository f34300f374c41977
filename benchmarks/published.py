"""Reference implementation of the published computations with this project's modules, as a baseline for benchmarks.

It follows the publications, not the released code, in float32. Conditional and unconditional logits take separate
passes, all positions go through the last layer and are sampled over all classes, all rows are padded to the longest,
and losses include padding. Tests compare both implementations where their results agree.
"""
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from models.lamp.lamp import LaMP, Negatives
from models.lamp.objectives import LABEL_SMOOTHING
from models.m2t import IGNORED
from models.transformers.mask_transformer import KEPT, MaskTransformer
from models.transformers.residual import ResidualTransformer
from models.transformers.trunk import cosine_mask_ratio, lowest, padding_of, top_k_filter
from models.vq.model import RVQVAE, HumanVQVAE
from models.vq.quantizer import EmaQuantizer

Draw = Callable[[Sequence[int]], Tensor]


def gumbel_argmax(logits: Tensor, uniform: Tensor) -> Tensor:
    """Sample ids (...) from logits (..., classes) by adding Gumbel noise to all classes."""
    return (logits - torch.log(-torch.log(uniform.clamp_min(torch.finfo(torch.float32).tiny)))).argmax(-1)


@torch.no_grad()
def base_tokens(model: MaskTransformer, cond: Tensor, token_lens: Sequence[int], timesteps: int = 10,
                cond_scale: float = 4.0, thres: float = 0.9, draw: Draw = torch.rand) -> Tensor:
    """Generate base-layer ids (b, n), -1 at padding, for text features (b, c) and lengths in tokens.

    ``draw`` returns uniform noise for all positions and classes, at every step.
    """
    lengths = torch.tensor(token_lens)
    padding = padding_of(lengths, max(token_lens))
    ids = torch.full(padding.shape, model.mask_id).masked_fill(padding, model.pad_id)
    scores = torch.zeros(ids.shape).masked_fill(padding, KEPT)
    for share in cosine_mask_ratio(torch.linspace(0, 1, timesteps)).tolist():
        masked = lowest(scores, (share * lengths).round().clamp_min(1)) & ~padding
        ids = ids.masked_fill(masked, model.mask_id)
        conditional = model(ids, cond, padding)
        unconditional = model(ids, torch.zeros_like(cond), padding)
        logits = unconditional + cond_scale * (conditional - unconditional)
        drawn = gumbel_argmax(top_k_filter(logits, thres), draw(logits.shape))
        ids = torch.where(masked, drawn, ids)
        certainty = logits.softmax(-1).gather(-1, ids.clamp_max(logits.shape[-1] - 1)[..., None]).squeeze(-1)
        scores = certainty.masked_fill(~masked, KEPT)
    return ids.masked_fill(padding, -1)


@torch.no_grad()
def all_tokens(model: ResidualTransformer, base: Tensor, cond: Tensor, token_lens: Sequence[int],
               cond_scale: float = 2.0, thres: float = 0.9, draw: Draw = torch.rand) -> Tensor:
    """Generate ids (b, n, q) of all layers, -1 at padding, for base ids (b, n). ``draw`` is called once per layer."""
    padding = padding_of(torch.tensor(token_lens), base.shape[1])
    ids = [base.masked_fill(padding, model.pad_id)]
    history, tables = 0, model.input_tables()
    for layer in range(1, model.config.num_quantizers):
        history = history + tables[layer - 1][ids[-1]]
        layers = torch.full((len(base),), layer)
        conditional = model.project(model(history, layers, cond, padding), layers)
        unconditional = model.project(model(history, layers, torch.zeros_like(cond), padding), layers)
        logits = unconditional + cond_scale * (conditional - unconditional)
        if not model.config.published:
            logits = logits[..., :-1]
        drawn = gumbel_argmax(top_k_filter(logits, thres), draw(logits.shape))
        ids.append(drawn.masked_fill(padding, model.pad_id))
    made = torch.stack(ids, -1)
    return made.masked_fill(made == model.pad_id, -1)


@torch.no_grad()
def encode(model: RVQVAE, motion: Tensor) -> tuple[Tensor, Tensor]:
    """Encode motion (b, t, d) to ids (b, n, q). Also returns the vectors (q, b, code_dim, n) of each layer."""
    residual = model.motion_encoder(motion).transpose(1, 2)
    ids, vectors = [], []
    for layer in model.quantizer.layers:
        ids.append(layer.nearest(residual.flatten(0, 1)).view(residual.shape[:2]))
        vectors.append(layer.lookup(ids[-1]))
        residual = residual - vectors[-1]
    return torch.stack(ids, -1), torch.stack(vectors).transpose(2, 3)


def lamp_loss(model: LaMP, motion: Tensor, ids: Tensor, mask: Tensor, negatives: Negatives | None = None) -> Tensor:
    """Compute the sum of LaMP's four losses for motion (b, t, d) and texts (b, t) padded to one length.

    Words are predicted at all positions, including padding.
    """
    encoded = model.encode_motion(motion)
    states = model.motion_states(encoded)
    query = model.query_motion(encoded, states)
    motions, texts = model.project_motion(query.hidden), model.project_text(model.Qformer.text(ids, mask))
    by_motion = model.scaled(torch.einsum("mqe,te->mtq", motions, texts).amax(-1))
    by_text = model.scaled(torch.einsum("te,mqe->tmq", texts, motions).amax(-1))
    own = torch.arange(len(ids))
    ptc = sum(F.cross_entropy(scores, own, label_smoothing=LABEL_SMOOTHING) for scores in (by_motion, by_text)) / 2
    if negatives is None:
        chosen = [scores.detach().softmax(1).multinomial(1).squeeze(1) for scores in (by_text, by_motion)]
        negatives = Negatives(*chosen)
    motion, text = torch.cat([own, negatives.motion, own]), torch.cat([own, own, negatives.text])
    belong = (torch.arange(3 * len(own)) < len(own)).long()
    ptm = F.cross_entropy(model.match_logits(states[motion], None, ids[text], mask[text]), belong)
    words = model.caption_logits(ids, mask, query)[:, :-1]
    following = ids[:, 1:].masked_fill(~mask[:, 1:], IGNORED)
    lm = F.cross_entropy(words.flatten(0, 1), following.flatten(), ignore_index=IGNORED,
                         label_smoothing=LABEL_SMOOTHING)
    codes = model.generation_logits(model.word_states(ids), mask)
    gen = F.cross_entropy(codes.flatten(0, 1), encoded.ids.flatten(), label_smoothing=LABEL_SMOOTHING)
    return ptc + ptm + lm + gen


class GumbelQuantizer(EmaQuantizer):
    """Quantizer that samples codes by adding Gumbel noise to all of them."""

    @torch.no_grad()
    def sample(self, rows: Tensor, temperature: float, uniform: Tensor) -> Tensor:
        """Sample codes like ``EmaQuantizer.sample``, except that ``uniform`` (r,) is ignored."""
        del uniform
        scores = self._distances(rows) / -temperature
        return gumbel_argmax(scores, torch.rand_like(scores))


def draw_by_gumbel(model: HumanVQVAE | RVQVAE) -> None:
    """Make a tokenizer sample its codes in training with Gumbel noise."""
    for quantizer in model.quantizers:
        quantizer.__class__ = GumbelQuantizer
