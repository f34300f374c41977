"""Training stages of the transformers and the length estimator, and their cached motion tokens and text features."""
import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import starmap
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate
from tqdm import tqdm

from data.dataset import (
    MAX_MOTION_LENGTH,
    UNIT_LENGTH,
    DatasetSpec,
    dataset_spec,
    features_state,
    load_cached,
    read_ids,
)
from data.language import training_pairs
from data.text_motion import Pair, TextCrops, TextTokens, load_pairs
from evaluation.generation import Make, ValidationFid, validation_fid
from evaluation.metrics import batches_of_equal_length, codes_of, decode_clips
from models.lamp.features import TextEncoder, encode_texts
from models.text_to_motion import LengthEstimator, Sample, Sampling, TextToMotion
from models.transformers.mask_transformer import MaskTransformer
from models.transformers.residual import ResidualTransformer
from models.transformers.trunk import FIXED_TABLE, TokenLoss, sample_generators, unit_noise
from storage.checkpoint import load_strictly
from storage.generation import LoadedTokenizer, load_text_encoder, load_tokenizer
from training.runs import divide, settle_lamp
from training.trainer import Stage
from utils import InputError
from utils.files import fingerprint
from utils.runtime import WHOLE, BatchSlice, stream_seed

KEPT = 4  # number of caches to keep per split
_CODES, _LENGTHS, _FEATURES = "codes.npy", "lengths.npy", "features.npy"


@dataclass(frozen=True)
class TokenData:
    """Data for training a transformer on motion tokens and text features."""

    spec: DatasetSpec
    tokenizer: LoadedTokenizer
    train: TextTokens | TextCrops
    val: TextTokens
    features: dict[str, Tensor]  # text features (texts, c) of the splits "train" and "val"


def load_token_data(opt: argparse.Namespace, device: torch.device, min_layers: int = 1) -> TokenData:
    """Load the tokenizer, the text encoder and the data of both splits, and add the sizes of the model to ``opt``.

    Raises ``InputError`` if the tokenizer has fewer than ``min_layers`` layers.
    """
    spec = dataset_spec(opt.dataset_name, opt.data_root)
    tokenizer = load_tokenizer(opt.vq_name, spec, opt.checkpoints_dir, device)
    if tokenizer.model.config.num_quantizers < min_layers:
        raise InputError(f"{tokenizer.source} has a single token layer, so there is no residual layer to predict")
    settle_lamp(opt, spec, opt.vq_name)
    text = load_text_encoder(vars(opt), spec, opt.checkpoints_dir, device)
    print(f"data set {spec.root}; tokenizer {tokenizer.source}; text features of {opt.lamp_name or opt.text_encoder}")
    vq = tokenizer.model.config
    vars(opt).update(num_tokens=vq.nb_code, code_dim=vq.code_dim, num_quantizers=vq.num_quantizers, cond_dim=text.dim)
    sets, features = {}, {}
    for split in ("train", "val"):
        pairs = training_pairs(spec, opt) if split == "train" else load_pairs(spec, split, quiet=opt.quiet)
        if split == "train" and opt.encode_crops:
            sets[split] = TextCrops(pairs, tokenizer.normalisation, training=True, seed=opt.seed)
        else:
            codes = cached_tokens(spec, split, tokenizer, pairs, device, opt.quiet)
            sets[split] = TextTokens(pairs, codes, training=split == "train", seed=opt.seed)
        features[split] = cached_text_features(spec, split, list(sets[split].text_ids), text, opt.quiet)
    print(f"{len(sets['train'])} training pairs with {len(sets['train'].text_ids)} texts, "
          f"{len(sets['val'])} validation pairs")
    return TokenData(spec, tokenizer, **sets, features=features)


def cached_text_features(spec: DatasetSpec, split: str, texts: Sequence[str], encoder: TextEncoder,
                         quiet: bool = True) -> Tensor:
    """Encode the texts of a split to features (n, dim). The result is cached in the folder of the data set."""
    key = fingerprint(encoder.fingerprint, "\n".join(texts))[:20]
    features = load_cached(spec, f"text-{split}", key,
                           lambda made: np.save(made / _FEATURES, encode_texts(encoder, texts, quiet).numpy()),
                           lambda packed: np.load(packed / _FEATURES), KEPT)
    return torch.from_numpy(features)


