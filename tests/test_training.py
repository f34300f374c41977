"""The training loop, its schedules, and the files that it leaves."""
import argparse
import math
import resource
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from data.specs import dataset_spec
from models.transformers.config import MaskTransformerConfig
from models.transformers.mask_transformer import MaskTransformer
from models.vq.model import VQConfig
from options.opt_file import FOOTER, HEADER, read_options, write_options
from training.checkpoint import (
    load_checkpoint,
    load_strictly,
    load_weights,
    random_state,
    save_checkpoint,
    save_weights,
    set_random_state,
)
from training.load import settle_lamp
from training.loop import EpochBatches, Meter, Trainer, is_better, make_accelerator
from training.runs import run_folder
from training.schedule import warmup_cosine, warmup_milestones
from training.source import Source, find_source, read_state
from training.stage import Stage, to_device, trainable
from training.t2m_stage import MaskStage
from training.text_features import BATCH, cached_text_features, encode_texts, fingerprint
from utils.errors import InputError
from utils.files import atomic_path, read_npy, save_npy, write_text
from utils.seeding import seed_everything, stream_seed


@contextmanager
def small_disk(size: int) -> Iterator[None]:
    """Let no file grow beyond ``size`` bytes, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# Schedules


@pytest.mark.parametrize(("after_warmup", "first_drop"), [(True, 13), (False, 10)])
def test_milestones_follow_a_linear_warm_up(after_warmup: bool, first_drop: int) -> None:
    factor = warmup_milestones(3, [10, 20], 0.1, after_warmup)
    assert [factor(step) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert factor(first_drop - 1) == 1.0
    assert factor(first_drop) == pytest.approx(0.1)
    assert factor(first_drop + 9) == pytest.approx(0.1)
    assert factor(first_drop + 10) == pytest.approx(0.01)


def test_a_schedule_without_warm_up_starts_at_the_full_rate() -> None:
    assert warmup_milestones(0, [], 0.1)(0) == 1.0
    assert warmup_cosine(0, 100)(0) == 1.0


def test_cosine_falls_from_the_end_of_the_warm_up_to_its_floor() -> None:
    factor = warmup_cosine(10, 110, floor=0.2)
    assert factor(0) == pytest.approx(0.01)
    assert factor(5) == pytest.approx(0.505)
    assert factor(10) == 1.0
    assert factor(60) == pytest.approx(0.6)
    assert factor(35) == pytest.approx(0.2 + 0.8 * (1 + math.cos(math.pi / 4)) / 2)
    assert factor(110) == factor(500) == pytest.approx(0.2)
    rates = [factor(step) for step in range(10, 111)]
    assert rates == sorted(rates, reverse=True)


# Options of a run


def test_options_come_back_as_they_were_written(tmp_path: Path) -> None:
    options = {"lr": 0.0002, "weight_decay": 1e-05, "batch_size": 64, "is_train": True, "quiet": False, "gpu_id": -1,
               "data_root": "C: drive/a:b", "name": "007", "vq_name": "1e5", "ext": "", "huge": 1e20}
    write_options(tmp_path / "opt.txt", options)
    assert read_options(tmp_path / "opt.txt") == options
    lines = (tmp_path / "opt.txt").read_text().splitlines()
    assert (lines[0], lines[-1]) == (HEADER, FOOTER)
    assert lines[1:-1] == sorted(lines[1:-1])


def test_published_option_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "opt.txt").write_text(
        "------------ Options -------------\nmilestones: [37500, 62500]\n\nvq_norm: None\nlr: 0.0002\nseed: 3407\n"
        "weight_decay: 1e-05\nshared_codebook: False\nnote: a: b\n-------------- End ----------------\n")
    options = read_options(tmp_path / "opt.txt")
    assert options == {"milestones": "[37500, 62500]", "vq_norm": "None", "lr": 0.0002, "seed": 3407,
                       "weight_decay": 1e-05, "shared_codebook": False, "note": "a: b"}
    assert VQConfig.from_options(options).vq_norm is None


def test_an_option_line_without_a_key_is_named(tmp_path: Path) -> None:
    (tmp_path / "opt.txt").write_text("lr: 1\nnonsense\n")
    with pytest.raises(InputError, match=r"opt\.txt:2.*nonsense"):
        read_options(tmp_path / "opt.txt")


# Weights


def test_weights_are_kept_in_half_precision_and_read_in_single(tmp_path: Path) -> None:
    state = {"a": torch.tensor([0.1, -3.0]), "count": torch.tensor([70000]), "flag": torch.tensor(True)}
    save_weights(tmp_path / "w.safetensors", state)
    read = load_weights(tmp_path / "w.safetensors")
    assert {name: tensor.dtype for name, tensor in read.items()} == {
        "a": torch.float32, "count": torch.int64, "flag": torch.bool}
    torch.testing.assert_close(read["a"], state["a"], rtol=1e-3, atol=0)
    assert not torch.equal(read["a"], state["a"])
    assert (int(read["count"]), bool(read["flag"])) == (70000, True)


def test_a_tensor_with_two_names_is_stored_once_and_loads_under_both(tmp_path: Path) -> None:
    def tied() -> nn.Module:
        model = nn.ModuleDict({"one": nn.Linear(3, 3), "two": nn.Linear(3, 3)})
        model["two"].weight = model["one"].weight
        return model

    save_weights(tmp_path / "w.safetensors", tied().state_dict())
    read = load_weights(tmp_path / "w.safetensors")
    assert set(read) == {"one.weight", "one.bias", "two.bias"}
    model = tied()
    load_strictly(model, read, tmp_path)
    assert torch.equal(model["two"].weight, read["one.weight"])


def test_missing_or_damaged_weights_are_named(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    with pytest.raises(InputError, match="w.safetensors"):
        load_weights(path)
    save_weights(path, {"a": torch.zeros(100)})
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(InputError, match="w.safetensors"):
        load_weights(path)


def test_weights_that_do_not_fit_are_listed() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    state = {"0.weight": torch.zeros(3, 2), "0.bias": torch.zeros(4), "1.weight": torch.zeros(1, 3),
             **{f"extra{number}": torch.zeros(1) for number in range(5)}}
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(InputError) as caught:
        load_strictly(model, state, Path("some.tar"))
    message = str(caught.value)
    assert message.startswith("some.tar does not fit this model; ")
    assert "missing: 1.bias;" in message
    assert "unexpected: extra0, extra1, extra2 and 2 more;" in message
    assert "shape: 0.bias (4,) instead of (3,)" in message
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_names_that_may_be_absent_or_present_are_no_fault() -> None:
    model = nn.Linear(2, 1)
    load_strictly(model, {"weight": torch.ones(1, 2)}, Path("x"), optional=["bias"])
    load_strictly(model, {**model.state_dict(), "a.position_ids": torch.ones(1)}, Path("x"), optional=["position_ids"])
    assert torch.equal(model.weight, torch.ones(1, 2))


def test_a_checkpoint_of_other_things_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.tar", {"net": {"a": torch.zeros(1)}, "ep": 3, "broken": {"a": "text"}})
    assert set(read_state(tmp_path / "a.tar", ("vq_model", "net"))) == {"a"}
    for keys in (("vq_model",), ("ep",), ("broken",)):
        with pytest.raises(InputError, match="it has net, ep, broken"):
            read_state(tmp_path / "a.tar", keys)
    torch.save([1], tmp_path / "b.tar")
    with pytest.raises(InputError, match="holds a list"):
        load_checkpoint(tmp_path / "b.tar")


# Models by name


def put(folder: Path, *stems: str) -> Path:
    """A model's folder with empty files."""
    write_options(folder / "opt.txt", {"name": folder.name})
    for stem in stems:
        write_text(folder / "model" / stem, "")
    return folder


