"""Add captions to the clips of a data set (ROOT/texts/ID.txt) from a table, text files or file names.

    python prepare/add_captions.py ROOT --table captions.csv
    python prepare/add_captions.py ROOT --texts DIR
    python prepare/add_captions.py ROOT --names "{action}_{mood}_{take}" --template "a person does a {action}, {mood}"
"""
import csv
import io
import json
import math
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from data.dataset import DATASETS
from data.text import SPACY_HINT, SPACY_MODEL, Caption, parse_caption, spacy_pipeline, tag_by_spacy
from options.base import Parser, accept_seed
from prepare.importing import ClipSource, read_sources
from utils import InputError, script
from utils.files import ROOT, read_text, write_text

TAGS = ROOT / "assets" / "word_tags.txt"
UNKNOWN_TAG = "OTHER"
_INFLECTIONS = (("ies", "y"), ("ied", "y"), ("ing", ""), ("ing", "e"), ("ed", ""), ("ed", "e"), ("es", ""), ("s", ""))

Tagger = Callable[[str], str]  # maps a caption to its tokens, separated by spaces


def make_tagger() -> tuple[Tagger, str]:
    """Return the best available tagger and its name: spaCy with its small English model, else the word list."""
    pipeline = spacy_pipeline()
    if pipeline is not None:
        return partial(tag_by_spacy, pipeline), f"spaCy ({SPACY_MODEL})"
    return tag_by_list, f"the word list {TAGS.relative_to(ROOT)}, which covers fewer words than spaCy; {SPACY_HINT}"


def tag_by_list(text: str) -> str:
    """Tag words with the tag of the word or its stem in the word list.

    Words that are not in the list are tagged ``ADV`` if they end in "ly", else ``OTHER``.
    """
    return " ".join("/".join(_tag(word)) for word in re.findall(r"[^\W\d_]+", text.lower().replace("-", "")))


def _tag(word: str) -> tuple[str, str]:
    known = _known()
    if word in known:
        return known[word]
    for ending, instead in _INFLECTIONS:
        stem = word.removesuffix(ending) + instead
        for form in (stem, stem[:-1]) if len(stem) > 3 and stem[-1] == stem[-2] else (stem,):  # "jogging": jog
            if word.endswith(ending) and known.get(form, ("", ""))[1] in ("NOUN", "VERB"):
                return known[form]
    return word, "ADV" if word.endswith("ly") else UNKNOWN_TAG


@cache
def _known() -> dict[str, tuple[str, str]]:
    lines = read_text(TAGS).splitlines()
    return {word: (lemma, tag) for word, lemma, tag in (line.split() for line in lines if not line.startswith("#"))}


COLUMNS = ("file", "start", "end", "text")
WHOLE = 0.9  # fraction of a clip that a caption must cover to describe the whole clip
_SPEC = DATASETS["t2m"]
_SHORTEST = _SPEC.min_length / _SPEC.fps  # minimum seconds of a clip that a caption must cover


@dataclass(frozen=True)
class CaptionRow:
    """A caption of a motion file, or of a part of it. Times are in seconds from the start of the file."""

    file: str
    text: str
    start: float = 0.0
    end: float = math.inf
    tokens: str = ""
    where: str = ""  # position of the row, for messages


@dataclass
class Captioned:
    texts: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))  # lines by clip
    unused: dict[str, str] = field(default_factory=dict)                            # reason by row
    bare: list[str] = field(default_factory=list)                                   # clips without captions


def clips_of(root: Path) -> list[ClipSource]:
    """Return the clips of a data set, without mirrored twins, with their source files.

    A clip that was not imported is its own source file.
    """
    known = {clip.id: clip for clip in read_sources(root)}
    paths = sorted(path for path in (root / "joints").glob("*.npy") if not path.name.startswith("."))
    if not paths:
        raise InputError(f"{root / 'joints'} has no clips; prepare/import_motion.py imports them")
    names = {path.stem for path in paths}
    clips = []
    for path in paths:
        name = path.stem
        if name in known:
            clips.append(known[name])
        elif not (name.startswith("M") and name[1:] in names):  # a mirrored twin uses the captions of its original
            try:
                frames = len(np.load(path, mmap_mode="r"))
            except Exception as error:  # a damaged header can raise almost any exception in NumPy
                raise InputError(f"{path} is not a readable .npy file") from error
            clips.append(ClipSource(name, name, 0.0, frames / _SPEC.fps, "", "m", "y"))
    return clips


