"""Add captions to the clips of a data set (ROOT/texts/ID.txt) from a table, text files or file names.

    python prepare/add_captions.py ROOT --table captions.csv
    python prepare/add_captions.py ROOT --texts DIR
    python prepare/add_captions.py ROOT --names "{action}_{mood}_{take}" --template "a person does a {action}, {mood}"
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from options.base import Parser, accept_seed
from prepare.captioning import (
    assign,
    clips_of,
    make_tagger,
    read_table,
    read_text_files,
    rows_from_names,
    write_captions,
)
from utils.errors import InputError, script

SHOWN = 10  # clips without captions that are listed


def build_parser() -> Parser:
    """Command-line options of this script."""
    parser = Parser(
        "Write ROOT/texts/ID.txt: one line 'caption#word/POS ...#start#end' per caption of a clip. Clips are "
        "identified by the path of their file in the imported folder, with or without suffix, or by their id.")
    parser.add_argument("root", type=Path, metavar="ROOT", help="data set folder, with joints/ and sources.jsonl")
    parser.add_argument("--table", type=Path, help=".csv or .jsonl with the columns file and text, and optionally "
                                                   "start and end in seconds of the file")
    parser.add_argument("--texts", type=Path, metavar="DIR", help="folder with NAME.txt per file or clip, one "
                                                                  "caption per line")
    parser.add_argument("--names", metavar="PATTERN", help="pattern of the file names: \"{action}_{mood}_{take}\"")
    parser.add_argument("--template", action="append", default=[], help="caption with the fields of --names; repeat "
                                                                        "for several captions")
    parser.add_argument("--append", action="store_true", help="add to existing captions")
    accept_seed(parser)
    parser.add_argument("--quiet", action="store_true", help="no effect; accepted by every script")
    return parser


@script
def main() -> None:
    """Parse, read, assign, write."""
    opt = build_parser().parse_args()
    if sum(source is not None for source in (opt.table, opt.texts, opt.names)) != 1:
        raise InputError("give one of --table, --texts and --names")
    if bool(opt.names) != bool(opt.template):
        raise InputError("--names and --template must be given together")
    clips = clips_of(opt.root)
    if opt.table:
        rows = read_table(opt.table)
    else:
        rows = read_text_files(opt.texts) if opt.texts else rows_from_names(clips, opt.names, opt.template)
    tagger, kind = make_tagger()
    print(f"{len(rows)} captions read")
    captioned = assign(rows, clips, tagger)
    write_captions(opt.root, captioned, opt.append)
    for where, reason in captioned.unused.items():
        print(f"not used: {where}: {reason}")
    if captioned.bare:
        names = ", ".join(captioned.bare[:SHOWN]) + ", ..." * (len(captioned.bare) > SHOWN)
        print(f"{len(captioned.bare)} clips got no caption: {names}")
    lines = sum(map(len, captioned.texts.values()))
    print(f"{lines} captions of {len(captioned.texts)} clips written to {opt.root / 'texts'}")
    print(f"parts of speech from {kind}")


if __name__ == "__main__":
    main()
