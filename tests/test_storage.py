"""Options, checkpoints, cached text features, files and locks, and schedules."""
import math
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import nn

from data.dataset import dataset_spec
from models.vq.model import VQConfig
from storage import checkpoint
from storage.generation import load_lamp
from tests.toy import ROOT
from tests.toy_models import make_models
from training.optimization import warmup_cosine, warmup_milestones
from training.stages.tokens import KEPT, cached_text_features
from utils import InputError
from utils.files import atomic_path, refuse_if_held, run_lock, save_npy, write_text


@pytest.mark.parametrize(("after_warmup", "first_drop"), [(True, 13), (False, 10)])
def test_milestones_follow_a_linear_warm_up(after_warmup: bool, first_drop: int) -> None:
    factor = warmup_milestones(3, [10, 20], 0.1, after_warmup)
    assert [factor(step) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert factor(first_drop - 1) == 1.0
    assert factor(first_drop) == pytest.approx(0.1)
    assert factor(first_drop + 9) == pytest.approx(0.1)
    assert factor(first_drop + 10) == pytest.approx(0.01)


def test_cosine_falls_from_the_end_of_the_warm_up_to_its_floor() -> None:
    factor = warmup_cosine(10, 110, floor=0.2)
    expected = {0: 0.01, 5: 0.505, 10: 1.0, 35: 0.6 + 0.4 * math.cos(math.pi / 4), 60: 0.6, 110: 0.2, 500: 0.2}
    assert {step: factor(step) for step in expected} == pytest.approx(expected)


def test_options_come_back_as_they_were_written_and_published_files_are_read(tmp_path: Path) -> None:
    options = {"lr": 0.0002, "weight_decay": 1e-05, "batch_size": 64, "is_train": True, "quiet": False, "gpu_id": -1,
               "data_root": "C: drive/a:b", "name": "007", "vq_name": "1e5", "ext": "", "huge": 1e20}
    checkpoint.write_options(tmp_path / "opt.txt", options)
    assert checkpoint.read_options(tmp_path / "opt.txt") == options
    lines = (tmp_path / "opt.txt").read_text().splitlines()
    assert (lines[0], lines[-1]) == (checkpoint.HEADER, checkpoint.FOOTER)
    assert lines[1:-1] == sorted(lines[1:-1])

    (tmp_path / "opt.txt").write_text(
        "------------ Options -------------\nmilestones: [37500, 62500]\n\nvq_norm: None\nlr: 0.0002\nseed: 3407\n"
        "weight_decay: 1e-05\nshared_codebook: False\nnote: a: b\n-------------- End ----------------\n")
    options = checkpoint.read_options(tmp_path / "opt.txt")
    assert options == {"milestones": "[37500, 62500]", "vq_norm": "None", "lr": 0.0002, "seed": 3407,
                       "weight_decay": 1e-05, "shared_codebook": False, "note": "a: b"}
    assert VQConfig.from_options(options).vq_norm is None


def test_weights_are_kept_in_half_precision_or_eight_bits_and_read_in_single(tmp_path: Path) -> None:
    words = torch.randn(50, 16, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 1, 50)[:, None]
    words[7] = 0
    state = {"words.weight": words, "a": torch.tensor([0.1, -3.0]), "count": torch.tensor([70000])}
    checkpoint.save_weights(tmp_path / "w.safetensors", state, ("words.weight",))
    read = checkpoint.load_weights(tmp_path / "w.safetensors")
    assert {name: tensor.dtype for name, tensor in read.items()} == {
        "words.weight": torch.float32, "a": torch.float32, "count": torch.int64}
    torch.testing.assert_close(read["a"], state["a"], rtol=1e-3, atol=0)
    assert not torch.equal(read["a"], state["a"]) and int(read["count"]) == 70000
    assert ((read["words.weight"] - words).abs() <= 0.501 * words.abs().amax(1, keepdim=True) / 127).all()
    assert (tmp_path / "w.safetensors").stat().st_size < 50 * 16 * 2


def test_weights_that_do_not_fit_are_listed() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    state = {"0.weight": torch.zeros(3, 2), "0.bias": torch.zeros(4), "1.weight": torch.zeros(1, 3),
             **{f"extra{number}": torch.zeros(1) for number in range(5)}}
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(InputError) as caught:
        checkpoint.load_strictly(model, state, Path("some.tar"))
    assert str(caught.value) == (
        "some.tar does not match this model; missing: 1.bias; unexpected: extra0, extra1, extra2 and 2 more; "
        "shape: 0.bias (4,) instead of (3,)")
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_checkpoint_of_other_things_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "latest.tar"
    torch.save({"net": {"a": torch.zeros(1)}, "ep": 3, "broken": {"a": "text"}, "best": np.float64(1.5)}, file)
    assert set(checkpoint.read_state(file, ("vq_model", "net"))) == {"a"}
    assert float(checkpoint.load_checkpoint(file)["best"]) == 1.5
    for keys in (("vq_model",), ("ep",), ("broken",)):
        with pytest.raises(InputError, match="it has net, ep, broken"):
            checkpoint.read_state(file, keys)
    for content, told in (([1], "contains a list"), ({"net": Path("x")}, r"pathlib\S* is not allowed in a check")):
        torch.save(content, file)
        with pytest.raises(InputError, match=told):
            checkpoint.load_checkpoint(file)


def put(folder: Path, *stems: str) -> Path:
    checkpoint.write_options(folder / "opt.txt", {"name": folder.name})
    for stem in stems:
        write_text(folder / "model" / stem, "")
    return folder


def test_the_best_checkpoint_is_taken_and_scores_of_a_bundled_model_do_not_hide_it(tmp_path: Path) -> None:
    folder = put(tmp_path / "t2m" / "a", "latest.tar", "net_best_loss.tar", "net_best_acc.tar")
    assert checkpoint.find_source("a", "t2m", tmp_path).file.name == "net_best_acc.tar"
    put(folder, "net_best_fid.safetensors")
    for which, expected in ((None, "net_best_fid.safetensors"), ("latest", "latest.tar"), ("latest.tar", "latest.tar")):
        assert checkpoint.find_source("a", "t2m", tmp_path, which).file.name == expected
    assert checkpoint.find_source(str(folder), "kit", "elsewhere").options == {"name": "a"}

    scores = tmp_path / "t2m" / "vq_demo" / "eval"
    scores.mkdir(parents=True)
    assert checkpoint.find_model_dir("vq_demo", "t2m", tmp_path) == checkpoint.PRETRAINED / "t2m" / "vq_demo"
    (scores.parent / "model").mkdir()
    assert checkpoint.find_model_dir("vq_demo", "t2m", tmp_path) == scores.parent
    (scores.parent / "model" / "latest.tar").touch()
    assert checkpoint.find_model_dir(str(scores.parent / "model" / "latest.tar"), "t2m", tmp_path) == scores.parent


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    write_text(path, "first")
    with pytest.raises(KeyError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert path.read_text() == "first"
    assert list(path.parent.iterdir()) == [path]
    assert path.stat().st_mode & 0o444 == 0o444


@pytest.mark.parametrize("write", [
    lambda path: write_text(path, "x" * 100_000), lambda path: save_npy(path, np.zeros(100_000)),
    lambda path: checkpoint.save_checkpoint(path, {"a": torch.zeros(100_000)}),
    lambda path: checkpoint.save_weights(path, {"a": torch.zeros(100_000)}),
], ids=["text", "array", "checkpoint", "weights"])
def test_a_full_disk_is_reported_and_leaves_the_old_file(tmp_path: Path, write: Callable[[Path], None]) -> None:
    path = tmp_path / "a.npy"
    path.write_text("old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(InputError, match="cannot write .*a.npy: .+"):
            write(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def encoder(name: str = "one") -> Mock:
    return Mock(dim=2, fingerprint=name, side_effect=lambda texts: torch.zeros(len(texts), 2))


def test_text_features_of_several_encoders_and_wordings_live_side_by_side(tmp_path: Path) -> None:
    spec = dataset_spec("t2m", tmp_path)
    for seen in (True, False):
        for texts, name in ((["a", "bb"], "one"), (["a", "bb", "c"], "one"), (["a", "bb"], "two")):
            asked = encoder(name)
            cached_text_features(spec, "train", texts, asked)
            assert asked.called is seen
    for number in range(KEPT + 2):
        cached_text_features(spec, "train", [f"text {number}"], encoder())
    assert len(list((tmp_path / "cache").glob("text-*"))) == KEPT


def test_text_features_are_others_under_other_settings_or_word_pieces(tmp_path: Path) -> None:
    folder = make_models(tmp_path) / "t2m" / "lamp"

    def fingerprint() -> str:
        return load_lamp("lamp", dataset_spec("t2m"), tmp_path).text_encoder("query").fingerprint

    first, again = fingerprint(), fingerprint()
    options = checkpoint.read_options(folder / "opt.txt") | {"published_behaviour": True}
    checkpoint.write_options(folder / "opt.txt", options)
    published = fingerprint()
    *pieces, one, other = (folder / "vocab.txt").read_text().splitlines()
    (folder / "vocab.txt").write_text("\n".join([*pieces, other, one]) + "\n")
    assert first == again and len({first, published, fingerprint()}) == 3


def test_names_of_wrapped_models_are_read(tmp_path: Path) -> None:
    weight = torch.randn(3, 2)
    for prefix in ("module.", "_orig_mod.", "module._orig_mod."):
        state = {f"{prefix}weight": weight, f"{prefix}bias": torch.zeros(3)}
        checkpoint.save_checkpoint(tmp_path / "a.tar", {"net": state})
        model = nn.Linear(2, 3)
        checkpoint.load_strictly(model, checkpoint.read_state(tmp_path / "a.tar", ("net",)), tmp_path / "a.tar")
        assert torch.equal(model.weight, weight)


HOLD = """
import sys, time
from pathlib import Path
from utils.files import run_lock
with run_lock(Path(sys.argv[1]), "--ext"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_second_run_is_refused_with_the_first_ones_start_until_that_dies(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    first = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout.readline() == "held\n"
        refused = rf"results is in use by a run started at 20\d\d-\d\d-\d\d .*process {first.pid}\); .* another --ext"
        with pytest.raises(InputError, match=refused), run_lock(folder, "--ext"):
            pass
        with pytest.raises(InputError, match="another --name"):
            refuse_if_held(folder, "--name")
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        assert (folder / ".lock").exists()
        refuse_if_held(folder, "--name")
        with run_lock(folder, "--ext"):
            pass
    finally:
        first.kill()
        first.stdout.close()
        first.wait()


def test_locks_are_deleted(tmp_path: Path) -> None:
    for _ in range(2):
        with run_lock(tmp_path / "a" / "b", "--ext"):
            (tmp_path / "a" / "b" / "result").touch()
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["result"]
    with pytest.raises(KeyError), run_lock(tmp_path / "c", "--ext"):
        raise KeyError
    assert not (tmp_path / "c").exists()
    refuse_if_held(tmp_path / "c", "--name")
