"""Scripts report invalid input in one line and exit with status 2."""
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import eval_retrieval
import eval_t2m_vq
import gen_t2m
import train_evaluator
import train_lamp
import train_len_estimator
import train_res_transformer
import train_t2m_transformer
import train_vq
from tests import toy
from tests.toy_models import make_tokenizer

Fails = Callable[..., str]
CPU = ("--gpu_id", -1)
DATA = (*CPU, "--data_root", "data")
NEW = (*DATA, "--name", "new")
MODELS = (*CPU, "--name", "t2m", "--res_name", "res", "--len_name", "len", "--no_video", "--no_bvh", "--quiet",
          "--time_steps", 2)
PROMPT = (*MODELS, "--text_prompt", "a person walks", "--motion_length", 40)
TRAINING = {
    "vq": (train_vq.main, (*NEW, *toy.TINY_VQ)),
    "lamp": (train_lamp.main, (*NEW, "--vq_name", "vq", "--bert", "bert", *toy.TINY_LAMP)),
    "t2m": (train_t2m_transformer.main, (*NEW, "--vq_name", "vq", "--lamp_name", "lamp", *toy.TINY_T2M)),
    "res": (train_res_transformer.main, (*NEW, "--vq_name", "vq", "--lamp_name", "lamp", *toy.TINY_T2M)),
    "len": (train_len_estimator.main, (*NEW, "--lamp_name", "lamp", *toy.TINY_LENGTH)),
    "evaluator": (train_evaluator.main, (*NEW, *toy.TINY_EVALUATOR)),
}
EVALUATION = {
    "eval_vq": (eval_t2m_vq.main, (*DATA, "--name", "vq", "--quiet")),
    "eval_retrieval": (eval_retrieval.main, (*DATA, "--name", "lamp", "--quiet")),
}


@pytest.fixture
def fails(toy_copy: Path) -> Fails:
    """Function that runs a script which must exit with status 2, and returns its single line on stderr."""
    return partial(toy.refusal, cwd=toy_copy)


def spoil(path: Path, content: bytes) -> None:
    assert path.is_file()
    path.write_bytes(content)


def set_option(model: str, key: str, value: object) -> None:
    """Change an option of a toy model. None removes it."""
    path = Path("checkpoints/t2m") / model / "opt.txt"
    lines = [line for line in path.read_text().splitlines() if not line.startswith(f"{key}:")]
    assert len(lines) < len(path.read_text().splitlines())
    if value is not None:
        lines.insert(1, f"{key}: {value}")
    path.write_text("\n".join(lines))


@pytest.mark.parametrize(("main", "arguments"), [(gen_t2m.main, PROMPT), *TRAINING.values(), *EVALUATION.values()])
def test_bad_flags_are_named(fails: Fails, main: Callable[[], None], arguments: tuple[object, ...]) -> None:
    assert "--nonesuch" in fails(main, *arguments, "--nonesuch", 3)
    assert "--gpu_id 3: no such device" in fails(main, *arguments, "--gpu_id", 3)
    assert "--gpu_id" in fails(main, *arguments, "--gpu_id", "first")
    assert "--dataset_name" in fails(main, *arguments, "--dataset_name", "amass")
    assert "--seed" in fails(main, *arguments, "--seed", 2**70)


@pytest.mark.parametrize(("stage", "flags", "told"), [
    ("vq", ("--lr", "nan"), "--lr"), ("vq", ("--code_dim", 32), "--code_dim 32 and --output_emb_width 16"),
    ("vq", ("--window_size", 30), "--window_size 30 must be a multiple of the 4 frames"),
    ("vq", ("--window_size", 400), "window of 400 frames"), ("vq", ("--mixed_precision", "fp16"), "needs a GPU"),
    ("lamp", ("--batch_size", 1), "at least two"), ("lamp", ("--text_only",), "need --init_from"),
    ("lamp", ("--balance_by", "content", "--balance", 1), "needs --balance and --bank"),
    ("lamp", ("--max_text_len", 65), "reads at most 64"), ("lamp", ("--bert_layers", 9), "has 2 layers"),
    ("t2m", ("--n_heads", 3), "--n_heads 3"),
    ("evaluator", ("--glove", "nowhere"), "nowhere/our_vab_data.npy is missing; prepare/word_vectors.py"),
])
def test_settings_that_cannot_be_are_named(fails: Fails, stage: str, flags: tuple[object, ...], told: str) -> None:
    main, arguments = TRAINING[stage]
    assert told in fails(main, *arguments, *flags)