def cached_tokens(spec: DatasetSpec, split: str, tokenizer: LoadedTokenizer, pairs: list[Pair], device: torch.device,
                  quiet: bool = True) -> list[list[torch.Tensor]]:
    """Tokenize the motions of a split with ``tokenize_pairs``. The result is cached in the folder of the data set."""
    rows = repr([(pair.name, pair.start, len(pair.features)) for pair in pairs])
    key = fingerprint(tokenizer.fingerprint, features_state(spec, read_ids(spec, split)), rows)[:20]

    def make(made: Path) -> None:
        codes = [codes for by_start in tokenize_pairs(tokenizer, pairs, device, quiet) for codes in by_start]
        np.save(made / _CODES, torch.cat(codes).numpy())
        np.save(made / _LENGTHS, [len(some) for some in codes])

    lengths, codes = load_cached(spec, f"tokens-{split}", key, make,
                                 lambda packed: (np.load(packed / _LENGTHS).tolist(), np.load(packed / _CODES)), KEPT)
    codes = torch.from_numpy(codes).split(lengths)
    return [list(codes[first:first + UNIT_LENGTH]) for first in range(0, len(codes), UNIT_LENGTH)]


@torch.no_grad()
def tokenize_pairs(tokenizer: LoadedTokenizer, pairs: list[Pair], device: torch.device,
                   quiet: bool = True) -> list[list[torch.Tensor]]:
    """Tokenize the motion of each pair four times, starting at frames 0 to 3. Returns four (n, q), int32, per pair.

    Raises ``InputError`` if the tokenizer does not use 4 frames per token.
    """
    if tokenizer.model.config.unit_length != UNIT_LENGTH:
        raise InputError(f"{tokenizer.source} has {tokenizer.model.config.unit_length} frames per token, but "
                         f"generation needs {UNIT_LENGTH}: train it with --down_t 2")
    codes: list[list[torch.Tensor]] = [[] for _ in pairs]
    bar = tqdm(total=UNIT_LENGTH * len(pairs), desc="motion tokens", disable=quiet or None, leave=False)
    for start in range(UNIT_LENGTH):
        clips = [pair.features[start:start + MAX_MOTION_LENGTH + UNIT_LENGTH] for pair in pairs]
        for indices, batch in batches_of_equal_length(clips):
            motion = torch.from_numpy(tokenizer.normalisation.apply(batch)).to(device)
            made = codes_of(tokenizer.model, motion).to(torch.int32).cpu()
            for index, one in zip(indices, made, strict=True):
                codes[index].append(one)
            bar.update(len(indices))
    bar.close()
    return codes


MASKED_BATCH = 128  # clips of a validation batch; the fixed random masks depend on it
VALIDATION_DRAWS = 4  # number of random masks or layers per validation clip


