"""Thread policy and CPU quotas."""
from pathlib import Path

import pytest

from utils import cpu_quota, set_thread_policy


def test_waiting_threads_soon_sleep() -> None:
    environment: dict[str, str] = {}
    set_thread_policy(environment)
    assert int(environment["GOMP_SPINCOUNT"]) <= 1000 and environment["KMP_BLOCKTIME"] == "0"


@pytest.mark.parametrize("given", [{"OMP_WAIT_POLICY": "active"},
                                   {"GOMP_SPINCOUNT": "5", "KMP_BLOCKTIME": "200", "OMP_NUM_THREADS": "3"}])
def test_the_variables_of_the_user_win(given: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("utils.usable_cores", lambda: 1)
    monkeypatch.setattr("utils.bound_cores", lambda: 4)
    environment = dict(given)
    set_thread_policy(environment)
    assert {name: environment[name] for name in given} == given
    assert ("GOMP_SPINCOUNT" in environment) == ("GOMP_SPINCOUNT" in given)


def test_a_container_with_a_quota_starts_as_many_threads_as_it_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("utils.usable_cores", lambda: 2)
    monkeypatch.setattr("utils.bound_cores", lambda: 64)
    environment: dict[str, str] = {}
    set_thread_policy(environment)
    assert environment["OMP_NUM_THREADS"] == "2"
    monkeypatch.setattr("utils.bound_cores", lambda: 2)
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
