"""Joints of a motion as a differentiable function of its latents: decoder, features, places, bones of fixed length."""
import torch
from torch import Tensor
from torch.nn.functional import normalize

from models.text_to_motion import TextToMotion
from motion.features import features_to_joints
from motion.skeleton import Skeleton

CYCLE_TOKENS = 8  # of a loop that the decoder sees beyond either end, as far as its convolutions reach


class Bones:
    """Lengths (J,) of a body's bones, and bodies of these lengths."""

    def __init__(self, joints: Tensor, skeleton: Skeleton) -> None:
        """The median lengths in ``joints`` (T, J, 3)."""
        self.parents = list(skeleton.parents)
        self.lengths = self.vectors(joints).norm(dim=-1).median(0).values[..., None]
        # Which bones (columns) lead from the root to each joint (rows).
        paths = torch.zeros(len(skeleton), len(skeleton), device=joints.device, dtype=joints.dtype)
        for chain in skeleton.chains:
            for parent, joint in zip(chain, chain[1:], strict=False):
                paths[joint] = paths[parent]
                paths[joint, joint] = 1
        self.paths = paths

    def vectors(self, joints: Tensor) -> Tensor:
        """Bones (..., J, 3) from each joint's parent to it; zero for the root."""
        bones = joints - joints[..., self.parents, :]
        return torch.cat([torch.zeros_like(bones[..., :1, :]), bones[..., 1:, :]], -2)

    def fitted(self, joints: Tensor) -> Tensor:
        """Joints (..., J, 3) with the same root and directions of bones, and the lengths of the body."""
        return joints[..., :1, :] + self.paths @ (normalize(self.vectors(joints), dim=-1) * self.lengths)

    def drift(self, joints: Tensor) -> Tensor:
        """Mean difference () of the bones of ``joints`` (..., J, 3) from the body's lengths, as a share of them."""
        used = self.lengths[:, 0] > 0
        lengths = self.vectors(joints).norm(dim=-1)[..., used]
        return (lengths / self.lengths[used, 0] - 1).abs().mean()


class Decoding:
    """Decodes latents (1, dim, n) around a starting point.

    Args:
        tokens: ids (n, q) or (n,) of the motion to start from.
        source: features (T, d) that the tokens stand for, in their own units. Then only differences from the decoded
            start are applied to them, so that what no constraint concerns stays as it is in the source.
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
            self.first = fitted + self.shift  # (T, J, 3) where the optimisation starts

    def features(self, latents: Tensor) -> Tensor:
        """Features (T, d) in their own units."""
        decoded = self._decoded(latents)
        return decoded if self.offset is None else decoded + self.offset

    def joints(self, features: Tensor) -> Tensor:
        """Joints (T, J, 3) in metres of features (T, d), on bones of constant length."""
        return self.bones.fitted(self.places(features)) + self.shift

    def places(self, features: Tensor) -> Tensor:
        """Joints (T, J, 3) in metres as the features have them, whatever their bones."""
        return self.pipeline.metres * features_to_joints(features, self.skeleton)

    def _decoded(self, latents: Tensor) -> Tensor:
        extra, unit = CYCLE_TOKENS if self.cyclic else 0, self.pipeline.unit
        if self.cyclic:
            count = latents.shape[-1]
            around = torch.arange(-extra, count + extra, device=latents.device) % count
            latents = latents[..., around]
        decoded = self.pipeline.tokenizer.decode_latents(latents)[0]
        return self.pipeline.denormalise(decoded[unit * extra:len(decoded) - unit * extra])
