"""The training loop: batches, steps, validation, checkpoints, exact resume, and moving averages of weights."""
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import default_collate

from data.dataset import Normalisation, dataset_spec
from data.text_motion import MotionWindows, Pair, TextMotion
from models.config import MaskTransformerConfig
from models.transformers.mask_transformer import MaskTransformer
from models.transformers.trunk import TokenLoss
from models.vq.model import RVQVAE, VQConfig
from storage.checkpoint import load_checkpoint, read_options, save_checkpoint, write_options
from tests.toy_run import Numbers, Pull, always, options
from training.optimization import WeightAverage, warmup_milestones
from training.runs import FIXED_OPTIONS, BatchLoader, EpochBatches, checked_run_folder, fits_in_memory, settle_lamp
from training.stages.tokens import MaskStage
from training.stages.vq import VQStage
from training.trainer import Trainer
from utils import InputError
from utils.runtime import WHOLE


def test_a_run_stops_at_total_iter_or_after_max_epoch_epochs(home: Path) -> None:
    stage = Pull()
    progress = Trainer(stage, options(total_iter=7), Numbers(10), always).run()
    assert (progress.total_it, progress.epoch, progress.step_in_epoch) == (7, 1, 2)
    assert [batch[0] // 100 for batch in stage.batches] == [0] * 5 + [1] * 2
    content = load_checkpoint(home / "model" / "latest.tar")
    assert (content["total_it"], content["ep"]) == (7, 1)
    assert content["settings"]["lr"] == 0.1
    assert read_options(home / "opt.txt")["is_train"] is True
    assert list(Path("log").glob("pull/t2m/run/events.*"))

    stage = Pull()
    progress = Trainer(stage, options(max_epoch=2, batch_size=3), Numbers(10), always).run()
    assert (progress.total_it, progress.epoch) == (6, 2)
    for epoch in (stage.batches[:3], stage.batches[3:]):
        assert len(set(sum(epoch, []))) == 9
    assert [number % 100 for number in sum(stage.batches[:3], [])] != [
        number % 100 for number in sum(stage.batches[3:], [])]
    assert (home / "model" / "latest.tar").is_file()


def test_batches_that_cannot_be_cut_are_refused() -> None:
    with pytest.raises(InputError, match="--batch_size 6 is not a multiple of 1 processes x --grad_accum 4"):
        EpochBatches(9, 6, seed=0, parts=4)
    with pytest.raises(InputError, match="3 training samples are too few for 1 processes x --grad_accum 4"):
        EpochBatches(3, 8, seed=0, parts=4)


def test_samples_of_like_length_share_a_batch_and_each_still_comes_once() -> None:
    lengths = np.random.default_rng(0).integers(10, 50, 333)
    grouped = EpochBatches(333, 8, seed=3, lengths=lengths)
    plain = [lengths[batch].max() for batch in EpochBatches(333, 8, seed=3)]
    batches = list(grouped)
    assert len(batches) == 333 // 8 and len({*sum(batches, [])}) == 328
    widest = [lengths[batch].max() for batch in batches]
    assert sum(widest) < 0.75 * sum(plain) and np.mean(widest) < 1.1 * lengths.mean()
    assert np.any(np.diff(widest) < 0)  # shuffled: short ones and long ones take turns
    grouped.start = 5
    assert list(grouped) == batches[5:]
    grouped.epoch, grouped.start = 1, 0
    assert list(grouped) != batches
    halves = [list(EpochBatches(333, 8, seed=3, rank=rank, ranks=2, lengths=lengths)) for rank in range(2)]
    assert [a + b for a, b in zip(*halves, strict=True)] == batches


def test_the_best_checkpoints_are_those_of_the_best_numbers(home: Path) -> None:
    numbers = [(3.0, math.nan), (2.0, 5.0), (2.5, 5.0), (math.nan, 7.0), (1.0, 6.0), (1.5, -1.0)]
    stage = Pull(numbers=numbers)
    progress = Trainer(stage, options(max_epoch=6), Numbers(4), always).run()
    assert progress.best == {"net_best_low": 1.0, "net_best_high": 7.0}
    low, high = (load_checkpoint(home / "model" / f"net_best_{which}.tar") for which in ("low", "high"))
    assert (low["ep"], high["ep"]) == (5, 4)
    assert set(low) == {"pull_model", "ep", "total_it", "settings"}
    assert not torch.equal(low["pull_model"]["weight"], stage.model.weight)


@pytest.mark.parametrize("limit", [None, 0.5])
@pytest.mark.usefixtures("home")
def test_steps_follow_the_schedule_with_clipped_gradients(limit: float | None) -> None:
    stage, schedule, rates, norms = Pull(slope=8.0), warmup_milestones(3, [2], 0.1), [], []
    trainer = Trainer(stage, options(total_iter=7, lr=0.01), Numbers(4), schedule, clip_norm=limit)
    step = trainer.optimizer.step

    def record(*arguments: object) -> None:
        rates.append(trainer.optimizer.param_groups[0]["lr"])
        norms.append(float(stage.model.weight.grad.norm()))
        step(*arguments)

    trainer.optimizer.step = record
    trainer.run()
    assert rates == pytest.approx([0.01 * schedule(number) for number in range(7)])
    # AdamW moves a weight with a steady gradient by the rate itself.
    assert stage.model.weight.item() == pytest.approx(-sum(rates), rel=1e-4)
    assert norms == pytest.approx([limit or 8.0] * 7, rel=1e-4)


def test_a_run_resumes_where_it_stopped(home: Path) -> None:
    whole, rest = Pull(), Pull()
    straight = Trainer(whole, options(total_iter=12, name="whole", ema=0.9), Numbers(10), always)
    straight.run()
    Trainer(Pull(), options(total_iter=6, ema=0.9), Numbers(10), always).run()
    resumed = Trainer(rest, options(total_iter=12, ema=0.9, is_continue=True), Numbers(10), always)
    assert resumed.run().total_it == 12
    assert torch.equal(resumed.average.values[0], straight.average.values[0])
    assert rest.batches == whole.batches[6:]
    assert rest.draws == whole.draws[6:]
    assert len({tuple(draws) for draws in whole.draws}) == 12
    assert torch.equal(rest.model.weight, whole.model.weight)
    assert load_checkpoint(home / "model" / "latest.tar")["total_it"] == 12
    assert read_options(home / "opt.txt")["total_iter"] == 12  # the data after resuming


def test_checkpoints_of_a_former_run_of_the_name_are_kept(home: Path, capsys: pytest.CaptureFixture) -> None:
    for low in (1.0, 2.0):
        Trainer(Pull(numbers=[(low, 0.0)]), options(max_epoch=1), Numbers(8), always).run()
    assert "moved checkpoints of an earlier run to checkpoints/t2m/run/model_before" in capsys.readouterr().out
    bests = [load_checkpoint(home / name / "latest.tar")["best"]["net_best_low"] for name in ("model_before", "model")]
    assert bests == [1.0, 2.0]


def test_what_cannot_be_resumed_is_reported(home: Path) -> None:
    with pytest.raises(InputError, match="--is_continue: .*latest.tar is missing"):
        Trainer(Pull(), options(is_continue=True), Numbers(4), always)
    assert not home.exists()
    Trainer(Pull(), options(total_iter=1), Numbers(4), always).run()

    wider = Pull()
    wider.model = nn.Linear(2, 1, bias=False)
    with pytest.raises(InputError, match=r"latest\.tar does not match this model; shape: weight \(1, 1\)"):
        Trainer(wider, options(is_continue=True), Numbers(4), always).run()
    more = Pull()
    more.free = nn.Parameter(torch.zeros(1))
    more.parameter_groups = lambda _: [{"params": [*more.parameters()]}]
    with pytest.raises(InputError, match="other parameters were trained"):
        Trainer(more, options(is_continue=True), Numbers(4), always).run()
    save_checkpoint(home / "model" / "latest.tar", {"pull_model": {}, "ep": 1})
    with pytest.raises(InputError, match="it lacks best, extra, opt_pull, random_state"):
        Trainer(Pull(), options(is_continue=True), Numbers(4), always).run()


def test_a_run_does_not_go_on_as_another_model(home: Path) -> None:
    fixed = (*FIXED_OPTIONS, "num_quantizers", "shared_codebook", "mu")
    begun = dict.fromkeys(fixed, "first") | {"n_heads": 2, "vq_name": "007", "feat_bias": 5.0}
    Trainer(Pull(), options(total_iter=1, **begun), Numbers(4), always).run()
    assert checked_run_folder(options(is_continue=True, lr=0.5, **begun)).samefile(home)
    for key in begun:
        assert checked_run_folder(options(is_continue=False, **begun | {key: "other"})).samefile(home)
        with pytest.raises(InputError, match=rf"opt\.txt has {key} {begun[key]}, not other"):
            checked_run_folder(options(is_continue=True, **begun | {key: "other"}))


def test_a_run_resumes_with_the_text_features_it_began_with(home: Path) -> None:
    bare = {"text_encoder": "lamp", "lamp_name": None}
    Trainer(Pull(), options(total_iter=1, text_encoder="lamp", lamp_name="first"), Numbers(4), always).run()
    for name in ("later", "without a checkpoint yet"):
        write_options(home.parent / name / "opt.txt", {"qformer_hidden": 8, "vq_name": "vq"})
    (home.parent / "later" / "model").mkdir()
    (home.parent / "later" / "model" / "latest.tar").touch()
    chosen = {}
    for is_continue in (True, False):
        opt = options(is_continue=is_continue, **bare)
        settle_lamp(opt, dataset_spec("t2m"))
        chosen[is_continue] = opt.lamp_name
    assert chosen == {True: "first", False: "later"}


def test_text_features_are_shown_with_noise_of_their_own_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    spread = torch.tensor([1.0, 3.0] * 32)
    table = torch.randn(400, 64, generator=torch.Generator().manual_seed(0)) * spread
    captions = torch.arange(400)
    batch = {"caption": captions, "tokens": torch.zeros(400, 5, 1, dtype=torch.int64),
             "token_len": torch.full((400,), 5)}
    shown = []

    def loss(*given: object, **_: object) -> TokenLoss:
        shown.append(given[2])
        return TokenLoss(*torch.zeros(4).unbind())

    monkeypatch.setattr(MaskTransformer, "loss", loss)
    model = MaskTransformer(MaskTransformerConfig(num_tokens=4, code_dim=8, cond_dim=64, latent_dim=8, n_heads=2,
                                                  n_layers=1, ff_size=8))
    for strength in (0.0, 0.5):
        stage = MaskStage(model, options(cond_noise=strength), {"train": table}, [])
        stage(batch, torch.Generator().manual_seed(1), WHOLE)
        noise = shown[-1] - table
        torch.testing.assert_close(noise.std(0), strength * table.std(0), rtol=0.1, atol=0)
        torch.testing.assert_close(noise.mean(0) / spread, torch.zeros(64), rtol=0, atol=0.1)
    assert not MaskStage(model, options(cond_noise=0.5), {"train": table[:1]}, []).spread.any()  # no NaN of one caption


CPU = torch.device("cpu")


def windows() -> MotionWindows:
    generator = np.random.default_rng(0)
    clips = {str(length): generator.normal(size=(length, 3)).astype(np.float32) for length in (9, 4, 6, 12)}
    return MotionWindows(clips, Normalisation(np.full(3, 0.5, np.float32), np.full(3, 2.0, np.float32)), 5)


def test_a_data_set_on_the_device_gives_the_batches_of_the_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    data, batches = windows(), EpochBatches(12, 4, seed=1)
    assert data.nbytes == 4 * 3 * (9 + 6 + 12)
    loaded = BatchLoader(data, batches, CPU)
    monkeypatch.setattr("training.runs.fits_in_memory", lambda *_: True)
    resident = BatchLoader(data, batches, CPU)
    assert loaded.items.dataset is data and resident.items.dataset is not data
    for one, other in zip(loaded, resident, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(("free", "expected"), [(10000, True), (1000, False)])
def test_a_data_set_goes_where_it_fits(monkeypatch: pytest.MonkeyPatch, free: int, expected: bool) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, free))
    assert fits_in_memory(windows(), torch.device("cuda")) is expected
    assert not fits_in_memory(windows(), CPU)
    assert not fits_in_memory(Numbers(3), torch.device("cuda"))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_epoch_has_all_of_its_batches_and_begins_again_with_the_next(workers: int) -> None:
    batches = EpochBatches(10, 5, seed=1)
    feed = BatchLoader(Numbers(10), batches, CPU, workers)
    for batches.epoch in (0, 4):
        assert [batch.tolist() for batch in feed] == [[100 * batches.epoch + n for n in batch] for batch in batches]
    batches.epoch = 1
    next(iter(feed))  # an epoch that is abandoned
    batches.epoch = 2
    assert {int(number) // 100 for batch in feed for number in batch} == {2}


@pytest.mark.parametrize("labelled", [0, 4])
def test_texts_and_motions_taken_on_the_device_are_the_items(labelled: int) -> None:
    generator = np.random.default_rng(0)
    pairs = [Pair(str(rows), generator.normal(size=(rows, 3)).astype(np.float32), ("a", "b"), sentences=tuple("cdef"),
                  sentence_classes=(1, 1, 3, 3), contents=frozenset({1, 3})) for rows in (200, 41, 60)]
    data = TextMotion(pairs, Normalisation(np.full(3, 0.5, np.float32), np.full(3, 2.0, np.float32)), training=True,
                      labelled=labelled, paired=True)
    resident, classes = data.on_device(CPU), set()
    for epoch in range(4):
        resident.items.set_epoch(epoch)
        numbers = (2, 0, 1, 2)
        made = resident.complete(default_collate([resident.items[number] for number in numbers]))
        items = default_collate([data[number] for number in numbers])
        assert made.keys() == items.keys()
        for key, value in made.items():
            assert value == items[key] if key in ("caption", "other") else torch.equal(value, items[key])
        assert all(one != other for one, other in zip(made["caption"], made["other"], strict=True))
        if labelled:  # a sentence is paired with one of its class
            assert made["text_class"].tolist() == [{"c": 1, "d": 1, "e": 3, "f": 3}.get(text, -1)
                                                   for text in made["caption"]]
            assert made["contents"].nonzero()[:, 1].tolist() == [1, 3] * 4
            sentences = made["text_class"] >= 0
            assert torch.equal(made["text_class"][sentences], made["other_class"][sentences])
        classes |= set(made["text_class"].tolist()) if labelled else {-1, 1, 3}
    assert classes == {-1, 1, 3}
    assert data.nbytes == 4 * 3 * (200 + 41 + 60)


@pytest.mark.parametrize("warp", [0.0, 0.2])
def test_windows_turn_at_random_constant_rates(warp: float) -> None:
    normalisation = Normalisation(np.full(263, 0.3, np.float32), np.full(263, 2.0, np.float32))
    stage = VQStage(nn.Linear(1, 1), options(decoder_only=False, time_warp=warp, add_turn=60.0, window_size=8),
                    dataset_spec("t2m"), normalisation, [])
    straight = torch.full((50, 10, 263), -0.15)  # 0 without normalisation
    turns = normalisation.invert(stage._augmented(straight, torch.Generator().manual_seed(1), WHOLE))[..., 0]
    most = np.radians(60 / 20) / 2  # half angles
    torch.testing.assert_close(turns, turns[:, :1].expand_as(turns))
    assert turns.shape == (50, 8 if warp else 10)
    assert turns.abs().max() <= most * 1.001 and turns.min() < -most / 2 and turns.max() > most / 2


def test_codebooks_and_batch_norm_are_averaged_and_older_runs_resume_without() -> None:
    model = RVQVAE(VQConfig(dim_pose=11, nb_code=8, code_dim=4, output_emb_width=4, width=8, depth=1,
                            num_quantizers=2, vq_norm="BN"))
    stage = VQStage(model, options(decoder_only=False), None, None, [])
    average = WeightAverage(stage.model, 0.5, stage.averaged_buffers())
    norms = [part for part in stage.model.modules() if isinstance(part, nn.BatchNorm1d)]
    buffers = [*(layer.codebook for layer in stage.model.quantizers), *(norm.running_mean for norm in norms)]
    for step in (1, 2):
        torch._foreach_zero_(buffers)
        torch._foreach_add_(buffers, step)
        average.update()
    with average.in_place():
        for tensor in buffers:  # decays 2/11 and 3/12
            torch.testing.assert_close(tensor, torch.full_like(tensor, 0.25 * 9 / 11 + 0.75 * 2))
    assert all(bool((tensor == 2).all()) for tensor in buffers)

    older = WeightAverage(stage.model, 0.5)
    older.update()
    with older.in_place():
        state = {key: [tensor.clone() for tensor in value] if key == "weights" else value
                 for key, value in older.state().items()}
    average = WeightAverage(stage.model, 0.5, stage.averaged_buffers())
    stage.model.quantizers[0].codebook.fill_(7)
    average.load_state(state)
    with average.in_place():
        assert bool((stage.model.quantizers[0].codebook == 7).all())
    assert bool((stage.model.quantizers[0].codebook == 7).all())


def test_checkpoints_have_the_mean_and_the_run_goes_on_with_the_weights_themselves(home: Path) -> None:
    trainer = Trainer(Pull(numbers=[(1.0, 1.0)]), options(total_iter=3, ema=0.9), Numbers(8), always)
    trainer.run()
    best, last = (float(load_checkpoint(home / "model" / f"{name}.tar")["pull_model"]["weight"])
                  for name in ("net_best_low", "latest"))
    own = float(trainer.stage.model.weight.detach())
    assert best == last > own + 0.01  # the weight falls, its mean lags behind


@pytest.mark.parametrize("burst", [1e31, math.inf])
def test_a_run_stops_naming_the_parameter_and_keeps_the_checkpoint_of_before(home: Path, burst: float) -> None:
    stage = Pull()
    forward = stage.forward
    stage.forward = lambda batch, *more: {  # the gradient is 1, except at the first sample of epoch 2
        "loss": forward(batch, *more)["loss"] * (burst if 200.0 in batch.tolist() else 1)}
    with pytest.raises(InputError, match=r"step 1\d: the gradient is not finite.* in model\.weight; nothing was saved"):
        Trainer(stage, options(), Numbers(10), always).run()
    content = load_checkpoint(home / "model" / "latest.tar")
    assert content["ep"] == 2
    assert content["pull_model"]["weight"].isfinite().all()
    assert content["opt_pull"]["state"][0]["exp_avg_sq"].isfinite().all()
