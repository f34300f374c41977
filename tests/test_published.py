"""Files that others published load by their own names, in the layouts that their projects gave them."""
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gen_t2m
from data.specs import dataset_spec
from models.clip_text import CLIP_WIDTH
from models.lamp.features import LaMPConfig
from models.lamp.lamp import LaMP
from models.lamp.qformer import QFormerConfig
from models.length_estimator import LengthEstimator
from models.text_to_motion import Sample, Sampling
from models.transformers.config import MaskTransformerConfig, ResidualTransformerConfig
from models.transformers.lamp_text import TEXT_LENGTH, LaMPMaskTransformer, ReleasedText
from models.transformers.mask_transformer import MaskTransformer
from models.transformers.residual import ResidualTransformer
from models.vq.model import VQConfig, build_tokenizer
from tests.golden.manifest import shapes_of
from tests.test_golden import GOLDEN, with_golden
from tests.toy import MOTIONS, make_bert
from tests.toy_clip import make_clip
from training.load import (
    load_lamp,
    load_length_estimator,
    load_mask_transformer,
    load_text_to_motion,
    load_tokenizer,
)
from training.load_transformers import load_masked, load_residual_transformer
from utils.errors import InputError

pytest.importorskip("transformers", reason="CLIP text features need transformers")

SPEC = dataset_spec("t2m")
RVQ = "rvq_nq6_dc512_nc512_noshare_qdp0.2"
MOMASK = "t2m_nlayer8_nhead6_ld384_ff1024_cdp0.1_rvq6ns"
RESIDUAL = "tres_nlayer8_ld384_ff1024_rvq6ns_cdp0.2_sw"
SEPARATE = "tres_nlayer8_ld384_ff1024_rvq6ns_cdp0.2"
TRUNK = {"code_dim": 8, "latent_dim": 64, "n_heads": 2, "n_layers": 2, "ff_size": 24, "num_tokens": 16}
RUN = {"batch_size": 64, "gpu_id": 0, "is_continue": False, "is_train": True, "milestones": [50000], "seed": 3407,
       "checkpoints_dir": "./checkpoints", "dataset_name": "t2m", "cond_drop_prob": 0.1, "weight_decay": 1e-05,
       "dropout": 0.2, "force_mask": False, "gumbel_sample": True, "unit_length": 4, "max_motion_length": 196}
VQ_RUN = {"vq_norm": "None", "vq_act": "relu", "dilation_growth_rate": 3, "mu": 0.99, "quantize_dropout_prob": 0.2,
          "shared_codebook": False, "feat_bias": 5, "quantizer": "ema_reset"}


def put(folder: Path, file: str, content: dict[str, object], options: dict[str, object] | None = None) -> None:
    """A published folder: ``opt.txt`` as their trainers wrote it, and a file with the rest of their trainers' state."""
    (folder / "model").mkdir(parents=True)
    if options is not None:
        lines = [f"{key}: {value}" for key, value in sorted({"name": folder.name, **RUN, **options}.items())]
        (folder / "opt.txt").write_text("\n".join(
            ["------------ Options -------------", *lines, "-------------- End ----------------"]))
    scheduler = {"milestones": Counter({50000: 1}), "gamma": 0.1, "last_epoch": 3}
    torch.save({**content, "scheduler": scheduler, "ep": 3, "total_it": 100}, folder / "model" / file)


def live(model: nn.Module) -> nn.Module:
    """Weights large enough that every input tells."""
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.5 * parameter.shape[-1] ** -0.5)
    return model


def put_tokenizer(folder: Path, file: str, key: str, said: dict[str, object], layers: int) -> VQConfig:
    config = VQConfig(nb_code=16, code_dim=8, output_emb_width=8, width=8, depth=2, num_quantizers=layers)
    model = build_tokenizer(config)
    for quantizer in model.quantizers:
        quantizer.codebook.normal_()
    put(folder, file, {key: model.state_dict()}, VQ_RUN | said)
    (folder / "meta").mkdir()
    np.save(folder / "meta" / "mean.npy", np.zeros(263, np.float32))
    np.save(folder / "meta" / "std.npy", np.full(263, 0.1, np.float32))
    return config


