"""Motion tokens and text features of a data set, computed once, for all runs."""
import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from data.cache import fingerprint, load
from data.packed import features_state
from data.paraphrase import with_paraphrases
from data.specs import MAX_MOTION_LENGTH, UNIT_LENGTH, DatasetSpec
from data.text_motion import Pair, TextTokens, load_pairs
from evaluation.reconstruction import batches_of_equal_length, codes_of
from models.lamp.text_encoder import TextEncoder
from storage.load import LoadedTokenizer
from training.text_features import KEPT, cached_text_features
from utils.errors import InputError

_CODES, _LENGTHS = "codes.npy", "lengths.npy"


@dataclass(frozen=True)
class TokenSets:
    """What the token transformers learn from."""

    train: TextTokens
    val: TextTokens
    features: dict[str, Tensor]  # text features (texts, c) by caption number, of "train" and "val"


def load_token_sets(opt: argparse.Namespace, spec: DatasetSpec, tokenizer: LoadedTokenizer, text: TextEncoder,
                    device: torch.device) -> TokenSets:
    """Tokens of both splits and the features of their captions, which are computed by the first run that asks for them
    and kept beside the data."""
    sets, features = {}, {}
    for split in ("train", "val"):
        pairs = with_paraphrases(load_pairs(spec, split, quiet=opt.quiet),
                                 opt.paraphrases if split == "train" else 0, opt.seed)
        codes = cached_tokens(spec, split, tokenizer, pairs, device, opt.quiet)
        sets[split] = TextTokens(pairs, codes, training=split == "train", seed=opt.seed)
        features[split] = cached_text_features(spec, split, sets[split].texts, text, opt.quiet)
    print(f"{len(sets['train'])} training pairs, {len(sets['train'].texts)} captions; {len(sets['val'])} to validate")
    return TokenSets(**sets, features=features)


def cached_tokens(spec: DatasetSpec, split: str, tokenizer: LoadedTokenizer, pairs: list[Pair], device: torch.device,
                  quiet: bool = True) -> list[list[torch.Tensor]]:
    """What ``tokenize_pairs`` makes of the pairs of a split, kept beside the data, with those of other tokenizers and
    motions, the last ``KEPT`` of a split."""
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
    """Codes of each pair from row 0, 1, 2 and 3 on: lists of (n, q) int32 tensors, as ``TextTokens`` takes them.

    Raises ``InputError`` where a token of this tokenizer does not stand for 4 frames.
    """
    if tokenizer.model.config.unit_length != UNIT_LENGTH:
        raise InputError(f"{tokenizer.source} has {tokenizer.model.config.unit_length} frames a token, and generation "
                         f"{UNIT_LENGTH}: train it with --down_t 2")
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
