"""A training run: its folder and options, its processes and what they exchange (on ``accelerate``), and its batches.

All functions also work in a single process.
"""
import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs, PartialState
from accelerate.utils import gather, gather_object, pad_across_processes, reduce, send_to_device
from torch import Tensor
from torch.distributed.nn.functional import all_gather
from torch.utils.data import DataLoader, Dataset, Sampler

from data.dataset import MAX_TOKENS, DatasetSpec, Normalisation
from data.text_motion import Resident
from models.lamp.bert import WordPieces, bert_folder, from_bert
from models.lamp.qformer import OPTION_PREFIX as QFORMER_PREFIX
from models.lamp.qformer import QFormer, QFormerConfig
from models.layers import choose_linear
from motion.features import biased_std
from storage.checkpoint import find_source, fits, load_checkpoint, read_options
from storage.generation import BUNDLED_LAMP, open_lamp, word_pieces_of
from utils import InputError
from utils.files import refuse_if_held
from utils.runtime import BatchSlice, seed_everything, select_device, stream_seed

# Options that define the model or its inputs. They must not change on resume.
FIXED_OPTIONS = ("vq_name", "lamp_name", "text_encoder", "condition", "attention", "n_heads", "vq_act",
                 "dilation_growth_rate", "feat_bias", "published_behaviour", "qformer_heads", "decoder", "n_head_gpt",
                 "llm", "lora_alpha", "num_quantizers", "shared_codebook", "mu")


def latest_checkpoint(opt: argparse.Namespace) -> Path:
    """The file that a run resumes from, whether or not it exists."""
    return Path(opt.checkpoints_dir) / opt.dataset_name / opt.name / "model" / "latest.tar"


def run_folder(opt: argparse.Namespace) -> Path:
    """``checkpoints/<dataset_name>/<name>``. Raises ``InputError`` if the run is to be resumed but has no checkpoint,
    or if one of ``FIXED_OPTIONS`` differs from its ``opt.txt``."""
    latest = latest_checkpoint(opt)
    folder = latest.parent.parent
    if opt.is_continue:
        if not latest.is_file():
            raise InputError(f"--is_continue: {latest} is missing")
        begun = read_options(folder / "opt.txt")
        for key in FIXED_OPTIONS:
            now = getattr(opt, key, None)
            if now is not None and str(begun.get(key, now)) != str(now):
                raise InputError(f"--is_continue: {folder / 'opt.txt'} has {key} {begun[key]}, not {now}")
    return folder


def origin(opt: argparse.Namespace) -> str | None:
    """The model from which a run with --init_from takes its sizes and statistics; on resume, the run itself."""
    return opt.name if opt.init_from and opt.is_continue else opt.init_from


def inherit_settings(opt: argparse.Namespace) -> None:
    """Replace the options in ``opt.inherited``, which are not on the command line, by those of ``origin``.

    Raises ``InputError`` for a value that the command line would refuse.
    """
    inherited = vars(opt).pop("inherited", {})
    if not (name := origin(opt)):
        return
    source = find_source(name, opt.dataset_name, opt.checkpoints_dir)
    if source.file.suffix != ".safetensors":
        source = source.with_settings(load_checkpoint(source.file))
    for key, choices in inherited.items():
        value, default = source.options.get(key), getattr(opt, key)
        if value in (None, "None"):  # not given on the command line
            continue
        if choices is not None and value not in choices:
            raise InputError(f"{source.settings_file}: {key} {value!r} is not one of {', '.join(map(str, choices))}")
        if default is not None and not fits(value, default) and value != 0:
            raise InputError(f"{source.settings_file}: {key} cannot be {value!r}")
        setattr(opt, key, value)


