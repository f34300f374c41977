"""Identification of checkpoint files."""
from pathlib import Path

import pytest
import torch

from models.config import EvaluatorConfig
from models.evaluator import Evaluator
from prepare.inspect_checkpoint import Identity, identify, main
from storage.released import PUBLISHED_META
from tests.toy import refusal
from tests.toy_published import MOMASK, RESIDUAL, RVQ, make_published
from utils import InputError

pytest.importorskip("transformers", reason="CLIP text features need transformers")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_published(tmp_path_factory.mktemp("published") / "checkpoints") / "t2m"


def of(folder: Path, name: str) -> tuple[Path, Identity]:
    file, = (folder / name).rglob("*.tar")
    return file, identify(file)


@pytest.mark.parametrize(("name", "what", "use"), [
    (RVQ, "tokenizer with 3 layers", "eval_t2m_vq.py"), ("vq", "tokenizer with one codebook", "eval_t2m_vq.py"),
    (MOMASK, "masked transformer on text features of width 512, that of CLIP", "gen_t2m.py --name"),
    (RESIDUAL, "residual transformer", "gen_t2m.py --res_name"),
    ("t2m", "masked transformer of LaMP", "gen_t2m.py --name"), ("h3d-qformer", "LaMP model", "eval_retrieval.py"),
    ("length_estimator", "length estimator", "gen_t2m.py --len_name"),
])
def test_published_files_are_known(published: Path, name: str, what: str, use: str) -> None:
    _, found = of(published, name)
    assert what in found.what
    assert use in found.use[0]
    assert found.incompatible == ()
    assert (found.dataset == "t2m") == (name in (RVQ, "vq", "h3d-qformer"))


def test_what_is_wrong_with_a_file_is_reported(published: Path, tmp_path: Path, capsys) -> None:
    file, _ = of(published, RESIDUAL)
    content = torch.load(file, weights_only=True)
    del content["res_transformer"]["cond_emb.bias"]
    torch.save(content, tmp_path / "found.pth")
    assert refusal(main, "found.pth", cwd=tmp_path) == "error: found.pth will be refused: missing: cond_emb.bias\n"
    assert "put it at: checkpoints/<t2m or kit>/NAME/model/latest.pth" in capsys.readouterr().out


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    for content, told in (({"a": {"b": torch.zeros(1)}}, "its keys are a"),
                          ({"net": {"b": torch.zeros(1)}}, "such as b"),
                          ({"estimator": {"output.0.weight": torch.zeros(3)}}, "is not a complete model")):
        torch.save(content, tmp_path / "a.tar")
        with pytest.raises(InputError, match=told):
            identify(tmp_path / "a.tar")


def test_an_evaluator_is_known_and_what_it_needs(tmp_path: Path) -> None:
    small = EvaluatorConfig(263, *(8 for _ in range(2)), 300, 15, 8, 8, 8)
    networks: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in Evaluator(small).state_dict().items():
        network, _, rest = name.partition(".")
        networks.setdefault(network, {})[rest] = tensor
    torch.save({**networks, "epoch": 1}, tmp_path / "finest.tar")
    found = identify(tmp_path / "finest.tar")
    assert (found.what, found.dataset, found.incompatible) == ("an evaluator (text-motion matching)", "t2m", ())
    assert PUBLISHED_META in found.needs[0]
