"""BERT's word-piece tokenizer, and Q-Formers initialised with BERT's weights."""
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from torch import Tensor

from models.lamp.qformer import QFormer, QFormerConfig
from utils import InputError
from utils.files import WEIGHT_FILES, atomic_path, model_folder, read_text

_TOKEN_TYPES = "bert.embeddings.token_type_embeddings.weight"
_POSITIONS = "bert.embeddings.position_embeddings.weight"
_WORDS = "bert.embeddings.word_embeddings.weight"
_WORD_BIAS = "cls.predictions.bias"
_OPTIONAL = ("cls.predictions.transform.",)  # language-model head, which some published encoders lack


def bert_folder(source: str | Path) -> Path:
    """Return the folder of a BERT model: ``source`` itself, or a download of the hub model ``source``.

    Raises ``InputError`` if there is no such model.
    """
    return model_folder(source, "BERT", ("config.json", "vocab.txt"))


def from_bert(source: str | Path, *, layers: int | None = None, **sizes: Any) -> QFormer:
    """Create a Q-Former initialised from the BERT model ``source`` (folder or hub name).

    Sizes come from BERT's ``config.json``, except those in ``sizes``, such as ``encoder_width``. ``layers`` is the
    number of layers to keep. [DEC] is appended to the vocabulary. BERT's embedding of token type 0 is added to all
    position embeddings, so that the text pass equals BERT's. The feed-forward blocks of the queries are copies of those
    of the text. Other parameters that BERT lacks are initialised at random. Raises ``InputError`` for an unusable model
    or too many ``layers``.
    """
    folder = bert_folder(source)
    config = replace(_config(folder), **sizes)
    state = {_published_name(name): tensor for name, tensor in _weights(folder).items()}
    if layers is not None:
        if not 1 <= layers <= config.layers:
            raise InputError(f"the BERT in {folder} has {config.layers} layers, fewer than the requested {layers}")
        config = replace(config, layers=layers)
    qformer = QFormer(config)
    _load(qformer, state, folder)
    return qformer


def _config(folder: Path) -> QFormerConfig:
    try:
        facts = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if facts.get("hidden_act", "gelu") != "gelu":
            raise InputError(f"{folder / 'config.json'}: hidden_act {facts['hidden_act']} is not supported, only gelu")
        return QFormerConfig(
            hidden=facts["hidden_size"], layers=facts["num_hidden_layers"], heads=facts["num_attention_heads"],
            intermediate=facts["intermediate_size"], max_positions=facts["max_position_embeddings"],
            vocab=facts["vocab_size"] + 1, layer_norm_eps=facts.get("layer_norm_eps", 1e-12))
    except OSError as error:
        raise InputError(f"cannot read {folder / 'config.json'}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{folder / 'config.json'} is not the config of a BERT: {error}") from error


