"""Small pictures of a motion: stick figures, and a bar of foot contacts."""
import numpy as np

from motion.foot import foot_joints, standing
from motion.skeleton import Skeleton

POSES = 5
SIZE = 100        # height of a picture and width of a pose, in SVG units
TALL = 2.0        # metres visible in it
ACROSS = np.array([0.83, 0.0, -0.56])  # direction to the right, from the camera of the page
COLOURS = {"left": "#2e74d6", "right": "#e86238", "": "#8b95a5"}


def motion_picture(joints: np.ndarray, skeleton: Skeleton) -> str:
    """SVG of ``POSES`` poses of joints (T, J, 3) in metres, evenly spaced in time."""
    frames = np.linspace(0, len(joints) - 1, POSES).round().astype(int)
    lines = []
    for slot, pose in enumerate(joints[frames]):
        x = ((pose - pose[0]) @ ACROSS / TALL + slot + 0.5) * SIZE
        y = (0.95 - pose[:, 1] / TALL) * SIZE
        for chain in skeleton.chains:
            side = skeleton.joint_names[chain[-1]].split("_")[0]
            points = " ".join(f"{x[joint]:.0f},{y[joint]:.0f}" for joint in chain)
            lines.append(f'<polyline points="{points}" stroke="{COLOURS.get(side, COLOURS[""])}"/>')
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {POSES * SIZE} {SIZE}" fill="none" stroke-width="4" '
            f'stroke-linecap="round" stroke-linejoin="round">{"".join(lines)}</svg>')


def contact_bar(joints: np.ndarray, skeleton: Skeleton, fps: float) -> dict[str, object]:
    """Seconds of joints (T, J, 3) in metres, and first and last second of each stance of either foot."""
    down = standing(joints, skeleton, fps)
    left = np.array([skeleton.joint_names[joint].startswith("left") for joint in foot_joints(skeleton)])
    return {"seconds": len(joints) / fps, "left": _runs(down[:, left].any(1), fps),
            "right": _runs(down[:, ~left].any(1), fps)}


def _runs(stands: np.ndarray, fps: float) -> list[list[float]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], stands.astype(int), [0]])))
    return (edges.reshape(-1, 2) / fps).round(3).tolist()
