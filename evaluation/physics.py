"""Physical faults of motions given as features, in units that people read."""
from collections.abc import Sequence

import numpy as np
import torch

from data.specs import DatasetSpec
from motion.features import features_to_joints
from motion.quality import bone_length_drift, floor_penetration, foot_skating, roughness

UNITS = {"skating": "m/s of feet on the floor", "penetration": "mm of the lowest joint under the floor",
         "jerk": "m/s^3, mean of all joints", "bone_drift": "per cent of a bone's length"}


def physical_faults(motion: np.ndarray, spec: DatasetSpec) -> dict[str, float]:
    """The numbers of ``UNITS`` for features (T, d) in the data set's unit, through the joint positions in them."""
    joints = spec.metres * features_to_joints(torch.from_numpy(motion), spec.skeleton).double().numpy()
    return {"skating": foot_skating(joints, spec.skeleton, spec.fps), "penetration": 1000 * floor_penetration(joints),
            "jerk": roughness(joints) * spec.fps**3, "bone_drift": 100 * bone_length_drift(joints, spec.skeleton)}


def mean_faults(motions: Sequence[np.ndarray], spec: DatasetSpec) -> dict[str, float]:
    """Means over motions; NaN where there is none."""
    found = [physical_faults(motion, spec) for motion in motions]
    return {key: float(np.mean([one[key] for one in found])) if found else float("nan") for key in UNITS}