class TokenStage(Stage):
    """Base class of the training stages of both transformers.

    Args:
        features: text features (texts, c) of the splits "train" and "val".
        val_set: validation tokens.
        fid: function that measures the FID of generated motions, to select the best checkpoint.
        tokenizer: tokenizer for training data that contains motions instead of tokens.
    """

    def __init__(self, model: MaskTransformer | ResidualTransformer, opt: argparse.Namespace,
                 features: dict[str, Tensor], val_set: TextTokens,
                 fid: Callable[[nn.Module], float] | None = None, tokenizer: LoadedTokenizer | None = None) -> None:
        super().__init__(model)
        self.tokenizer = tokenizer  # not a submodule, because it is neither trained nor saved
        self.choose_by_fid(fid)
        self.opt, self.val_set = opt, val_set
        self.spread = features["train"].std(0, correction=0) if opt.cond_noise else None
        self.features = dict(features)  # not buffers, which would be saved and synchronised

    def load_state(self, state: dict[str, Tensor], path: Path) -> None:
        load_strictly(self.model, state, path, optional=(FIXED_TABLE,))

    def forward(self, batch: dict[str, Any], generator: torch.Generator, batch_slice: BatchSlice) -> dict[str, Tensor]:
        """Compute the loss and accuracy of a batch, and their weight: the mean number of predictions per clip."""
        cond = self._conditions("train", batch["caption"])
        if self.opt.cond_noise:
            noise = unit_noise(batch_slice.rand(generator, *cond.shape)).to(cond.device, non_blocking=True)
            self.spread = self.spread.to(cond.device)
            cond = cond + self.opt.cond_noise * self.spread * noise
        if "motion" in batch:
            batch = {**batch, "tokens": self._encoded(batch["motion"])}
        result = self._result(batch, cond, generator, batch_slice)
        return {"loss": result.loss, "acc": result.accuracy, "weight": result.count / len(batch["caption"])}

    def compiled_parts(self) -> list[nn.Module]:
        return [self.model.seqTransEncoder]

    def layers_of(self, tokens: Tensor) -> Tensor:
        """Select the layers of ``tokens`` (b, n, q) that the model reads."""
        return tokens

    def _conditions(self, split: str, captions: Tensor) -> Tensor:
        """Look up the text features (b, c) of caption indices (b,)."""
        self.features[split] = self.features[split].to(captions.device)
        return self.features[split][captions]

    @torch.no_grad()
    def _encoded(self, motion: Tensor) -> Tensor:
        """Tokenize ``motion`` (b, 196, d) in float32. Returns (b, 49, q)."""
        with torch.autocast(motion.device.type, enabled=False):
            return codes_of(self.tokenizer.model, motion).long()

    def _result(self, batch: dict[str, Any], cond: Tensor, generator: torch.Generator,
                batch_slice: BatchSlice = WHOLE) -> TokenLoss:
        tokens = self.layers_of(batch["tokens"])
        return self.model.loss(tokens, cond, batch["token_len"], generator, batch_slice=batch_slice)

    def validate(self) -> dict[str, float]:
        """Compute loss and accuracy with fixed random numbers, and FID if there is an evaluator."""
        starts = range(0, len(self.val_set), MASKED_BATCH)
        passes = [(draw, start) for draw in range(VALIDATION_DRAWS) for start in starts]
        made = divide(passes, lambda own: list(starmap(self._validate, own)))
        sums = np.sum(made, 0)  # sums of loss, accuracy and clips
        return {"loss": float(sums[0] / sums[2]), "acc": float(sums[1] / sums[2])} | self.measured_fid()

    def _validate(self, draw: int, start: int) -> tuple[float, float, int]:
        """Validate on up to ``MASKED_BATCH`` clips, starting at ``start``, with the random stream ``draw``.

        Returns the loss and the accuracy, means over predicted positions, times the number of clips, and this number.
        """
        batch = self.batch(self.val_set, start, MASKED_BATCH)
        generator = torch.Generator().manual_seed(stream_seed(self.opt.seed, draw, start))
        result = self._result(batch, self._conditions("val", batch["caption"]), generator)
        count = len(batch["caption"])
        return float(result.loss) * count, float(result.accuracy) * count, count


class MaskStage(TokenStage):
    """Training stage of the masked transformer."""

    name = "t2m"
    state_key = "t2m_transformer"
    optimizer_key = "opt_t2m_transformer"
    bests = {"net_best_loss": ("loss", "min"), "net_best_acc": ("acc", "max")}

    def layers_of(self, tokens: Tensor) -> Tensor:
        return tokens[..., 0]


class ResidualStage(TokenStage):
    """Training stage of the residual transformer."""

    name = "res"
    state_key = "res_transformer"
    optimizer_key = "opt_res_transformer"
    bests = {"net_best_loss": ("loss", "min")}


class CaptionLengths(Dataset):
    """Data set of text features (c,) and motion lengths in tokens, one item per text.

    It includes all captions of a clip and up to the same number (at least 1) of random sentences of the bank.
    ``features`` maps each text to its features (c,).
    """

    def __init__(self, pairs: list[Pair], features: Mapping[str, Tensor], seed: int = 0) -> None:
        texts = [_sampled_texts(pair, np.random.default_rng(stream_seed(seed, row))) for row, pair in enumerate(pairs)]
        self.features = torch.stack([features[text] for some in texts for text in some])
        self.lengths = [len(pair.features) // UNIT_LENGTH for pair, some in zip(pairs, texts, strict=True)
                        for _ in some]

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"feature": self.features[index], "token_len": self.lengths[index]}


