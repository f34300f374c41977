"""Rotations as quaternions (w, x, y, z), matrices and 6D vectors, batched over leading dimensions.

A matrix acts on columns. The 6D form is a matrix's first two columns, one after the other (Zhou et al. 2019,
"On the Continuity of Rotation Representations in Neural Networks").
"""
import torch
from torch import Tensor
from torch.nn.functional import normalize

_NEAR = 1e-4  # radians between quaternions below which linear interpolation is exact enough
_OPPOSITE = 1e-12  # squared length of the unnormalised quaternion between opposite unit vectors


def quat_multiply(a: Tensor, b: Tensor) -> Tensor:
    """Hamilton product (..., 4): first ``b``, then ``a``."""
    aw, ax, ay, az = a.unbind(-1)
    bw, bx, by, bz = b.unbind(-1)
    return torch.stack((aw * bw - ax * bx - ay * by - az * bz,
                        aw * bx + ax * bw + ay * bz - az * by,
                        aw * by - ax * bz + ay * bw + az * bx,
                        aw * bz + ax * by - ay * bx + az * bw), -1)


def quat_conjugate(q: Tensor) -> Tensor:
    """The inverse of a unit quaternion (..., 4)."""
    return torch.cat((q[..., :1], -q[..., 1:]), -1)


def quat_rotate(q: Tensor, v: Tensor) -> Tensor:
    """Rotate vectors (..., 3) by unit quaternions (..., 4); leading dimensions broadcast."""
    u = q[..., 1:]
    once = _cross(u, v)
    return v + 2 * (q[..., :1] * once + _cross(u, once))


def quat_between(a: Tensor, b: Tensor) -> Tensor:
    """Shortest rotation (..., 4) from the direction of ``a`` (..., 3) to that of ``b`` (..., 3).

    Between opposite directions it is not unique; then it is a half turn about the axis orthogonal to ``a`` that is
    closest to y, which keeps horizontal vectors horizontal.
    """
    a, b = torch.broadcast_tensors(a, b)
    squares = (a * a).sum(-1, keepdim=True) * (b * b).sum(-1, keepdim=True)
    q = torch.cat((squares.sqrt() + (a * b).sum(-1, keepdim=True), _cross(a, b)), -1)
    opposite = (q * q).sum(-1, keepdim=True) <= _OPPOSITE * squares
    if opposite.any():
        q = torch.where(opposite, _half_turn(a), q)
    return normalize(q, dim=-1)


def quat_to_matrix(q: Tensor) -> Tensor:
    """Rotation matrices (..., 3, 3) of quaternions (..., 4) of any non-zero length."""
    w, x, y, z = q.unbind(-1)
    s = 2 / (q * q).sum(-1)
    rows = (1 - s * (y * y + z * z), s * (x * y - z * w), s * (x * z + y * w),
            s * (x * y + z * w), 1 - s * (x * x + z * z), s * (y * z - x * w),
            s * (x * z - y * w), s * (y * z + x * w), 1 - s * (x * x + y * y))
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def matrix_to_cont6d(matrix: Tensor) -> Tensor:
    """First and second column (..., 6) of rotation matrices (..., 3, 3)."""
    return matrix[..., :2].transpose(-1, -2).flatten(-2)


def quat_to_cont6d(q: Tensor) -> Tensor:
    """6D vectors (..., 6) of quaternions (..., 4)."""
    return matrix_to_cont6d(quat_to_matrix(q))


def cont6d_to_matrix(cont6d: Tensor) -> Tensor:
    """Rotation matrices (..., 3, 3) of 6D vectors (..., 6): the first column keeps its direction (Gram-Schmidt)."""
    x = normalize(cont6d[..., :3], dim=-1)
    z = normalize(_cross(x, cont6d[..., 3:]), dim=-1)
    return torch.stack((x, _cross(z, x), z), -1)