def without(state: dict[str, Tensor], *names: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if not name.endswith(names)}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Toy models in every published layout, under the published names, where the projects' own pages put them."""
    torch.manual_seed(0)
    checkpoints = tmp_path_factory.mktemp("published") / "checkpoints"
    home = checkpoints / "t2m"
    sizes = {"width": 8, "code_dim": 8, "output_emb_width": 8, "nb_code": 16, "depth": 2, "stride_t": 2}

    # MoMask
    put_tokenizer(home / RVQ, "net_best_fid.tar", "vq_model", sizes | {"down_t": 2, "num_quantizers": 3}, layers=3)
    trunk = MaskTransformerConfig(**TRUNK, cond_dim=CLIP_WIDTH, attention="full")
    said = {key: TRUNK[key] for key in ("latent_dim", "n_heads", "n_layers", "ff_size")} | {"vq_name": RVQ}
    put(home / MOMASK, "latest.tar", {"t2m_transformer": live(MaskTransformer(trunk)).state_dict()}, said)
    for name, shared in ((RESIDUAL, True), (SEPARATE, False)):
        config = ResidualTransformerConfig(**TRUNK, cond_dim=CLIP_WIDTH, num_quantizers=3, share_weight=shared)
        put(home / name, "net_best_fid.tar", {"res_transformer": live(ResidualTransformer(config)).state_dict()},
            said | {"share_weight": shared})
    estimator = LengthEstimator(CLIP_WIDTH, 50, (16, 8))
    put(home / "length_estimator" / "length_estimator", "finest.tar", {"estimator": live(estimator).state_dict()})
    make_clip(checkpoints / "clip-vit-base-patch32", CLIP_WIDTH)

    # LaMP; its options tell another depth of the tokenizer, and layers that it has not
    vq = put_tokenizer(home / "vq", "net_best_mm.tar", "net", sizes | {"down_t": 6, "num_quantizers": 6}, layers=1)
    shutil.move(make_bert(home / "bert") / "vocab.txt", checkpoints / "bert-base-uncased.txt")
    (checkpoints / "bert-base-uncased").mkdir()
    shutil.move(checkpoints / "bert-base-uncased.txt", checkpoints / "bert-base-uncased" / "vocab.txt")
    shutil.rmtree(home / "bert")
    qformer = QFormerConfig(hidden=64, layers=3, heads=1, intermediate=32, max_positions=64, vocab=200,
                            encoder_width=24, num_query_tokens=49)
    lamp = LaMP(LaMPConfig(qformer, vq, embed_dim=16, published=True), build_tokenizer(vq))
    put(home / "h3d-qformer", "net_best_acc.tar",
        {"motion_qformer": without(live(lamp).state_dict(), "decoder.weight", "decoder.bias")}, {"vq_name": "vq"})
    released = LaMPMaskTransformer(MaskTransformerConfig(**TRUNK, cond_dim=64, attention="additive"), qformer)
    state = without(live(released).state_dict(), "clip2qformer.weight", "clip2qformer.bias", "position_enc.pe")
    put(home / "t2m", "net_best_fid.tar", {"trans": state},
        {key: TRUNK[key] for key in ("latent_dim", "n_heads", "n_layers", "ff_size")} | {"vq_name": "vq"})
    return checkpoints