def read_table(path: Path) -> list[CaptionRow]:
    """Read captions from a ``.csv`` table with columns file, text, start and end, or a ``.jsonl`` file with these keys.

    ``start`` and ``end`` are optional. Columns are separated by commas, semicolons or tabs, whichever is most frequent
    in the header. Raises an ``InputError`` that names the line if a row is invalid.
    """
    text = read_text(path, "captions")
    if path.suffix.lower() == ".csv":
        header = next((line for line in text.splitlines() if line.strip()), "")
        table = csv.DictReader(io.StringIO(text), delimiter=max(",;\t", key=header.count))
        entries: Iterable[tuple[int, object]] = ((table.line_num, row) for row in table)
    elif path.suffix.lower() in (".jsonl", ".json"):
        entries = ((number, _json(line, f"{path}:{number}"))
                   for number, line in enumerate(text.splitlines(), 1) if line.strip())
    else:
        raise InputError(f"{path}: captions must be .csv or .jsonl with {', '.join(COLUMNS)}")
    try:
        rows = [_row(entry, f"{path}:{number}") for number, entry in entries]
    except csv.Error as error:
        raise InputError(f"{path} is not a CSV file: {error}") from error
    if not rows:
        raise InputError(f"{path} has no captions")
    return rows


def read_text_files(folder: Path) -> list[CaptionRow]:
    """Read captions from files ``NAME.txt``, one per line, where NAME is a clip id or a file name.

    A line is plain text, or has the format of the data set with tokens and times.
    """
    paths = sorted(folder.rglob("*.txt"))
    if not paths:
        raise InputError(f"{folder} has no .txt file")
    rows = []
    for path in paths:
        name = str(path.relative_to(folder).with_suffix(""))
        for number, line in enumerate(read_text(path, "captions").splitlines(), 1):
            if line.strip():
                where = f"{path}:{number}"
                caption = parse_caption(line, where) if "#" in line else Caption(line.strip(), (), 0.0, 0.0)
                end = math.inf if caption.whole_clip else caption.end
                rows.append(CaptionRow(name, caption.text, caption.start, end, " ".join(caption.tokens), where))
    return rows


def rows_from_names(clips: Sequence[ClipSource], pattern: str, templates: Sequence[str]) -> list[CaptionRow]:
    """Create captions from file names: the fields that ``pattern`` extracts are inserted into ``templates``.

    With ``{take}_{action}_{mood}``, the file ``03_walk-fast_sad`` and the template ``a person does a {action}`` give "a
    person does a walk fast". Files whose names do not match are skipped.
    """
    fields = re.findall(r"\{(\w+)\}", pattern)
    if not fields or len(fields) != len(set(fields)):
        raise InputError(f"--names {pattern}: expected distinct fields in braces, such as {{action}}_{{take}}")
    for template in templates:
        unknown = set(re.findall(r"\{(\w+)\}", template)) - set(fields)
        if unknown or re.search(r"[{}]", re.sub(r"\{\w+\}", "", template)):
            raise InputError(f"--template {template}: available fields are {', '.join(fields)}")
    parts = re.split(r"\{\w+\}", pattern)
    expression = re.escape(parts[0]) + "".join(
        f"(?P<{name}>.+?){re.escape(part)}" for name, part in zip(fields, parts[1:], strict=True))
    rows = []
    for file in dict.fromkeys(clip.file for clip in clips):
        match = re.fullmatch(expression, Path(file).stem)
        if match:
            words = {name: re.sub(r"[-_\s]+", " ", value).strip() for name, value in match.groupdict().items()}
            rows += [CaptionRow(file, re.sub(r"\{(\w+)\}", lambda found, words=words: words[found[1]], template),
                         where=f"{file}, {template}") for template in templates]
    if not rows:
        raise InputError(f"--names {pattern} matches none of the files ({clips[0].file}, ...)")
    return rows


def assign(rows: Sequence[CaptionRow], clips: Sequence[ClipSource], tagger: Tagger) -> Captioned:
    """Assign to each clip the captions of its file that describe it, as lines of ``texts/ID.txt``.

    A caption describes the whole clip if it has no times or covers at least 90 % of the clip. Other captions are
    stored with their times in the clip. Captions that cover less than 2 seconds of a clip are not used for it.
    """
    result = Captioned()
    by_name = _by_name(clips)
    for row in rows:
        found = by_name.get(_key(row.file))
        if not found:
            result.unused[row.where] = f"{'no clip is from' if found is None else 'several files are named'} {row.file}"
            continue
        text = " ".join(row.text.replace("#", " ").split())
        lines = {clip.id: times for clip in found if (times := _times(row, clip))}
        if not text or not lines:
            result.unused[row.where] = ("the caption is empty" if not text else
                                        f"it covers less than {_SHORTEST:g} s of every clip")
            continue
        tokens = row.tokens or tagger(text)
        for clip, (start, end) in lines.items():
            line = f"{text}#{tokens}#{start}#{end}"
            if line not in result.texts[clip]:
                result.texts[clip].append(line)
    result.bare = [clip.id for clip in clips if clip.id not in result.texts]
    return result


def _json(line: str, where: str) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not JSON: {error}") from error


