"""Two runs cannot write to the same folder. The lock of a dead run is ignored."""
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.toy import ROOT
from utils import InputError
from utils.files import refuse_if_held, run_lock

HOLD = """
import sys, time
from pathlib import Path
from utils.files import run_lock
with run_lock(Path(sys.argv[1]), "--ext"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_second_run_is_refused_with_the_first_ones_start_until_that_dies(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    first = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout.readline() == "held\n"
        refused = rf"results is in use by a run started at 20\d\d-\d\d-\d\d .*process {first.pid}\); .* another --ext"
        with pytest.raises(InputError, match=refused), run_lock(folder, "--ext"):
            pass
        with pytest.raises(InputError, match="another --name"):
            refuse_if_held(folder, "--name")
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        assert (folder / ".lock").exists()
        refuse_if_held(folder, "--name")
        with run_lock(folder, "--ext"):
            pass
    finally:
        first.kill()
        first.stdout.close()
        first.wait()


def test_locks_are_deleted_and_folders_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    for _ in range(2):
        with run_lock(tmp_path / "a" / "b", "--ext"):
            (tmp_path / "a" / "b" / "result").touch()
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["result"]
    with pytest.raises(KeyError), run_lock(tmp_path / "c", "--ext"):
        raise KeyError
    assert not (tmp_path / "c").exists()
    refuse_if_held(tmp_path / "c", "--name")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write .*file/x/.lock"), run_lock(tmp_path / "file" / "x", "--ext"):
        pass
