"""Train all generation stages on toy data for KIT-ML with a single codebook, and generate motions."""
from pathlib import Path

import numpy as np
import pytest

import gen_t2m
import train_lamp
import train_len_estimator
import train_t2m_transformer
import train_vq
from motion.bvh import read_bvh
from storage.checkpoint import read_options
from tests.browser import data_of
from tests.toy import TINY_LAMP, TINY_LENGTH, TINY_T2M, TINY_VQ, make_bert, make_dataset, run_here


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder in which all stages have been trained."""
    home = tmp_path_factory.mktemp("chain")
    data = ("--dataset_name", "kit", "--data_root", make_dataset(home / "data", "kit"), "--gpu_id", -1)
    vq, lamp = ("--vq_name", "vq"), ("--lamp_name", "lamp")
    for name, main, flags in (
            ("vq", train_vq.main, (*TINY_VQ, "--num_quantizers", 1)),
            ("lamp", train_lamp.main, (*vq, "--bert", make_bert(home / "bert"), *TINY_LAMP)),
            ("t2m", train_t2m_transformer.main, (*vq, *lamp, *TINY_T2M)),
            ("len", train_len_estimator.main, (*lamp, *TINY_LENGTH))):
        run_here(main, *data, "--name", name, *flags, cwd=home)
    return home


def generate(home: Path, *arguments: object) -> Path:
    models = ("--dataset_name", "kit", "--gpu_id", -1, "--name", "t2m", "--len_name", "len")
    run_here(gen_t2m.main, *models, "--time_steps", 3, "--quiet", *arguments, cwd=home)
    return home / "generation"


def test_every_stage_leaves_checkpoints_and_options(home: Path) -> None:
    for stage, best in (("vq", "net_best_mpjpe"), ("lamp", "net_best_acc"), ("t2m", "net_best_acc"), ("len", "finest")):
        folder = home / "checkpoints" / "kit" / stage
        assert (folder / "model" / "latest.tar").is_file()
        assert (folder / "model" / f"{best}.tar").is_file()
        assert read_options(folder / "opt.txt")["name"] == stage
    assert list((home / "log").glob("*/kit/*/events.*"))


def test_prompts_become_joints_bvh_video_and_a_page_of_them_all(home: Path, capsys: pytest.CaptureFixture) -> None:
    prompts = home / "prompts.txt"
    prompts.write_text("# two prompts\n\na person walks forward#40\na person bows#23\n")
    out = generate(home, "--ext", "file", "--text_path", prompts, "--repeat_times", 2) / "file"
    printed = capsys.readouterr().out
    assert "t2m/net_best_acc (checkpoints/kit)" in printed
    assert "base layer only" in printed
    for number, frames in ((0, 40), (1, 20)):
        for repeat in range(2):
            stem = f"sample{number}_repeat{repeat}_len{frames}"
            for suffix in ("", "_ik"):
                joints = np.load(out / "joints" / str(number) / f"{stem}{suffix}.npy")
                assert joints.shape == (frames, 21, 3) and joints.dtype == np.float32 and np.isfinite(joints).all()
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


def test_length_is_chosen_where_none_is_given(home: Path) -> None:
    joints_only = ("--no_video", "--no_bvh", "--no_html")
    out = generate(home, "--ext", "one", "--text_prompt", "a person waves", *joints_only) / "one"
    files = sorted((out / "joints" / "0").glob("*.npy"))
    assert len(files) == 2
    assert [path.name for path in out.iterdir()] == ["joints"]
    assert len(np.load(files[0])) % 4 == 0