def starting_normalisation(opt: argparse.Namespace, spec: DatasetSpec) -> Normalisation:
    """Normalisation of a training run: that of the --init_from model, else the data set's statistics with the stds of
    root motion and foot contacts divided by ``opt.feat_bias``."""
    if name := origin(opt):
        meta = find_source(name, spec.name, opt.checkpoints_dir).folder / "meta"
        return Normalisation.load(meta / "mean.npy", meta / "std.npy", spec.dim_pose, "training that model")
    published = Normalisation.load(spec.root / "Mean.npy", spec.root / "Std.npy", spec.dim_pose)
    return Normalisation(published.mean, biased_std(published.std, opt.feat_bias))


def lamp_to_start_from(name: str, spec: DatasetSpec, checkpoints_dir: str | Path,
                       **dropouts: float) -> tuple[QFormer, WordPieces]:
    """An untrained Q-Former with the sizes of a trained LaMP model and the given ``dropouts``, and that model's word
    pieces."""
    source, _ = open_lamp(name, spec, checkpoints_dir)
    with source.building(QFormerConfig, QFORMER_PREFIX):
        qformer = QFormer(replace(QFormerConfig.from_options(source.options), **dropouts))
    published = source.options.get("published_behaviour", True)
    return qformer, word_pieces_of(source, qformer.config, checkpoints_dir, published)


def initial_qformer(opt: argparse.Namespace, spec: DatasetSpec) -> tuple[QFormer, WordPieces]:
    """The Q-Former and word pieces that a LaMP run starts with: those of BERT, or the sizes of the model in
    --init_from. Raises ``InputError`` if ``opt.max_text_len`` exceeds the positions."""
    dropouts = {"dropout": opt.dropout, "attention_dropout": opt.attention_dropout}
    if name := origin(opt):
        qformer, pieces = lamp_to_start_from(name, spec, opt.checkpoints_dir, **dropouts)
    else:
        pieces = WordPieces(bert_folder(opt.bert))
        qformer = from_bert(opt.bert, layers=opt.bert_layers or None, encoder_width=opt.encoder_width,
                            cross_attention_freq=opt.cross_attention_freq, num_query_tokens=MAX_TOKENS, **dropouts)
    if opt.max_text_len > qformer.config.max_positions:
        raise InputError(f"--max_text_len {opt.max_text_len}: the model reads at most {qformer.config.max_positions}")
    return QFormer(qformer.config) if opt.random_start else qformer, pieces


def settle_lamp(opt: argparse.Namespace, spec: DatasetSpec, vq_name: str | None = None) -> None:
    """Set ``opt.lamp_name`` if the run needs a LaMP model and names none: that of the resumed run, else
    ``default_lamp``."""
    if getattr(opt, "text_encoder", "lamp") != "lamp" or opt.lamp_name is not None:
        return
    begun = read_options(run_folder(opt) / "opt.txt") if opt.is_continue else {}
    opt.lamp_name = begun.get("lamp_name") or default_lamp(spec, opt.checkpoints_dir, vq_name)


def default_lamp(spec: DatasetSpec, checkpoints_dir: str | Path, vq_name: str | None = None) -> str:
    """The most recent LaMP run that has a checkpoint, trained on the tokenizer ``vq_name`` if given; else the bundled
    model."""
    found = []
    for path in (Path(checkpoints_dir) / spec.name).glob("*/opt.txt"):
        options = read_options(path)
        begun = any((path.parent / "model").glob("[!.]*"))
        if begun and "qformer_hidden" in options and vq_name in (None, options.get("vq_name")):
            found.append((path.stat().st_mtime, path.parent.name))
    return max(found)[1] if found else BUNDLED_LAMP


TIMEOUT = timedelta(hours=1)  # timeout for a process that waits for a longer validation on another
Item = TypeVar("Item")
Result = TypeVar("Result")


def start_run(opt: argparse.Namespace) -> torch.device:
    """Complete the options (``inherit_settings``), seed everything, join the process group, and let only rank 0 print.

    Returns the device of this process. Raises ``InputError`` if it does not exist, or if another run trains a
    model of this name.
    """
    inherit_settings(opt)
    seed_everything(opt.seed)
    device = make_accelerator(opt).device
    choose_linear(opt.cpu_linear)
    if is_main():
        refuse_if_held(Path(opt.checkpoints_dir) / opt.dataset_name / opt.name, "--name")
    if not is_main():
        opt.quiet = True
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (until the process ends)
    return device


