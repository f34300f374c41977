"""Model folders: where they are, the settings in them, and which checkpoint to take."""
import argparse
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from storage.checkpoint import find_state, load_checkpoint, load_weights
from utils.errors import InputError
from utils.files import ROOT, read_text, write_text

PRETRAINED = ROOT / "pretrained"
PREFERRED = ("net_best_fid", "net_best_mpjpe", "net_best_cider", "net_best_acc", "net_best_loss", "finest",
             "net_best_mm", "net_best_top1", "net_best_matching", "net_best_div", "net_last", "latest")
SUFFIXES = (".tar", ".pth", ".pt", ".safetensors")
HEADER = "------------ Options -------------"
FOOTER = "-------------- End ----------------"
OTHER_MODELS = ("vq_name", "lamp_name")  # read from opt.txt first, since their folders may be renamed
# Options that define the model or its inputs. They must not change on resume.
FIXED_OPTIONS = ("vq_name", "lamp_name", "text_encoder", "condition", "attention", "n_heads", "vq_act",
                 "dilation_growth_rate", "feat_bias", "published_behaviour", "qformer_heads", "decoder", "n_head_gpt",
                 "llm", "lora_alpha", "num_quantizers", "shared_codebook", "mu")
_FLOAT = re.compile(r"[+-]?\d+\.\d+(e[+-]?\d+)?|[+-]?\d+e[+-]?\d+")
_INT = re.compile(r"[+-]?\d+")


def write_options(path: str | Path, options: Mapping[str, Any]) -> None:
    """Write ``opt.txt``: a ``key: value`` line per setting, sorted, between two dashed lines. Atomic."""
    lines = [f"{key}: {value}" for key, value in sorted(options.items())]
    write_text(path, "\n".join([HEADER, *lines, FOOTER, ""]))


def read_options(path: str | Path) -> dict[str, Any]:
    """Read ``opt.txt``. True/False and numbers are converted; everything else, names included, stays text.

    Lines are split at their first ``":"``; blank lines are skipped. Raises ``InputError`` for a line without one.
    """
    options: dict[str, Any] = {}
    for number, line in enumerate(read_text(path, "options").splitlines(), 1):
        if not line.strip() or line.startswith("---"):
            continue
        key, separator, value = line.partition(":")
        if not separator:
            raise InputError(f"{path}:{number}: expected 'key: value', not {line!r}")
        key, value = key.strip(), value.strip()
        options[key] = value if key == "name" or key.endswith("_name") else _value(value)
    return options


def _value(text: str) -> Any:
    if text in ("True", "False"):
        return text == "True"
    if _INT.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text


def _places(name: str, dataset_name: str, checkpoints_dir: str | Path) -> list[Path]:
    path = [Path(name)] if os.path.dirname(name) else []
    return [*path, Path(checkpoints_dir) / dataset_name / name, PRETRAINED / dataset_name / name]


def model_dirs(name: str, dataset_name: str, checkpoints_dir: str | Path) -> list[Path]:
    """Existing folders for a model name, those that hold a model first: a path, the user's checkpoints, ``pretrained``.
    """
    folders = [place for place in _places(name, dataset_name, checkpoints_dir)
               if os.path.isdir(place)]  # unlike Path.is_dir, accepts a name that is too long for the file system
    return sorted(folders, key=lambda folder: not any(
        (folder / part).exists() for part in ("opt.txt", "model", folder.name)))


def find_model_dir(name: str, dataset_name: str, checkpoints_dir: str | Path) -> Path:
    """The folder of the model ``name``: a path to the folder or to a checkpoint in its ``model/``, else
    ``checkpoints_dir/<dataset>/<name>``, else ``pretrained/<dataset>/<name>``.

    A folder that only contains one of the same name, as the released length estimator may, stands for that one. Raises
    ``InputError`` naming every place that was tried.
    """
    if os.path.dirname(name) and os.path.isfile(name):
        return Path(name).absolute().parent.parent
    for folder in model_dirs(name, dataset_name, checkpoints_dir):
        inner = folder / folder.name
        return inner if (inner / "model").is_dir() and not (folder / "model").is_dir() else folder
    places = ", ".join(map(str, _places(name, dataset_name, checkpoints_dir)))
    raise InputError(f"no model named {name!r}: looked for {places}")


def model_names(files: Iterable[Path]) -> str:
    """Checkpoints by model, file and place, for messages: ``t2m_demo/net_best_loss (bundled)``, or
    ``mine/latest (checkpoints/t2m)`` relative to the working directory."""
    named = []
    for file in files:
        folder = file.absolute().parent.parent
        place = folder.parent
        if place.is_relative_to(Path.cwd()):
            place = place.relative_to(Path.cwd())
        where = "bundled" if folder.is_relative_to(PRETRAINED) else place
        named.append(f"{folder.name}/{file.stem} ({where})")
    return ", ".join(named)


