"""What is checked for every commit does not hang on programs that only some tests need."""
import shutil
import subprocess
from pathlib import Path

import pytest

RUN = Path(__file__).resolve().parent.parent / ".ci" / "run"


def command(folder: Path, name: str, body: str) -> None:
    (folder / name).write_text(f"#!{shutil.which('bash')}\n{body}\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize(("there", "installed"), [
    ((), ["chromium", "blender python3-numpy"]),
    (("chromium",), ["blender python3-numpy"]),
    (("chromium", "blender"), []),
])
def test_a_program_that_cannot_be_installed_is_told_in_a_line_and_fails_nothing(
        tmp_path: Path, there: tuple[str, ...], installed: list[str]) -> None:
    (tmp_path / "dirname").symlink_to(shutil.which("dirname"))
    command(tmp_path, "id", "echo 0")
    command(tmp_path, "make", "echo make $@")
    command(tmp_path, "apt-get", f"echo $@ >> {tmp_path}/asked; [[ $* != *blender* ]]")
    for name in there:
        command(tmp_path, name, "exit 0")
    done = subprocess.run([shutil.which("bash"), str(RUN)], env={"PATH": str(tmp_path)}, capture_output=True, text=True)
    asked = (tmp_path / "asked").read_text().splitlines() if installed else []
    assert [line.partition("--no-install-recommends ")[2] for line in asked if "install" in line] == installed
    told = ["no blender: the tests that need it are skipped"] if "blender" not in there else []
    assert (done.returncode, done.stdout.splitlines(), done.stderr) == (0, [*told, "make test"], "")
