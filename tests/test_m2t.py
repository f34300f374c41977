"""Captioning models, and all their commands from training to search on toy models."""
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import data.text
import gen_m2t
import M2T_eval
import search_motion
import train_m2t
from data.dataset import dataset_spec
from models.m2t import DecoderConfig, MotionCaptioner, Writing
from motion.bvh_fit import joints_to_bvh
from motion.skeleton import KIT
from storage.checkpoint import load_checkpoint, read_options, save_checkpoint
from storage.evaluation import build_captioner
from storage.generation import LoadedLaMP, load_lamp
from tests.figures import walking
from tests.toy import MOTIONS, TINY_M2T, as_kit, make_bert, make_dataset, refusal, run_here
from tests.toy_models import M2T, make_models
from utils.files import write_text

FRAMES = 64
CAPTIONS = ["a person walks forward", "a person bows"]


@pytest.fixture(scope="module")
def lamp(toy_models: Path) -> LoadedLaMP:
    loaded = load_lamp("lamp", dataset_spec("t2m"), toy_models)
    for parameter in loaded.model.Qformer.parameters():  # an untrained model hardly depends on the motion
        if parameter.dim() > 1:
            parameter *= 10
    return loaded


@pytest.fixture(params=["gpt", "opt"])
def model(request: pytest.FixtureRequest, lamp: LoadedLaMP, toy_folder: Path) -> MotionCaptioner:
    torch.manual_seed(0)
    return build_captioner(settings(request.param, toy_folder / "llm"), lamp).eval()


def settings(decoder: str, llm: Path | None = None) -> DecoderConfig:
    return DecoderConfig.from_options(M2T | {"decoder": decoder, "llm": str(llm), "drop_out_rate": 0.0,
                                             "lora_dropout": 0.0})


def motions(count: int = 2) -> tuple[Tensor, Tensor]:
    """Motions (b, 64, 263) that an untrained encoder can distinguish, and their lengths."""
    generator = torch.Generator().manual_seed(3)
    motion = torch.randn(count, 1, 263, generator=generator) * torch.linspace(0, 120, FRAMES)[None, :, None]
    return motion, torch.tensor([FRAMES, 40] * count)[:count]


def fit(model: MotionCaptioner, steps: int, rate: float) -> float:
    """Overfit to two motions with their captions. Returns the last loss."""
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=rate)
    for _ in range(steps):
        result = model.train().loss(*motions(), CAPTIONS)
        optimizer.zero_grad()
        result.loss.backward()
        optimizer.step()
    model.eval()
    return float(result.loss.detach())


def test_captions_learned_by_heart_are_written(lamp: LoadedLaMP) -> None:
    torch.manual_seed(0)
    model = build_captioner(settings("gpt"), lamp)
    assert fit(model, 60, 2e-2) < 0.1
    for beams in (1, 3):
        assert model.write(*motions(), Writing(num_beams=beams)) == [[caption] for caption in CAPTIONS]
    assert model.loss(*motions(), CAPTIONS).accuracy == 1
    assert model.loss(*motions(), CAPTIONS[::-1]).loss > 1


@torch.no_grad()
def test_company_and_padding_change_nothing(model: MotionCaptioner) -> None:
    motion, m_lens = motions(3)
    motion[1, 40:] = 0
    for writing in (Writing(num_captions=2, num_beams=2), Writing(top_p=0.9, seed=5)):
        together = model.write(motion, m_lens, writing)
        longer = torch.nn.functional.pad(motion[1:2, :40], (0, 0, 0, 100))
        assert model.write(longer, m_lens[1:2], writing) == together[1:2]
    alone = model.loss(longer, m_lens[1:2], ["a person bows"]).loss
    torch.testing.assert_close(model.loss(motion[1:2, :40], m_lens[1:2], ["a person bows"]).loss, alone)


@torch.no_grad()
def test_tokens_of_padding_are_hidden_from_the_queries(model: MotionCaptioner) -> None:
    motion, _ = motions(1)
    full, short = (model.prefix(motion, torch.tensor([frames])) for frames in (FRAMES, 20))
    assert (full - short).abs().max() > 1e-4
    motion[:, 40:] += 1  # outside the receptive field of a convolution at frame 20
    torch.testing.assert_close(model.prefix(motion, torch.tensor([4])), model.prefix(motions(1)[0], torch.tensor([4])))


def test_nucleus_captions_follow_their_seed_and_captions_begin_with_the_prompt(model: MotionCaptioner) -> None:
    first, again, other = (model.write(*motions(), Writing(3, top_p=0.95, seed=seed)) for seed in (1, 1, 2))
    assert first == again != other
    assert [len(captions) for captions in first] == [3, 3]
    captions, = model.write(*motions(1), Writing(num_captions=2, num_beams=2, prompt="a person"))
    assert len(captions) == 2
    assert all(caption.startswith("a person") for caption in captions)


