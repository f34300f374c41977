"""The training loop: steps, validation, checkpoints and exact resume."""
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from data.dataset import dataset_spec
from models.config import MaskTransformerConfig
from models.transformers.mask_transformer import MaskTransformer
from models.transformers.trunk import TokenLoss
from storage.checkpoint import load_checkpoint, read_options, save_checkpoint, write_options
from tests.toy_run import Numbers, Pull, always, options
from training.optimization import StepMetrics, warmup_milestones
from training.runs import FIXED_OPTIONS, EpochBatches, run_folder, settle_lamp
from training.stages.tokens import MaskStage
from training.trainer import Trainer
from utils import InputError
from utils.runtime import WHOLE, BatchSlice


def test_a_run_stops_exactly_at_total_iter(home: Path) -> None:
    stage = Pull()
    progress = Trainer(stage, options(total_iter=7), Numbers(10), always).run()
    assert (progress.total_it, progress.epoch, progress.step_in_epoch) == (7, 1, 2)
    assert [batch[0] // 100 for batch in stage.batches] == [0] * 5 + [1] * 2
    content = load_checkpoint(home / "model" / "latest.tar")
    assert (content["total_it"], content["ep"]) == (7, 1)
    assert content["settings"]["lr"] == 0.1
    assert read_options(home / "opt.txt")["is_train"] is True
    assert list(Path("log").glob("pull/t2m/run/events.*"))


def test_parts_of_a_batch_are_its_samples_with_its_draws(home: Path) -> None:
    whole, parts = Pull(), Pull()
    for stage, count in ((whole, 1), (parts, 2)):
        Trainer(stage, options(total_iter=3, batch_size=4, grad_accum=count), Numbers(10), always).run()
    for made, expected in ((parts.batches, whole.batches), (parts.draws, whole.draws)):
        assert [made[0] + made[1], made[2] + made[3], made[4] + made[5]] == expected
    assert torch.equal(parts.model.weight, whole.model.weight)
    assert home.is_dir()


def test_batches_that_cannot_be_cut_are_refused() -> None:
    with pytest.raises(InputError, match="--batch_size 6 is not a multiple of 1 processes x --grad_accum 4"):
        EpochBatches(9, 6, seed=0, parts=4)
    with pytest.raises(InputError, match="3 training samples are too few for 1 processes x --grad_accum 4"):
        EpochBatches(3, 8, seed=0, parts=4)


def test_processes_take_the_rows_of_a_batch_in_turn_part_by_part() -> None:
    whole = list(EpochBatches(25, 12, seed=3))
    for parts, ranks in ((1, 2), (2, 1), (2, 3)):
        shares = [EpochBatches(25, 12, seed=3, parts=parts, rank=rank, ranks=ranks) for rank in range(ranks)]
        taken = [list(share) for share in shares]
        assert sum(([*part] for step in zip(*taken, strict=True) for part in step), []) == sum(whole, [])
        assert {len(share) for share in shares} == {2}
        firsts = sorted(part.first for one in shares for part in one.slices())
        assert firsts == list(range(0, 12, 12 // parts // ranks))


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


def test_a_run_ends_after_max_epoch_epochs_of_whole_batches(home: Path) -> None:
    stage = Pull()
    progress = Trainer(stage, options(max_epoch=2, batch_size=3), Numbers(10), always).run()
    assert (progress.total_it, progress.epoch) == (6, 2)
    for epoch in (stage.batches[:3], stage.batches[3:]):
        assert len(set(sum(epoch, []))) == 9
    assert [number % 100 for number in sum(stage.batches[:3], [])] != [
        number % 100 for number in sum(stage.batches[3:], [])]
    assert (home / "model" / "latest.tar").is_file()


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
    whole = Pull()
    Trainer(whole, options(total_iter=12, name="whole"), Numbers(10), always).run()
    Trainer(Pull(), options(total_iter=6), Numbers(10), always).run()
    rest = Pull()
    progress = Trainer(rest, options(total_iter=12, is_continue=True), Numbers(10), always).run()
    assert progress.total_it == 12
    assert rest.batches == whole.batches[6:]
    assert rest.draws == whole.draws[6:]
    assert len({tuple(draws) for draws in whole.draws}) == 12
    assert torch.equal(rest.model.weight, whole.model.weight)
    assert load_checkpoint(home / "model" / "latest.tar")["total_it"] == 12
    assert read_options(home / "opt.txt")["total_iter"] == 12  # the data after resuming


def test_a_run_of_the_same_name_neither_loses_nor_takes_the_checkpoints_of_the_former(
        home: Path, capsys: pytest.CaptureFixture) -> None:
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
    begun = dict.fromkeys(FIXED_OPTIONS, "first") | {"n_heads": 2, "vq_name": "007", "feat_bias": 5.0}
    Trainer(Pull(), options(total_iter=1, **begun), Numbers(4), always).run()
    assert run_folder(options(is_continue=True, lr=0.5, **begun)).samefile(home)
    for key in begun:
        assert run_folder(options(is_continue=False, **begun | {key: "other"})).samefile(home)
        with pytest.raises(InputError, match=rf"opt\.txt has {key} {begun[key]}, not other"):
            run_folder(options(is_continue=True, **begun | {key: "other"}))


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


def test_numbers_and_gradients_of_pieces_are_those_of_the_whole() -> None:
    """Micro-batches of 1 and 3 masked tokens: each token has the same weight."""
    weight = nn.Parameter(torch.tensor(0.0))
    metrics = StepMetrics(2)
    for loss, count in ((8.0, 1.0), (4.0, 3.0)):
        metrics.add({"loss": loss * (1 + weight), "acc": torch.tensor(loss / 10),
                   "weight": torch.tensor(count)}).backward()
    assert {key: float(value) for key, value in metrics.average([weight]).items()} == pytest.approx(
        {"loss": 5.0, "acc": 0.5})
    assert float(weight.grad) == pytest.approx(5.0)


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
    halves = [BatchSlice(0, 400), BatchSlice(200, 400)]
    for share, part in zip(halves, (slice(0, 200), slice(200, 400)), strict=True):
        stage({key: value[part] for key, value in batch.items()}, torch.Generator().manual_seed(1), share)
    torch.testing.assert_close(torch.cat(shown[-2:]), shown[-3])
    assert not MaskStage(model, options(cond_noise=0.5), {"train": table[:1]}, []).spread.any()  # no NaN of one caption
