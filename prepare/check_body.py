"""Check body orientation over whole recordings, as a single clip may show only a moment."""
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from motion.orientation import Sides, find_sides, lies_throughout
from motion.rotation import fixed_bones
from motion.skeleton import Skeleton

LYING, SWAPPED, FIXED = "lies throughout", "sides swapped", "bones do not turn"


@dataclass(frozen=True)
class BodyCheck:
    """Orientation of the body of one clip."""

    sides: Sides
    lies: bool
    fixed: tuple[str, ...]  # joints whose bones keep world directions while the body turns

    @classmethod
    def of(cls, joints: np.ndarray, skeleton: Skeleton) -> "BodyCheck":
        """Check joints (T, J, 3)."""
        fixed = fixed_bones(torch.from_numpy(joints), skeleton)
        return cls(find_sides(joints, skeleton), lies_throughout(joints, skeleton),
                   tuple(skeleton.joint_names[joint] for joint in fixed))


def body_faults(bodies: Mapping[str, BodyCheck], files: Mapping[str, str]) -> Iterable[tuple[str, str, str]]:
    """Clip, kind and detail of each fault; ``files`` maps clips to recordings, other clips are a recording each."""
    recordings = defaultdict(list)
    for clip in bodies:
        is_twin = clip.startswith("M") and clip[1:] in bodies
        recordings[is_twin, files.get(clip[is_twin:], clip)].append(clip)
    for clips in recordings.values():
        sides = sum((bodies[clip].sides for clip in clips[1:]), start=bodies[clips[0]].sides)
        lies = all(bodies[clip].lies for clip in clips)
        for clip in clips:
            if sides.fault:
                yield clip, SWAPPED, ""
            if lies:
                yield clip, LYING, ""
            if bodies[clip].fixed:
                yield clip, FIXED, ", ".join(bodies[clip].fixed)