@pytest.fixture
def home(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a copy of them, that may be spoilt."""
    shutil.copytree(published, tmp_path / "checkpoints")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "checkpoints" / "t2m"


def generate(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> list[np.ndarray]:
    flags = ("--gpu_id", "-1", "--no_video", "--no_bvh", "--quiet", "--time_steps", "3", "--text_prompt", "a man walks")
    monkeypatch.setattr(sys, "argv", ["gen_t2m.py", *flags, *map(str, arguments)])
    gen_t2m.main()
    return [np.load(file) for file in sorted(Path("generation").rglob("*.npy")) if "_ik" not in file.name]


@pytest.mark.parametrize("residual", [RESIDUAL, SEPARATE])
def test_momask_files_generate(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
                               residual: str) -> None:
    motion, = generate(monkeypatch, "--name", MOMASK, "--res_name", residual, "--len_name", "length_estimator")
    assert motion.shape[1:] == (22, 3)
    assert len(motion) % 4 == 0
    assert np.isfinite(motion).all()
    told = capsys.readouterr().out
    for file in (f"{MOMASK}/model/latest.tar", f"{residual}/model/net_best_fid.tar", f"{RVQ}/model/net_best_fid.tar",
                 "length_estimator/length_estimator/model/finest.tar", "layers of tokens: 3 of 3"):
        assert file in told
    assert home.is_dir()


def test_lamp_files_generate(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    motion, = generate(monkeypatch, "--name", "t2m", "--motion_length", 40)
    assert motion.shape == (40, 22, 3)
    assert np.isfinite(motion).all()
    assert "layers of tokens: 1 of 1" in capsys.readouterr().out
    assert home.is_dir()


def test_released_settings_are_those_that_the_weights_were_trained_with(published: Path) -> None:
    momask, source = load_masked(MOMASK, SPEC, published)
    assert (momask.config.attention, source.options["text_encoder"], momask.config.n_heads) == ("full", "clip", 2)
    released, _ = load_masked("t2m", SPEC, published)
    assert isinstance(released, LaMPMaskTransformer)
    assert (released.config.attention, released.Qformer.config.heads) == ("additive", 1)
    for name, shared in ((RESIDUAL, True), (SEPARATE, False)):
        config = load_residual_transformer(name, SPEC, published)[0].config
        assert (config.published, config.share_weight, config.num_quantizers) == (True, shared, 3)
    assert load_length_estimator("length_estimator", SPEC, published).text.dim == CLIP_WIDTH
    tokenizer = load_tokenizer("vq", SPEC, published).model
    assert (tokenizer.config.down_t, tokenizer.config.num_quantizers, tokenizer.config.depth) == (2, 1, 2)
    lamp = load_lamp("h3d-qformer", SPEC, published)
    assert lamp.model.config.published
    assert lamp.text_features(["a man walks", "a person bows"]).shape == (2, 16)


def test_a_released_transformer_makes_its_text_condition_itself(published: Path) -> None:
    loaded = load_mask_transformer("t2m", SPEC, published)
    assert isinstance(loaded.text, ReleasedText)
    pieces = loaded.text.pieces.encode(["a man walks"], TEXT_LENGTH, TEXT_LENGTH)
    expected = loaded.model.text_condition(pieces.ids, pieces.mask).cond
    torch.testing.assert_close(loaded.text(["a man walks"]), expected)
    one, other = loaded.text(list(MOTIONS)[:2])
    assert not torch.allclose(one, other, atol=1e-3)


def test_a_released_transformer_gives_the_same_motion_whatever_the_batch(published: Path) -> None:
    pipeline, _ = load_text_to_motion("t2m", None, SPEC, published)
    samples, sampling = [Sample("a man walks", 1, 40), Sample("a person bows", 2, 120)], Sampling(3)
    together = pipeline.tokens(samples, sampling)
    for sample, ids in zip(samples, together, strict=True):
        assert torch.equal(pipeline.tokens([sample], sampling)[0], ids)


@pytest.mark.parametrize("name", [RVQ, MOMASK, RESIDUAL, "h3d-qformer", "t2m"])
def test_files_without_options_tell_their_sizes_themselves(home: Path, name: str) -> None:
    (home / name / "opt.txt").write_text("vq_name: vq\n" if name == "h3d-qformer" else "")
    checkpoints = home.parent
    if name == RVQ:
        config = load_tokenizer(name, SPEC, checkpoints).model.config
        assert (config.nb_code, config.num_quantizers, config.width, config.depth, config.down_t) == (16, 3, 8, 2, 2)
    elif name == RESIDUAL:
        config = load_residual_transformer(name, SPEC, checkpoints)[0].config
        assert (config.num_quantizers, config.share_weight, config.latent_dim, config.n_layers) == (3, True, 64, 2)
    elif name == "h3d-qformer":
        config = load_lamp(name, SPEC, checkpoints).model.config
        assert (config.embed_dim, config.qformer.layers, config.qformer.num_query_tokens) == (16, 3, 49)
    else:
        config = load_masked(name, SPEC, checkpoints)[0].config
        assert (config.num_tokens, config.code_dim, config.ff_size, config.n_heads) == (16, 8, 24, 1)  # 64 a head


LOADERS: dict[str, Callable[[str, object, Path], object]] = {
    RVQ: load_tokenizer, MOMASK: load_masked, RESIDUAL: load_residual_transformer, "h3d-qformer": load_lamp,
    "t2m": load_masked, "length_estimator": load_length_estimator,
}


def spoil(home: Path, name: str, change: Callable[[dict[str, Tensor]], None]) -> Path:
    file, = (home / name).rglob("*.tar")
    content = torch.load(file, weights_only=True)
    state = next(value for key, value in content.items() if isinstance(value, dict) and key != "scheduler")
    change(state)
    torch.save(content, file)
    return file


@pytest.mark.parametrize(("name", "tensor"), [
    (RVQ, "decoder.model.0.bias"), (MOMASK, "seqTransEncoder.layers.1.norm2.bias"), (RESIDUAL, "quant_emb.bias"),
    ("h3d-qformer", "motion_encoder.model.0.bias"), ("t2m", "Qformer.bert.encoder.layer.1.output.dense.bias"),
    ("length_estimator", "output.1.bias"),
])
def test_a_wrong_file_is_refused_by_its_first_bad_tensor(home: Path, name: str, tensor: str) -> None:
    whole = {file: file.read_bytes() for file in (home / name).rglob("*.tar")}
    changes = {"missing": lambda state: state.pop(tensor),
               "shape": lambda state: state.update({tensor: torch.zeros(3)}),
               "unexpected": lambda state: state.update({f"{tensor}_of_another": torch.zeros(3)})}
    for told, change in changes.items():
        file = spoil(home, name, change)
        with pytest.raises(InputError, match=rf"{told}: {tensor}") as caught:
            LOADERS[name](name, SPEC, home.parent)
        assert str(file) in str(caught.value)
        file.write_bytes(whole[file])


class Attack:
    """A pickle that makes a file when it is opened carelessly."""

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return os.mkdir, ("attacked",)


@pytest.mark.parametrize("name", LOADERS)
def test_a_pickle_that_would_run_code_is_refused(home: Path, name: str) -> None:
    file, = (home / name).rglob("*.tar")
    content = torch.load(file, weights_only=True)
    torch.save({**content, "ep": Attack()}, file)
    with pytest.raises(InputError, match="holds more than tensors"):
        LOADERS[name](name, SPEC, home.parent)
    assert not Path("attacked").exists()


def test_what_a_published_model_needs_beside_it_is_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for needed, name in (("clip-vit-base-patch32", MOMASK), ("bert-base-uncased", "t2m")):
        shutil.rmtree(home.parent / needed)
        with pytest.raises(InputError, match=f"could be fetched.*its files may also lie in .*{needed}"):
            load_mask_transformer(name, SPEC, home.parent)


FULL_SIZE = {
    "humanvqvae_t2m": ("vq_model", load_tokenizer), "rvqvae_t2m_q6": ("vq_model", load_tokenizer),
    "lamp": ("motion_qformer", load_lamp), "lamp_mask_transformer": ("t2m_transformer", load_masked),
    "momask_mask_transformer": ("t2m_transformer", load_masked),
    "momask_res_transformer_shared": ("res_transformer", load_residual_transformer),
    "momask_res_transformer_unshared": ("res_transformer", load_residual_transformer),
}


@with_golden
@pytest.mark.filterwarnings("ignore:.*to a meta parameter")
@pytest.mark.parametrize("fixture", FULL_SIZE)
def test_every_published_file_fits_at_its_full_size(published: Path, tmp_path: Path, fixture: str) -> None:
    """Its documented names and shapes, with nothing but zeros that take no room, and no options but names."""
    key, load = FULL_SIZE[fixture]
    parameters = shapes_of(json.loads((GOLDEN / "models" / f"{fixture}.json").read_text()))
    state = {name: torch.zeros(1).expand(shape) if shape else torch.zeros(()) for name, shape in parameters.items()}
    shutil.copytree(published / "bert-base-uncased", tmp_path / "bert-base-uncased")
    names = [fixture]
    if fixture == "lamp":
        tokenizer = {name.removeprefix("vq_model."): tensor for name, tensor in state.items() if "vq_model." in name}
        put(tmp_path / "t2m" / "vq", "latest.tar", {"vq_model": tokenizer})
        names.append("vq")
    put(tmp_path / "t2m" / fixture, "latest.tar", {key: state}, {"vq_name": "vq"} if fixture == "lamp" else None)
    for name in names:
        shutil.copytree(published / "t2m" / "vq" / "meta", tmp_path / "t2m" / name / "meta")
    with torch.device("meta"):
        loaded = load(fixture, SPEC, tmp_path, "meta")
    model = loaded[0] if isinstance(loaded, tuple) else loaded.model
    assert {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}.items() >= {
        name: shape for name, shape in parameters.items() if not name.endswith("position_ids")}.items()
