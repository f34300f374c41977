"""Joints as a differentiable function of latents: decoder, features, positions, bones of fixed length."""
import torch
from torch import Tensor
from torch.nn.functional import normalize

from models.text_to_motion import TextToMotion
from motion.features import features_to_joints
from motion.foot import floor_height
from motion.skeleton import Skeleton

CYCLE_TOKENS = 8  # tokens of a loop repeated beyond either end, the reach of the decoder's convolutions


class Bones:
    """Bone lengths (J,) of a body."""

    def __init__(self, joints: Tensor, skeleton: Skeleton) -> None:
        """Take the median lengths in ``joints`` (T, J, 3)."""
        self.parents = list(skeleton.parents)
        self.lengths = self.vectors(joints).norm(dim=-1).median(0).values[..., None]
        # Bones (columns) on the way from the root to each joint (rows).
        paths = torch.zeros(len(skeleton), len(skeleton), device=joints.device, dtype=joints.dtype)
        for chain in skeleton.chains:
            for parent, joint in zip(chain, chain[1:], strict=False):
                paths[joint] = paths[parent]
                paths[joint, joint] = 1
        self.paths = paths

    def vectors(self, joints: Tensor) -> Tensor:
        """Vectors (..., J, 3) from each joint's parent to the joint; zero for the root."""
        bones = joints - joints[..., self.parents, :]
        return torch.cat([torch.zeros_like(bones[..., :1, :]), bones[..., 1:, :]], -2)

    def fitted(self, joints: Tensor) -> Tensor:
        """Joints (..., J, 3) with the same root and bone directions, and the bone lengths of the body."""
        return joints[..., :1, :] + self.paths @ (normalize(self.vectors(joints), dim=-1) * self.lengths)

    def drift(self, joints: Tensor) -> Tensor:
        """Mean relative deviation () of the bone lengths of ``joints`` (..., J, 3)."""
        used = self.lengths[:, 0] > 0
        lengths = self.vectors(joints).norm(dim=-1)[..., used]
        return (lengths / self.lengths[used, 0] - 1).abs().mean()


class Decoding:
    """Decodes latents (1, dim, n) around a starting point.

    Args:
        tokens: ids (n, q) or (n,) of the motion to start from.
        source: unnormalised features (T, d) of the motion that the tokens encode. The difference from the decoded
            start is added to them, so that unconstrained parts stay as in the source.
        cyclic: the motion is a loop, whose first frame follows its last one.
    """

    def __init__(self, pipeline: TextToMotion, tokens: Tensor, source: Tensor | None = None,
                 cyclic: bool = False) -> None:
        self.pipeline, self.skeleton, self.cyclic = pipeline, pipeline.skeleton, cyclic
        with torch.no_grad():
            self.start = pipeline.tokenizer.latents(tokens.view(1, len(tokens), -1)).detach().float()
            decoded = self._decoded(self.start)
            self.offset = None if source is None else source.to(decoded) - decoded
            places = self.places(self.features(self.start))
            self.bones = Bones(places, self.skeleton)
            fitted = self.bones.fitted(places)
            self.shift = torch.zeros_like(places) if source is None else places - fitted
            self.floor = floor_height(fitted.cpu().numpy(), self.skeleton)
            self.first = fitted + self.shift  # (T, J, 3) at the start of the optimisation

    def features(self, latents: Tensor) -> Tensor:
        """Unnormalised features (T, d)."""
        decoded = self._decoded(latents)
        return decoded if self.offset is None else decoded + self.offset

    def joints(self, features: Tensor) -> Tensor:
        """Joints (T, J, 3) in metres of features (T, d), with constant bone lengths."""
        return self.bones.fitted(self.places(features)) + self.shift

    def places(self, features: Tensor) -> Tensor:
        """Joints (T, J, 3) in metres of features (T, d), with any bone lengths."""
        return self.pipeline.metres * features_to_joints(features, self.skeleton)

    def _decoded(self, latents: Tensor) -> Tensor:
        extra, unit = CYCLE_TOKENS if self.cyclic else 0, self.pipeline.unit
        if self.cyclic:
            count = latents.shape[-1]
            around = torch.arange(-extra, count + extra, device=latents.device) % count
            latents = latents[..., around]
        decoded = self.pipeline.tokenizer.decode_latents(latents)[0]
        return self.pipeline.denormalise(decoded[unit * extra:len(decoded) - unit * extra])
