"""Rotations: comparison with SciPy, and general properties."""
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation, Slerp

from motion import rotation


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _quats(count: int = 100, seed: int = 0) -> torch.Tensor:
    return torch.nn.functional.normalize(_random(count, 4, seed=seed), dim=-1)


def _scipy(q: torch.Tensor) -> Rotation:
    return Rotation.from_quat(q.double().numpy(), scalar_first=True)


def _close(actual: torch.Tensor, expected: np.ndarray | torch.Tensor, atol: float = 1e-5) -> None:
    np.testing.assert_allclose(actual, expected, rtol=0, atol=atol)


def test_products_and_matrices_are_those_of_scipy():
    a, b, v = _quats(seed=1), _quats(seed=2), _random(100, 3)
    _close(rotation.quat_to_matrix(rotation.quat_multiply(a, b)), (_scipy(a) * _scipy(b)).as_matrix())
    _close(rotation.quat_to_matrix(rotation.quat_conjugate(a)), _scipy(a).inv().as_matrix())
    _close(rotation.quat_rotate(a, v), _scipy(a).apply(v.numpy()))


@pytest.mark.parametrize("direction", [(0, 0, 1), (1, 0, 0), (0, 1, 0), (0, -1, 0), (0.6, 0, 0.8), (0.6, 0.8, 0)])
def test_between_opposite_directions_is_a_half_turn(direction: tuple[float, ...]):
    a = torch.tensor(direction, dtype=torch.float32)
    q = rotation.quat_between(a, -a)
    _close(q.norm(), torch.tensor(1.0))
    _close(rotation.quat_rotate(q, a), -a)
    if a[1] == 0:
        _close(q.abs(), torch.tensor([0.0, 0.0, 1.0, 0.0]))


def test_axis_angles_are_those_of_scipy():
    turns = np.random.default_rng(3).normal(size=(50, 3)) * np.linspace(0, 2, 50)[:, None]
    quats = rotation.axis_angle_to_quat(torch.from_numpy(turns))
    np.testing.assert_allclose(rotation.quat_to_matrix(quats), Rotation.from_rotvec(turns).as_matrix(), atol=1e-12)


def test_the_shorter_arc_is_that_of_scipy():
    a, b = (Rotation.random(20, rng=seed) for seed in (0, 1))
    weights = np.linspace(0, 1, 20)
    quats = [torch.from_numpy(turn.as_quat()[:, [3, 0, 1, 2]]) for turn in (a, b)]
    for sign in (1, -1):
        got = rotation.slerp(quats[0], sign * quats[1], torch.from_numpy(weights)[:, None])
        expected = [Slerp([0, 1], Rotation.concatenate([a[k], b[k]]))(weights[k]).as_matrix() for k in range(20)]
        np.testing.assert_allclose(rotation.quat_to_matrix(got), expected, atol=1e-9)
    still = rotation.slerp(quats[0], quats[0], torch.full((20, 1), 0.3, dtype=torch.float64))
    np.testing.assert_allclose(rotation.quat_to_matrix(still), a.as_matrix(), atol=1e-9)