def test_the_best_checkpoint_is_taken_before_the_latest(tmp_path: Path) -> None:
    folder = put(tmp_path / "t2m" / "a", "latest.tar", "net_best_loss.tar", "net_best_acc.tar")
    assert find_source("a", "t2m", tmp_path).file.name == "net_best_acc.tar"
    put(folder, "net_best_fid.safetensors")
    assert find_source("a", "t2m", tmp_path).file.name == "net_best_fid.safetensors"
    assert find_source("a", "t2m", tmp_path, "latest").file.name == "latest.tar"
    assert find_source("a", "t2m", tmp_path, "net_best_loss.tar").file.name == "net_best_loss.tar"
    assert find_source(str(folder), "kit", "elsewhere").options == {"name": "a"}


def test_what_a_named_model_lacks_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no model named 'b'.*t2m/b.*pretrained/t2m/b"):
        find_source("b", "t2m", tmp_path)
    with pytest.raises(InputError, match="no model named"):
        find_source("b" * 300, "t2m", tmp_path)
    (tmp_path / "t2m" / "b").mkdir(parents=True)
    with pytest.raises(InputError, match=r"b/opt\.txt"):
        find_source("b", "t2m", tmp_path)
    put(tmp_path / "t2m" / "b")
    with pytest.raises(InputError, match="b/model holds no net_best_fid or .* or latest"):
        find_source("b", "t2m", tmp_path)
    with pytest.raises(InputError, match="holds no mine"):
        find_source("b", "t2m", tmp_path, "mine.tar")


