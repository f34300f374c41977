"""Motion tokens of a data set, computed once at the start of a run."""
import torch
from tqdm import tqdm

from data.specs import MAX_MOTION_LENGTH, UNIT_LENGTH
from data.text_motion import Pair
from evaluation.reconstruction import batches_of_equal_length, codes_of
from training.load import LoadedTokenizer
from utils.errors import InputError


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
        clips = [tokenizer.normalisation.apply(pair.features[start:start + MAX_MOTION_LENGTH + UNIT_LENGTH])
                 for pair in pairs]
        for indices, batch in batches_of_equal_length(clips):
            made = codes_of(tokenizer.model, torch.from_numpy(batch).to(device)).to(torch.int32).cpu()
            for index, one in zip(indices, made, strict=True):
                codes[index].append(one)
            bar.update(len(indices))
    bar.close()
    return codes
