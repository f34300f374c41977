"""Motion tokens and text features of a data set, computed once and cached for later runs."""
import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from data.cache import features_state, load
from data.language import training_pairs
from data.specs import MAX_MOTION_LENGTH, UNIT_LENGTH, DatasetSpec, dataset_spec
from data.text_motion import Pair, TextCrops, TextTokens, load_pairs
from evaluation.reconstruction import batches_of_equal_length, codes_of
from models.lamp.features import TextEncoder, encode_texts
from storage.load import load_text_encoder
from storage.load_lamp import LoadedTokenizer, load_tokenizer
from storage.runs import settle_lamp
from utils.errors import InputError
from utils.files import fingerprint

KEPT = 4  # caches to keep per split, as runs differ in encoders and paraphrases
_CODES, _LENGTHS, _FEATURES = "codes.npy", "lengths.npy", "features.npy"


@dataclass(frozen=True)
class TokenData:
    """Tokenizer, motion tokens and text features for training a token transformer."""

    spec: DatasetSpec
    tokenizer: LoadedTokenizer
    train: TextTokens | TextCrops
    val: TextTokens
    features: dict[str, Tensor]  # text features (texts, c) by caption number, for "train" and "val"


def load_token_data(opt: argparse.Namespace, device: torch.device, min_layers: int = 1) -> TokenData:
    """Load the tokenizer and text encoder named in ``opt`` and compute or read the data of both splits.

    Adds the sizes that follow from them to ``opt``: ``num_tokens``, ``code_dim``, ``num_quantizers``, ``cond_dim``.
    Raises ``InputError`` if the tokenizer has fewer than ``min_layers`` layers.
    """
    spec = dataset_spec(opt.dataset_name, opt.data_root)
    tokenizer = load_tokenizer(opt.vq_name, spec, opt.checkpoints_dir, device)
    if tokenizer.model.config.num_quantizers < min_layers:
        raise InputError(f"{tokenizer.source} has a single token layer: there is no residual layer to predict")
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
        features[split] = cached_text_features(spec, split, sets[split].texts, text, opt.quiet)
    print(f"{len(sets['train'])} training pairs, {len(sets['train'].texts)} captions; {len(sets['val'])} to validate")
    return TokenData(spec, tokenizer, **sets, features=features)


def cached_text_features(spec: DatasetSpec, split: str, texts: Sequence[str], encoder: TextEncoder,
                         quiet: bool = True) -> Tensor:
    """Features (len(texts), dim) of the texts of a split, cached with the data; the last ``KEPT`` caches of a split are
    kept."""
    key = fingerprint(encoder.fingerprint, "\n".join(texts))[:20]
    features = load(spec, f"text-{split}", key,
                    lambda made: np.save(made / _FEATURES, encode_texts(encoder, texts, quiet).numpy()),
                    lambda packed: np.load(packed / _FEATURES), KEPT)
    return torch.from_numpy(features)


def cached_tokens(spec: DatasetSpec, split: str, tokenizer: LoadedTokenizer, pairs: list[Pair], device: torch.device,
                  quiet: bool = True) -> list[list[torch.Tensor]]:
    """``tokenize_pairs`` for the pairs of a split, cached with the data; the last ``KEPT`` caches of a split are
    kept."""
    rows = repr([(pair.name, pair.start, len(pair.features)) for pair in pairs])
    key = fingerprint(tokenizer.fingerprint, features_state(spec, split), rows)[:20]

    def make(made: Path) -> None:
        codes = [codes for by_start in tokenize_pairs(tokenizer, pairs, device, quiet) for codes in by_start]
        np.save(made / _CODES, torch.cat(codes).numpy())
        np.save(made / _LENGTHS, [len(some) for some in codes])

    lengths, codes = load(spec, f"tokens-{split}", key, make,
                          lambda packed: (np.load(packed / _LENGTHS).tolist(), np.load(packed / _CODES)), KEPT)
    codes = torch.from_numpy(codes).split(lengths)
    return [list(codes[first:first + UNIT_LENGTH]) for first in range(0, len(codes), UNIT_LENGTH)]


@torch.no_grad()
def tokenize_pairs(tokenizer: LoadedTokenizer, pairs: list[Pair], device: torch.device,
                   quiet: bool = True) -> list[list[torch.Tensor]]:
    """Codes of each pair from rows 0, 1, 2 and 3 on: lists of (n, q) int32 tensors, for ``TextTokens``.

    Raises ``InputError`` if a token of this tokenizer is not 4 frames.
    """
    if tokenizer.model.config.unit_length != UNIT_LENGTH:
        raise InputError(f"{tokenizer.source} has {tokenizer.model.config.unit_length} frames per token, generation "
                         f"needs {UNIT_LENGTH}: train it with --down_t 2")
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
