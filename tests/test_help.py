"""Help and invalid flags are handled without importing torch, which takes seconds."""
import argparse
import json
import subprocess
import sys

import pytest

from options.base import plain_name
from tests.toy import ROOT

SCRIPTS = sorted(path.name for path in ROOT.glob("*.py"))
RUN = """
import contextlib, io, json, runpy, sys
sys.modules["torch"] = None  # importing it raises
for name in sys.argv[2:]:
    for flag in ("--help", "--no_such_flag"):
        sys.argv = [name, flag]
        told = io.StringIO()
        try:
            with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
                runpy.run_path(name, run_name="__main__")
        except SystemExit as end:
            print(json.dumps([name, flag, end.code, told.getvalue().split(":")[0]]))
"""


def test_every_script_answers_without_torch() -> None:
    done = subprocess.run([sys.executable, "-c", RUN, "", *SCRIPTS], cwd=ROOT, capture_output=True, text=True)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert answers == [[name, flag, *answer] for name in SCRIPTS
                       for flag, answer in (("--help", (0, "usage")), ("--no_such_flag", (2, "error")))], done.stderr


def test_results_stay_in_the_output_folder() -> None:
    assert plain_name("run 1.b") == "run 1.b"
    for name in ("../x", "a/b", "a\\b", "..", ".", ""):
        with pytest.raises(argparse.ArgumentTypeError, match="plain name"):
            plain_name(name)