@dataclass(frozen=True)
class Source:
    """A model's folder, settings and checkpoint. Errors caused by a setting name its file and key."""

    folder: Path
    options: dict[str, Any]
    file: Path
    has_settings: bool = False  # whether ``options`` come from the checkpoint itself; else from opt.txt alone

    def __str__(self) -> str:
        return str(self.file)

    @property
    def options_file(self) -> Path:
        """The model's ``opt.txt``."""
        return self.folder / "opt.txt"

    @property
    def settings_file(self) -> Path:
        """The file that the settings were read from."""
        return self.file if self.has_settings else self.options_file

    def needed(self, key: str) -> Any:
        """A required option."""
        if key not in self.options:
            if not self.options_file.exists():
                raise InputError(f"{self.options_file} is missing; it needs a line '{key}: NAME'")
            raise InputError(f"{self.options_file} lacks {key}")
        return self.options[key]

    def one_of(self, key: str, choices: Sequence[str], default: str) -> str:
        """An option with a fixed set of values."""
        value = self.options.get(key, default)
        if value not in choices:
            raise InputError(f"{self.settings_file}: {key} {value!r} is not one of {', '.join(choices)}")
        return value

    def with_settings(self, content: Mapping[str, Any]) -> Self:
        """This source with the settings inside a checkpoint's ``content``, if there are any."""
        settings = content.get("settings")
        if not isinstance(settings, dict):
            return self
        kept = {key: self.options[key] for key in OTHER_MODELS if key in self.options}
        return replace(self, options={**self.options, **settings, **kept}, has_settings=True)

    def with_sizes(self, sizes: Mapping[str, Any], guesses: Mapping[str, Any] | None = None) -> Self:
        """This source with ``sizes`` inferred from tensors (``storage.released``), and ``guesses`` for what nothing
        states. Settings inside the checkpoint take precedence; ``opt.txt`` gives way, as it may be of another run.

        Raises ``InputError`` if ``opt.txt`` has a value of another type.
        """
        guesses = guesses or {}
        if self.has_settings:
            return replace(self, options={**guesses, **sizes, **self.options})
        for key, size in sizes.items():
            if key in self.options and not _fits(self.options[key], size):
                raise InputError(f"{self.options_file}: {key} cannot be {self.options[key]!r}")
        return replace(self, options={**guesses, **self.options, **sizes})

    def without(self, key: str) -> Self:
        """This source without an option."""
        return replace(self, options={name: value for name, value in self.options.items() if name != key})

    @contextmanager
    def building(self, config: type, prefix: str = "") -> Iterator[None]:
        """Context for building a model from ``config``, a dataclass whose fields are the options ``prefix`` + name.

        Each option must have the type of the field's default, integers at least 1. A ``ValueError`` or
        ``RuntimeError`` raised by the model becomes an ``InputError``.
        """
        for field in fields(config):
            key = prefix + field.name
            if key in self.options and field.default is not MISSING and not _fits(self.options[key], field.default):
                raise InputError(f"{self.settings_file}: {key} cannot be {self.options[key]!r}")
        try:
            yield
        except (ValueError, RuntimeError) as error:
            raise InputError(f"{self.settings_file}: {error}") from error


def _fits(value: Any, default: Any) -> bool:
    if default is None:
        return value is None or isinstance(value, str)
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    if isinstance(default, int):
        return isinstance(value, int) and value >= 1
    if isinstance(default, float):
        return isinstance(value, (int, float)) and value >= 0
    return isinstance(value, str)


def find_source(name: str, dataset_name: str, checkpoints_dir: str | Path, which: str | None = None) -> Source:
    """The folder, ``opt.txt`` and checkpoint of a model, by its name or by the path of its folder or of a checkpoint.

    ``which`` is a checkpoint's name with or without suffix; by default the best one, ``latest`` last. ``opt.txt`` may
    be absent. Raises ``InputError`` if there is no folder or no checkpoint.
    """
    path = Path(name)
    if path.suffix in SUFFIXES and path.is_file():
        name, which = str(path.absolute().parent.parent), which or path.stem
    folder = find_model_dir(name, dataset_name, checkpoints_dir)
    options = read_options(folder / "opt.txt") if (folder / "opt.txt").exists() else {}
    stems = (Path(which).stem,) if which else PREFERRED
    for stem in stems:
        for suffix in SUFFIXES:
            path = folder / "model" / f"{stem}{suffix}"
            if path.is_file():
                return Source(folder, options, path)
    raise InputError(f"{folder / 'model'} holds no {' or '.join(stems)} ({', '.join(SUFFIXES)})")


def open_source(source: Source, keys: Sequence[str]) -> tuple[Source, dict[str, Tensor]]:
    """A source with the settings of its checkpoint, and the state dict under the first of ``keys``."""
    if source.file.suffix == ".safetensors":
        return source, load_weights(source.file)
    content = load_checkpoint(source.file)
    return source.with_settings(content), find_state(content, keys, source.file)


def checkpoint_names(source: Source) -> list[str]:
    """Names, without suffix, of all checkpoints in the folder of ``source``."""
    return sorted(path.stem for path in source.file.parent.iterdir() if path.suffix in SUFFIXES)


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
    """The model that a run with --init_from takes its sizes and statistics from: itself, once it is resumed."""
    return opt.name if opt.init_from and opt.is_continue else opt.init_from


def inherit_settings(opt: argparse.Namespace) -> None:
    """Replace the options in ``opt.inherited``, which the command line did not give, by those of ``origin``.

    Raises ``InputError`` for a value that the command line would not take.
    """
    inherited = vars(opt).pop("inherited", {})
    if not (name := origin(opt)):
        return
    source = find_source(name, opt.dataset_name, opt.checkpoints_dir)
    if source.file.suffix != ".safetensors":
        source = source.with_settings(load_checkpoint(source.file))
    for key, choices in inherited.items():
        value, default = source.options.get(key), getattr(opt, key)
        if value in (None, "None"):  # an option that was not given
            continue
        if choices is not None and value not in choices:
            raise InputError(f"{source.settings_file}: {key} {value!r} is not one of {', '.join(map(str, choices))}")
        if default is not None and not _fits(value, default) and value != 0:
            raise InputError(f"{source.settings_file}: {key} cannot be {value!r}")
        setattr(opt, key, value)