TOKENIZER = ("--nb-code", 512, "--down-t", 2, "--depth", 3, "--quantizer", "ema_reset", "--dilation-growth-rate", 3,
             "--vq-act", "relu", "--resume-pth", "vq", "--vq-name", "VQVAE")
TRAINING = ("--lr-scheduler", 75000, "--lr", 0.00005, "--pkeep", 0.5, "--ff-rate", 4, "--drop-out-rate", 0.1,
            "--out-dir", "./output")


@pytest.fixture(scope="module")
def home(toy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("m2t")
    (home / "llm").symlink_to(toy_folder / "llm")
    make_dataset(home / "data", "kit")
    sharpen(make_models(home / "checkpoints", "kit") / "kit" / "lamp" / "model" / "latest.tar")
    for decoder in ("gpt", "opt"):
        train(home, "--exp-name", decoder, "--decoder", decoder, "--llm", "llm")
    return home


def sharpen(lamp: Path) -> None:
    """Scale up the weights of an untrained Q-Former so that it distinguishes motions."""
    content = load_checkpoint(lamp)
    for key, value in content["motion_qformer"].items():
        if key == "motion_projection" or (key.startswith("Qformer.") and value.dim() > 1 and value.is_floating_point()):
            value *= 10
    save_checkpoint(lamp, content)


def train(home: Path, *arguments: object) -> None:
    run_here(train_m2t.main, "--dataname", "kit", "--data_root", "data", "--gpu_id", -1, *TOKENIZER, *TRAINING,
             *TINY_M2T, *arguments, cwd=home)


def test_training_leaves_what_learned_and_captions_to_look_at(home: Path) -> None:
    for decoder, learned in (("gpt", "llm.transformer."), ("opt", "lora_")):
        folder = home / "checkpoints" / "kit" / decoder
        state = load_checkpoint(folder / "model" / "net_best_cider.tar")["trans"]
        assert all(learned in key or key.startswith("opt_proj.") for key in state)
        assert any(learned in key for key in state)
        options = read_options(folder / "opt.txt")
        assert (options["decoder"], options["lamp_name"], options["vq_name"]) == (decoder, "lamp", "vq")
        assert options["nb_code"] == 16  # from the tokenizer, regardless of the command
        assert len((home / "output" / decoder / "validation.txt").read_text().splitlines()) == 7


def test_a_stopped_run_resumes_and_another_starts_from_it(home: Path) -> None:
    for decoder in ("gpt", "opt"):
        train(home, "--exp-name", decoder, "--decoder", decoder, "--llm", "llm", "--total-iter", 5, "--is_continue")
        assert load_checkpoint(home / "checkpoints" / "kit" / decoder / "model" / "latest.tar")["total_it"] == 5
    train(home, "--exp-name", "two", "--resume-trans", "checkpoints/kit/gpt/model/latest.tar",
          "--qformer_lr", 0.1)
    learned = load_checkpoint(home / "checkpoints" / "kit" / "two" / "model" / "latest.tar")["trans"]
    assert any(key.startswith("Qformer.") for key in learned)
    assert not any("word_embeddings" in key for key in learned)


@pytest.mark.parametrize("decoder", ["gpt", "opt"])
def test_the_evaluation_takes_the_public_command(home: Path, decoder: str,
                                                 capsys: pytest.CaptureFixture[str],
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    bert = home / f"bert_{decoder}"
    monkeypatch.setattr(data.text, "spacy_pipeline", lambda: None)  # toy texts store words in place of lemmas
    run_here(M2T_eval.main, "--exp-name", "Test_M2T", "--num-layers", 9, "--batch-size", 1, "--embed-dim-gpt", 1024,
             "--n-head-gpt", 16, "--block-size", 51, "--total-iter", 150000, "--eval-iter", 10000, "--resume-trans",
             decoder, "--dataname", "kit", *TOKENIZER, *TRAINING, "--data_root", "data", "--gpu_id", -1,
             "--num_beams", 2, "--references", "lemmatised", "--bert_score_model", make_bert(bert),
             "--bert_score_layer", 1, "--quiet", cwd=home)
    told = capsys.readouterr().out
    assert "has num_layers 1, which is used instead of 9" in told
    assert "has nb_code 16, which is used instead of 512" in told
    report = json.loads((home / "checkpoints" / "kit" / decoder / "eval" / "Test_M2T.json").read_text())
    assert report["results"].keys() == {"m2t", "nearest training motion", "most common caption"}
    for scores in report["results"].values():
        assert {"bleu1", "bleu4", "rouge_l", "cider", "bert_score", "sided"} <= scores.keys()
        assert "mm_dist" not in scores  # there is no evaluator for this data
    # Every test clip is also in training, so the nearest training motion is the clip itself and its caption is correct.
    assert report["results"]["nearest training motion"]["bleu4"] > 99
    assert "layer 1, not rescaled" in report["settings"]["bert_score"]
    assert "lemmas" in report["settings"]["reference_style"]
    made = json.loads((home / "output" / "Test_M2T" / "captions.json").read_text())
    assert len(made) == 7 and made[0]["references"]


def test_the_evaluation_of_a_run_by_its_name_is_not_one_of_the_bundled_model(home: Path) -> None:
    flags = ("--dataset_name", "kit", "--data_root", "data", "--gpu_id", -1, "--no-baselines", "--quiet")
    run_here(M2T_eval.main, "--name", "gpt", *flags, cwd=home)
    report = json.loads((home / "checkpoints" / "kit" / "gpt" / "eval" / "gpt.json").read_text())
    assert "kit/gpt/model" in report["settings"]["checkpoint"]
    told = refusal(M2T_eval.main, "--name", "not_a_run", *flags, cwd=home)
    assert "no model named 'm2t_demo'" in told  # kit has no bundled model


def test_files_of_every_kind_are_captioned_in_parts(home: Path) -> None:
    motions = home / "motions"
    motions.mkdir()
    np.save(motions / "joints.npy", as_kit(walking(300, 1.0)))
    write_text(motions / "short.bvh", joints_to_bvh(as_kit(walking(60, 1.0)), KIT, 20.0).text())
    features = next((home / "data" / "new_joint_vecs").glob("*.npy"))
    np.save(motions / "features.npy", np.load(features))
    for way in (("--num_beams", 2), ("--top_p", 0.9)):
        run_here(gen_m2t.main, "--dataset_name", "kit", "--motion", "motions", "--name", "gpt", "--num_captions", 2,
                 *way, "--gpu_id", -1, "--quiet", cwd=home)
        found = json.loads((home / "generation" / "motion2text" / "captions.json").read_text())
        assert [len(found[f"motions/{file}"]) for file in ("features.npy", "joints.npy", "short.bvh")] == [1, 2, 1]
        assert all(len(part["captions"]) == 2 for parts in found.values() for part in parts)
    first, second = found["motions/joints.npy"]
    assert first["start"] == 0 and first["end"] == second["start"] and second["end"] == pytest.approx(300 / 12.5)


def test_motions_and_captions_are_found(home: Path) -> None:

    def search(*arguments: object) -> list[dict[str, object]]:
        run_here(search_motion.main, "--dataset_name", "kit", "--name", "lamp", "--gpu_id", -1, "--top_k", 3,
                 *arguments, cwd=home)
        return json.loads((home / "generation" / "search" / "search.json").read_text())["found"]

    gallery = ("--gallery", "data/new_joint_vecs")
    assert len(search("--text", "a person walks", *gallery)) == 3
    asked = "data/new_joint_vecs/0031.npy"
    alike, *_ = search("--motion", asked, *gallery)
    assert alike["file"] == asked and alike["score"] == pytest.approx(1, abs=1e-4)
    (home / "captions.txt").write_text("\n".join([*MOTIONS, "", "A person bows."]))
    told = search("--motion", asked, "--captions", "captions.txt")
    assert len(told) == 3 and {one["caption"] for one in told} <= MOTIONS.keys()


@pytest.mark.parametrize(("main", "flags", "told"), [
    (train_m2t.main, ("--exp-name", "new", "--vq-name", "len"), "was trained on the tokenizer vq, not len"),
    (train_m2t.main, ("--exp-name", "new", "--embed-dim-gpt", 10, "--n-head-gpt", 3), "--embed-dim-gpt 10 must be"),
    (train_m2t.main, ("--exp-name", "new", "--decoder", "opt", "--llm", "data"), "language model in data cannot"),
    (train_m2t.main, ("--exp-name", "new", "--quantizer", "lfq"), "--quantizer"),
    (M2T_eval.main, ("--resume-trans", "lamp"), "has no weights under trans"),
    (M2T_eval.main, ("--resume-trans", "gpt", "--bert_score_model", "data"), "--bert_score_layer"),
    (gen_m2t.main, ("--motion", "nowhere", "--name", "gpt"), "nowhere is missing"),
    (gen_m2t.main, ("--motion", "data", "--top_p", 0), "--top_p"),
    (search_motion.main, ("--text", "a", "--motion", "b"), "either --text or --motion"),
    (search_motion.main, ("--text", "a"), "either --gallery or --captions"),
    (search_motion.main, ("--text", "a", "--captions", "b"), "--captions goes with --motion"),
])
def test_what_is_wrong_is_reported_in_one_line(home: Path, main: Callable[[], None], flags: tuple[object, ...],
                                               told: str) -> None:
    data = () if main in (gen_m2t.main, search_motion.main) else ("--data_root", "data")
    lamp = ("--lamp_name", "lamp") if main is train_m2t.main else ()
    assert told in refusal(main, "--dataset_name", "kit", *data, *lamp, "--gpu_id", -1, *flags, cwd=home)