@pytest.mark.parametrize(("arguments", "told"), [
    ((), "give either --text_prompt or --text_path"),
    (("--text_path", "prompts.txt", "--motion_length", 40), "--motion_length goes with --text_prompt"),
    (("--text_prompt", "...!"), "no words"), (("--text_path", "nowhere.txt"), "nowhere.txt: No such file"),
    *((("--text_prompt", "a", "--motion_length", length), f"4 to 196 frames, not {length}") for length in (3, 197)),
])
def test_a_bad_prompt_is_reported(fails: Fails, toy_copy: Path, arguments: tuple[object, ...], told: str) -> None:
    (toy_copy / "prompts.txt").write_text("a person walks#40\n")
    assert told in fails(gen_t2m.main, *MODELS, *arguments)
    assert not (toy_copy / "generation").exists()


def test_a_place_that_cannot_be_written_is_named(fails: Fails, toy_copy: Path) -> None:
    for path in ("taken", "checkpoints/t2m/new", "checkpoints/t2m/vq/eval", "checkpoints/t2m/lamp/eval"):
        (toy_copy / path).write_text("a file")
    assert "cannot write taken/below/text2motion" in fails(gen_t2m.main, *PROMPT, "--output_dir", "taken/below")
    for main, arguments in TRAINING.values():
        assert "cannot write checkpoints/t2m/new" in fails(main, *arguments)
    for main, arguments in EVALUATION.values():
        assert "cannot write checkpoints/t2m" in fails(main, *arguments)


@pytest.mark.parametrize(("main", "arguments", "flag"), [
    (gen_t2m.main, PROMPT, "--name"), (gen_t2m.main, PROMPT, "--res_name"), (*TRAINING["t2m"], "--lamp_name"),
    (*EVALUATION["eval_vq"], "--name")])
def test_a_model_that_is_not_there_is_named(fails: Fails, main: Callable[[], None], arguments: tuple[object, ...],
                                            flag: str) -> None:
    assert "no model named 'nonesuch': looked for checkpoints/t2m/nonesuch" in fails(
        main, *arguments, flag, "nonesuch")


def test_a_checkpoint_that_is_not_there_is_named(fails: Fails, toy_copy: Path) -> None:
    assert "checkpoints/t2m/t2m/model has no best" in fails(gen_t2m.main, *PROMPT, "--which_epoch", "best")
    (toy_copy / "checkpoints" / "t2m" / "t2m" / "model" / "latest.tar").unlink()
    assert "checkpoints/t2m/t2m/model has no" in fails(gen_t2m.main, *PROMPT)


