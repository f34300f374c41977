"""Time an evaluation apart from generation: embedding motions and captions, and computing the metrics.

    python benchmarks/bench_evaluate.py --sizes published --clips 512
"""
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import utils  # noqa: F401 (sets the thread policy before torch is loaded)

# isort: split
import torch

from benchmarks.measure import benchmark_parser, run_benchmark
from benchmarks.networks import CHECKPOINTS, SPEC
from data.specs import MAX_MOTION_LENGTH
from data.text_motion import Pair
from evaluation.protocol import Evaluation, Plan
from models.evaluator import Evaluator, EvaluatorConfig
from options.base import bounded
from storage.load_evaluator import BUNDLED, Embedder, load_evaluator
from utils.device import select_device
from utils.errors import script

SHORTEST = 40
CAPTION = ("a/DET", "person/NOUN", "walk/VERB", "forward/ADV", "and/OTHER", "turn/VERB", "around/ADV")


def make_embedder(sizes: str, device: torch.device) -> Embedder:
    """The bundled evaluator, or one of published size with random weights; both use the bundled word vectors."""
    bundled = load_evaluator(BUNDLED, SPEC, CHECKPOINTS, device)
    if sizes == "bundled":
        return bundled
    torch.manual_seed(0)
    config = EvaluatorConfig(dim_pose=SPEC.dim_pose, dim_word=bundled.model.config.dim_word)
    return Embedder(Evaluator(config).to(device).eval(), bundled.normalisation, bundled.words)


def make_pairs(count: int) -> list[Pair]:
    """Noise clips of all lengths, each with one caption."""
    draw = np.random.default_rng(0)
    return [Pair(str(number), draw.normal(size=(length, SPEC.dim_pose)).astype(np.float32), (" ".join(CAPTION),),
                 tokens=(CAPTION,))
            for number, length in enumerate(draw.integers(SHORTEST, MAX_MOTION_LENGTH + 1, size=count).tolist())]


@script
def main() -> None:
    parser = benchmark_parser(__doc__.splitlines()[0])
    parser.add_argument("--clips", type=bounded(int, 32), default=256, help="clips to evaluate on")
    args = parser.parse_args()
    embedder = make_embedder(args.sizes, select_device(args.gpu_id))
    pairs = make_pairs(args.clips)
    motions, captions = [pair.features for pair in pairs], [pair.tokens[0] for pair in pairs]
    evaluation = Evaluation(pairs, embedder, SPEC, Plan(repeats=1, modality_texts=0))
    run_benchmark("evaluate", {
        f"embed {args.clips} motions": lambda: embedder.motions(motions),
        f"embed {args.clips} captions": lambda: embedder.texts(captions),
        f"a repeat over {args.clips} motions": lambda: evaluation.fixed(motions),
    }, args)


if __name__ == "__main__":
    main()
