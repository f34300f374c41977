"""BERT's word pieces from a ``vocab.txt``, lower-cased, with the added token [DEC] that starts a generated text."""
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from torch import Tensor

from utils.errors import InputError
from utils.files import atomic_path, read_text

VOCAB_FILE = "vocab.txt"
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


@dataclass(frozen=True)
class Pieces:
    """Texts as word pieces: [CLS] ... [SEP], then padding."""

    ids: Tensor   # (b, t) int64
    mask: Tensor  # (b, t) bool, False at padding


class WordPieces:
    """Turns texts into ids and back. ``source`` is a ``vocab.txt`` or a folder that holds one."""

    def __init__(self, source: str | Path) -> None:
        path = Path(source)
        self.path = path / VOCAB_FILE if path.is_dir() else path
        pieces = read_text(self.path, "vocabulary").splitlines()
        vocabulary = {piece: index for index, piece in enumerate(pieces)}
        missing = [piece for piece in _SPECIAL if piece not in vocabulary]
        if missing:
            raise InputError(f"{self.path} is not a BERT vocabulary: it lacks {', '.join(missing)}")
        self.pad_id, self.unk_id, self.cls_id, self.sep_id = (vocabulary[piece] for piece in _SPECIAL)
        self.dec_id = len(pieces)  # [DEC], behind the vocabulary
        # Special pieces are no words to it, so that none can come out of a text that names them.
        self._tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
        self._tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        self._tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        self._tokenizer.decoder = decoders.WordPiece()

    def __len__(self) -> int:
        """Number of ids, [DEC] among them."""
        return self.dec_id + 1

    def encode(self, texts: Sequence[str], max_length: int = 32, pad_to: int | None = None) -> Pieces:
        """Word pieces of texts, at most ``max_length`` each with [CLS] and [SEP], which are always there.

        Padded to the longest text, or to ``pad_to`` pieces, which must not be fewer than that.
        """
        if max_length < 2:
            raise ValueError(f"max_length {max_length} leaves no room for [CLS] and [SEP]")
        room = max_length - 2
        rows = [encoding.ids[:room] for encoding in
                self._tokenizer.encode_batch(list(texts), add_special_tokens=False)]
        width = max((len(row) + 2 for row in rows), default=2)
        if pad_to is not None and pad_to < width:
            raise ValueError(f"a text has {width} word pieces, more than the {pad_to} to pad to")
        ids = torch.full((len(rows), pad_to or width), self.pad_id)
        mask = torch.zeros_like(ids, dtype=torch.bool)
        for index, row in enumerate(rows):
            ids[index, :len(row) + 2] = torch.tensor([self.cls_id, *row, self.sep_id])
            mask[index, :len(row) + 2] = True
        return Pieces(ids, mask)

    def ids(self, text: str) -> list[int]:
        """Word pieces of one text, without [CLS] and [SEP]."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens left out."""
        special = (self.pad_id, self.cls_id, self.sep_id, self.dec_id)
        return self._tokenizer.decode([piece for piece in ids if piece not in special])

    def save_tokenizer(self, path: str | Path) -> None:
        """Write the file that the package ``tokenizers`` reads, for programs without this one."""
        self._tokenizer.save(str(path))

    def save(self, folder: str | Path) -> None:
        """Put the vocabulary into a model's folder, so that the model needs no other."""
        with atomic_path(Path(folder) / VOCAB_FILE) as temporary:
            shutil.copyfile(self.path, temporary)
