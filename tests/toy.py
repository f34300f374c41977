"""A toy data set and randomly initialised toy language models."""
import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from data.language import WordVectors
from motion.features import joints_to_features, mean_std
from motion.skeleton import SKELETONS, T2M
from tests.figures import bowing, raising, standing, walking, waving

ROOT = Path(__file__).resolve().parent.parent
# Folders with fixtures, which many machines lack.
GOLDEN, OPENMOTION, BVH_SAMPLES, ACCLAIM_SAMPLES = (
    ROOT.parent / "shared" / name for name in ("golden", "data/openmotion", "data/bvh_samples", "data/cmu_asfamc"))

MOTIONS = {
    "a person walks forward": lambda n: walking(n, 1.0),
    "a man walks backwards": lambda n: walking(n, -0.8),
    "someone walks and turns left": lambda n: walking(n, 1.0, turn=1.5),
    "someone walks and turns right": lambda n: walking(n, 1.0, turn=-1.5),
    "a person raises the left hand": lambda n: raising("left", n),
    "a person raises the right hand": lambda n: raising("right", n),
    "she waves with the left hand": lambda n: waving("left", n),
    "he waves with the right hand": lambda n: waving("right", n),
    "a person bows": bowing,
    "a person stands still": standing,
}


def clips(frames: int = 72) -> dict[str, tuple[str, np.ndarray]]:
    """Return captions and joints (T, 22, 3) by id, with slightly different lengths."""
    made = {}
    for number, (caption, make) in enumerate(MOTIONS.items()):
        for take in range(2):
            made[f"{number:03d}{take}"] = caption, make(frames + 4 * take + number % 3)
    return made


def make_dataset(root: Path, dataset_name: str = "t2m") -> Path:
    """Write a prepared data set in the layout of HumanML3D or KIT-ML. All clips are in train, some in val and test."""
    skeleton = SKELETONS[dataset_name]
    for folder in ("new_joints", "new_joint_vecs", "texts"):
        (root / folder).mkdir(parents=True)
    ids, features = [], []
    for name, (caption, joints) in clips().items():
        if skeleton is not T2M:
            joints = 1000 * as_kit(joints)
        features.append(np.asarray(joints_to_features(joints, skeleton)))
        np.save(root / "new_joint_vecs" / f"{name}.npy", features[-1])
        np.save(root / "new_joints" / f"{name}.npy", joints[:-1].astype(np.float32))
        tokens = " ".join(f"{word}/OTHER" for word in caption.split())
        lines = [f"{text}#{tokens}#0.0#0.0\n" for text in (caption, f"{caption.upper()}!")]
        (root / "texts" / f"{name}.txt").write_text("".join(lines))
        ids.append(name)
    mean, std = mean_std(features)
    np.save(root / "Mean.npy", mean)
    np.save(root / "Std.npy", std)
    for split, chosen in (("train", ids), ("val", ids[::3]), ("test", ids[1::3]), ("all", ids)):
        (root / f"{split}.txt").write_text("\n".join(chosen) + "\n")
    return root


def as_kit(joints: np.ndarray) -> np.ndarray:
    """Convert joints of HumanML3D to the 21 joints of KIT-ML, close enough for a toy data set."""
    return joints[:, [0, 3, 6, 9, 15, 17, 19, 21, 16, 18, 20, 2, 5, 8, 11, 11, 1, 4, 7, 10, 10]]


def make_bert(folder: Path, hidden: int = 32) -> Path:
    """Write a randomly initialised BERT in the Hugging Face layout, with the vocabulary of the toy captions."""
    from transformers import BertConfig, BertModel

    folder.mkdir(parents=True)
    words = sorted({word for caption in MOTIONS for word in caption.split()})
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters),
                  *(word for word in words if len(word) > 1)]
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in vocabulary))
    config = BertConfig(hidden_size=hidden, num_hidden_layers=2, num_attention_heads=2, intermediate_size=2 * hidden,
                        max_position_embeddings=64, vocab_size=len(vocabulary))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def make_glove(folder: Path, dim: int = 6) -> Path:
    """Write random word vectors for the words in the toy captions."""
    words = sorted({word for caption in MOTIONS for word in caption.split()})
    words = ["unk", "sos", "eos", *words]
    WordVectors(words, np.random.default_rng(0).normal(size=(len(words), dim))).save(folder)
    return folder