def make_accelerator(opt: argparse.Namespace, find_unused: bool = False) -> Accelerator:
    """The process group and precision for the options; ``opt.gpu_id`` selects the device of a single process.

    ``find_unused``: some parameters do not contribute to the loss.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        cpu = opt.gpu_id == -1 or not torch.cuda.is_available()
    else:
        device = select_device(opt.gpu_id)
        cpu = device.type == "cpu"
        if not cpu:
            os.environ["ACCELERATE_TORCH_DEVICE"] = str(device)
    if cpu and opt.mixed_precision == "fp16":
        raise InputError("--mixed_precision fp16 needs a GPU; CPUs have bf16")
    # Buffers are equal in all processes, so they are not broadcast.
    wrapper = DistributedDataParallelKwargs(broadcast_buffers=False, find_unused_parameters=find_unused,
                                            gradient_as_bucket_view=True)
    return Accelerator(cpu=cpu, mixed_precision=opt.mixed_precision,
                       kwargs_handlers=[wrapper, InitProcessGroupKwargs(timeout=TIMEOUT)])


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Index of this process, 0 for the main one."""
    return dist.get_rank() if world_size() > 1 else 0


def is_main() -> bool:
    """Whether this is the main process, which writes and prints."""
    return rank() == 0


def total(tensor: Tensor) -> Tensor:
    """The sum of a tensor over all processes, without gradient."""
    return tensor if world_size() == 1 else reduce(tensor.detach(), "sum")


def divide(items: Sequence[Item], make: Callable[[list[Item]], Sequence[Result]]) -> list[Result]:
    """``make(items)``, one result for each item, with the items divided between the processes; every process gets all
    results in order. Results must be on the CPU."""
    if world_size() == 1:
        return list(make(list(items)))
    with PartialState().split_between_processes(list(items)) as own:
        return gather_object(list(make(own)) if own else [])


@dataclass(frozen=True)
class DistributedSlice(BatchSlice):
    """A ``BatchSlice`` that exchanges with the other processes."""

    def sum(self, tensor: Tensor) -> Tensor:
        """See ``BatchSlice``."""
        return total(tensor)

    def gather(self, rows: Tensor, pad: bool = False) -> Tensor:
        """See ``BatchSlice``."""
        rows = rows.detach()
        return gather(pad_across_processes(rows, dim=1) if pad else rows)

    def gather_with_gradient(self, rows: Tensor) -> Tensor:
        """See ``BatchSlice``."""
        return torch.cat(all_gather(rows))

    def mean_weight(self, count: int, device: torch.device) -> Tensor | float:
        """See ``BatchSlice``."""
        amount = torch.tensor(float(count), device=device)
        return self.world_size * amount / total(amount).clamp_min(1)


def batch_slice(first: int, rows: int, last: bool) -> BatchSlice:
    """The slice from row ``first`` of a batch of ``rows`` rows, for this process."""
    kind = DistributedSlice if world_size() > 1 else BatchSlice
    return kind(first, rows, last, rank(), world_size())


POOL = 16         # number of batches sorted by length together
FREE_SHARE = 0.3  # share of a GPU's free memory that a data set may use


