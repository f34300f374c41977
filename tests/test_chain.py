"""Every stage trained for a few steps on toy data, each on the output of the one before, then generation."""
from pathlib import Path

import numpy as np
import pytest

from motion.bvh import read_bvh
from storage.checkpoint import read_options
from tests.browser import data_of
from tests.toy import TINY_LAMP, TINY_LENGTH, TINY_T2M, TINY_VQ, make_bert, make_dataset, run_script


@pytest.fixture(scope="module", params=["t2m", "kit"])
def chain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A folder in which all stages have been trained."""
    name, home = request.param, tmp_path_factory.mktemp(f"chain_{request.param}")
    data = ("--dataset_name", name, "--data_root", make_dataset(home / "data", name), "--gpu_id", -1)
    bert = make_bert(home / "bert")
    lamp = ("--lamp_name", "lamp")
    run_script("train_vq.py", *data, "--name", "vq", *TINY_VQ, cwd=home)
    run_script("train_lamp.py", *data, "--name", "lamp", "--vq_name", "vq", "--bert", bert, *TINY_LAMP, cwd=home)
    run_script("train_t2m_transformer.py", *data, "--name", "t2m", "--vq_name", "vq", *lamp, *TINY_T2M, cwd=home)
    run_script("train_res_transformer.py", *data, "--name", "res", "--vq_name", "vq", *lamp, *TINY_T2M, cwd=home)
    run_script("train_len_estimator.py", *data, "--name", "len", *lamp, *TINY_LENGTH, cwd=home)
    return name, home


def generate(chain: tuple[str, Path], *arguments: object) -> Path:
    name, home = chain
    models = ("--dataset_name", name, "--gpu_id", -1, "--name", "t2m", "--res_name", "res", "--len_name", "len")
    result = run_script("gen_t2m.py", *models, "--time_steps", 3, "--quiet", *arguments, cwd=home)
    best = {"t2m": "net_best_fid", "kit": "net_best_loss"}[name]  # the bundled evaluator is for t2m
    assert f"res/{best} (checkpoints/{name})" in result.stdout
    assert "base layer and 2 residual layers" in result.stdout
    return home / "generation"


def test_every_stage_leaves_checkpoints_and_options(chain: tuple[str, Path]) -> None:
    name, home = chain
    for stage, best in (("vq", "net_best_mpjpe"), ("lamp", "net_best_acc"), ("t2m", "net_best_acc"),
                        ("res", "net_best_loss"), ("len", "finest")):
        folder = home / "checkpoints" / name / stage
        assert (folder / "model" / "latest.tar").is_file()
        assert (folder / "model" / f"{best}.tar").is_file()
        assert read_options(folder / "opt.txt")["name"] == stage
    assert list((home / "log").glob(f"*/{name}/*/events.*"))


def test_prompts_become_joints_bvh_video_and_a_page_of_them_all(chain: tuple[str, Path]) -> None:
    prompts = chain[1] / "prompts.txt"
    prompts.write_text("# two prompts\n\na person walks forward#40\na person bows#23\n")
    out = generate(chain, "--ext", "file", "--text_path", prompts, "--repeat_times", 2) / "file"
    joints_num = {"t2m": 22, "kit": 21}[chain[0]]
    for number, frames in ((0, 40), (1, 20)):
        for repeat in range(2):
            stem = f"sample{number}_repeat{repeat}_len{frames}"
            for suffix in ("", "_ik"):
                joints = np.load(out / "joints" / str(number) / f"{stem}{suffix}.npy")
                assert joints.shape == (frames, joints_num, 3)
                assert joints.dtype == np.float32
                assert np.isfinite(joints).all()
                bvh = read_bvh(out / "animation" / str(number) / f"{stem}{suffix}.bvh")
                assert bvh.joints().shape[0] == frames
                assert (out / "animation" / str(number) / f"{stem}{suffix}.mp4").stat().st_size > 1000
    motions = data_of((out / "index.html").read_text())["motions"]
    assert [motion["caption"] for motion in motions] == ["a person walks forward"] * 2 + ["a person bows"] * 2
    listed = {out / path for motion in motions for paths in motion["files"].values() for path in paths}
    told = {out / "joints" / file for file in ("0/sample0_repeat0_len40.txt", "1/sample1_repeat1_len20.txt")}
    assert [path.read_text() for path in sorted(told)] == ["a person walks forward\n", "a person bows\n"]
    written = {path for path in out.rglob("*") if path.is_file()}
    assert listed == {path for path in written if path.suffix != ".txt"} - {out / "index.html"}


def test_length_is_chosen_where_none_is_given(chain: tuple[str, Path]) -> None:
    joints_only = ("--no_video", "--no_bvh", "--no_html")
    out = generate(chain, "--ext", "one", "--text_prompt", "a person waves", *joints_only) / "one"
    files = sorted((out / "joints" / "0").glob("*.npy"))
    assert len(files) == 2
    assert [path.name for path in out.iterdir()] == ["joints"]
    assert len(np.load(files[0])) % 4 == 0
