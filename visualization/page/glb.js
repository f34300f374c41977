// glTF binaries: read their parts, write them with an animation, and write motions for VRM characters.
"use strict";

const JSON_CHUNK = 0x4e4f534a, BINARY_CHUNK = 0x004e4942;

/** JSON and binary part of a .glb file. */
function readGlb(bytes, name) {
  const view = new DataView(bytes), chunks = {};
  if (bytes.byteLength < 20 || view.getUint32(0, true) !== 0x46546c67 || view.getUint32(4, true) !== 2) {
    throw new Error(`${name} is not a glTF binary (.glb, .vrm)`);
  }
  for (let at = 12; at + 8 <= bytes.byteLength;) {
    const length = view.getUint32(at, true);
    if (at + 8 + length > bytes.byteLength) throw new Error(`${name} is cut off`);
    chunks[view.getUint32(at + 4, true)] ??= bytes.slice(at + 8, at + 8 + length);
    at += 8 + length;
  }
  if (!chunks[JSON_CHUNK]) throw new Error(`${name} has no scene`);
  try {
    return { bytes, json: JSON.parse(new TextDecoder().decode(chunks[JSON_CHUNK])), binary: chunks[BINARY_CHUNK] ?? new ArrayBuffer(0) };
  } catch {
    throw new Error(`${name} is damaged: its scene is not JSON`);
  }
}

/** A .glb file of a scene and an animation: tracks are [node, "translation" or "rotation", values of all frames]. */
function writeGlb(json, binary, name, { frames, fps }, tracks) {
  const parts = [], views = json.bufferViews ??= [], accessors = json.accessors ??= [];
  let length = binary.byteLength;
  const add = (values, type, limits = {}) => {
    const pad = -length & 3, data = new Float32Array(values);
    if (pad) parts.push(new Uint8Array(pad));
    views.push({ buffer: 0, byteOffset: length + pad, byteLength: data.byteLength });
    accessors.push({ bufferView: views.length - 1, componentType: 5126, count: frames, type, ...limits });
    parts.push(data);
    length += pad + data.byteLength;
    return accessors.length - 1;
  };
  const times = Array.from({ length: frames }, (_, frame) => Math.fround(frame / fps));
  const input = add(times, "SCALAR", { min: [times[0]], max: [times[frames - 1]] });
  json.animations = [{ name,
    samplers: tracks.map(([, path, values]) => ({ input, output: add(values, path === "rotation" ? "VEC4" : "VEC3") })),
    channels: tracks.map(([node, path], sampler) => ({ sampler, target: { node, path } })) }];
  json.buffers = [{ byteLength: length }, ...(json.buffers ?? []).slice(1)];
  const text = new TextEncoder().encode(JSON.stringify(json)), gap = -text.length & 3, rest = -length & 3;
  const head = (size, type) => new Uint32Array([size, type]);
  return new Blob([new Uint32Array([0x46546c67, 2, 28 + text.length + gap + length + rest]), head(text.length + gap, JSON_CHUNK),
    text, new Uint8Array(gap).fill(32), head(length + rest, BINARY_CHUNK), binary, ...parts, new Uint8Array(rest)],
  { type: "model/gltf-binary" });
}

/** VRM animation (.vrma) of a track: rotations of humanoid bones from a T-pose that faces +z. */
function vrmaFile(track, body, name) {
  const offsets = Posture.offsets(track, body.rest), stance = Posture.stances(track);
  const file = Posture.file(body.joints, offsets, stance), drops = stance.map(([drop]) => drop);
  const pose = Posture.chained(offsets), still = { pelvis: turn.back(Posture.pelvis(pose)), chest: turn.back(Posture.chest(pose)) };
  // The T-pose of VRM: arms to the sides, legs straight down, feet ahead.
  const rest = offsets.map((offset, joint) => {
    const size = vec.length(offset), side = joint % 2 ? 1 : -1;
    if (joint === 15) return vec.scale(vec.unit(vec.sub(body.joints[15], body.joints[12])), size);
    if ([18, 20].includes(joint)) return [size, 0, 0];
    if ([19, 21].includes(joint)) return [-size, 0, 0];
    if ([4, 5, 7, 8].includes(joint)) return [0, -size, 0];
    if (joint === 10 || joint === 11) return [0, -drops[joint - 10], Math.sqrt(Math.max(size ** 2 - drops[joint - 10] ** 2, 0)) || size];
    return [13, 14].includes(joint) ? offset : joint === 16 || joint === 17 ? vec.scale([16 === joint ? 1 : -1, 0, 0], size) : offset;
  });
  const neutral = Posture.file(Posture.chained(rest), offsets, stance);
  const height = Math.max(...[10, 11].map((toe) => stance[toe - 10][1] - Posture.chained(rest)[toe][1]));
  const local = PARENTS.map(() => []), path = [], point = new THREE.Vector3();
  for (let frame = 0; frame < track.frames; frame++) {
    const at = PARENTS.map((_, joint) => track.place(joint, frame, point).toArray());
    const turns = Posture.world(at, offsets, still, file, stance).map((each, joint) => turn.times(each, turn.back(neutral[joint])));
    PARENTS.forEach((parent, joint) => {
      const turned = quaternion(parent < 0 ? turns[joint] : turn.times(turn.back(turns[parent]), turns[joint])).toArray();
      const sign = turned.reduce((sum, value, i) => sum + value * (local[joint].at(i - 4) ?? 0), 0) < 0 ? -1 : 1;
      local[joint].push(...turned.map((value) => sign * value));
    });
    path.push(...at[0]);
  }
  const nodes = PARENTS.map((_, joint) => ({ name: VRM_BONES[joint], translation: joint ? rest[joint] : [0, height, 0],
    children: PARENTS.flatMap((parent, child) => (parent === joint ? [child] : [])) }));
  for (const node of nodes) if (!node.children.length) delete node.children;
  const json = { asset: { version: "2.0", generator: "lamp-motion" }, scene: 0, scenes: [{ nodes: [0] }], nodes,
    extensionsUsed: ["VRMC_vrm_animation"], extensions: { VRMC_vrm_animation: { specVersion: "1.0", humanoid: {
      humanBones: Object.fromEntries(Object.entries(VRM_BONES).map(([joint, bone]) => [bone, { node: Number(joint) }])) } } } };
  return writeGlb(json, new ArrayBuffer(0), name, track,
    [[0, "translation", path], ...local.map((values, joint) => [joint, "rotation", values])]);
}