class EpochBatches(Sampler[list[int]]):
    """Indices of the shuffled, whole batches of one epoch. The order depends on (seed, epoch) only, so that a run
    resumes with the remaining batches of an epoch, with any number of processes.

    A batch is divided into ``parts`` micro-batches, and each of them between ``ranks`` processes; this yields the
    indices for process ``rank``, a list per micro-batch. With ``weights`` (length,) an epoch is sampled with
    replacement, otherwise it has every sample once. With ``lengths`` (length,) samples of similar length share a batch
    to save padding: those of every 16 batches are sorted, and the batches shuffled.

    Raises ``InputError`` if a batch cannot be divided.
    """

    def __init__(self, length: int, batch_size: int, seed: int, weights: np.ndarray | None = None, *, parts: int = 1,
                 rank: int = 0, ranks: int = 1, lengths: np.ndarray | None = None) -> None:
        pieces = parts * ranks
        if batch_size % pieces:
            raise InputError(f"--batch_size {batch_size} is not a multiple of {ranks} processes x --grad_accum {parts}")
        if length < pieces:
            raise InputError(f"{length} training samples are too few for {ranks} processes x --grad_accum {parts}")
        self.length, self.seed, self.parts, self.rank, self.ranks = length, seed, parts, rank, ranks
        self.batch_size = min(batch_size, length // pieces * pieces)
        self.weights = None if weights is None else torch.from_numpy(weights)
        self.lengths = lengths
        self.epoch, self.start = 0, 0

    def __len__(self) -> int:
        return self.length // self.batch_size

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(stream_seed(self.seed, self.epoch))
        if self.weights is None:
            order = torch.randperm(self.length, generator=generator).tolist()
        else:
            order = torch.multinomial(self.weights, self.length, replacement=True, generator=generator).tolist()
        if self.lengths is not None:
            order = self._by_length(np.array(order), generator)
        for batch in range(self.start, len(self)):
            for part in self.slices():
                first = batch * self.batch_size + part.first
                yield order[first:first + self.batch_size // (self.parts * self.ranks)]

    def _by_length(self, order: np.ndarray, generator: torch.Generator) -> list[int]:
        """The samples of an epoch in whole batches of similar length."""
        order = order[:len(self) * self.batch_size]
        pools = np.arange(len(order)) // (POOL * self.batch_size)
        batches = order[np.lexsort((self.lengths[order], pools))].reshape(len(self), -1)
        return batches[torch.randperm(len(self), generator=generator).numpy()].ravel().tolist()

    def slices(self) -> list[BatchSlice]:
        """The rows of a step's batch in each micro-batch."""
        rows = self.batch_size // (self.parts * self.ranks)
        return [batch_slice((part * self.ranks + self.rank) * rows, self.batch_size, part == self.parts - 1)
                for part in range(self.parts)]


class EpochItems(Dataset):
    """A data set whose copies in worker processes have the epoch of the main process, so that workers can stay."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        self.follow()
        return self.dataset[index]

    def follow(self) -> None:
        """Pass the epoch to the data set, if it has ``set_epoch``."""
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(int(self.epoch))


class BatchLoader:
    """Iterates over the micro-batches of an epoch on ``device``.

    On CUDA the motions of a data set with ``on_device`` and ``nbytes`` (``MotionWindows``, ``TextMotion``) are kept in
    device memory if they fit. ``workers`` processes load everything else into pinned memory, which is copied
    asynchronously.
    """

    def __init__(self, dataset: Dataset, batches: EpochBatches, device: torch.device, workers: int = 0) -> None:
        resident = Resident(dataset, lambda batch: batch)
        if fits_in_memory(dataset, device):
            resident = dataset.on_device(device)
        self.items, self.complete = EpochItems(resident.items), resident.complete
        self.batches, self.device = batches, device
        # Its own generator keeps the state of the global one.
        self.loader = DataLoader(self.items, batch_sampler=batches, num_workers=workers, generator=torch.Generator(),
                                 pin_memory=device.type == "cuda", persistent_workers=workers > 0)

    def __iter__(self) -> Iterator[Any]:
        self.items.epoch.fill_(self.batches.epoch)
        self.items.follow()
        for batch in self.loader:
            yield self.complete(send_to_device(batch, self.device, non_blocking=True))


def fits_in_memory(dataset: Dataset, device: torch.device) -> bool:
    """Whether a data set with ``on_device`` takes at most ``FREE_SHARE`` of a GPU's free memory."""
    if device.type != "cuda" or not hasattr(dataset, "on_device"):
        return False
    return dataset.nbytes < FREE_SHARE * torch.cuda.mem_get_info(device)[0]