@pytest.mark.parametrize("model", ["vq", "lamp", "t2m", "res", "len"])
def test_a_checkpoint_that_is_cut_short_or_of_another_model_is_named(fails: Fails, model: str) -> None:
    path = Path("checkpoints/t2m") / model / "model" / "latest.tar"
    whole, other = path.read_bytes(), path.parents[2] / ("t2m" if model == "vq" else "vq") / "model" / "latest.tar"
    for content, told in ((whole[:len(whole) // 2], "is truncated"), (b"no torch file", "is truncated"),
                          (other.read_bytes(), "has no weights under")):
        spoil(path, content)
        assert f"checkpoint {path} {told}" in fails(gen_t2m.main, *MODELS, "--text_prompt", "a")


@pytest.mark.parametrize(("model", "key", "value", "told"), [
    ("t2m", "vq_name", None, "lacks vq_name"), ("len", "lamp_name", None, "lacks lamp_name"),
    ("t2m", "latent_dim", "wide", "latent_dim cannot be 'wide'"), ("t2m", "n_heads", 3, "n_heads 3"),
    ("t2m", "text_encoder", "t5", "text_encoder 't5' is not one of lamp, clip"),
    ("res", "share_weight", "yes", "share_weight cannot be 'yes'"), ("lamp", "max_text_len", 1000, "max_text_len 1000"),
])
def test_invalid_options_are_named_with_file(fails: Fails, model: str, key: str, value: object, told: str) -> None:
    set_option(model, key, value)
    message = fails(gen_t2m.main, *MODELS, "--text_prompt", "a")
    assert f"checkpoints/t2m/{model}/opt.txt" in message and told in message


@pytest.mark.parametrize(("file", "content", "told"), [
    ("t2m/opt.txt", b"\xff\xfe\x00garbage", "is not UTF-8"), ("t2m/opt.txt", b"", "opt.txt lacks"),
    ("t2m/opt.txt", b"garbage", "opt.txt:1: expected 'key: value'"), ("t2m/opt.txt", None, "missing; it needs a line"),
    ("lamp/vocab.txt", b"walk\nrun\n", "is not a BERT vocabulary"),
    ("lamp/vocab.txt", b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n" + b"".join(b"w%d\n" % number for number in range(500)),
     "504 word pieces"),
])
def test_a_damaged_text_file_of_a_model_is_named(fails: Fails, file: str, content: bytes | None, told: str) -> None:
    path = Path("checkpoints/t2m") / file
    spoil(path, content or b"")
    if content is None:
        path.unlink()
    message = fails(gen_t2m.main, *PROMPT)
    assert str(path) in message and told in message


def test_models_that_do_not_belong_together_are_reported(fails: Fails, toy_copy: Path) -> None:
    Path("checkpoints/t2m/vq/meta/mean.npy").rename("mean.npy")
    assert "vq/meta/mean.npy is missing; train_vq.py creates it" in fails(gen_t2m.main, *PROMPT)
    Path("mean.npy").rename("checkpoints/t2m/vq/meta/mean.npy")
    make_tokenizer(toy_copy / "checkpoints" / "t2m" / "deeper", 263, num_quantizers=3)
    set_option("t2m", "vq_name", "deeper")
    assert ("t2m/res/model/latest.tar is for 2 layers of 16 codes, but the tokenizer checkpoints/t2m/deeper/model/"
            "latest.tar has 3 layers of 16") in fails(gen_t2m.main, *PROMPT)
    make_tokenizer(toy_copy / "checkpoints" / "t2m" / "flat", 263, num_quantizers=1)
    main, arguments = TRAINING["res"]
    assert "t2m/flat/model/latest.tar has a single token layer" in fails(main, *arguments, "--vq_name", "flat")


@pytest.mark.parametrize("stage", ["vq", "lamp", "t2m", "res", "len", "evaluator", "eval_vq", "eval_retrieval"])
def test_a_data_set_that_is_missing_is_named_with_its_maker(fails: Fails, stage: str) -> None:
    main, arguments = (TRAINING | EVALUATION)[stage]
    message = fails(main, *arguments, "--data_root", "nowhere")
    assert all(part in message for part in ("nowhere/", " is missing; ", " creates it"))


def test_damaged_features_and_statistics_are_named(fails: Fails) -> None:
    main, arguments = TRAINING["vq"]
    path = Path("data/new_joint_vecs/0001.npy")
    whole = path.read_bytes()
    spoil(path, whole[:2000])
    assert f"{path} is not a readable .npy file: " in fails(main, *arguments)
    np.save(path, np.zeros((60, 251), np.float32))
    assert f"{path} has shape (60, 251), expected (frames, 263)" in fails(main, *arguments)
    spoil(path, whole)
    np.save("data/Std.npy", np.zeros(263, np.float32))
    assert "data/Std.npy has standard deviations that are not positive" in fails(main, *arguments)
    np.save("data/Mean.npy", np.full(263, np.inf, np.float32))
    assert "data/Mean.npy has values that are not finite" in fails(main, *arguments)
    Path("data/Mean.npy").unlink()
    assert "data/Mean.npy is missing; prepare/motion_features.py creates it" in fails(main, *arguments)


def test_a_split_without_clips_is_named(fails: Fails) -> None:
    main, arguments = EVALUATION["eval_vq"]
    spoil(Path("data/test.txt"), b"\n")
    assert "data/test.txt lists no clip" in fails(main, *arguments)
    spoil(Path("data/test.txt"), b"nonesuch\n")
    assert "has none of the 1 clips" in fails(main, *arguments)
    spoil(Path("data/test.txt"), b"0000\n")
    np.save("data/new_joint_vecs/0000.npy", np.zeros((9, 263), np.float32))
    assert "split test has no clip of at least 40 rows" in fails(main, *arguments)
