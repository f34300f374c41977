"""Read animated glTF files."""
from pathlib import Path

import numpy as np
from pygltflib import GLTF2
from scipy.spatial.transform import Rotation


def numbers(gltf: GLTF2, accessor: int) -> np.ndarray:
    """Return the rows of an accessor."""
    entry = gltf.accessors[accessor]
    view = gltf.bufferViews[entry.bufferView]
    width = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}[entry.type]
    return np.frombuffer(gltf.binary_blob(), np.float32, entry.count * width, view.byteOffset).reshape(-1, width)


def posed(path: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the times (T,) of an animation and the positions (T, 3) of all nodes, by name."""
    gltf, tracks, times = GLTF2().load_binary(str(path)), {}, np.zeros(0)
    for channel in gltf.animations[0].channels:
        sampler = gltf.animations[0].samplers[channel.sampler]
        times = numbers(gltf, sampler.input)[:, 0]
        tracks[channel.target.node, channel.target.path] = numbers(gltf, sampler.output)
    frames, places = len(times), {}

    def walk(number: int, place: np.ndarray, turn: Rotation) -> None:
        node = gltf.nodes[number]
        step = tracks.get((number, "translation"), np.tile(node.translation or [0, 0, 0], (frames, 1)))
        own = tracks.get((number, "rotation"), np.tile(node.rotation or [0, 0, 0, 1], (frames, 1)))
        places[node.name] = place + turn.apply(step)
        for child in node.children:
            walk(child, places[node.name], turn * Rotation.from_quat(own))

    for root in gltf.scenes[gltf.scene].nodes:
        walk(root, np.zeros((frames, 3)), Rotation.identity(frames))
    return times, places
