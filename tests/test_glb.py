"""GLB files are valid glTF 2.0 and have the same motion as joints and BVH."""
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from pygltflib import GLTF2

from data.dataset import dataset_spec
from motion.bvh import read_bvh
from motion.bvh_fit import bvh_to_joints, joints_to_bvh, rig_of, rigid_joints
from motion.skeleton import KIT, T2M, Skeleton
from tests.gltf import numbers, posed
from tests.sample_motion import sample_motion
from tests.toy import ROOT
from visualization.glb import write_glb
from visualization.outputs import Formats, Made, write_motion

VALIDATOR = ROOT / "visualization" / "page" / "node_modules" / "gltf-validator"


def metres(skeleton: Skeleton, frames: int = 30) -> np.ndarray:
    return sample_motion(skeleton, frames) * (1.0 if skeleton is T2M else 0.001)


@pytest.mark.parametrize("published", [False, True], ids=["ours", "published"])
@pytest.mark.parametrize("name", ["t2m", "kit"])
def test_all_files_of_a_motion_say_the_same(tmp_path: Path, name: str, published: bool) -> None:
    spec = dataset_spec(name)
    moving = rigid_joints(metres(spec.skeleton), spec.skeleton)
    formats = Formats(video=False, glb=True, published_feet=published)
    motion = write_motion(tmp_path, Made(0, 0, "a person", moving), spec, formats)
    for paths in (motion.plain_files, motion.locked_files):
        files = {Path(path).suffix: tmp_path / path for path in paths}
        assert sorted(files) == [".bvh", ".glb", ".npy"]
        joints, bvh = np.load(files[".npy"]), read_bvh(files[".bvh"])
        (times, places), rig = posed(files[".glb"]), rig_of(spec.skeleton)
        glb = np.stack([places[rig.names[rig.order.index(joint)]] for joint in range(len(spec.skeleton))], 1)
        assert np.abs(bvh_to_joints(bvh, spec.skeleton) - joints).max() < 1e-3
        assert np.abs(glb - joints).max() < 1e-3
        assert times == pytest.approx(np.arange(len(joints)) / spec.fps, abs=1e-5)


def test_no_turn_takes_the_long_way_round(tmp_path: Path) -> None:
    moving = sample_motion(T2M, 60, turn=14.0)
    write_glb(tmp_path / "a.glb", joints_to_bvh(moving, T2M, 20), T2M)
    gltf = GLTF2().load(str(tmp_path / "a.glb"))
    turns = [numbers(gltf, sampler.output) for sampler in gltf.animations[0].samplers[1:]]
    assert all((turn[1:] * turn[:-1]).sum(-1).min() > 0 for turn in turns)


@pytest.mark.skipif(not (shutil.which("node") and VALIDATOR.is_dir()),
                    reason="Khronos' validator is not there: npm ci --prefix visualization/page")
@pytest.mark.parametrize("skeleton", [T2M, KIT], ids=["t2m", "kit"])
def test_it_is_valid_gltf(tmp_path: Path, skeleton: Skeleton) -> None:
    write_glb(tmp_path / "a.glb", joints_to_bvh(metres(skeleton), skeleton, 20), skeleton)
    ask = ("require(process.argv[1]).validateBytes(new Uint8Array(require('fs').readFileSync(process.argv[2])))"
           ".then(report => console.log(JSON.stringify(report.issues)))")
    told = subprocess.run(["node", "-e", ask, str(VALIDATOR), str(tmp_path / "a.glb")], capture_output=True, text=True,
                          check=True, timeout=60)
    issues = json.loads(told.stdout)
    assert issues["messages"] == []
    assert issues["numErrors"] == 0
