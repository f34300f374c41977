"""Training runs: folders, resumed and inherited options, and what a run starts from."""
import argparse
from dataclasses import replace
from pathlib import Path

from data.motion_windows import Normalisation
from data.specs import MAX_TOKENS, DatasetSpec
from models.lamp.bert import WordPieces, bert_folder, from_bert
from models.lamp.qformer import OPTION_PREFIX as QFORMER_PREFIX
from models.lamp.qformer import QFormer, QFormerConfig
from motion.features import biased_std
from storage.checkpoint import find_source, fits, load_checkpoint, read_options
from storage.load_lamp import BUNDLED_LAMP, open_lamp, word_pieces_of
from utils.errors import InputError

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
