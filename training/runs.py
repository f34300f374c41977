"""Set up training runs: folders, options, processes (with ``accelerate``), and batches."""
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
from models.config import QFORMER_PREFIX
from models.lamp.bert import WordPieces, bert_folder, from_bert
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
                 "llm", "lora_alpha", "text_only", "num_quantizers", "shared_codebook", "mu")


def latest_checkpoint(opt: argparse.Namespace) -> Path:
    """Return the path of the checkpoint that a run resumes from."""
    return Path(opt.checkpoints_dir) / opt.dataset_name / opt.name / "model" / "latest.tar"


def checked_run_folder(opt: argparse.Namespace) -> Path:
    """Return the folder of a run, ``checkpoints/<dataset_name>/<name>``, and check that the run can be resumed.

    With --is_continue, raises ``InputError`` if there is no checkpoint or one of ``FIXED_OPTIONS`` has changed.
    """
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
    """Return the name of the model whose sizes and statistics an --init_from run uses: on resume, the run itself."""
    return opt.name if opt.init_from and opt.is_continue else opt.init_from


def inherit_settings(opt: argparse.Namespace) -> None:
    """Copy the options in ``opt.inherited``, which are not on the command line, from the ``origin`` model.

    Raises ``InputError`` for a value that would be invalid on the command line.
    """
    inherited = vars(opt).pop("inherited", {})
    if not (name := origin(opt)):
        return
    source = find_source(name, opt.dataset_name, opt.checkpoints_dir)
    if source.file.suffix != ".safetensors":
        source = source.with_settings(load_checkpoint(source.file))
    for key, choices in inherited.items():
        value, default = source.options.get(key), getattr(opt, key)
        if value in (None, "None"):
            continue
        if choices is not None and value not in choices:
            raise InputError(f"{source.settings_file}: {key} {value!r} is not one of {', '.join(map(str, choices))}")
        if default is not None and not fits(value, default) and value != 0:
            raise InputError(f"{source.settings_file}: {key} cannot be {value!r}")
        setattr(opt, key, value)


def starting_normalisation(opt: argparse.Namespace, spec: DatasetSpec) -> Normalisation:
    """Return the normalisation of a training run, from the --init_from model or from the statistics of the data set.

    The stds of root motion and foot contacts in the data set are divided by ``opt.feat_bias``.
    """
    if name := origin(opt):
        meta = find_source(name, spec.name, opt.checkpoints_dir).folder / "meta"
        return Normalisation.load(meta / "mean.npy", meta / "std.npy", spec.dim_pose, "training that model")
    published = Normalisation.load(spec.root / "Mean.npy", spec.root / "Std.npy", spec.dim_pose)
    return Normalisation(published.mean, biased_std(published.std, opt.feat_bias))


def initial_qformer(opt: argparse.Namespace, spec: DatasetSpec) -> tuple[QFormer, WordPieces]:
    """Create the Q-Former and word-piece tokenizer of a LaMP run, from BERT or with the sizes of the --init_from model.

    Raises ``InputError`` if ``opt.max_text_len`` exceeds the number of positions.
    """
    dropouts = {"dropout": opt.dropout, "attention_dropout": opt.attention_dropout}
    if name := origin(opt):
        source, _ = open_lamp(name, spec, opt.checkpoints_dir)
        with source.building(QFormerConfig, QFORMER_PREFIX):
            qformer = QFormer(replace(QFormerConfig.from_options(source.options), **dropouts))
        pieces = word_pieces_of(source, qformer.config, opt.checkpoints_dir,
                                published=source.options.get("published_behaviour", True))
    else:
        pieces = WordPieces(bert_folder(opt.bert))
        qformer = from_bert(opt.bert, layers=opt.bert_layers or None, encoder_width=opt.encoder_width,
                            cross_attention_freq=opt.cross_attention_freq, num_query_tokens=MAX_TOKENS, **dropouts)
    if opt.max_text_len > qformer.config.max_positions:
        raise InputError(f"--max_text_len {opt.max_text_len}: the model reads at most {qformer.config.max_positions}")
    return QFormer(qformer.config) if opt.random_start else qformer, pieces


