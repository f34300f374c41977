"""Extraction of HumanML3D clips from small samples of AMASS, HumanAct12 and a body model."""
from pathlib import Path

import numpy as np
import pytest

from prepare.humanml3d import Folders, main, make_joints, read_cuts
from tests import figures
from tests.test_import_motion import body_model
from tests.toy import run_here
from utils import InputError


@pytest.fixture
def sources(tmp_path: Path) -> Folders:
    """An AMASS recording of 10 s at 120 fps under two names, a HumanAct12 recording, and a body model."""
    (tmp_path / "models" / "male").mkdir(parents=True)
    np.savez(tmp_path / "models" / "male" / "model.npz", **body_model())
    poses = np.zeros((1200, 156))
    poses[:, 0] = np.pi / 2
    trans = np.linspace(0, 10, 1200)[:, None] * [[1.0, 2.0, 0.5]]
    for name in ("KIT/3/kick_poses", "HDM05/bk/walk_poses"):
        path = tmp_path / "amass" / f"{name}.npz"
        path.parent.mkdir(parents=True)
        np.savez(path, poses=poses, trans=trans, betas=np.zeros(16), gender="male", mocap_framerate=120.0)
    (tmp_path / "acted").mkdir()
    np.save(tmp_path / "acted" / "P01.npy", np.concatenate([figures.walking(60), np.zeros((60, 2, 3))], 1))
    (tmp_path / "index.csv").write_text(
        "source_path,start_frame,end_frame,new_name\n./pose_data/KIT/3/kick_poses.npy,20,80,000000.npy\n"
        "./pose_data/MPI_HDM05/bk/walk_poses.npy,20,80,000001.npy\n"
        "./pose_data/humanact12/humanact12/P01.npy,0,60,000002.npy\n./pose_data/CMU/01/x.npy,0,60,000003.npy\n")
    return Folders(tmp_path / "amass", tmp_path / "acted", tmp_path / "models")


def test_clips_are_cut_as_the_index_says(sources: Folders, tmp_path: Path) -> None:
    made = make_joints(read_cuts(tmp_path / "index.csv"), sources, tmp_path / "out", quiet=True)
    assert made.clips == ["000000", "000001", "000002"]
    assert "CMU/01/x.npz is missing" in made.refused["000003"]
    kick, walk, acted = (np.load(tmp_path / "out" / "joints" / f"{name}.npy") for name in made.clips)
    assert kick.shape == walk.shape == (60, 22, 3)
    step = kick[1, 0] - kick[0, 0]
    np.testing.assert_allclose(step / np.linalg.norm(step), np.array([-1, 0.5, 2]) / np.sqrt(5.25), atol=1e-4)
    np.testing.assert_allclose(walk[0, 0] - kick[0, 0], 60 * step, atol=1e-3)  # three seconds of HDM05 are removed
    assert (kick[:, 15, 1] > kick[:, 7, 1] + 1).all()
    np.testing.assert_array_equal(acted, figures.walking(60))


def test_a_second_call_resumes(sources: Folders, tmp_path: Path) -> None:
    cuts = read_cuts(tmp_path / "index.csv")
    make_joints(cuts[:1], sources, tmp_path / "out", quiet=True)
    before = (tmp_path / "out" / "joints" / "000000.npy").stat().st_mtime_ns
    assert make_joints(cuts, sources, tmp_path / "out", workers=2, quiet=True).clips == ["000000", "000001", "000002"]
    assert (tmp_path / "out" / "joints" / "000000.npy").stat().st_mtime_ns == before


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "source_path,start_frame,end_frame,new_name\nx.npy,a,1,b\n",
                                  "source_path,start_frame,end_frame,new_name\n../../x.npy,0,1,b\n", ""])
def test_an_index_that_is_none_is_reported(tmp_path: Path, text: str) -> None:
    (tmp_path / "index.csv").write_text(text)
    with pytest.raises(InputError, match="index.csv"):
        read_cuts(tmp_path / "index.csv")


def test_the_script_lists_what_was_not_made(sources: Folders, tmp_path: Path, capsys) -> None:
    run_here(main, tmp_path / "out", "--index", tmp_path / "index.csv", "--humanact12", sources.humanact12, "--quiet",
             "--workers", 1, cwd=tmp_path)
    told = capsys.readouterr().out
    assert "3 clips not extracted (1 of KIT, 1 of MPI_HDM05, 1 of CMU)" in told
    assert "1 clips written" in told
    assert len((tmp_path / "out" / "not_made.txt").read_text().splitlines()) == 3