@pytest.mark.parametrize(("key", "value"), [
    ("nb_code", "many"), ("nb_code", 0), ("nb_code", -3), ("nb_code", 2.5), ("nb_code", True), ("mu", "high"),
    ("mu", -0.1), ("shared_codebook", "maybe"), ("shared_codebook", 1), ("vq_act", 3), ("vq_norm", 7),
])
def test_a_setting_of_another_kind_names_file_and_key(key: str, value: object) -> None:
    source = Source(Path("run"), {key: value}, Path("run/model/latest.tar"))
    with pytest.raises(InputError, match=rf"run/opt\.txt: {key} cannot be"), source.building(VQConfig):
        pytest.fail("was built")


def test_settings_of_the_right_kind_pass() -> None:
    options = {"nb_code": 3, "mu": 1, "shared_codebook": True, "vq_norm": "None", "vq_act": "gelu", "other": object()}
    with Source(Path("run"), options, Path("x")).building(VQConfig):
        pass
    with pytest.raises(InputError, match=r"run/opt\.txt: q_nb_code"), Source(
            Path("run"), {"q_nb_code": 0}, Path("x")).building(VQConfig, "q_"):
        pass
    with pytest.raises(InputError, match=r"run/opt\.txt: too wide"), Source(Path("run"), {}, Path("x")).building(
            VQConfig):
        raise ValueError("too wide")
    with pytest.raises(InputError, match=r"run/opt\.txt lacks vq_name"):
        Source(Path("run"), {}, Path("x")).needed("vq_name")
    with pytest.raises(InputError, match=r"run/opt\.txt: kind 'c' is none of a, b"):
        Source(Path("run"), {"kind": "c"}, Path("x")).one_of("kind", ("a", "b"), "a")


