"""Unfamiliar prompts: detection, storage and reports."""
from pathlib import Path

import pytest
import torch

import gen_t2m
from data.dataset import dataset_spec
from data.text import cut_words, remarks
from models.lamp.features import Familiarity, is_latin, word_means
from prepare import familiarity as tool
from storage.generation import FAMILIARITY_FILE, LoadedLaMP, load_familiarity, load_lamp, save_familiarity
from tests.toy import refusal, run_here
from utils import InputError

SPEC = dataset_spec("t2m")
WIDTH = 8  # width of the toy model's word embeddings
KNOWN = ("a person walks", "someone waves")
GEN = ("--name", "t2m", "--res_name", "none", "--time_steps", 1, "--motion_length", 40, "--gpu_id", -1, "--no_video",
       "--no_bvh", "--no_html", "--quiet")


def write_known(lamp: LoadedLaMP, threshold: float) -> None:
    """Write the familiarity file of the toy model for the training texts ``KNOWN``."""
    centres = word_means(lamp.model, lamp.pieces, KNOWN, lamp.max_text_len)
    save_familiarity(lamp.source.folder / FAMILIARITY_FILE, Familiarity(centres, KNOWN, -centres[:1], threshold))


@pytest.fixture
def lamp(toy_copy: Path) -> LoadedLaMP:
    return load_lamp("lamp", SPEC, toy_copy / "checkpoints")


def test_texts_in_other_writing_are_recognised() -> None:
    assert all(map(is_latin, ("a person walks", "it's a left-hand wave!", "él camina", "walks 3 steps")))
    assert not any(map(is_latin, ("12 34 56", "他走路", "человек идёт", "🤸 🏊", "?!", "")))


def test_the_file_is_read_as_written_and_other_files_are_refused(lamp: LoadedLaMP, tmp_path: Path) -> None:
    assert load_familiarity(tmp_path, WIDTH) is None
    write_known(lamp, 0.25)
    known = load_familiarity(lamp.source.folder, WIDTH)
    assert (known.labels, known.threshold) == (KNOWN, 0.25)
    torch.testing.assert_close(known.centres, word_means(lamp.model, lamp.pieces, KNOWN, 16), atol=0.01, rtol=0)
    with pytest.raises(InputError, match="belongs to another model"):
        load_familiarity(lamp.source.folder, WIDTH + 1)
    (tmp_path / FAMILIARITY_FILE).write_bytes(b"cut short")
    with pytest.raises(InputError, match="cannot be read"):
        load_familiarity(tmp_path, WIDTH)


def test_words_beyond_the_text_limit_are_named(lamp: LoadedLaMP) -> None:
    text = lamp.text_encoder("query")
    words = [f"walks{number}" for number in range(20)]
    cut = cut_words(" ".join(words), text)
    kept = words[:len(words) - len(cut)]
    assert cut and kept and cut_words(" ".join(kept), text) == []
    line = remarks([" ".join(words)], text)[0]
    assert cut[0] in line and "--timeline" in line


def test_unfamiliar_prompts_are_reported(toy_copy: Path, lamp: LoadedLaMP, capsys: pytest.CaptureFixture[str]) -> None:
    write_known(lamp, 0.5)
    run_here(gen_t2m.main, *GEN, "--text_prompt", "12345", cwd=toy_copy)
    assert '"12345" is unlike' in capsys.readouterr().out
    run_here(gen_t2m.main, *GEN, "--text_prompt", KNOWN[0], "--strict", cwd=toy_copy)
    assert "unlike" not in capsys.readouterr().out
    assert "unlike" in refusal(gen_t2m.main, *GEN, "--text_prompt", "12345", "--strict", cwd=toy_copy)


def test_the_tool_writes_the_file_and_measures_it(toy_copy: Path, capsys) -> None:
    data = toy_copy / "data"
    ids, held_out = ((data / f"{split}.txt").read_text().split() for split in ("train", "val"))
    (data / "train.txt").write_text("\n".join(name for name in ids if name not in held_out))
    for name in held_out:
        (data / "texts" / f"{name}.txt").write_text("a person walks and waves#a/DET#0.0#0.0\n")
    unknown = toy_copy / "unknown.txt"
    unknown.write_text("# texts\nrides a horse\n12345\n他走路\nplays chess\nswims\n🐎\n")
    run_here(tool.main, "--lamp_name", "lamp", "--data_root", data, "--unknown", unknown, "--centres", 4,
             "--quiet", cwd=toy_copy)
    printed = capsys.readouterr().out
    assert "validation captions: 100.0% of 1 kept" in printed and "unknown texts: 100.0% of 2 found" in printed
    known = load_lamp("lamp", SPEC, toy_copy / "checkpoints").familiarity
    assert len(known.foreign) == 4 and 0 < len(known.centres) == len(known.labels) <= 4
