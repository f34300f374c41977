"""Run training scripts in sequence in the processes of a launcher, on the devices of their ranks."""
import importlib
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

import utils  # noqa: F401 (sets the thread policy before torch is loaded)

# isort: split
from tests.two_processes import without_dropout


def main() -> None:
    without_dropout()
    jobs = json.loads(Path(sys.argv[1]).read_text())
    for script, *arguments in jobs:
        sys.argv[1:] = arguments
        importlib.import_module(script).main()


if __name__ == "__main__":
    main()