# Files


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    write_text(path, "first")
    with pytest.raises(KeyError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert path.read_text() == "first"
    assert list(path.parent.iterdir()) == [path]
    assert path.stat().st_mode & 0o444 == 0o444


WRITERS = {
    "text": lambda path: write_text(path, "x" * 100_000),
    "array": lambda path: save_npy(path, np.zeros(100_000)),
    "checkpoint": lambda path: save_checkpoint(path, {"a": torch.zeros(100_000)}),
    "weights": lambda path: save_weights(path, {"a": torch.zeros(100_000)}),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_full_disk_is_told_and_leaves_the_old_file(tmp_path: Path, write: Callable[[Path], None]) -> None:
    path = tmp_path / "a.npy"
    path.write_text("old")
    with small_disk(4096), pytest.raises(InputError, match="cannot write .*a.npy: .+"):
        write(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, write: Callable[[Path], None]) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder.npy").mkdir()
    with pytest.raises(InputError, match="cannot write .*file/a.npy: "):
        write(tmp_path / "file" / "a.npy")
    with pytest.raises(InputError, match="cannot write .*folder.npy"):
        write(tmp_path / "folder.npy")
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04 no zip", b"\x93NUMPY\x01\x00v\x00{'descr': (",
                                     b"\x93NUMPY\x01\x00\x10\x00" + b"{" * 16])
def test_an_array_file_that_is_none_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.npy is not a readable"):
        read_npy(tmp_path / "a.npy")


def test_arrays_of_other_things_than_numbers_are_refused(tmp_path: Path) -> None:
    for array in (np.array(["a"]), np.array([{}]), np.array([1j])):
        np.save(tmp_path / "a.npy", array, allow_pickle=True)
        with pytest.raises(InputError, match=r"a\.npy is not"):
            read_npy(tmp_path / "a.npy")
    np.savez(tmp_path / "b.npz", a=np.zeros(3))
    with pytest.raises(InputError, match=r"b\.npz is not one array"):
        read_npy(tmp_path / "b.npz")
    with pytest.raises(InputError, match="c.npy is missing; the maker makes it"):
        read_npy(tmp_path / "c.npy", "the maker")


# Randomness


def test_streams_of_different_keys_differ() -> None:
    keys = [(), (0,), (1,), (0, 0), (1, 0), (0, 1), (1, 0, 0), (1 << 32,), (0, 0, 1), (-1,), (1, 2), (2, 1)]
    seeds = [stream_seed(*key) for key in keys]
    assert len(set(seeds)) == len(keys)
    assert all(0 <= seed < 1 << 63 for seed in seeds)
    assert seeds == [stream_seed(*key) for key in keys]
    draws = torch.stack([torch.rand(1000, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    assert float(torch.corrcoef(draws).fill_diagonal_(0).abs().max()) < 0.15


def test_random_state_is_taken_up_again() -> None:
    import random

    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002 (the global one)

    seed_everything(3)
    np.random.standard_normal()  # noqa: NPY002 (leaves a second value in store)
    state = random_state()
    first = draw()
    assert draw() != first
    set_random_state(state)
    assert draw() == first
    seed_everything(3)
    assert random_state()["python"] != state["python"] or torch.equal(random_state()["torch"], state["torch"])


# Text features


class CountingEncoder:
    """Features that tell length and first letter; counts the texts it was given."""

    dim = 2

    def __init__(self, name: str = "one") -> None:
        self.fingerprint, self.seen = name, 0

    def __call__(self, texts: Sequence[str]) -> Tensor:
        self.seen += len(texts)
        assert len(texts) <= BATCH
        self.spread = max(map(len, texts)) - min(map(len, texts))
        return torch.tensor([[float(len(text)), float(ord(text[0]))] for text in texts])


def test_text_features_keep_the_order_of_the_texts_though_batches_are_of_like_length() -> None:
    texts = [chr(97 + number % 26) * (1 + number * 7 % 40) for number in range(2 * BATCH)]
    encoder = CountingEncoder()
    features = encode_texts(encoder, texts)
    assert features.tolist() == [[len(text), ord(text[0])] for text in texts]
    assert encoder.spread < 25


def test_text_features_are_computed_once(tmp_path: Path) -> None:
    path, texts = tmp_path / "cache" / "features.pt", ["a", "bb", "c"]
    first = cached_text_features(path, texts, CountingEncoder())
    again = CountingEncoder()
    assert torch.equal(cached_text_features(path, texts, again), first)
    assert again.seen == 0


def test_text_features_of_other_texts_or_another_encoder_are_computed_anew(tmp_path: Path) -> None:
    path = tmp_path / "features.pt"
    cached_text_features(path, ["a", "bb"], CountingEncoder())
    for texts, name in ((["a", "bc"], "one"), (["a", "bb"], "two"), (["bb", "a"], "two")):
        encoder = CountingEncoder(name)
        assert len(cached_text_features(path, texts, encoder)) == 2
        assert encoder.seen == 2


def test_a_damaged_cache_is_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "features.pt"
    first = cached_text_features(path, ["a", "bb"], CountingEncoder())
    path.write_bytes(path.read_bytes()[:300])
    encoder = CountingEncoder()
    assert torch.equal(cached_text_features(path, ["a", "bb"], encoder), first)
    assert encoder.seen == 2
    assert load_checkpoint(path)["features"].equal(first)


def test_a_fingerprint_tells_where_a_part_ends(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("text")
    assert fingerprint("ab", "c") != fingerprint("a", "bc") != fingerprint("abc")
    assert fingerprint("text") == fingerprint(b"text") == fingerprint(tmp_path / "a")


# The loop


class Numbers(Dataset):
    """Items that tell their epoch, in hundreds, and their own number."""

    def __init__(self, length: int) -> None:
        self.length, self.epoch = length, 0

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Tensor:
        return torch.tensor(100.0 * self.epoch + index)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch


class Pull(Stage):
    """Pulls one weight by a gradient of ``slope``; validation numbers are given beforehand."""

    name = "pull"
    state_key = "pull_model"
    optimizer_key = "opt_pull"
    bests = {"net_best_low": ("low", "min"), "net_best_high": ("high", "max")}

    def __init__(self, slope: float = 1.0, numbers: Sequence[tuple[float, float]] = ()) -> None:
        model = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(model.weight)
        super().__init__(model)
        self.slope, self.numbers = slope, list(numbers)
        self.gradients, self.batches = [], []
        model.weight.register_hook(lambda gradient: self.gradients.append(float(gradient)))

    def forward(self, batch: Tensor) -> dict[str, Tensor]:
        self.batches.append(batch.tolist())
        return {"loss": self.slope * self.model.weight.sum()}

    def validate(self) -> dict[str, float]:
        assert not self.model.training
        assert not torch.is_grad_enabled()
        low, high = self.numbers.pop(0) if self.numbers else (0.0, 0.0)
        return {"low": low, "high": high}


def options(**given: object) -> argparse.Namespace:
    """Options of a run of at most ten epochs on the CPU."""
    return argparse.Namespace(**{
        "name": "run", "dataset_name": "t2m", "checkpoints_dir": "checkpoints", "gpu_id": -1, "seed": 1,
        "batch_size": 2, "max_epoch": 10, "total_iter": 0, "lr": 0.1, "weight_decay": 0.0, "mixed_precision": "no",
        "is_continue": False, "log_every": 1000, "save_latest": 1000, "eval_every_e": 1, "num_workers": 0,
        "quiet": True} | given)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "checkpoints" / "t2m" / "run"


def always(_: int) -> float:
    return 1.0


def test_a_run_stops_exactly_at_total_iter(home: Path) -> None:
    stage = Pull()
    progress = Trainer(stage, options(total_iter=7), Numbers(10), always).run()
    assert (progress.total_it, progress.epoch, progress.step_in_epoch) == (7, 1, 2)
    assert len(stage.batches) == 7
    assert [batch[0] // 100 for batch in stage.batches] == [0] * 5 + [1] * 2
    content = load_checkpoint(home / "model" / "latest.tar")
    assert (content["total_it"], content["ep"]) == (7, 1)
    assert content["settings"]["lr"] == 0.1
    assert read_options(home / "opt.txt")["is_train"] is True
    assert list(Path("log").glob("pull/t2m/run/events.*"))


def test_a_run_ends_after_max_epoch_epochs_of_whole_batches(home: Path) -> None:
    stage = Pull()
    progress = Trainer(stage, options(max_epoch=2, batch_size=3), Numbers(10), always).run()
    assert (progress.total_it, progress.epoch) == (6, 2)
    for epoch in (stage.batches[:3], stage.batches[3:]):
        assert len(set(sum(epoch, []))) == 9
    assert [number % 100 for number in sum(stage.batches[:3], [])] != [
        number % 100 for number in sum(stage.batches[3:], [])]
    assert (home / "model" / "latest.tar").is_file()


def test_a_batch_larger_than_the_data_is_all_of_it(home: Path) -> None:
    stage = Pull()
    Trainer(stage, options(max_epoch=2, batch_size=64), Numbers(3), always).run()
    assert [sorted(batch) for batch in stage.batches] == [[0.0, 1.0, 2.0], [100.0, 101.0, 102.0]]
    assert home.is_dir()


def test_the_best_checkpoints_are_those_of_the_best_numbers(home: Path) -> None:
    numbers = [(3.0, math.nan), (2.0, 5.0), (2.5, 5.0), (math.nan, 7.0), (1.0, 6.0), (1.5, -1.0)]
    stage = Pull(numbers=numbers)
    progress = Trainer(stage, options(max_epoch=6), Numbers(4), always).run()
    assert progress.best == {"net_best_low": 1.0, "net_best_high": 7.0}
    low, high = (load_checkpoint(home / "model" / f"net_best_{which}.tar") for which in ("low", "high"))
    assert (low["ep"], high["ep"]) == (5, 4)
    assert set(low) == {"pull_model", "ep", "total_it", "settings"}
    assert not torch.equal(low["pull_model"]["weight"], stage.model.weight)


@pytest.mark.parametrize(("value", "best", "direction", "better"), [
    (1.0, None, "min", True), (1.0, 2.0, "min", True), (2.0, 2.0, "min", False), (3.0, 2.0, "max", True),
    (2.0, 2.0, "max", False), (1.0, 2.0, "max", False), (3.0, 2.0, "min", False),
    (math.nan, None, "max", False), (math.nan, 1.0, "min", False), (math.inf, None, "min", True),
])
def test_better_is_lower_or_higher_and_a_number(value: float, best: float | None, direction: str, better: bool) -> None:
    assert is_better(value, best, direction) is better


def test_validation_comes_every_so_many_epochs_and_at_the_end(home: Path) -> None:
    stage = Pull(numbers=[(number, 0.0) for number in range(9)])
    Trainer(stage, options(max_epoch=5, eval_every_e=2), Numbers(4), always).run()
    assert len(stage.numbers) == 6  # after epochs 2, 4 and 5
    assert home.is_dir()


def test_the_learning_rate_follows_the_schedule(home: Path) -> None:
    stage = Pull()
    rates = []
    schedule = warmup_milestones(3, [2], 0.1)
    trainer = Trainer(stage, options(total_iter=7, lr=0.01), Numbers(4), schedule)
    step = trainer.optimizer.step

    def record(*arguments: object) -> None:
        rates.append(trainer.optimizer.param_groups[0]["lr"])
        step(*arguments)

    trainer.optimizer.step = record
    trainer.run()
    assert rates == pytest.approx([0.01 * schedule(number) for number in range(7)])
    # AdamW moves a weight with a steady gradient by the rate itself.
    assert stage.model.weight.item() == pytest.approx(-sum(rates), rel=1e-4)
    assert home.is_dir()


@pytest.mark.parametrize("limit", [None, 0.5])
def test_gradients_are_clipped_where_it_is_asked_for(home: Path, limit: float | None) -> None:
    stage = Pull(slope=8.0)
    trainer = Trainer(stage, options(total_iter=2), Numbers(4), always, clip_norm=limit)
    norms = []
    step = trainer.optimizer.step

    def record(*arguments: object) -> None:
        norms.append(float(stage.model.weight.grad.norm()))
        step(*arguments)

    trainer.optimizer.step = record
    trainer.run()
    assert stage.gradients == [8.0, 8.0]
    assert norms == pytest.approx([limit or 8.0] * 2, rel=1e-4)
    assert home.is_dir()


def test_a_run_goes_on_where_it_stopped(home: Path) -> None:
    whole = Pull()
    Trainer(whole, options(total_iter=12, name="whole"), Numbers(10), always).run()
    Trainer(Pull(), options(total_iter=6), Numbers(10), always).run()
    rest = Pull()
    progress = Trainer(rest, options(total_iter=12, is_continue=True), Numbers(10), always).run()
    assert progress.total_it == 12
    assert rest.batches == whole.batches[6:]
    assert torch.equal(rest.model.weight, whole.model.weight)
    assert load_checkpoint(home / "model" / "latest.tar")["total_it"] == 12


def test_what_cannot_be_gone_on_with_is_told(home: Path) -> None:
    with pytest.raises(InputError, match="--is_continue: .*latest.tar is missing"):
        Trainer(Pull(), options(is_continue=True), Numbers(4), always)
    assert not home.exists()
    Trainer(Pull(), options(total_iter=1), Numbers(4), always).run()

    wider = Pull()
    wider.model = nn.Linear(2, 1, bias=False)
    with pytest.raises(InputError, match=r"latest\.tar does not fit this model; shape: weight \(1, 1\)"):
        Trainer(wider, options(is_continue=True), Numbers(4), always).run()
    more = Pull()
    more.free = nn.Parameter(torch.zeros(1))
    more.parameter_groups = lambda _: [{"params": [*more.parameters()]}]
    with pytest.raises(InputError, match="other parameters were trained"):
        Trainer(more, options(is_continue=True), Numbers(4), always).run()
    save_checkpoint(home / "model" / "latest.tar", {"pull_model": {}, "ep": 1})
    with pytest.raises(InputError, match="it lacks best, extra, opt_pull, random_state"):
        Trainer(Pull(), options(is_continue=True), Numbers(4), always).run()


@pytest.mark.parametrize("key", ["n_heads", "attention", "vq_name", "feat_bias"])
def test_a_run_does_not_go_on_as_another_model(home: Path, key: str) -> None:
    begun = {"n_heads": 2, "attention": "full", "vq_name": "007", "feat_bias": 5.0}
    Trainer(Pull(), options(total_iter=1, **begun), Numbers(4), always).run()
    assert run_folder(options(is_continue=True, lr=0.5, **begun)).samefile(home)
    assert run_folder(options(is_continue=False, **begun | {key: "other"})).samefile(home)
    with pytest.raises(InputError, match=rf"opt\.txt has {key} {begun[key]}, not other"):
        run_folder(options(is_continue=True, **begun | {key: "other"}))


def test_a_run_goes_on_with_the_text_features_it_began_with(home: Path) -> None:
    bare = {"text_encoder": "lamp", "lamp_name": None}
    Trainer(Pull(), options(total_iter=1, text_encoder="lamp", lamp_name="first"), Numbers(4), always).run()
    later = home.parent / "later"
    write_options(later / "opt.txt", {"qformer_hidden": 8, "vq_name": "vq"})
    chosen = {}
    for is_continue in (True, False):
        opt = options(is_continue=is_continue, **bare)
        settle_lamp(opt, dataset_spec("t2m"))
        chosen[is_continue] = opt.lamp_name
    assert chosen == {True: "first", False: "later"}


def test_the_scale_of_half_precision_is_taken_up_again(home: Path) -> None:
    begun = Trainer(Pull(), options(total_iter=1), Numbers(4), always)
    begun.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    begun.run()
    trainer = Trainer(Pull(), options(total_iter=1, is_continue=True), Numbers(4), always)
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    trainer.run()
    assert trainer.accelerator.scaler.get_scale() == 64.0
    assert home.is_dir()


def test_a_table_of_text_features_is_not_exchanged_between_processes() -> None:
    features = {"train": torch.zeros(3, 8), "val": torch.ones(2, 8)}
    model = MaskTransformer(MaskTransformerConfig(num_tokens=4, code_dim=8, cond_dim=8, latent_dim=8, n_heads=2,
                                                  n_layers=1, ff_size=8))
    stage = MaskStage(model, options(), features, [])
    assert {name for name, _ in stage.named_buffers()} == {f"model.{name}" for name, _ in model.named_buffers()}
    batch = {"caption": torch.tensor([2, 0]), "tokens": torch.zeros(2, 5, 1, dtype=torch.int64),
             "token_len": torch.tensor([5, 3])}
    assert stage(batch)["loss"].isfinite()


def test_a_log_that_cannot_be_written_is_named(home: Path) -> None:
    Path("log").write_text("in the way")
    with pytest.raises(InputError, match="cannot write log/pull/t2m/run"):
        Trainer(Pull(), options(total_iter=1), Numbers(4), always).run()
    assert home.is_dir()


def test_half_precision_on_a_cpu_is_refused() -> None:
    with pytest.raises(InputError, match="fp16 needs a GPU"):
        make_accelerator(options(mixed_precision="fp16"))


def test_rare_samples_are_drawn_as_often_as_their_weight_says() -> None:
    batches = EpochBatches(100, 10, seed=1, weights=np.array([9.0] + [1.0] * 99))
    drawn = []
    for epoch in range(50):
        batches.epoch = epoch
        drawn += sum(batches, [])
    assert len(drawn) == 5000
    assert drawn.count(0) / 5000 == pytest.approx(9 / 108, abs=0.02)


def test_a_meter_tells_means_since_it_was_last_asked() -> None:
    meter = Meter()
    assert meter.flush() == {}
    for value in (1.0, 2.0, 6.0):
        meter.add({"loss": torch.tensor(value, requires_grad=True), "acc": torch.tensor(0.5)})
    assert meter.flush() == {"loss": 3.0, "acc": 0.5}
    meter.add({"loss": torch.tensor(4.0)})
    assert meter.flush() == {"loss": 4.0}


def test_nested_batches_move_with_their_structure() -> None:
    batch = {"a": torch.zeros(2), "b": [torch.ones(1), ("text", torch.ones(1))]}
    moved = to_device(batch, torch.device("meta"))
    assert moved["a"].is_meta
    assert moved["b"][1][1].is_meta
    assert (type(moved["b"]), type(moved["b"][1]), moved["b"][1][0]) == (list, tuple, "text")


def test_frozen_parameters_are_left_out_of_training() -> None:
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    assert trainable(model.parameters()) == [model.weight]
    assert Stage(model).parameter_groups(0.1) == [{"params": [model.weight], "weight_decay": 0.1}]