def matrix_to_quat(matrix: Tensor) -> Tensor:
    """Unit quaternions (..., 4) of rotation matrices (..., 3, 3), by the four cases of Shepperd 1978.

    The component that a case starts from is one of the large ones and is positive.
    """
    (m00, m01, m02), (m10, m11, m12), (m20, m21, m22) = (row.unbind(-1) for row in matrix.unbind(-2))
    x2, y2, z2, w2 = 1 + m00 - m11 - m22, 1 - m00 + m11 - m22, 1 - m00 - m11 + m22, 1 + m00 + m11 + m22
    wx, wy, wz = m21 - m12, m02 - m20, m10 - m01
    xy, xz, yz = m01 + m10, m02 + m20, m12 + m21
    case = torch.where(m22 < 0, torch.where(m00 > m11, 0, 1), torch.where(m00 < -m11, 2, 3))
    candidates = torch.stack((torch.stack((wx, x2, xy, xz), -1), torch.stack((wy, xy, y2, yz), -1),
                              torch.stack((wz, xz, yz, z2), -1), torch.stack((w2, wx, wy, wz), -1)), -2)
    index = case[..., None, None].expand(*case.shape, 1, 4)
    return normalize(candidates.gather(-2, index).squeeze(-2), dim=-1)


def cont6d_to_quat(cont6d: Tensor) -> Tensor:
    """Unit quaternions (..., 4) of 6D vectors (..., 6)."""
    return matrix_to_quat(cont6d_to_matrix(cont6d))


def quat_continuous(q: Tensor) -> Tensor:
    """Quaternions (T, ..., 4) with signs that avoid jumps to the negative between frames."""
    flips = torch.where((q[1:] * q[:-1]).sum(-1, keepdim=True) < 0, -1.0, 1.0)
    return torch.cat((q[:1], q[1:] * flips.cumprod(0)))


def quat_to_euler(q: Tensor, order: str = "xyz") -> Tensor:
    """Euler angles in degrees (..., 3), in the order of the axes in ``order``.

    ``order`` is a permutation of "xyz" (else ``ValueError``): "zxy" means R = Rz Rx Ry. The middle angle is in [-90,
    90].
    """
    if sorted(order) != ["x", "y", "z"]:
        raise ValueError(f"order must be a permutation of 'xyz', not {order!r}")
    i, j, k = ("xyz".index(axis) for axis in order)
    sign = 1 if (j - i) % 3 == 1 else -1
    matrix = quat_to_matrix(q)
    angles = (torch.atan2(-sign * matrix[..., j, k], matrix[..., k, k]),
              torch.asin((sign * matrix[..., i, k]).clamp(-1, 1)),
              torch.atan2(-sign * matrix[..., i, j], matrix[..., i, i]))
    return torch.stack(angles, -1).rad2deg()


def axis_angle_to_quat(turn: Tensor) -> Tensor:
    """Unit quaternions (..., 4) of rotation vectors (..., 3) in radians."""
    half = turn.norm(dim=-1, keepdim=True) / 2
    return torch.cat((half.cos(), turn / 2 * torch.sinc(half / torch.pi)), -1)


def yaw_quat(half_angle: Tensor) -> Tensor:
    """Rotations about y (..., 4) by twice ``half_angle`` (...) in radians, as features store headings."""
    zero = torch.zeros_like(half_angle)
    return torch.stack((half_angle.cos(), zero, half_angle.sin(), zero), -1)


def lerp(a: Tensor, b: Tensor, weight: float | Tensor) -> Tensor:
    """Linear interpolation: ``a`` at weight 0, ``b`` at weight 1."""
    return a + weight * (b - a)


def slerp(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """Spherical interpolation of unit quaternions (..., 4) along the shorter arc: ``a`` at weight 0, ``b`` at 1
    (Shoemake 1985)."""
    cosine = (a * b).sum(-1, keepdim=True)
    b, cosine = torch.where(cosine < 0, -b, b), cosine.abs().clamp(max=1)
    angle = cosine.acos()
    near = angle < _NEAR
    sine = torch.where(near, 1.0, angle.sin())
    from_a = torch.where(near, 1 - weight, ((1 - weight) * angle).sin() / sine)
    from_b = torch.where(near, weight.expand_as(angle), (weight * angle).sin() / sine)
    return normalize(from_a * a + from_b * b, dim=-1)


def _cross(a: Tensor, b: Tensor) -> Tensor:
    a, b = torch.broadcast_tensors(a, b)
    return torch.linalg.cross(a, b)


def _half_turn(a: Tensor) -> Tensor:
    """Half turn (..., 4) about the axis orthogonal to ``a`` closest to y, or to x if ``a`` is vertical."""
    a = normalize(a, dim=-1)
    vertical = a[..., 1:2].abs() > 0.99
    axis = torch.where(vertical, a.new_tensor((1.0, 0.0, 0.0)), a.new_tensor((0.0, 1.0, 0.0)))
    axis = axis - (axis * a).sum(-1, keepdim=True) * a
    return torch.cat((torch.zeros_like(axis[..., :1]), axis), -1)
