"""The parity runner passes the published fixtures and can fail."""
import numpy as np
import pytest

from tests.run_golden import main
from tests.toy import GOLDEN, needs, run_here, run_script


@needs(GOLDEN)
def test_every_published_fixture_passes(tmp_path):
    told = run_script("tests/run_golden.py", GOLDEN, cwd=tmp_path).stdout
    assert told.splitlines()[-1].endswith(" passed, 0 failed")


def test_a_wrong_and_an_unknown_fixture_fail(tmp_path, capsys):
    def run() -> tuple[int, str]:
        with pytest.raises(SystemExit) as stop:
            run_here(main, tmp_path, cwd=tmp_path)
        return stop.value.code, capsys.readouterr().out.strip()

    assert run() == (1, "0 passed, 0 failed")
    poses, others = np.random.default_rng(0).normal(size=(2, 5, 4, 3))
    placed = [pose - pose[:, :1] for pose in (poses, others)]
    mpjpe = np.linalg.norm(placed[0] - placed[1], axis=-1).mean(-1)
    np.savez(tmp_path / "a.npz", pose_gt=poses, pose_pred=others, mpjpe=mpjpe)
    assert run()[0] == 0
    np.savez(tmp_path / "b.npz", pose_gt=poses, pose_pred=others, mpjpe=mpjpe + [0, 0, 0, 0, 1e-3])
    np.savez(tmp_path / "c.npz", pose_gt=poses, pose_pred=others, mpjpe=mpjpe, unheard_of=mpjpe)
    code, told = run()
    assert code == 1 and told.endswith("1 passed, 2 failed")
    assert [" ok " in line for line in told.splitlines()[:-1]] == [True, False, False]
