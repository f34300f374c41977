"""The thread policy is set by every script before torch is loaded, and never overrides the user."""
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.toy import ROOT
from utils.cpu import cpu_quota, set_thread_policy, usable_cores

SCRIPTS = sorted(path.relative_to(ROOT).as_posix() for folder in ("", "prepare", "benchmarks", "tests")
                 for path in (ROOT / folder).glob("*.py") if '\nif __name__ == "__main__"' in path.read_text())
BY_ITSELF = {"prepare/generate_onnx.py", "benchmarks/entered_files.py",  # no torch, or another script
             "prepare/retarget_blender.py", "prepare/build_body.py", "tests/in_blender.py"}  # Blender
ASKS_AT_TORCH = """
import importlib.abc, os, runpy, sys
import numpy, scipy.ndimage, scipy.spatial, scipy.optimize, tqdm  # shared by the scripts

class Watch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            tell()

def tell():
    print(os.environ.get("GOMP_SPINCOUNT"), os.environ.get("KMP_BLOCKTIME"), flush=True)
    os._exit(0)

sys.meta_path.insert(0, Watch())
for script in sys.argv[1:]:
    if not (child := os.fork()):
        sys.path[0] = os.path.dirname(script)
        runpy.run_path(script, run_name="script")
        tell()  # it imports torch in main, if at all
    os.waitpid(child, 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot be forked here")
def test_every_script_sets_the_policy_before_torch_is_loaded() -> None:
    scripts = [script for script in SCRIPTS if script not in BY_ITSELF]
    assert len(scripts) > 40
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP", "GOMP", "KMP"))}
    made = subprocess.run([sys.executable, "-c", ASKS_AT_TORCH, *(str(ROOT / script) for script in scripts)],
                          env=environment, capture_output=True, text=True, check=True)
    found = dict(zip(scripts, made.stdout.splitlines(), strict=True))
    assert {script: seen for script, seen in found.items() if seen != "0 0"} == {}


def test_waiting_threads_sleep() -> None:
    environment: dict[str, str] = {}
    set_thread_policy(environment)
    assert environment["GOMP_SPINCOUNT"] == environment["KMP_BLOCKTIME"] == "0"


@pytest.mark.parametrize("given", [{"OMP_WAIT_POLICY": "active"},
                                   {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "200", "OMP_NUM_THREADS": "3"}])
def test_the_variables_of_the_user_win(given: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("utils.cpu.usable_cores", lambda: 1)
    monkeypatch.setattr("utils.cpu.bound_cores", lambda: 4)
    environment = dict(given)
    set_thread_policy(environment)
    assert {name: environment[name] for name in given} == given
    assert ("GOMP_SPINCOUNT" in environment) == ("GOMP_SPINCOUNT" in given)


def test_a_container_with_a_quota_starts_as_many_threads_as_it_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("utils.cpu.usable_cores", lambda: 2)
    monkeypatch.setattr("utils.cpu.bound_cores", lambda: 64)
    environment: dict[str, str] = {}
    set_thread_policy(environment)
    assert environment["OMP_NUM_THREADS"] == "2"
    monkeypatch.setattr("utils.cpu.bound_cores", lambda: 2)
    environment.clear()
    set_thread_policy(environment)
    assert "OMP_NUM_THREADS" not in environment


def test_quotas_of_both_versions_of_control_groups_are_read_at_every_level(tmp_path: Path) -> None:
    membership = tmp_path / "cgroup"
    membership.write_text("0::/outer/inner\n")
    inner = tmp_path / "v2" / "outer" / "inner"
    inner.mkdir(parents=True)
    (inner / "cpu.max").write_text("max 100000\n")
    assert cpu_quota(tmp_path / "v2", membership) is None
    (inner.parent / "cpu.max").write_text("150000 100000\n")
    assert cpu_quota(tmp_path / "v2", membership) == 1.5
    membership.write_text("3:memory:/m\n1:cpu,cpuacct:/job\n")
    job = tmp_path / "v1" / "cpu" / "job"
    job.mkdir(parents=True)
    for name, value in (("quota", 400000), ("period", 100000)):
        (job / f"cpu.cfs_{name}_us").write_text(f"{value}\n")
    assert cpu_quota(tmp_path / "v1", membership) == 4
    (job / "cpu.cfs_quota_us").write_text("-1\n")
    assert cpu_quota(tmp_path / "v1", membership) is None
    assert cpu_quota(tmp_path / "v1", tmp_path / "missing") is None


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes cannot be bound to cores here")
def test_a_process_bound_to_one_core_counts_one() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert usable_cores() == len(before)