def settle_lamp(opt: argparse.Namespace, spec: DatasetSpec, vq_name: str | None = None) -> None:
    """Set ``opt.lamp_name`` if it is missing and needed.

    A resumed run keeps its LaMP model. Otherwise, the latest LaMP run that has a checkpoint and, with ``vq_name``, this
    tokenizer is chosen, or the bundled model if there is none.
    """
    if getattr(opt, "text_encoder", "lamp") != "lamp" or opt.lamp_name is not None:
        return
    begun = read_options(checked_run_folder(opt) / "opt.txt") if opt.is_continue else {}
    if begun.get("lamp_name"):
        opt.lamp_name = begun["lamp_name"]
        return
    found = []
    for path in (Path(opt.checkpoints_dir) / spec.name).glob("*/opt.txt"):
        options = read_options(path)
        has_checkpoint = any((path.parent / "model").glob("[!.]*"))
        if has_checkpoint and "qformer_hidden" in options and vq_name in (None, options.get("vq_name")):
            found.append((path.stat().st_mtime, path.parent.name))
    opt.lamp_name = max(found)[1] if found else BUNDLED_LAMP


TIMEOUT = timedelta(hours=1)  # maximum time that processes wait for each other, for example in validation
Item = TypeVar("Item")
Result = TypeVar("Result")


def start_run(opt: argparse.Namespace) -> torch.device:
    """Set up a training process: options, seeds, process group and device. Only rank 0 prints. Returns the device.

    Raises ``InputError`` if the device does not exist, or if another run with this name is in progress.
    """
    inherit_settings(opt)
    seed_everything(opt.seed)
    device = make_accelerator(opt).device
    choose_linear(opt.cpu_linear)
    if is_main():
        refuse_if_held(Path(opt.checkpoints_dir) / opt.dataset_name / opt.name, "--name")
    if not is_main():
        opt.quiet = True
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (open until the process ends)
    return device


def make_accelerator(opt: argparse.Namespace, find_unused: bool = False) -> Accelerator:
    """Create the accelerator for a run. ``find_unused`` allows parameters that do not contribute to the loss."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        cpu = opt.gpu_id == -1 or not torch.cuda.is_available()
    else:
        device = select_device(opt.gpu_id)
        cpu = device.type == "cpu"
        if not cpu:
            os.environ["ACCELERATE_TORCH_DEVICE"] = str(device)
    if cpu and opt.mixed_precision == "fp16":
        raise InputError("--mixed_precision fp16 needs a GPU; CPUs have bf16")
    # Buffers are the same in all processes, so they need not be broadcast.
    wrapper = DistributedDataParallelKwargs(broadcast_buffers=False, find_unused_parameters=find_unused,
                                            gradient_as_bucket_view=True)
    return Accelerator(cpu=cpu, mixed_precision=opt.mixed_precision,
                       kwargs_handlers=[wrapper, InitProcessGroupKwargs(timeout=TIMEOUT)])


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the index of this process, 0 for the main process."""
    return dist.get_rank() if world_size() > 1 else 0


def is_main() -> bool:
    """Return whether this is the main process, which writes files and prints."""
    return rank() == 0


def total(tensor: Tensor) -> Tensor:
    """Sum a tensor over all processes, without gradient."""
    return tensor if world_size() == 1 else reduce(tensor.detach(), "sum")


def divide(items: Sequence[Item], make: Callable[[list[Item]], Sequence[Result]]) -> list[Result]:
    """Call ``make``, which returns one result per item, on a part of ``items`` in each process. Returns all results.

    Results must be on the CPU. They are in the order of ``items``, in every process.
    """
    if world_size() == 1:
        return list(make(list(items)))
    with PartialState().split_between_processes(list(items)) as own:
        return gather_object(list(make(own)) if own else [])


