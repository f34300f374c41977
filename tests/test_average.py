"""Moving averages of weights, and initialisation from another model."""
from pathlib import Path

import pytest
import torch
from torch import nn

from models.vq.model import RVQVAE, VQConfig
from storage.checkpoint import load_checkpoint
from tests.toy_run import Numbers, Pull, always, options
from training.optimization import WeightAverage
from training.stages.vq import VQStage
from training.trainer import Trainer


def weight(folder: Path, name: str) -> float:
    return float(load_checkpoint(folder / "model" / f"{name}.tar")["pull_model"]["weight"])


def test_the_mean_follows_the_weights_fast_at_first_and_then_by_its_decay() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    average, expected = WeightAverage(model, 0.5), 0.0
    for step in range(1, 30):
        nn.init.constant_(model.weight, step)
        average.update()
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    with average.in_place():
        assert float(model.weight.detach()) == pytest.approx(expected, rel=1e-5)
    assert float(model.weight.detach()) == 29


def tokenizer_stage(**settings: object) -> VQStage:
    model = RVQVAE(VQConfig(dim_pose=11, nb_code=8, code_dim=4, output_emb_width=4, width=8, depth=1,
                            num_quantizers=2, **settings))
    return VQStage(model, options(decoder_only=False), None, None, [])


def test_codebooks_and_batch_norm_are_averaged_with_the_weights_that_they_belong_to() -> None:
    stage = tokenizer_stage(vq_norm="BN")
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


def test_a_mean_without_codebooks_as_older_runs_have_it_is_resumed() -> None:
    stage = tokenizer_stage()
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
    own = float(trainer.stage.model.weight.detach())
    assert weight(home, "net_best_low") == weight(home, "latest") > own + 0.01  # the weight falls, its mean lags behind


@pytest.mark.usefixtures("home")
def test_a_resumed_run_has_the_same_weights_and_mean() -> None:
    def weights(name: str, parts: tuple[int, ...]) -> tuple[float, float]:
        for number, steps in enumerate(parts):
            opt = options(name=name, total_iter=steps, ema=0.9, is_continue=number > 0)
            trainer = Trainer(Pull(), opt, Numbers(8), always)
            trainer.run()
        return float(trainer.stage.model.weight.detach()), float(trainer.average.values[0])

    assert weights("parts", (3, 7)) == weights("whole", (7,))
