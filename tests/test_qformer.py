"""The Q-Former: comparison with transformers' BERT, masks and initialisation."""
import json
from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor

from models.lamp.bert import WordPieces, from_bert
from models.lamp.qformer import POSITION_IDS, TIED_NAMES, QFormer, QFormerConfig
from tests.toy import make_bert
from utils import InputError

TINY = QFormerConfig(hidden=16, layers=3, heads=2, intermediate=32, max_positions=24, vocab=41, encoder_width=12,
                     num_query_tokens=5)
BERT = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32,
        "max_position_embeddings": 24, "vocab_size": 40}


@pytest.fixture
def model() -> QFormer:
    torch.manual_seed(0)
    qformer = QFormer(TINY).eval()
    for parameter in qformer.parameters():  # large weights, so that every term matters
        torch.nn.init.normal_(parameter, std=0.3)
    return qformer


@pytest.fixture
def texts() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, 40, (3, 7), generator=generator)
    mask = torch.arange(7) < torch.tensor([[7], [4], [5]])
    return ids * mask, mask


@pytest.fixture
def queries() -> Tensor:
    return torch.randn(1, 5, 16, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def states() -> Tensor:
    return torch.randn(3, 6, 12, generator=torch.Generator().manual_seed(3))


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=2e-5, rtol=1e-5)


def library_bert(kind: type, folder: Path) -> torch.nn.Module:
    torch.manual_seed(4)
    bert = kind(transformers.BertConfig(**BERT)).eval()
    for parameter in bert.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    bert.save_pretrained(folder)
    return bert


@torch.no_grad()
def test_text_pass_is_the_library_bert_also_from_an_old_weight_file(tmp_path, texts):
    bert = library_bert(transformers.BertModel, tmp_path)
    ids, mask = texts
    expected = bert(ids, attention_mask=mask.long()).last_hidden_state[mask]
    close(from_bert(tmp_path, encoder_width=12, num_query_tokens=5).eval().text(ids, mask)[mask], expected)
    old = {f"bert.{name}".replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"):
           value for name, value in bert.state_dict().items()}
    torch.save(old, tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    close(from_bert(tmp_path).eval().text(ids, mask)[mask], expected)


def test_start_says_what_is_wrong_with_a_folder(tmp_path):
    library_bert(transformers.BertModel, tmp_path)
    with pytest.raises(InputError, match="has 3 layers, fewer than the requested 9"):
        from_bert(tmp_path, layers=9)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    for content, told in ((config | {"intermediate_size": 30}, r"is \(32, 16\) instead of \(30, 16\)"),
                          (config | {"hidden_act": "relu"}, "only gelu"), ({}, "not the config of a BERT")):
        file.write_text(json.dumps(content))
        with pytest.raises(InputError, match=told):
            from_bert(tmp_path)
    file.write_text(json.dumps(config))
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"no model\.safetensors or pytorch_model\.bin"):
        from_bert(tmp_path)


@torch.no_grad()
def test_language_model_on_a_remembered_prefix_is_one_long_computation(model, texts, queries, states):
    ids, mask = texts
    query = model.query(queries, states)
    # In one pass: queries attend to queries, text attends to queries and previous text.
    visible = torch.ones(12, 12, dtype=torch.bool).tril()
    visible[:5, :5] = True
    visible = visible & torch.cat([torch.ones(3, 5, dtype=torch.bool), mask], 1)[:, None, None]
    x = model.bert.embeddings(ids, queries.expand(3, -1, -1))
    for layer in model.bert.encoder.layer:
        x, _ = layer(x, 5, visible, states, None, None)
    close(query.hidden, x[:, :5])
    close(model.language_model(ids, mask, query.cache)[mask], x[:, 5:][mask])


def test_tied_names_and_positions_may_be_missing_from_a_file(model):
    state = {name: tensor for name, tensor in model.state_dict().items() if name not in (*TIED_NAMES, POSITION_IDS)}
    other = QFormer(TINY)
    other.load_state_dict(state)
    assert torch.equal(other.cls.predictions.decoder.weight, model.bert.embeddings.word_embeddings.weight)
    assert other.cls.predictions.decoder.weight is other.bert.embeddings.word_embeddings.weight


TEXTS = ["A person walks FORWARD!", "someone turns left, then waves zyx", ""]


@pytest.fixture
def pieces(tmp_path) -> WordPieces:
    return WordPieces(make_bert(tmp_path / "bert"))


def test_word_pieces_are_those_of_the_library(pieces):
    library = transformers.BertTokenizer.from_pretrained(pieces.path.parent)
    for length in (32, 6):
        expected = library(TEXTS, padding="longest", truncation=True, max_length=length, return_tensors="pt")
        own = pieces.encode(TEXTS, length)
        assert torch.equal(own.ids, expected["input_ids"])
        assert torch.equal(own.mask.long(), expected["attention_mask"])


def test_dec_follows_the_vocabulary_and_a_model_keeps_its_own_copy(pieces, tmp_path):
    vocabulary = pieces.path.read_text().splitlines()
    assert pieces.dec_id == len(vocabulary) == len(pieces) - 1
    pieces.save(tmp_path / "model")
    copy = WordPieces(tmp_path / "model")
    assert torch.equal(copy.encode(TEXTS).ids, pieces.encode(TEXTS).ids)
    assert pieces.decode([pieces.dec_id, *pieces.encode(["a person waves"]).ids[0].tolist()]) == "a person waves"
