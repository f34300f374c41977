"""How captions become the ids of a language model's vocabulary, and back."""
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from models.lamp.tokenizer import WordPieces
from utils.batch_slice import WHOLE, BatchSlice


class Words(Protocol):
    """A vocabulary, with the ids that start, end and pad a caption."""

    start_id: int
    end_id: int
    pad_id: int

    def __len__(self) -> int:
        """Number of ids."""

    def ids(self, text: str) -> list[int]:
        """Ids of a text, without start and end."""

    def text(self, ids: Sequence[int]) -> str:
        """The text of ids; start, end and padding are left out."""


class PieceWords:
    """BERT's word pieces: a caption starts with [DEC], as in LaMP, and ends with [SEP]."""

    def __init__(self, pieces: WordPieces) -> None:
        self.pieces = pieces
        self.start_id, self.end_id, self.pad_id = pieces.dec_id, pieces.sep_id, pieces.pad_id

    def __len__(self) -> int:
        return len(self.pieces)

    def ids(self, text: str) -> list[int]:
        """Word pieces of a text."""
        return self.pieces.ids(text)

    def text(self, ids: Sequence[int]) -> str:
        """The text of word pieces."""
        return self.pieces.decode(ids)


class HubWords:
    """The vocabulary of a language model of the hub: a caption ends with a line break, as in the paper.

    ``tokenizer`` is one of ``transformers``; where it has no line break of its own, its end of text ends a caption.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        breaks = tokenizer("\n", add_special_tokens=False)["input_ids"]
        known = len(breaks) == 1 and breaks[0] != tokenizer.unk_token_id
        self.end_id = breaks[0] if known else tokenizer.eos_token_id
        self.start_id = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        self.pad_id = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id

    def __len__(self) -> int:
        return len(self.tokenizer)

    def ids(self, text: str) -> list[int]:
        """Tokens of a text."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def text(self, ids: Sequence[int]) -> str:
        """The text of tokens."""
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()


@dataclass(frozen=True)
class Captions:
    """Captions as ids: start, words, end, then padding."""

    ids: Tensor   # (b, t) int64
    mask: Tensor  # (b, t) bool, False at padding


def encode_captions(words: Words, texts: Sequence[str], longest: int) -> Captions:
    """Ids of captions, start and end among the at most ``longest`` of each; a longer one is cut."""
    rows = [[words.start_id, *words.ids(text)[:longest - 2], words.end_id] for text in texts]
    ids = torch.full((len(rows), max(map(len, rows))), words.pad_id)
    mask = torch.zeros_like(ids, dtype=torch.bool)
    for number, row in enumerate(rows):
        ids[number, :len(row)] = torch.tensor(row)
        mask[number, :len(row)] = True
    return Captions(ids, mask)


def with_noise(words: Words, captions: Captions, keep: float, longest: int, generator: torch.Generator,
               batch_slice: BatchSlice = WHOLE) -> Tensor:
    """Ids (b, t) of captions, t <= ``longest``, in which each word stays with the chance ``keep``, and is any other id
    otherwise. ``batch_slice`` is which captions of the whole batch these are.

    A decoder that reads them while it learns leans on the motion more than on the words before (T2M-GPT, section 3.2).
    """
    rows, length = captions.ids.shape
    noise = batch_slice.randint(generator, len(words), rows, longest)[:, :length]
    replaced = (batch_slice.rand(generator, rows, longest)[:, :length] >= keep) & captions.mask
    replaced[:, 0] = False
    return torch.where(replaced, noise, captions.ids)