def _sampled_texts(pair: Pair, generator: np.random.Generator) -> list[str]:
    count = min(len(pair.sentences), max(len(pair.captions), 1))
    chosen = generator.choice(len(pair.sentences), count, replace=False) if count else []
    return [*pair.captions, *(pair.sentences[row] for row in chosen)]


class LengthStage(Stage):
    """Training stage of the length estimator."""

    name = "len"
    state_key = "estimator"
    optimizer_key = "opt_estimator"
    bests = {"finest": ("loss", "min")}

    def __init__(self, model: LengthEstimator, val_set: CaptionLengths) -> None:
        super().__init__(model)
        self.val_set = val_set

    def forward(self, batch: dict[str, Tensor], *_: object) -> dict[str, Tensor]:
        """Compute the cross-entropy of a batch of text features and lengths."""
        return {"loss": self.model.loss(batch["feature"], batch["token_len"])}

    def validate(self) -> dict[str, float]:
        """Compute the cross-entropy and the mean absolute error of the expected length in tokens."""
        features = self.val_set.features.to(self.device)
        lengths = torch.tensor(self.val_set.lengths, device=self.device)
        error = (self.model.expected(features) - lengths).abs().float().mean()
        return {"loss": float(self.model.loss(features, lengths)), "error_tokens": float(error)}


ROWS = 8  # motions generated per forward pass


def token_fid(opt: argparse.Namespace, data: TokenData, device: torch.device,
              make: Callable[[TokenData, argparse.Namespace], Make], otherwise: str) -> ValidationFid | None:
    """Create the validation FID of a transformer, whose motions are generated by the function that ``make`` returns.

    Returns None if there is no evaluator.
    """
    clips = [pair.features[:data.val.crop(row).length] for row, pair in enumerate(data.val.pairs)]
    return validation_fid(opt, data.spec, device, clips, make(data, opt), otherwise, divide)


def generates(data: TokenData, opt: argparse.Namespace) -> Make:
    """Return a function that generates a motion for the first caption of each clip with a masked transformer."""
    tokenizer, val_set, features = data.tokenizer, data.val, data.features["val"]
    device = next(tokenizer.model.parameters()).device
    sampling = replace(Sampling.from_options(vars(opt)), group_rows=ROWS)

    def text(captions: Sequence[str]) -> Tensor:
        return features[[val_set.text_ids[caption] for caption in captions]].to(device)

    def make(model: nn.Module, rows: Sequence[int]) -> list[np.ndarray]:
        pipeline = TextToMotion(tokenizer.model, tokenizer.normalisation.invert, model, text, data.spec.skeleton)
        return pipeline.features([Sample(val_set.pairs[row].captions[0], stream_seed(opt.seed, row),
                                         val_set.crop(row).length) for row in rows], sampling)

    return make


def completes(data: TokenData, opt: argparse.Namespace) -> Make:
    """Return a function that generates the residual layers of each clip from its ground-truth base layer."""
    tokenizer, val_set, features = data.tokenizer, data.val, data.features["val"]
    device = next(tokenizer.model.parameters()).device
    sampling = replace(Sampling.from_options(vars(opt)), group_rows=ROWS)

    def make(model: ResidualTransformer, rows: Sequence[int]) -> list[np.ndarray]:
        batch = send_to_device(default_collate([val_set[row] for row in rows]), device)
        lengths = batch["token_len"].tolist()
        cond = features[batch["caption"].to(features.device)].to(device)
        streams = sample_generators([stream_seed(opt.seed, row) for row in rows])
        ids = model.generate(batch["tokens"][..., 0], cond, lengths, streams, sampling)
        return decode_clips(tokenizer.model, [one[:length] for one, length in zip(ids, lengths, strict=True)],
                            tokenizer.normalisation)

    return make
