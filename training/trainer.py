"""Training loop of all stages, with validation, checkpoints and exact resume, and the interface of a stage."""
import argparse
import math
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Dataset, default_collate
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from storage.checkpoint import (
    Key,
    find_source,
    find_state,
    load_checkpoint,
    load_strictly,
    read_state,
    save_checkpoint,
    write_options,
)
from training.optimization import GradientGuard, Meter, StepMetrics, WeightAverage, trainable
from training.runs import BatchLoader, EpochBatches, checked_run_folder, is_main, make_accelerator, rank, world_size
from utils import InputError
from utils.files import run_lock
from utils.runtime import peak_gib, random_state, set_random_state, stream_seed

COMPILED_SHAPES = 64  # maximum number of compiled variants of a module
VALIDATION_BATCH = 64


class Stage(nn.Module):
    """Base class of training stages: a model with its loss and validation.

    ``forward(batch, generator, batch_slice)`` returns scalars keyed by name: ``"loss"``, optionally ``"weight"`` (see
    ``StepMetrics``), and others to log. It should draw all random numbers, except those for dropout, from ``generator``
    with ``batch_slice``, so that they depend on the seed and the step only.
    """

    name: str                 # name of the stage, also of its folder under log/
    state_key: Key            # key of the model in a checkpoint
    optimizer_key: str        # key of the optimizer in a checkpoint
    bests: Mapping[str, tuple[str, str]] = {}  # file stem of a best checkpoint: (metric, "min" or "max")
    find_unused = False       # whether some trainable parameters do not affect the loss

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.fid: Callable[[nn.Module], float] | None = None

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return next(self.model.parameters()).device

    def batch(self, dataset: Dataset, start: int, size: int) -> Any:
        """Return up to ``size`` items of ``dataset``, starting at ``start``, as a batch on the model's device."""
        items = [dataset[index] for index in range(start, min(start + size, len(dataset)))]
        return send_to_device(default_collate(items), self.device)

    def choose_by_fid(self, fid: Callable[[nn.Module], float] | None) -> None:
        """Also save the checkpoint with the best FID, as measured by the function ``fid``, unless it is None."""
        self.fid = fid
        if fid is not None:
            self.bests = {"net_best_fid": ("fid", "min"), **self.bests}

    def measured_fid(self) -> dict[str, float]:
        """Measure the FID, as a metric for ``validate``. Returns {} if ``fid`` is None."""
        return {} if self.fid is None else {"fid": self.fid(self.model)}

    def validate(self) -> dict[str, float]:
        """Compute metrics on the validation split. Called in eval mode, without gradients."""
        return {}

    def compiled_parts(self) -> list[nn.Module]:
        """Return the modules that --compile compiles."""
        return []

    def averaged_buffers(self) -> list[Tensor]:
        """Return the buffers that --ema averages in addition to the parameters."""
        return []

    def state(self) -> dict[str, Tensor]:
        """Return the state dict of the model for a checkpoint."""
        return self.model.state_dict()

    def weights(self) -> dict[str, dict[str, Tensor]]:
        """Return the state dicts of the model, keyed by their names in a checkpoint."""
        return {self.state_key: self.state()}

    def load_state(self, state: dict[str, Tensor], path: Path) -> None:
        """Load a state dict that was read from ``path``. Raises ``InputError`` if it does not match the model."""
        load_strictly(self.model, state, path)

    def start_from(self, state: dict[str, Tensor], path: Path) -> None:
        """Initialise the model with the state dict of another model, which was read from ``path``."""
        self.load_state(state, path)

    def extra_state(self) -> dict[str, Any]:
        """Return additional state that is needed to resume a run exactly."""
        return {}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Restore the state returned by ``extra_state``."""

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Return the parameter groups for AdamW."""
        return [{"params": trainable(self.model.parameters()), "weight_decay": weight_decay}]


def compile_parts(parts: Iterable[nn.Module]) -> None:
    """Compile modules in place, so that parameter names stay the same."""
    torch._dynamo.config.recompile_limit = COMPILED_SHAPES
    for part in parts:
        part.compile()