@dataclass(frozen=True)
class DistributedSlice(BatchSlice):
    """``BatchSlice`` that communicates with the other processes."""

    def sum(self, tensor: Tensor) -> Tensor:
        return total(tensor)

    def gather(self, rows: Tensor, pad: bool = False) -> Tensor:
        rows = rows.detach()
        return gather(pad_across_processes(rows, dim=1) if pad else rows)

    def gather_with_gradient(self, rows: Tensor) -> Tensor:
        return torch.cat(all_gather(rows))

    def mean_weight(self, count: int, device: torch.device) -> Tensor | float:
        amount = torch.tensor(float(count), device=device)
        return self.world_size * amount / total(amount).clamp_min(1)


def batch_slice(first: int, rows: int, last: bool) -> BatchSlice:
    """Create this process's slice of a batch of ``rows`` rows, which begins at row ``first``.

    ``last`` marks the last micro-batch of a step.
    """
    kind = DistributedSlice if world_size() > 1 else BatchSlice
    return kind(first, rows, last, rank(), world_size())


POOL = 16         # number of batches whose samples are sorted by length together
FREE_SHARE = 0.3  # share of the free GPU memory that a data set may use


class EpochBatches(Sampler[list[int]]):
    """Sampler of shuffled batches. It yields a list of sample indices for each micro-batch of process ``rank``.

    The order depends on the seed and epoch only, so that a run can resume within an epoch.

    Args:
        length: number of samples.
        weights: (length,) sampling weights. An epoch is then sampled with replacement.
        parts: number of micro-batches per batch.
        ranks: number of processes that share each micro-batch.
        lengths: (length,) sample lengths. Samples of similar length are then put into the same batch.

    Raises ``InputError`` if batches cannot be divided evenly, or if there are too few samples.
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
        """Reorder the samples of an epoch, so that the samples of a batch have similar lengths."""
        order = order[:len(self) * self.batch_size]
        pools = np.arange(len(order)) // (POOL * self.batch_size)
        batches = order[np.lexsort((self.lengths[order], pools))].reshape(len(self), -1)
        return batches[torch.randperm(len(self), generator=generator).numpy()].ravel().tolist()

    def slices(self) -> list[BatchSlice]:
        """Return the rows of this process in each micro-batch of a step."""
        rows = self.batch_size // (self.parts * self.ranks)
        return [batch_slice((part * self.ranks + self.rank) * rows, self.batch_size, part == self.parts - 1)
                for part in range(self.parts)]


class EpochItems(Dataset):
    """Data set whose epoch is shared with persistent worker processes."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        self.follow()
        return self.dataset[index]

    def follow(self) -> None:
        """Set the epoch of the data set, if it has a method ``set_epoch``."""
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(int(self.epoch))


class BatchLoader:
    """Loader that yields the micro-batches of an epoch on ``device``.

    On CUDA, the motions of a data set with the attributes ``on_device`` and ``nbytes`` are kept in device memory if
    they fit. Everything else is loaded by ``workers`` processes and copied asynchronously.
    """

    def __init__(self, dataset: Dataset, batches: EpochBatches, device: torch.device, workers: int = 0) -> None:
        resident = Resident(dataset, lambda batch: batch)
        if fits_in_memory(dataset, device):
            resident = dataset.on_device(device)
        self.items, self.complete = EpochItems(resident.items), resident.complete
        self.batches, self.device = batches, device
        # A separate generator, so that the loader does not use the global one.
        self.loader = DataLoader(self.items, batch_sampler=batches, num_workers=workers, generator=torch.Generator(),
                                 pin_memory=device.type == "cuda", persistent_workers=workers > 0)

    def __iter__(self) -> Iterator[Any]:
        self.items.epoch.fill_(self.batches.epoch)
        self.items.follow()
        for batch in self.loader:
            yield self.complete(send_to_device(batch, self.device, non_blocking=True))


def fits_in_memory(dataset: Dataset, device: torch.device) -> bool:
    """Return whether a data set can be kept in GPU memory, using at most ``FREE_SHARE`` of the free memory."""
    if device.type != "cuda" or not hasattr(dataset, "on_device"):
        return False
    return dataset.nbytes < FREE_SHARE * torch.cuda.mem_get_info(device)[0]
