"""Are the prompts' unseen words unseen? Hold them against the training captions of a data set.

    python benchmarks/prompt_words.py DATA_ROOT [--prompts FILE.json]

Prints the words of every prompt that no training caption has; exit status 1 where the prompts' file says otherwise.
"""
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.prompt_scores import read_prompts
from data.packed import read_ids
from data.specs import dataset_spec, require
from data.text import read_captions
from options.base import Parser
from utils.errors import script

PROMPTS = Path(__file__).with_name("prompts.json")


def words(text: str) -> list[str]:
    """Lower-case words in order, each once."""
    return list(dict.fromkeys(re.findall(r"[a-z']+", text.lower())))


def training_words(data_root: Path) -> set[str]:
    """Every word of the training captions."""
    spec = dataset_spec("t2m", data_root)
    texts = require(spec.root / "texts", "the data set's own preparation")
    return {word for name in read_ids(spec, "train") for caption in read_captions(texts / f"{name}.txt")
            for word in words(caption.text)}


@script
def main() -> None:
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("data_root", type=Path, help="data set folder with texts/ and train.txt")
    parser.add_argument("--prompts", type=Path, default=PROMPTS, help="JSON list of prompts")
    args = parser.parse_args()
    known, wrong, prompts = training_words(args.data_root), 0, read_prompts(args.prompts)
    for prompt in prompts:
        unseen = [word for word in words(prompt.text) if word not in known]
        agrees = set(unseen) == set(prompt.unseen_words)
        wrong += not agrees
        print(f"{prompt.text}  {unseen or ''}{'' if agrees else f'  but the file says {list(prompt.unseen_words)}'}")
    print(f"{sum(bool(prompt.unseen_words) for prompt in prompts)} of {len(prompts)} prompts with unseen words")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
