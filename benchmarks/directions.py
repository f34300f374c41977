"""Test combined upper and lower bodies, and loops, with physical checks over prompts and seeds.

    python benchmarks/directions.py [--seeds 2] [--save DIR]

Bodies: every pair of a locomotion prompt and an arm prompt must pass the checks of both. Loops: the jump in position
and velocity at the seam must be at most 1.2 times the largest step elsewhere. Exits with 1 if any test fails.
"""
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.physical_checks import CHECKS
from data.dataset import MAX_TOKENS, dataset_spec
from models.control.director import Direction, Director, Draw
from models.motion_edit import MotionEditor
from models.text_to_motion import Sample
from options.base import Parser, positive_int
from options.generate import add_models
from storage.checkpoint import model_names
from storage.generation import load_text_to_motion
from utils import script
from utils.files import save_npy
from utils.runtime import select_device

FRAMES = 120
LARGEST_GAP = 1.2
GOING = {"a person walks forward": "walks_forward", "a person walks backwards": "walks_backwards",
         "a person walks in a curve to the left": "turns_left", "a person runs": "goes_forward"}
ARMS = {"a person waves with the right hand": "waves_right_hand", "a person raises the left hand": "raises_left_hand",
        "a person raises both hands": "raises_both_hands"}
LOOPS = ("a person walks forward", "a person walks backwards", "a person runs", "a tired person walks",
         "a person walks in a curve to the left", "a person walks in a curve to the right", "a person walks slowly",
         "a person walks quickly", "a person walks proudly", "a person jogs", "a person waves with the right hand",
         "a person waves with the left hand", "a person waves with both hands", "a person raises the right hand",
         "a person raises the left hand", "a person raises both hands", "a person bows", "a person stands and talks",
         "a person dances", "a person walks to the left")


def build_parser() -> Parser:
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=positive_int, default=1, help="motions per prompt, with seeds 0, 1, ...")
    parser.add_argument("--save", type=Path, metavar="DIR", help="write the motions to this folder")
    add_models(parser, lengths=False)
    parser.add_argument("--checkpoints_dir", default="checkpoints", help="folder of your models")
    parser.add_argument("--gpu_id", type=int, help="CUDA device, or -1 for the CPU")
    return parser


def bodies(director: Director, seeds: int, save: Path | None) -> bool:
    """Print which pairs of prompts pass both checks. Returns whether all do."""
    passed, total = 0, 0
    for going, going_check in GOING.items():
        for arms, arms_check in ARMS.items():
            for seed in range(seeds):
                joints = director.make(Direction(going, _draw(director, going), _draw(director, arms)), seed).joints
                failed = [name for name in (going_check, arms_check) if not CHECKS[name](joints)]
                passed, total = passed + (not failed), total + 1
                print(f"{going} + {arms}, seed {seed}: {'not ' + ', '.join(failed) if failed else 'passed'}")
                _save(save, f"body_{total:02d}", joints)
    print(f"bodies: {passed} of {total} pass both checks")
    return passed == total


def loops(director: Director, seeds: int, save: Path | None) -> bool:
    """Print which loops close. Returns whether all do."""
    closed, total = 0, 0
    for text in LOOPS:
        for seed in range(seeds):
            made = director.make(Direction(text, _draw(director, text), loop=True), seed)
            closes = max(made.seam.position, made.seam.velocity) <= LARGEST_GAP
            closed, total = closed + closes, total + 1
            print(f"{text}, seed {seed}: {made.seam}{'' if closes else ', open'}")
            _save(save, f"loop_{total:02d}", made.joints)
    print(f"loops: {closed} of {total} close")
    return closed == total


def _draw(director: Director, text: str) -> Draw:
    return lambda seed: director.pipeline.tokens([Sample(text, seed, FRAMES)], director.sampling)[0]


def _save(folder: Path | None, name: str, joints: np.ndarray) -> None:
    if folder is not None:
        save_npy(folder / f"{name}.npy", joints)


@script
def main() -> None:
    args = build_parser().parse_args()
    spec = dataset_spec("t2m")
    pipeline, files = load_text_to_motion(args.name, None, spec, args.checkpoints_dir, select_device(args.gpu_id),
                                          args.which_epoch, args.res_name)
    print(f"models: {model_names(files)}")
    director = Director(pipeline, MotionEditor(pipeline, MAX_TOKENS), spec.fps)
    passed = [bodies(director, args.seeds, args.save), loops(director, args.seeds, args.save)]
    sys.exit(0 if all(passed) else 1)


if __name__ == "__main__":
    main()