RESUMED = ("extra", "scheduler", "ep", "step_in_epoch", "total_it", "best", "random_state")  # keys that resuming needs


@dataclass
class Progress:
    """Progress of a run, stored in checkpoints."""

    epoch: int = 0
    step_in_epoch: int = 0
    total_it: int = 0
    best: dict[str, float] = field(default_factory=dict)


class Trainer:
    """Trainer of a stage.

    Args:
        stage: model with loss and validation.
        opt: options of the run, written to ``opt.txt``.
        dataset: training samples. It may have the methods ``set_epoch(epoch)``, ``weights(balance)`` for --balance, and
            ``lengths()`` for --group_by_length.
        schedule: function that maps a step to a factor for the learning rate.
        clip_norm: maximum gradient norm. None disables clipping.
    """

    def __init__(self, stage: Stage, opt: argparse.Namespace, dataset: Dataset, schedule: Callable[[int], float],
                 clip_norm: float | None = None) -> None:
        self.opt, self.clip_norm = opt, clip_norm
        self.folder = checked_run_folder(opt)
        self.accelerator = make_accelerator(opt, stage.find_unused)
        device = self.accelerator.device
        weights = dataset.weights(opt.balance) if getattr(opt, "balance", 0) else None
        lengths = dataset.lengths() if getattr(opt, "group_by_length", False) else None
        self.batches = EpochBatches(len(dataset), opt.batch_size, opt.seed, weights, parts=opt.grad_accum,
                                    rank=rank(), ranks=world_size(), lengths=lengths)
        self.loader = BatchLoader(dataset, self.batches, device, opt.num_workers)
        groups = stage.parameter_groups(opt.weight_decay)
        self.rates = [group.get("lr", opt.lr) for group in groups]
        optimizer = AdamW(groups, lr=opt.lr, betas=tuple(opt.betas), fused=device.type in ("cpu", "cuda") or None)
        if world_size() > 1 and device.type == "cuda":
            stage.model = nn.SyncBatchNorm.convert_sync_batchnorm(stage.model)
        self.stage = stage
        self.scheduler = LambdaLR(optimizer, schedule)
        self.wrapped, self.optimizer = self.accelerator.prepare(stage, optimizer)
        if opt.compile:
            compile_parts(stage.compiled_parts())
        self.average = WeightAverage(stage.model, opt.ema, stage.averaged_buffers()) if opt.ema else None
        # With fp16, infinite gradients are normal. They reduce the loss scale.
        self.guard = GradientGuard(stage.named_parameters(), device) if self.accelerator.scaler is None else None
        self.progress = Progress()
        self.writer: SummaryWriter | None = None

    def run(self) -> Progress:
        """Train to the end, resuming from ``latest.tar`` if ``opt.is_continue`` is set.

        Raises ``InputError`` if another run with this name is in progress.
        """
        with run_lock(self.folder, "--name") if is_main() else nullcontext():
            return self._run()

    def _run(self) -> Progress:
        latest = self.folder / "model" / "latest.tar"
        if self.opt.is_continue:
            self._resume(latest)
        elif self.opt.init_from:
            self._start_from(self.opt.init_from)
        if not self.opt.is_continue and is_main():
            self._put_aside()
            write_options(self.folder / "opt.txt", {**vars(self.opt), "is_train": True})
        if is_main():
            log = Path("log") / self.stage.name / self.opt.dataset_name / self.opt.name
            try:
                self.writer = SummaryWriter(log, purge_step=self.progress.total_it or None)
            except OSError as error:
                raise InputError(f"cannot write {log}: {error.strerror}") from error
        trained = sum(parameter.numel() for parameter in trainable(self.stage.parameters()))
        self.accelerator.print(f"{self.stage.name}: {trained / 1e6:.1f} M trained parameters -> {self.folder}")
        while not self._done():
            self._epoch()
        if self.writer:
            self.writer.close()
        self.accelerator.print(f"peak memory {peak_gib(self.accelerator.device):.1f} GiB")
        return self.progress

    def _put_aside(self) -> None:
        """Move the checkpoints of an earlier run with this name to ``model_before``."""
        model, before = self.folder / "model", self.folder / "model_before"
        if model.is_dir() and any(model.iterdir()):
            shutil.rmtree(before, ignore_errors=True)
            try:
                model.rename(before)
            except OSError as error:
                raise InputError(f"cannot move {model} to {before}: {error.strerror}") from error
            print(f"moved checkpoints of an earlier run to {before}")

    def _done(self) -> bool:
        enough = bool(self.opt.total_iter) and self.progress.total_it >= self.opt.total_iter
        return enough or self.progress.epoch >= self.opt.max_epoch

    def _epoch(self) -> None:
        progress = self.progress
        self.batches.epoch, self.batches.start = progress.epoch, progress.step_in_epoch
        self.wrapped.train()
        meter, samples, parts = Meter(), iter(self.loader), self.batches.parts
        bar = tqdm(range(progress.step_in_epoch, len(self.batches)), desc=f"{self.stage.name} epoch {progress.epoch}",
                   initial=progress.step_in_epoch, total=len(self.batches),
                   disable=self.opt.quiet or not is_main() or None, leave=False)
        for _ in bar:
            meter.add(self._step(next(samples) for _ in range(parts)))
            progress.step_in_epoch += 1
            progress.total_it += 1
            if progress.total_it % self.opt.log_every == 0:
                self._check_gradients()
                self._log("train", meter.flush(), lr=self.scheduler.get_last_lr()[0])
            if self._done():
                break
            if progress.total_it % self.opt.save_latest == 0:
                self._save(self.folder / "model" / "latest.tar")
        if progress.step_in_epoch >= len(self.batches):
            progress.epoch, progress.step_in_epoch = progress.epoch + 1, 0
        if progress.epoch % self.opt.eval_every_e == 0 or self._done():
            self._validate()
            self._save(self.folder / "model" / "latest.tar")

    def _step(self, parts: Iterator[object]) -> dict[str, torch.Tensor]:
        """Train one step on the micro-batches ``parts``. Returns metrics as ``StepMetrics.average`` does."""
        step_seed = stream_seed(self.opt.seed, self.progress.total_it)
        if world_size() > 1:  # dropout must differ between processes, but be the same on resume
            torch.manual_seed(stream_seed(self.opt.seed, self.progress.total_it, rank()))
        slices = self.batches.slices()
        metrics = StepMetrics(len(slices) * world_size())
        for batch_slice in slices:
            with nullcontext() if batch_slice.last else self.accelerator.no_sync(self.wrapped):
                losses = self.wrapped(next(parts), torch.Generator().manual_seed(step_seed), batch_slice)
                self.accelerator.backward(metrics.add(losses))
        numbers = metrics.average(self.stage.parameters())
        if self.clip_norm is not None:
            self.accelerator.clip_grad_norm_(self.wrapped.parameters(), self.clip_norm)
        if self.guard:
            self.guard.look(self.progress.total_it)
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average:
            self.average.update()
        return numbers

    def _check_gradients(self) -> None:
        """Raise ``InputError`` if a gradient was invalid. Called before anything is logged, validated or saved."""
        if self.guard:
            self.guard.check()

    @torch.no_grad()
    def _validate(self) -> None:
        self._check_gradients()
        self.stage.eval()
        with self._mean_weights(), torch.compiler.set_stance("force_eager") if self.opt.compile else nullcontext():
            numbers = self.stage.validate()
        self._log("val", numbers)
        kept = []
        for stem, (key, direction) in self.stage.bests.items():
            value, best = numbers[key], self.progress.best.get(stem)
            if is_better(value, best, direction):
                self.progress.best[stem] = value
                self._save(self.folder / "model" / f"{stem}.tar", weights_only=True)
                kept.append(f"{stem} ({key} {value:.4f})")
        if kept and is_main():
            tqdm.write(f"best so far, kept: {', '.join(kept)}")
        self.stage.train()

    def _mean_weights(self) -> AbstractContextManager[None]:
        """Context in which the model uses its averaged weights, if there are any (--ema)."""
        return self.average.in_place() if self.average else nullcontext()

    def _log(self, part: str, numbers: dict[str, float], lr: float | None = None) -> None:
        if not is_main():
            return
        step = self.progress.total_it
        for key, value in numbers.items():
            self.writer.add_scalar(f"{part}/{key}", value, step)
        text = "  ".join(f"{key} {value:.4f}" for key, value in numbers.items())
        rate = f"  lr {lr:.2e}" if lr is not None else ""
        tqdm.write(f"{time.strftime('%H:%M:%S')} {self.stage.name} epoch {self.progress.epoch} it {step} {part}: "
                   f"{text}{rate}")

    def _save(self, path: Path, weights_only: bool = False) -> None:
        self._check_gradients()
        if not is_main():
            return
        with self._mean_weights():
            save_checkpoint(path, self._content(weights_only))

    def _content(self, weights_only: bool) -> dict[str, object]:
        content = {**self.stage.weights(), "ep": self.progress.epoch, "total_it": self.progress.total_it,
                   "settings": plain(vars(self.opt))}
        if weights_only:
            return content
        content |= {
            self.stage.optimizer_key: self.optimizer.state_dict(), "scheduler": self.scheduler.state_dict(),
            "step_in_epoch": self.progress.step_in_epoch, "best": self.progress.best,
            "random_state": random_state(), "extra": self.stage.extra_state(),
        }
        if self.average:
            content["average"] = self.average.state()
        if self.accelerator.scaler is not None:  # loss scale of fp16
            content["scaler"] = self.accelerator.scaler.state_dict()
        return content

    def _resume(self, path: Path) -> None:
        content = load_checkpoint(path)
        missing = {*self.stage.weights(), self.stage.optimizer_key, *RESUMED} - content.keys()
        if missing:
            raise InputError(f"{path} cannot be resumed: it lacks {', '.join(sorted(missing))}")
        self.stage.load_state(find_state(content, (self.stage.state_key,), path), path)
        self.stage.load_extra_state(content["extra"])
        try:
            self.optimizer.load_state_dict(content[self.stage.optimizer_key])
        except ValueError as error:
            raise InputError(f"{path} cannot be resumed: other parameters were trained; has a flag changed?") from error
        if self.average:
            self._resume_average(content, path)
        self.scheduler.load_state_dict(content["scheduler"])
        self.scheduler.base_lrs = self.rates  # --lr may change on resume
        self.progress = Progress(content["ep"], content["step_in_epoch"], content["total_it"], content["best"])
        if self.accelerator.scaler is not None and "scaler" in content:
            self.accelerator.scaler.load_state_dict(content["scaler"])
        set_random_state(content["random_state"])
        if is_main():  # flags may have changed
            write_options(self.folder / "opt.txt", {**vars(self.opt), "is_train": True})
        self.accelerator.print(f"resumed from {path} at epoch {self.progress.epoch}, step {self.progress.total_it}")

    def _start_from(self, name: str) -> None:
        source = find_source(name, self.opt.dataset_name, self.opt.checkpoints_dir)
        self.stage.start_from(read_state(source.file, (self.stage.state_key,)), source.file)
        if self.average:
            self.average.restart()
        self.accelerator.print(f"initialised from {source}")

    def _resume_average(self, content: dict[str, object], path: Path) -> None:
        if "average" not in content:  # --ema was added on resume
            self.average.restart()
            return
        try:
            self.average.load_state(content["average"])
        except ValueError as error:
            raise InputError(f"{path} cannot be resumed: {error}; has a flag changed?") from error


def is_better(value: float, best: float | None, direction: str) -> bool:
    """Return whether a metric is better than ``best``, for ``direction`` "min" or "max". NaN is never better."""
    if math.isnan(value):
        return False
    return best is None or (value < best if direction == "min" else value > best)


def plain(settings: dict[str, object]) -> dict[str, object]:
    """Convert settings to types that ``torch.load`` accepts with ``weights_only``."""
    simple = (bool, int, float, str, list, type(None))
    return {key: value if isinstance(value, simple) else str(value) for key, value in settings.items()}
