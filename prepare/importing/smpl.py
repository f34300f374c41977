"""Joints of SMPL bodies: rest positions from a body model, and forward kinematics of a pose.

Loper et al. 2015, "SMPL: A Skinned Multi-Person Linear Model". SMPL-H and SMPL-X share its first 22 joints, which are
those of HumanML3D in the same order. Skinning is not needed: joints depend on shape and rotations only.
"""
from dataclasses import dataclass

import numpy as np
import torch

from motion.bvh import chained
from motion.rotation import axis_angle_to_quat, quat_to_matrix
from motion.skeleton import T2M

BODY_JOINTS = len(T2M)


@dataclass(frozen=True)
class BodyModel:
    """Joint data of a body model."""

    rest: np.ndarray           # (22, 3) metres, mean body
    shapes: np.ndarray         # (22, 3, B) displacement per shape parameter
    parents: tuple[int, ...]   # -1 for the root

    @classmethod
    def of(cls, template: np.ndarray, shapes: np.ndarray, regressor: np.ndarray, parents: np.ndarray) -> "BodyModel":
        """Build from vertices (V, 3), shape directions (V, 3, B), joint regressor (J, V) and parents (J,) of a model.

        Raises ``ValueError`` if these are inconsistent.
        """
        vertices = template.shape[0] if template.ndim == 2 else 0
        fits = (template.shape == (vertices, 3) and shapes.ndim == 3 and shapes.shape[:2] == (vertices, 3)
                and regressor.ndim == 2 and regressor.shape[1] == vertices and len(regressor) >= BODY_JOINTS
                and parents.shape == (len(regressor),))
        if not fits:
            raise ValueError(f"not a body model: template {template.shape}, shapes {shapes.shape}, "
                             f"regressor {regressor.shape}, parents {parents.shape}")
        tree = (-1, *(int(parent) for parent in parents[1:BODY_JOINTS]))
        if any(not 0 <= parent < joint for joint, parent in enumerate(tree) if joint):
            raise ValueError("not a body model: a joint comes before its parent")
        rows = regressor[:BODY_JOINTS]
        return cls(rows @ template, np.einsum("jv,vkb->jkb", rows, shapes), tree)

    def joints(self, poses: np.ndarray, trans: np.ndarray, betas: np.ndarray) -> np.ndarray:
        """Joints (T, 22, 3) from axis-angle poses (T, 66 or more), root translations (T, 3) and shape parameters
        (b,)."""
        count = min(len(betas), self.shapes.shape[-1])
        rest = self.rest + self.shapes[..., :count] @ betas[:count]
        turns = torch.as_tensor(poses[:, :3 * BODY_JOINTS], dtype=torch.float64).unflatten(-1, (-1, 3))
        offsets = rest - rest[list(self.parents)]
        offsets[0] = rest[0]
        places = np.repeat(offsets[None], len(poses), 0)
        places[:, 0] += trans
        return chained(self.parents, places, quat_to_matrix(axis_angle_to_quat(turns)).numpy())[0]
