"""Generate a motion from text without torch, from a folder written by export_onnx.py.

    python prepare/generate_onnx.py onnx "a person waves with the left hand" 120 --out wave.npy

This file imports nothing from this project and can serve as an example for other programs. It needs numpy, onnxruntime
and tokenizers. It reproduces torch's random numbers, so a seed gives the same motion as with
``gen_t2m.py --text_prompt``.
"""
import argparse
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

RESIDUAL_STREAM = 1
TEXT_STREAM = 1 << 33
MAX_WORDS = 32
KEPT = 1e5  # score of tokens that must not be masked again


class Generator:
    """Text-to-motion generator that runs exported ONNX graphs."""

    def __init__(self, folder: Path) -> None:
        self.settings: dict[str, Any] = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.graphs = {path.stem: onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
                       for path in folder.glob("*.onnx")}

    def __call__(self, text: str, frames: int, seed: int, **sampling: float) -> np.ndarray:
        """Generate joints (T, J, 3) in metres for a text, where T is ``frames`` rounded down to whole tokens.

        ``sampling`` overrides the models' cond_scale, res_cond_scale, temperature, res_temperature, topkr
        and text_noise.
        """
        how = {**self.settings["sampling"], **sampling}
        length = frames // self.settings["frames_of_a_token"]
        cond = self.condition(text)
        ids = np.zeros((1, length, self.settings["layers"]), np.int64)
        noisy = with_noise(cond, seed, how.get("text_noise", 0.0))  # folders exported earlier lack it
        ids[..., 0] = self.base(noisy, length, stream(seed), how["cond_scale"], how["temperature"], how["topkr"])
        if self.settings["layers"] > 1:
            self.fill_residual(ids, cond, stream(seed, RESIDUAL_STREAM), how["res_cond_scale"],
                               how["res_temperature"], how["topkr"])
        return self.run("decoder", ids=ids, token_lens=np.array([length]))[1][0]

    def condition(self, text: str) -> np.ndarray:
        """Compute the text condition (1, c) for the transformers."""
        words = re.sub(r'[.!"()*#:;~]', " ", text.lower()).split()[:MAX_WORDS]
        longest = self.settings["longest_text"]
        pieces = self.tokenizer.encode(" ".join(words), add_special_tokens=False).ids[:longest - 2]
        first, last, padding = (self.tokenizer.token_to_id(name) for name in ("[CLS]", "[SEP]", "[PAD]"))
        ids = np.array([[first, *pieces, last]])
        ids = np.pad(ids, ((0, 0), (0, longest - ids.shape[1] if self.settings["pad_texts"] else 0)),
                     constant_values=padding)
        return self.run("text_encoder", ids=ids, mask=np.arange(ids.shape[1])[None] < len(pieces) + 2)[0]

    def base(self, cond: np.ndarray, length: int, random: np.random.RandomState, cond_scale: float,
             temperature: float, topkr: float) -> np.ndarray:
        """Generate base-layer tokens (1, n) by iterative unmasking."""
        mask_id, codes = self.settings["mask_id"], self.settings["codes"]
        ids, scores = np.full((1, length), mask_id), np.zeros(length)
        for share in self.settings["mask_shares"]:
            count = max(1, round(float(np.float32(share) * np.float32(length))))
            masked = scores.argsort(kind="stable")[:count]
            ids[0, masked] = mask_id
            logits = self.run("masked_step", ids=ids, cond=cond, padding=np.zeros((1, length), bool),
                              cond_scale=np.float32(cond_scale))[0][0]
            drawn = draw(logits, uniform(random, length, codes), temperature, topkr)
            ids[0, masked] = drawn[masked]
            scores = np.full(length, KEPT)
            odds = np.exp(logits - logits.max(-1, keepdims=True))
            scores[masked] = (odds[np.arange(length), drawn] / odds.sum(-1))[masked]
        return ids

    def fill_residual(self, ids: np.ndarray, cond: np.ndarray, random: np.random.RandomState, cond_scale: float,
                      temperature: float, topkr: float) -> None:
        """Fill the residual layers of ``ids`` (1, n, q), one after another."""
        length = ids.shape[1]
        for layer in range(1, ids.shape[2]):
            logits = self.run("residual_step", ids=ids, layer=np.array([layer]), cond=cond,
                              padding=np.zeros((1, length), bool), cond_scale=np.float32(cond_scale))[0][0]
            ids[0, :, layer] = draw(logits, uniform(random, *logits.shape), temperature, topkr)
        if self.settings["pad_is_drawn"]:  # released models may sample padding, which is ignored
            ids[ids == self.settings["codes"]] = -1

    def run(self, name: str, **inputs: np.ndarray) -> list[np.ndarray]:
        return self.graphs[name].run(None, {key: np.asarray(value) for key, value in inputs.items()})


def stream(*keys: int) -> np.random.RandomState:
    """Return the random stream for integer keys, as in gen_t2m.py.

    The keys are a seed, or a seed and ``RESIDUAL_STREAM`` or ``TEXT_STREAM``.
    """
    words = [len(keys), *(word for key in keys for word in (key & 0xFFFFFFFF, key >> 32 & 0xFFFFFFFF))]
    low = np.random.SeedSequence(words).generate_state(2, np.uint32)[1]
    return np.random.RandomState(low)  # same Mersenne Twister as torch, which uses the low 32 bits of a seed


def uniform(random: np.random.RandomState, *shape: int) -> np.ndarray:
    """Return uniform float32 numbers in [0, 1) as torch does, from the low 24 bits of each word."""
    words = np.frombuffer(random.bytes(4 * math.prod(shape)), "<u4")
    return ((words & 0xFFFFFF) / np.float32(1 << 24)).astype(np.float32).reshape(shape)


def with_noise(cond: np.ndarray, seed: int, scale: float) -> np.ndarray:
    """Add uniform noise to text features (1, c), with an std of ``scale`` times their root mean square."""
    if not scale:
        return cond
    noise = uniform(stream(seed, TEXT_STREAM), cond.shape[1]) - 0.5
    return (cond + scale * 12**0.5 * np.sqrt(np.square(cond, dtype=np.float64).mean()) * noise).astype(np.float32)


def draw(logits: np.ndarray, noise: np.ndarray, temperature: float, topkr: float) -> np.ndarray:
    """Sample ids (n,) from logits (n, K) with the Gumbel-max trick, excluding the least probable fraction ``topkr``."""
    keep = max(1, math.ceil((1 - topkr) * logits.shape[-1] - 1e-9))
    least = np.partition(logits, -keep, -1)[:, [-keep]]
    noise = -np.log(-np.log(np.maximum(noise, np.finfo(np.float32).tiny)))
    return np.where(logits >= least, logits / max(temperature, 1e-10) + noise, -np.inf).argmax(-1)


def main() -> None:
    parser = argparse.ArgumentParser(description="Generate a motion from text without torch.")
    parser.add_argument("folder", type=Path, help="folder written by export_onnx.py")
    parser.add_argument("text", help="text prompt")
    parser.add_argument("frames", type=int, help="4 to 196, rounded down to a multiple of 4")
    parser.add_argument("--seed", type=int, default=3407)
    parser.add_argument("--out", type=Path, default=Path("motion.npy"), help="joints (T, J, 3) in metres")
    args = parser.parse_args()
    joints = Generator(args.folder)(args.text, args.frames, args.seed)
    np.save(args.out, joints)
    print(f"{args.text!r}: {len(joints)} frames -> {args.out}")


if __name__ == "__main__":
    main()
