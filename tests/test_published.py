"""Published files of other projects load under their original names and layouts, and are identified."""
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import gen_t2m
from data.dataset import dataset_spec
from models.m2t import Writing
from models.transformers.mask_transformer import CLIP_WIDTH, LaMPMaskTransformer
from prepare.inspect_checkpoint import identify, main
from storage import generation
from storage.evaluation import load_captioner, load_evaluator
from storage.released import PUBLISHED_META
from tests.toy import make_glove, refusal, run_here
from tests.toy_published import MOMASK, RESIDUAL, RVQ, SEPARATE, make_published, put_captioner, put_evaluator
from utils import InputError

SPEC = dataset_spec("t2m")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    put_evaluator(folder)
    return make_published(folder / "checkpoints")


@pytest.fixture
def home(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(published.parent, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "checkpoints" / "t2m"


def test_lamp_files_generate(published: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_here(gen_t2m.main, "--name", "t2m", "--text_prompt", "a man walks", "--motion_length", 40, "--time_steps", 3,
             "--gpu_id", -1, "--no_video", "--no_bvh", "--no_html", "--quiet", cwd=published.parent)
    for file in (published.parent / "generation").rglob("*.npy"):
        motion = np.load(file)
        assert motion.shape == (40, 22, 3) and np.isfinite(motion).all()
    assert "base layer only" in capsys.readouterr().out


def test_released_settings_are_those_that_the_weights_were_trained_with(published: Path) -> None:
    momask, source = generation.load_mask_transformer(MOMASK, SPEC, published)
    assert (momask.config.attention, source.options["text_encoder"], momask.config.n_heads) == ("full", "clip", 2)
    released, _ = generation.load_mask_transformer("t2m", SPEC, published)
    assert isinstance(released, LaMPMaskTransformer)
    assert (released.config.attention, released.Qformer.config.heads) == ("additive", 1)
    for name, shared in ((RESIDUAL, True), (SEPARATE, False)):
        config = generation.load_residual_transformer(name, SPEC, published)[0].config
        assert (config.published, config.share_weight, config.num_quantizers) == (True, shared, 3)
    assert generation.load_length_estimator("length_estimator", SPEC, published).text.dim == CLIP_WIDTH
    tokenizer = generation.load_tokenizer("vq", SPEC, published).model
    assert (tokenizer.config.down_t, tokenizer.config.num_quantizers, tokenizer.config.depth) == (2, 1, 2)
    lamp = generation.load_lamp("h3d-qformer", SPEC, published)
    assert lamp.model.config.published
    assert lamp.text_features(["a man walks", "a person bows"]).shape == (2, 16)


class Attack:
    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return os.mkdir, ("attacked",)


@pytest.mark.parametrize(("name", "load", "tensor"), [
    (RVQ, generation.load_tokenizer, "decoder.model.0.bias"),
    ("h3d-qformer", generation.load_lamp, "motion_encoder.model.0.bias"),
    (RESIDUAL, generation.load_residual_transformer, "quant_emb.bias"),
    (MOMASK, generation.load_mask_transformer, "seqTransEncoder.layers.1.norm2.bias"),
    ("t2m", generation.load_mask_transformer, "Qformer.bert.encoder.layer.1.output.dense.bias"),
    ("length_estimator", generation.load_length_estimator, "output.1.bias"),
    ("text_mot_match", load_evaluator, "gru.bias_hh_l0"),
])
def test_a_wrong_file_is_refused(home: Path, name: str, load: Callable[..., object], tensor: str) -> None:
    file, = (home / name).rglob("*.tar")
    content = torch.load(file, weights_only=True)
    key = next(key for key, value in content.items() if isinstance(value, dict) and tensor in value)
    state, other = content[key], torch.zeros(3)
    for told, wrong in (("missing", {name: value for name, value in state.items() if name != tensor}),
                        ("shape", state | {tensor: other}), ("unexpected", state | {f"{tensor}_of_another": other})):
        torch.save(content | {key: wrong}, file)
        with pytest.raises(InputError, match=rf"{told}: (\w+_encoder\.)?{tensor}") as caught:
            load(name, SPEC, home.parent)
        assert str(file) in str(caught.value)
    torch.save({name: value for name, value in content.items() if name != key}, file)
    with pytest.raises(InputError, match="has no weights under"):
        load(name, SPEC, home.parent)
    torch.save({**content, "ep": Attack()}, file)
    with pytest.raises(InputError, match="contains more than tensors"):
        load(name, SPEC, home.parent)
    assert not Path("attacked").exists()


def test_an_evaluator_of_other_data_or_words_is_refused(home: Path) -> None:
    assert load_evaluator("text_mot_match", SPEC, home.parent).words.dim == 6
    with pytest.raises(InputError, match="263 features, but motions of kit have 251"):
        load_evaluator(str(home / "text_mot_match"), dataset_spec("kit"), home.parent)
    make_glove(Path("glove"), 5)
    with pytest.raises(InputError, match="word vectors of width 6 .* width 5"):
        load_evaluator("text_mot_match", SPEC, home.parent)


@pytest.mark.parametrize("old_names", [False, True])
def test_the_released_captioner_computes_with_its_own_weights(home: Path, toy_folder: Path, old_names: bool) -> None:
    living = put_captioner(home.parent, toy_folder / "llm", old_names)
    loaded = load_captioner(str(home / "M2T" / "model" / "m2t.pth"), SPEC, home.parent)
    assert loaded.model.config.published and loaded.source.options["lora_r"] == 16
    assert loaded.writing == Writing(num_beams=5, prompt="a man is", prompt_in_caption=False)
    own = loaded.model.state_dict()
    assert own.keys() == living.keys()
    for name, tensor in living.items():  # the language model is kept in half precision, the rest is not
        kept = tensor.half() if name.startswith("llm.") and "lora" not in name else tensor
        torch.testing.assert_close(own[name].float(), kept.float())
    loaded.model.float()  # CPUs are slow in half precision
    caption, = loaded.write([np.random.default_rng(1).normal(size=(60, 263))], Writing(prompt="a person"))
    assert caption[0].startswith("a person")
    assert "captioning model" in identify(home / "M2T" / "model" / "m2t.pth").what


@pytest.mark.parametrize(("name", "what", "use"), [
    (RVQ, "tokenizer with 3 layers", "eval_t2m_vq.py"), ("vq", "tokenizer with one codebook", "eval_t2m_vq.py"),
    (MOMASK, "masked transformer on text features of width 512, the width of CLIP", "gen_t2m.py --name"),
    (RESIDUAL, "residual transformer", "gen_t2m.py --res_name"),
    ("t2m", "masked transformer of LaMP", "gen_t2m.py --name"), ("h3d-qformer", "LaMP model", "eval_retrieval.py"),
    ("length_estimator", "length estimator", "gen_t2m.py --len_name"),
    ("text_mot_match", "an evaluator (text-motion matching)", "the evaluation of generated motions"),
])
def test_published_files_are_known(published: Path, name: str, what: str, use: str) -> None:
    file, = (published / "t2m" / name).rglob("*.tar")
    found = identify(file)
    assert what in found.what
    assert use in found.use[0]
    assert found.incompatible == ()
    assert (found.dataset == "t2m") == (name in (RVQ, "vq", "h3d-qformer", "text_mot_match"))
    assert any(PUBLISHED_META in need for need in found.needs) == (name == "text_mot_match")


def test_what_is_wrong_with_a_file_is_reported(published: Path, tmp_path: Path, capsys) -> None:
    content = torch.load(published / "t2m" / RESIDUAL / "model" / "net_best_fid.tar", weights_only=True)
    del content["res_transformer"]["cond_emb.bias"]
    torch.save(content, tmp_path / "found.pth")
    assert refusal(main, "found.pth", cwd=tmp_path) == "error: found.pth will be refused: missing: cond_emb.bias\n"
    assert "put it at: checkpoints/<t2m or kit>/NAME/model/latest.pth" in capsys.readouterr().out


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    for content, told in (({"a": {"b": torch.zeros(1)}}, "its keys are a"),
                          ({"net": {"b": torch.zeros(1)}}, "such as b"),
                          ({"estimator": {"output.0.weight": torch.zeros(3)}}, "is not a complete model")):
        torch.save(content, tmp_path / "a.tar")
        with pytest.raises(InputError, match=told):
            identify(tmp_path / "a.tar")
