"""Tables of docs/results.md. The ablations: one command trains every row with every seed, resumes, and prints means and
standard deviations. The cost table: a row for every stage."""
import importlib
import statistics
import subprocess
import sys
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

import pytest

from benchmarks import ablations, cost_table
from benchmarks.train_jobs import TOY, stage_jobs
from models.hub import CLIP_NAME
from storage.checkpoint import load_checkpoint, save_checkpoint
from tests.toy import make_dataset, run_here
from tests.toy_clip import make_clip
from tests.toy_models import make_models

FLAGS = ("--data_root", "data", "--work", "out", "--steps", 2, "--lamp_steps", 1, "--width", 16, "--layers", 1,
         "--vq_name", "vq", "--lamp_name", "lamp", "--no-fid")


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Sequence[str]]:
    """The commands of the runs that were trained, in this process instead of another."""
    make_dataset(tmp_path / "data")
    make_models(tmp_path / "out")
    commands: list[Sequence[str]] = []

    def run(command: Sequence[str], cwd: str, **_: object) -> subprocess.CompletedProcess:
        commands.append(command[2:])
        script = importlib.import_module(Path(command[1]).stem)
        run_here(script.main, *command[2:], cwd=Path(cwd))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(ablations.subprocess, "run", run)
    return commands


def last(command: Sequence[str], flag: str) -> str:
    return [value for key, value in zip(command, command[1:], strict=False) if key == flag][-1]


def best_of(command: Sequence[str]) -> dict[str, float]:
    name = last(command, "--name")
    return load_checkpoint(Path(last(command, "--checkpoints_dir")) / "t2m" / name / "model" / "latest.tar")["best"]


def test_rows_of_all_groups_are_trained_once_a_seed_and_not_again(
        trained: list[Sequence[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_clip(tmp_path / "out" / Path(CLIP_NAME).name)
    run_here(ablations.main, *FLAGS, "--seeds", 1, 2, cwd=tmp_path)
    assert len(trained) == 2 * (4 + 6)  # the rows LaMP, full and both are one run
    objectives = [[*takewhile(lambda part: part[0] != "-", command[command.index("--objectives") + 1:])]
                  for command in trained if "--objectives" in command]
    assert objectives == 2 * [["ptc"], ["ptc", "ptm"], ["ptc", "ptm", "lm"], ["ptc", "ptm", "lm", "gen"]]
    tokens = [command for command in trained if "--attention" in command]
    full = [command for command in tokens if (last(command, "--attention"), last(command, "--condition")) ==
            ("full", "both") and "clip" not in command]
    causal = [command for command in tokens if last(command, "--attention") == "causal"]
    assert [last(command, "--seed") for command in (*full, *causal)] == ["1", "2"] * 2

    written = (tmp_path / "out" / "ablations.md").read_text()
    rows = {tuple(cells[1:3]): cells[3:-1] for line in written.splitlines()
            if len(cells := [cell.strip() for cell in line.split("|")]) > 3}
    assert rows["encoder", "LaMP"] == rows["attention", "full"] == rows["condition", "both"] != rows["encoder", "CLIP"]
    for label, commands in (("full", full), ("causal (paper)", causal)):
        losses = [best_of(command)["net_best_loss"] for command in commands]
        assert rows["attention", label][0] == f"{statistics.mean(losses):.2f} ± {statistics.stdev(losses):.2f}"

    trained.clear()
    capsys.readouterr()
    run_here(ablations.main, *FLAGS, "--seeds", 1, 2, cwd=tmp_path)
    assert trained == []
    assert written in capsys.readouterr().out


def test_a_stopped_run_is_resumed_and_a_missing_clip_left_out(
        trained: list[Sequence[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    flags = (*FLAGS, "--seeds", 1, "--groups", "encoder")
    run_here(ablations.main, *flags, cwd=tmp_path)
    told = capsys.readouterr().out
    assert "encoder, CLIP: left out: " in told and "| encoder | CLIP" not in told
    (command,) = trained
    latest = tmp_path / "out" / "t2m" / last(command, "--name") / "model" / "latest.tar"
    save_checkpoint(latest, load_checkpoint(latest) | {"total_it": 1})
    run_here(ablations.main, *flags, cwd=tmp_path)
    assert trained == [command, [*command, "--is_continue"]]
    assert load_checkpoint(latest)["total_it"] == 2


def test_a_run_that_fails_is_named_by_its_row(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 2, "", "a line\nerror: x\n")
    monkeypatch.setattr(ablations.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(SystemExit):
        run_here(ablations.main, *FLAGS, "--seeds", 3, "--groups", "attention", cwd=tmp_path)
    assert capsys.readouterr().err.endswith("attention, full, seed 3: error: x\n")


def test_the_cost_table_has_a_row_for_every_stage(monkeypatch: pytest.MonkeyPatch,
                                                  capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["cost_table.py", "--sizes", "toy", "--batch", "2"])
    cost_table.main()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows[2:]] == [*stage_jobs(TOY)]
    assert all(float(seconds) > 0 and 0 < float(peak) < 4 for _, _, seconds, peak in rows[2:])
    tokenizer = stage_jobs(TOY)["vq"](2).model
    assert cost_table.measure(("toy", "vq", 2)).parameters == sum(weight.numel() for weight in tokenizer.parameters())