def _weights(folder: Path) -> dict[str, Tensor]:
    path = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    if path is None:
        raise InputError(f"no {' or '.join(WEIGHT_FILES)} in {folder}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # both loaders raise many kinds of errors for unusable files
        raise InputError(f"{path} cannot be read: {(str(error) or type(error).__name__).splitlines()[0]}") from error


def _published_name(name: str) -> str:
    """Convert a parameter name of an encoder-only or an old checkpoint to the current name."""
    if not name.startswith(("bert.", "cls.")):
        name = f"bert.{name}"
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


@torch.no_grad()
def _load(qformer: QFormer, state: dict[str, Tensor], folder: Path) -> None:
    if _TOKEN_TYPES in state and _POSITIONS in state:
        state[_POSITIONS] = state[_POSITIONS] + state[_TOKEN_TYPES][0]
    own = dict(qformer.named_parameters())
    new = [name for name in own if "crossattention" in name or "_query." in name or name.startswith(_OPTIONAL)]
    for name, parameter in own.items():
        if name in state:
            source = state[name]
            target = parameter[:len(source)] if name in (_WORDS, _WORD_BIAS) else parameter
            if source.shape != target.shape:
                raise InputError(f"{name} in {folder} is {tuple(source.shape)} instead of {tuple(target.shape)}")
            target.copy_(source)
        elif name not in new and name != _WORD_BIAS:
            raise InputError(f"the weights in {folder} do not belong to a BERT: no {name}")
    qformer.copy_text_to_query_feed_forward()


VOCAB_FILE = "vocab.txt"
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


@dataclass(frozen=True)
class Pieces:
    """Padded word pieces of texts, including [CLS] and [SEP]."""

    ids: Tensor   # (b, t) int64
    mask: Tensor  # (b, t) bool, False at padding


def padded_pieces(rows: Sequence[Sequence[int]], pad_id: int, width: int | None = None) -> Pieces:
    """Pad rows of word pieces to the longest row, or to ``width``. Raises ``ValueError`` if a row is longer."""
    longest = max(map(len, rows), default=2)
    if width is not None and width < longest:
        raise ValueError(f"a text has {longest} word pieces, more than pad_to {width}")
    width = width or longest
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
    ids = torch.tensor([[*row, *[pad_id] * (width - len(row))] for row in rows], dtype=torch.int64)
    return Pieces(ids.view(len(rows), width), torch.arange(width) < lengths[:, None])


class WordPieces:
    """Word-piece tokenizer. ``source`` is a ``vocab.txt`` file or a folder that contains one."""

    def __init__(self, source: str | Path) -> None:
        path = Path(source)
        self.path = path / VOCAB_FILE if path.is_dir() else path
        pieces = read_text(self.path, "vocabulary").splitlines()
        vocabulary = {piece: index for index, piece in enumerate(pieces)}
        missing = [piece for piece in _SPECIAL if piece not in vocabulary]
        if missing:
            raise InputError(f"{self.path} is not a BERT vocabulary: it lacks {', '.join(missing)}")
        self.pad_id, self.unk_id, self.cls_id, self.sep_id = (vocabulary[piece] for piece in _SPECIAL)
        self.dec_id = len(pieces)  # [DEC] follows the vocabulary
        # The tokenizer does not know the special tokens, so a text that contains "[SEP]" is split like other text.
        self._tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
        self._tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        self._tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        self._tokenizer.decoder = decoders.WordPiece()

    def __len__(self) -> int:
        """Return the size of the vocabulary, including [DEC]."""
        return self.dec_id + 1

    def encode(self, texts: Sequence[str], max_length: int = 32, pad_to: int | None = None) -> Pieces:
        """Encode texts, truncated to ``max_length`` word pieces including [CLS] and [SEP].

        Texts are padded to the longest text, or to ``pad_to`` word pieces. Raises ``ValueError`` if a text is longer
        than that, or if ``max_length`` is below 2.
        """
        if max_length < 2:
            raise ValueError(f"max_length {max_length} leaves no room for [CLS] and [SEP]")
        room = max_length - 2
        encodings = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return padded_pieces([[self.cls_id, *encoding.ids[:room], self.sep_id] for encoding in encodings],
                             self.pad_id, pad_to)

    def ids(self, text: str) -> list[int]:
        """Encode one text, without [CLS] and [SEP]."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """Decode word pieces to a string, skipping special tokens."""
        special = (self.pad_id, self.cls_id, self.sep_id, self.dec_id)
        return self._tokenizer.decode([piece for piece in ids if piece not in special])

    def save_tokenizer(self, path: str | Path) -> None:
        """Save the tokenizer in the format of the package ``tokenizers``."""
        self._tokenizer.save(str(path))

    def save(self, folder: str | Path) -> None:
        """Copy the vocabulary to ``folder``."""
        with atomic_path(Path(folder) / VOCAB_FILE) as temporary:
            shutil.copyfile(self.path, temporary)