def make_llm(folder: Path) -> Path:
    """Write a randomly initialised OPT in the Hugging Face layout, with a byte-level tokenizer for the toy captions."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import OPTConfig, OPTForCausalLM, PreTrainedTokenizerFast

    tokens = ByteLevelBPETokenizer()
    tokens.train_from_iterator(MOTIONS, vocab_size=300, special_tokens=["<s>", "<pad>", "</s>"], show_progress=False)
    PreTrainedTokenizerFast(tokenizer_object=tokens, bos_token="</s>", eos_token="</s>",
                            pad_token="<pad>").save_pretrained(folder)
    torch.manual_seed(0)
    config = OPTConfig(vocab_size=304, hidden_size=16, num_hidden_layers=1, ffn_dim=32, num_attention_heads=2,
                       max_position_embeddings=80, word_embed_proj_dim=16)
    OPTForCausalLM(config).save_pretrained(folder)
    return folder


def run_here(main: Callable[[], None], *arguments: object, cwd: Path) -> None:
    """Run a script's ``main`` in ``cwd`` within this process, where slow libraries are already imported."""
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(cwd):
        patch.setattr(sys, "argv", ["script", *map(str, arguments)])
        patch.setattr(torch.cuda, "device_count", lambda: 0)
        main()


def refusal(main: Callable[[], None], *arguments: object, cwd: Path) -> str:
    """Run a script that must exit with status 2, and return the only line that it writes to standard error."""
    with contextlib.redirect_stderr(io.StringIO()) as told, pytest.raises(SystemExit) as ended:
        run_here(main, *arguments, cwd=cwd)
    line = told.getvalue()
    assert ended.value.code == 2 and line.startswith("error: ") and line.index("\n") == len(line) - 1
    return line


# Runs a script in an interpreter in which importing torch raises an error.
WITHOUT_TORCH = ("-c", f"import runpy, sys; sys.modules['torch'] = None; sys.argv = sys.argv[1:]; "
                       f"sys.path.insert(0, {str(ROOT)!r}); runpy.run_path(sys.argv[0], run_name='__main__')")


def run_script(script: str, *arguments: object, cwd: Path, check: bool = True,
               options: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
    """Run a script in ``cwd`` with ``options`` for the interpreter. With ``check``, it must succeed."""
    environment = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2"), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, *options, str(ROOT / script), *map(str, arguments)]
    result = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=900, check=False)
    if check:
        assert result.returncode == 0, f"{' '.join(command)}\n{result.stdout}\n{result.stderr}"
    return result


def needs(folder: Path) -> pytest.MarkDecorator:
    """Skip a test on machines that lack a folder with fixtures."""
    return pytest.mark.skipif(not folder.is_dir(), reason=f"there is no folder {folder}")


def _flags(text: str) -> tuple[str, ...]:
    return tuple(text.split())


TINY_VQ = _flags("--batch_size 8 --window_size 32 --width 16 --code_dim 16 --output_emb_width 16 --nb_code 16 "
                 "--depth 1 --num_quantizers 3 --warm_up_iter 2 --total_iter 6 --quiet")
TINY_LAMP = _flags("--batch_size 8 --encoder_width 24 --embed_dim 16 --warm_up_iter 2 --matching_rows 4 "
                   "--total_iter 4 --quiet")
TINY_T2M = _flags("--batch_size 8 --latent_dim 16 --n_heads 2 --n_layers 1 --ff_size 32 --warm_up_iter 2 "
                  "--total_iter 4 --quiet")
TINY_LENGTH = _flags("--batch_size 8 --total_iter 4 --quiet")
TINY_EVALUATOR = _flags("--batch_size 8 --movement_iter 3 --movement_batch_size 8 --window_size 32 "
                        "--dim_movement_enc_hidden 16 --dim_movement_latent 12 --dim_motion_hidden 16 "
                        "--dim_text_hidden 10 --dim_coemb_hidden 8 --total_iter 4 --quiet")
TINY_M2T = _flags("--num-layers 1 --embed-dim-gpt 16 --n-head-gpt 2 --block-size 24 --batch-size 8 --total-iter 3 "
                  "--eval-iter 100 --quiet")
