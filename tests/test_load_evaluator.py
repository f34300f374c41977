"""Loading of evaluators: published files, invalid files, and embeddings."""
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from data.dataset import dataset_spec
from models.config import EvaluatorConfig
from models.evaluator import Evaluator
from storage.checkpoint import save_checkpoint, save_weights
from storage.evaluation import LoadedEvaluator, load_evaluator
from utils import InputError
from utils.files import save_npy

SPEC = dataset_spec("t2m")
SMALL = EvaluatorConfig(dim_movement_enc_hidden=12, dim_movement_latent=10, dim_word=8, dim_motion_hidden=14,
                        dim_text_hidden=6, dim_coemb_hidden=9)
WORDS = ["unk", "sos", "eos", "a", "person", "walk", "left", "slowly"]


def publish(config: EvaluatorConfig) -> Evaluator:
    """Write an untrained evaluator in the published layout, and word vectors to the working folder."""
    torch.manual_seed(0)
    model, home = Evaluator(config).eval(), Path("checkpoints/t2m")
    save_checkpoint(home / "text_mot_match" / "model" / "finest.tar",
                    model.checkpoint() | {"epoch": 9, "iter": 100, "opt_text_encoder": {"state": {}}})
    rng = np.random.default_rng(0)
    save_npy(home / "Comp_v6_KLD005" / "meta" / "mean.npy", rng.normal(size=config.dim_pose))
    save_npy(home / "Comp_v6_KLD005" / "meta" / "std.npy", rng.uniform(0.5, 2, config.dim_pose))
    save_npy(Path("glove/our_vab_data.npy"), rng.normal(size=(len(WORDS), config.dim_word)))
    Path("glove/our_vab_words.pkl").write_bytes(pickle.dumps(WORDS))
    Path("glove/our_vab_idx.pkl").write_bytes(pickle.dumps({word: row for row, word in enumerate(WORDS)}))
    return model


@pytest.fixture
def loaded(home: Path) -> LoadedEvaluator:  # noqa: ARG001 (changes to an empty folder)
    publish(SMALL)
    return load_evaluator("text_mot_match", SPEC, "checkpoints")


def motions(*lengths: int) -> list[np.ndarray]:
    return [np.random.default_rng(length).normal(size=(length, SPEC.dim_pose)) for length in lengths]


def caption(*words: str) -> list[str]:
    return [f"{word}/NOUN" for word in words]


@pytest.mark.usefixtures("home")
def test_the_published_layout_loads_and_runs_at_full_size() -> None:
    model = publish(EvaluatorConfig())
    loaded = load_evaluator("text_mot_match", SPEC, "checkpoints")
    assert loaded.model.config == EvaluatorConfig() and not loaded.model.training
    assert loaded.source.file == Path("checkpoints/t2m/text_mot_match/model/finest.tar")
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], tensor), name
    assert loaded.motions(motions(40, 196)).shape == (2, 512)
    assert loaded.texts([caption("a", "person"), caption("walk")]).shape == (2, 512)


def reshape(network: str, name: str, *shape: int) -> Callable[[dict], None]:
    return lambda content: content[network].update({name: torch.zeros(shape)})


@pytest.mark.parametrize(("spoil", "told"), [
    (lambda content: content["motion_encoder"].pop("gru.bias_hh_l0"), "missing: motion_encoder.gru.bias_hh_l0"),
    (lambda content: content["text_encoder"].pop("pos_emb.weight"), "text_encoder.pos_emb.weight is missing"),
    (reshape("text_encoder", "output_net.1.bias", 7), "shape: text_encoder.output_net.1.bias (7,) instead of (6,)"),
    (reshape("movement_encoder", "main.0.weight", 5), "movement_encoder.main.0.weight has shape (5,)"),
    (reshape("motion_encoder", "extra", 2), "unexpected: motion_encoder.extra"),
    (lambda content: content.pop("motion_encoder"), "no weights under motion_encoder"),
    (lambda content: content.update(text_encoder=3), "no weights under text_encoder"),
])
@pytest.mark.usefixtures("loaded")
def test_a_wrong_file_is_refused_with_the_name_of_the_first_bad_tensor(spoil: Callable, told: str) -> None:
    path = Path("checkpoints/t2m/text_mot_match/model/finest.tar")
    content = torch.load(path, weights_only=True)
    spoil(content)
    save_checkpoint(path, content)
    with pytest.raises(InputError) as refused:
        load_evaluator("text_mot_match", SPEC, "checkpoints")
    assert told in str(refused.value) and str(path) in str(refused.value)


@pytest.mark.usefixtures("loaded")
def test_an_evaluator_of_other_data_or_words_is_refused() -> None:
    with pytest.raises(InputError, match="263 features, but those of kit have 251"):
        load_evaluator("checkpoints/t2m/text_mot_match", dataset_spec("kit"), "checkpoints")
    save_npy(Path("glove/our_vab_data.npy"), np.zeros((len(WORDS), 5)))
    with pytest.raises(InputError, match="word vectors of width 8 .* width 5"):
        load_evaluator("text_mot_match", SPEC, "checkpoints")


def test_a_small_file_brings_its_own_normalisation_and_words(loaded: LoadedEvaluator) -> None:
    folder = Path("checkpoints/t2m/small")
    save_weights(folder / "model" / "finest.safetensors", loaded.model.state_dict())
    save_npy(folder / "meta" / "mean.npy", loaded.normalisation.mean)
    save_npy(folder / "meta" / "std.npy", loaded.normalisation.std)
    save_npy(folder / "glove" / "our_vab_data.npy", np.stack([loaded.words.vector(word) for word in WORDS]))
    (folder / "glove" / "our_vab_words.txt").write_text("".join(f"{word}\n" for word in WORDS))
    for path in Path("glove").iterdir():
        path.unlink()
    small, clips, captions = load_evaluator("small", SPEC, "checkpoints"), motions(40, 80), [caption("a", "walk")]
    np.testing.assert_allclose(small.motions(clips), loaded.motions(clips), atol=0.02)
    np.testing.assert_allclose(small.texts(captions), loaded.texts(captions), atol=0.02)
