"""Write a random data set of any size in the layout of HumanML3D, for timing."""
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data.specs import DatasetSpec

CLIPS = {"bundled": 2_431, "published": 29_000}  # training splits of openmotion and HumanML3D, mirrored twins included
CAPTIONS = 3
_TAGGED = [
    "a/DET", "person/NOUN", "slowly/ADV", "walk/VERB", "forward/ADV", "and/CCONJ", "then/ADV", "turn/VERB", "to/ADP",
    "the/DET", "left/NOUN", "while/SCONJ", "hold/VERB", "both/DET", "hand/NOUN", "up/ADP", "in/ADP", "front/NOUN",
    "of/ADP", "chest/NOUN"]


def make_synthetic(root: Path, spec: DatasetSpec, clips: int, seed: int = 0, quiet: bool = False) -> None:
    """Write features, texts, statistics and ``train.txt`` of ``clips`` clips of 40 to 199 rows, with about 3 captions
    each. One caption in thirty describes only a part of its clip."""
    generator = np.random.default_rng(seed)
    for folder in ("new_joint_vecs", "texts"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    noise = generator.standard_normal((4 * spec.max_length, spec.dim_pose), dtype=np.float32)
    ids = [f"{number:06d}" for number in range(clips)]
    for name in tqdm(ids, desc="synthetic clips", disable=quiet or None, leave=False):
        rows = int(generator.integers(spec.min_length, spec.max_length))
        start = int(generator.integers(len(noise) - rows))
        np.save(root / "new_joint_vecs" / f"{name}.npy", noise[start:start + rows])
        lines = []
        for _ in range(CAPTIONS):
            words = generator.choice(_TAGGED, int(generator.integers(5, 20)))
            times = "0.5#3.0" if generator.random() < 1 / 30 else "0.0#0.0"
            lines.append(f"{' '.join(word.partition('/')[0] for word in words)}#{' '.join(words)}#{times}\n")
        (root / "texts" / f"{name}.txt").write_text("".join(lines))
    np.save(root / "Mean.npy", np.zeros(spec.dim_pose, np.float32))
    np.save(root / "Std.npy", np.ones(spec.dim_pose, np.float32))
    (root / "train.txt").write_text("\n".join(ids) + "\n")