def _row(entry: object, where: str) -> CaptionRow:
    if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("file", "text")):
        raise InputError(f"{where}: a caption needs file and text (columns {', '.join(COLUMNS)})")
    try:
        start, end = (_number(entry.get(key), default) for key, default in (("start", 0.0), ("end", math.inf)))
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: start and end must be seconds") from error
    if end == 0 and start == 0:
        end = math.inf
    if not 0 <= start < end:
        raise InputError(f"{where}: {start:g} to {end:g} s is not a time range")
    return CaptionRow(entry["file"], entry["text"], start, end, where=where)


def _number(value: object, default: float) -> float:
    if value is None or value == "":
        return default
    return float(value.replace(",", ".") if isinstance(value, str) else value)  # spreadsheets may write 3,5


def _key(name: str) -> str:
    name = name.replace("\\", "/").removeprefix("./")
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and suffix.lower() in ("bvh", "npy", "npz", "txt") else name


def _by_name(clips: Sequence[ClipSource]) -> dict[str, list[ClipSource]]:
    """Group clips by the names that captions may use: clip id, file path, or file name if it is unique.

    A file name shared by several files maps to an empty list.
    """
    files, bare = defaultdict(list), defaultdict(set)
    for clip in clips:
        files[_key(clip.file)].append(clip)
        bare[_key(clip.file).rpartition("/")[2]].add(_key(clip.file))
    short = {name: files[next(iter(full))] if len(full) == 1 else [] for name, full in bare.items()}
    return short | files | {clip.id: [clip] for clip in clips if clip.id not in files}


def _times(row: CaptionRow, clip: ClipSource) -> tuple[float, float] | None:
    """Return the start and end in seconds of the part of the clip that a caption describes.

    (0, 0) stands for the whole clip. Returns None if the part is too short.
    """
    offset = 0.0 if _key(row.file) == clip.id else clip.start  # with a clip's id, times are relative to the clip
    length = clip.end - clip.start
    start, end = max(row.start - offset, 0.0), min(row.end - offset, length)
    if end - start >= WHOLE * length:
        return 0.0, 0.0
    return (round(start, 3), round(end, 3)) if end - start >= _SHORTEST else None


SHOWN = 10  # maximum number of clips without captions that are listed


def build_parser() -> Parser:
    parser = Parser(
        "Write ROOT/texts/ID.txt: one line 'caption#word/POS ...#start#end' per caption of a clip. Clips are "
        "identified by the path of their file in the imported folder, with or without suffix, or by their id.")
    parser.add_argument("root", type=Path, metavar="ROOT", help="data set folder, with joints/ and sources.jsonl")
    parser.add_argument("--table", type=Path, help=".csv or .jsonl with the columns file and text, and optionally "
                                                   "start and end in seconds of the file")
    parser.add_argument("--texts", type=Path, metavar="DIR", help="folder with NAME.txt per file or clip, one "
                                                                  "caption per line")
    parser.add_argument("--names", metavar="PATTERN", help="pattern of the file names: \"{action}_{mood}_{take}\"")
    parser.add_argument("--template", action="append", default=[], help="caption with fields of --names; repeatable, "
                                                                        "one per caption")
    parser.add_argument("--append", action="store_true", help="add to existing captions")
    accept_seed(parser)
    parser.add_argument("--quiet", action="store_true", help="no effect; accepted by every script")
    return parser


@script
def main() -> None:
    opt = build_parser().parse_args()
    if sum(source is not None for source in (opt.table, opt.texts, opt.names)) != 1:
        raise InputError("exactly one of --table, --texts and --names is required")
    if bool(opt.names) != bool(opt.template):
        raise InputError("--names and --template must be used together")
    clips = clips_of(opt.root)
    if opt.table:
        rows = read_table(opt.table)
    else:
        rows = read_text_files(opt.texts) if opt.texts else rows_from_names(clips, opt.names, opt.template)
    tagger, kind = make_tagger()
    print(f"{len(rows)} captions read")
    captioned = assign(rows, clips, tagger)
    for clip, lines in captioned.texts.items():
        path = opt.root / "texts" / f"{clip}.txt"
        there = read_text(path, "captions").splitlines() if opt.append and path.exists() else []
        write_text(path, "".join(f"{line}\n" for line in dict.fromkeys([*there, *lines])))
    for where, reason in captioned.unused.items():
        print(f"not used: {where}: {reason}")
    if captioned.bare:
        names = ", ".join(captioned.bare[:SHOWN]) + ", ..." * (len(captioned.bare) > SHOWN)
        print(f"{len(captioned.bare)} clips have no caption: {names}")
    lines = sum(map(len, captioned.texts.values()))
    print(f"{lines} captions of {len(captioned.texts)} clips written to {opt.root / 'texts'}")
    print(f"parts of speech from {kind}")


if __name__ == "__main__":
    main()
