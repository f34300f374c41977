// The visitor's character: a glTF file with humanoid bones. It is animated by the motion and can be saved with it.
"use strict";

// For each joint, the names of its bone in Mixamo, VRM and Unreal, without prefixes, spaces, dots and underscores.
const HUMAN = [
  [0, "hips", "hips", "pelvis"], [3, "spine", "spine", "spine01"], [6, "spine1", "chest", "spine02"],
  [9, "spine2", "upperchest", "spine03"], [12, "neck", "neck", "neck01"], [15, "head", "head", "head"],
  ...["left", "right"].flatMap((side, i) => [
    [13 + i, `${side}shoulder`, `${side}shoulder`, `clavicle${side[0]}`], [16 + i, `${side}arm`, `${side}upperarm`, `upperarm${side[0]}`],
    [18 + i, `${side}forearm`, `${side}lowerarm`, `lowerarm${side[0]}`], [20 + i, `${side}hand`, `${side}hand`, `hand${side[0]}`],
    [1 + i, `${side}upleg`, `${side}upperleg`, `thigh${side[0]}`], [4 + i, `${side}leg`, `${side}lowerleg`, `calf${side[0]}`],
    [7 + i, `${side}foot`, `${side}foot`, `foot${side[0]}`], [10 + i, `${side}toebase`, `${side}toes`, `ball${side[0]}`]])];
const NEEDED = [0, 3, 15, 16, 17, 18, 19, 20, 21, 1, 2, 4, 5, 7, 8];
const VRM_BONES = { 0: "hips", 3: "spine", 6: "chest", 9: "upperChest", 12: "neck", 15: "head",
  ...Object.fromEntries(["left", "right"].flatMap((side, i) => [[13 + i, `${side}Shoulder`], [16 + i, `${side}UpperArm`],
    [18 + i, `${side}LowerArm`], [20 + i, `${side}Hand`], [1 + i, `${side}UpperLeg`], [4 + i, `${side}LowerLeg`],
    [7 + i, `${side}Foot`], [10 + i, `${side}Toes`]])) };

class Character {
  /** Read a file. Throws an error with a one-line message if it cannot be animated. */
  static async read(file, body) {
    const glb = readGlb(await file.arrayBuffer(), file.name), { json } = glb;
    const foreign = (json.extensionsRequired ?? []).filter((name) => /draco|meshopt|basisu/i.test(name));
    if (foreign.length) throw new Error(`${file.name} is compressed (${foreign.join(", ")}); export it without compression`);
    const nodes = humanoid(json), missing = NEEDED.filter((joint) => !(joint in nodes)).map((joint) => VRM_BONES[joint]);
    if (missing.length) {
      throw new Error(`${file.name} has no ${missing.slice(0, 4).join(", ")}${missing.length > 4 ? ", …" : ""}: `
        + "a character needs the bones of Mixamo, VRM or Unreal");
    }
    const gltf = await new THREE.GLTFLoader().parseAsync(glb.bytes, "");
    const bones = await Promise.all(json.nodes.map((_, i) => gltf.parser.getDependency("node", i)));
    return new Character(gltf, glb, file.name, nodes, bones, body);
  }

  constructor({ scene }, glb, name, nodes, bones, body) {
    Object.assign(this, { glb, name, nodes, bones, body });
    this.group = new THREE.Group().add(scene);
    this.numbers = new Map(bones.map((bone, i) => [bone, i]));
    this.joints = new Map(Object.entries(nodes).map(([joint, node]) => [node, Number(joint)]));
    this.point = new THREE.Vector3();
    this.meshes = [];
    scene.traverse((part) => {
      part.visible &&= !part.isLight;
      if (!part.isMesh) return;
      part.visible = this.carries(part);  // hides a floor or other scenery
      if (part.visible) this.meshes.push(part);
      part.castShadow = true;
      part.frustumCulled = false;
      part.material = Array.isArray(part.material) ? part.material.map(matt) : matt(part.material);
    });
    if (!isVrm(glb.json)) this.bind();  // the nodes of a VRM are in a T-pose
    scene.updateMatrixWorld(true);
    this.rest();
  }

  /** Whether the bones move a mesh. */
  carries(mesh) {
    const mapped = (object) => this.joints.has(this.numbers.get(object));
    if (mesh.isSkinnedMesh) return mesh.skeleton.bones.some(mapped);
    for (let object = mesh; object; object = object.parent) if (mapped(object)) return true;
    return false;
  }

  /** Put bones into their bind pose relative to their parents, as a file may have been saved in the middle of a motion. */
  bind() {
    const done = new Set(), local = new THREE.Matrix4(), scale = new THREE.Vector3();
    for (const { skeleton } of this.meshes.filter((mesh) => mesh.isSkinnedMesh)) {
      skeleton.bones.forEach((bone, i) => {
        const parent = skeleton.bones.indexOf(bone.parent);
        if (parent < 0 || done.has(bone)) return;
        done.add(bone);
        local.copy(skeleton.boneInverses[i]).invert().premultiply(skeleton.boneInverses[parent]);
        local.decompose(bone.position, bone.quaternion, scale);
      });
    }
  }

  /** Rest pose: positions and rotations of the bones, and their difference from the bind pose of the body. */
  rest() {
    const { body, nodes, bones } = this;
    const at = {}, turned = new THREE.Quaternion();
    this.still = bones.map((bone) => ({ position: bone.position.clone(), rotation: bone.quaternion.clone() }));
    this.world = {};
    for (const [joint, node] of Object.entries(nodes)) {
      at[joint] = bones[node].getWorldPosition(this.point).toArray();
      this.world[joint] = bones[node].getWorldQuaternion(turned).clone();
    }
    // Facing direction, from the horizontal line between the hips.
    const across = vec.sub(at[1], at[2]), facing = turn.frame([across[0], 0, across[2]], [0, 1, 0]);
    const from = body.joints, differences = {};
    for (const [joint, parent] of PARENTS.entries()) {
      let turned_ = parent < 0 || [0, 3, 6, 9, 12, 15].includes(joint) ? facing : differences[parent];
      const child = CHILD[joint];
      if (joint in TOES) {  // feet are flat on the floor at rest
        const toe = at[TOES[joint]], ahead = toe ? vec.sub(toe, at[joint]) : turn.apply(facing, [0, 0, 1]);
        const own = vec.sub(from[TOES[joint]], from[joint]);
        turned_ = turn.times(turn.swing(turn.apply(facing, [own[0], 0, own[2]]), [ahead[0], 0, ahead[2]]), facing);
      } else if (joint !== 12 && child && at[child] && at[joint]) {
        const own = turn.apply(turned_, vec.sub(from[child], from[joint]));
        turned_ = turn.times(turn.swing(own, vec.sub(at[child], at[joint])), turned_);
      }
      differences[joint] = turned_;
    }
    this.differences = differences;
    this.facing = facing;
    this.at = at;
    const length = (joints) => joints.slice(1).reduce((sum, joint, i) => sum + vec.length(vec.sub(at[joint], at[joints[i]])), 0);
    this.leg = (length([1, 4, 7]) + length([2, 5, 8])) / 2;
    const box = new THREE.Box3();
    for (const mesh of this.meshes) box.expandByObject(mesh);
    this.low = box.min.y;
    this.soles = Object.entries(TOES).flatMap(([ankle, toe]) => this.sole(Number(ankle), toe));
  }

  /** Tip and heel of a foot on the floor: each as a node and a point in its coordinates. */
  sole(ankle, toe) {
    const { at, nodes, bones } = this, front = toe in nodes ? toe : ankle;
    const step = toe in nodes ? vec.sub(at[toe], at[ankle]) : vec.scale(turn.apply(this.facing, [0, 0, 1]), 0.18 * this.leg);
    return [[front, front === toe ? 0.4 : 1.4], [ankle, -0.35]].map(([joint, share]) => {
      const [x, , z] = vec.add(at[joint], step, share);
      return { node: nodes[joint], point: bones[nodes[joint]].worldToLocal(new THREE.Vector3(x, this.low, z)) };
    });
  }

  colour() {}  // a character keeps its own colours

  fit(track) {
    const { body, at } = this, offsets = Posture.offsets(track, body.rest), stance = Posture.stances(track);
    const pose = Posture.chained(offsets), size = (joint) => vec.length(offsets[joint]);
    Object.assign(this, { offsets, stance });
    this.file = Posture.file(body.joints, offsets, stance);
    this.standing = { pelvis: turn.back(Posture.pelvis(pose)), chest: turn.back(Posture.chest(pose)) };
    this.scale = this.leg / ((size(4) + size(5) + size(7) + size(8)) / 2);
    const ankle = (at[7][1] + at[8][1]) / 2 - this.low;
    this.rise = ankle - this.scale * (stance[0][0] + stance[0][1] + stance[1][0] + stance[1][1]) / 2;
  }

  /** World rotations of the bones, keyed by joint, and the position of the hips. */
  take(track, moment) {
    const joints = PARENTS.map((_, joint) => track.place(joint, moment, this.point).toArray());
    const turns = Posture.world(joints, this.offsets, this.standing, this.file, this.stance), rotations = {};
    for (const joint of Object.keys(this.nodes)) {
      const highest = [9, 6, 3].find((other) => other in this.nodes);  // the highest spine bone rotates with the chest
      const source = Number(joint) === highest ? 9 : Number(joint);
      const moved = turn.times(turn.times(turns[source], turn.back(this.file[source])), turn.back(this.differences[joint]));
      rotations[joint] = quaternion(moved).multiply(this.world[joint]);
    }
    const hips = vec.scale(vec.add(joints[1], joints[2]), 0.5), own = vec.scale(vec.add(this.at[1], this.at[2]), 0.5);
    const arm = turn.apply(turn.times(turns[0], turn.back(this.facing)), vec.sub(this.at[0], own));
    const place = vec.add(vec.scale(hips, this.scale), arm);
    return { rotations, place: [place[0], place[1] + this.rise, place[2]] };
  }

  pose(track, moment) {
    const { rotations, place } = this.take(track, moment), start = this.group.position.clone();
    this.group.position.set(0, 0, 0);
    this.group.updateMatrixWorld(true);
    this.settle(this.group.children[0], rotations, place);
    const sunk = this.sunk(track, moment);
    if (sunk > 0) this.settle(this.group.children[0], rotations, [place[0], place[1] + sunk, place[2]]);
    this.group.position.copy(start);
  }

  /** Depth of the soles below the floor or, if the toes of the motion are below the floor, below these toes. */
  sunk(track, moment) {
    const floor = Math.min(0, ...[10, 11].map((toe) => track.place(toe, moment, this.point).y)) * this.scale;
    return floor - Math.min(...this.soles.map(({ node, point }) => this.bones[node].localToWorld(this.point.copy(point)).y));
  }

  /** Set local rotations from the root to the leaves. */
  settle(bone, rotations, place) {
    const number = this.numbers.get(bone), joint = this.joints.get(number);
    if (number !== undefined) {
      bone.position.copy(this.still[number].position);
      bone.quaternion.copy(this.still[number].rotation);
    }
    if (joint !== undefined) {
      if (joint === 0) bone.position.copy(bone.parent.worldToLocal(this.point.set(...place)));
      bone.quaternion.copy(bone.parent.getWorldQuaternion(new THREE.Quaternion()).invert().multiply(rotations[joint]));
    }
    bone.updateMatrix();
    bone.matrixWorld.multiplyMatrices(bone.parent.matrixWorld, bone.matrix);
    for (const child of bone.children) this.settle(child, rotations, place);
  }

  /** Add the motion of a track as an animation to the file of the character. */
  animated(track, name) {
    const values = new Map(Object.values(this.nodes).map((node) => [node, []])), path = [];
    this.fit(track);
    for (let frame = 0; frame < track.frames; frame++) {
      this.pose(track, frame);
      for (const [node, rows] of values) {
        const turned = this.bones[node].quaternion, last = rows.slice(-4);
        const sign = last.length && last.reduce((sum, value, i) => sum + value * turned.toArray()[i], 0) < 0 ? -1 : 1;
        rows.push(...turned.toArray().map((value) => sign * value));
      }
      path.push(...this.bones[this.nodes[0]].position.toArray());
    }
    const json = structuredClone(this.glb.json), tracks = [[this.nodes[0], "translation", path]];
    for (const [node, rows] of values) tracks.push([node, "rotation", rows]);
    for (const node of new Set([...values.keys(), ...(json.skins ?? []).flatMap((skin) => skin.joints)])) {
      const { position, rotation } = this.still[node], { matrix, ...rest } = json.nodes[node];
      json.nodes[node] = { ...rest, translation: position.toArray(), rotation: rotation.toArray(), scale: this.bones[node].scale.toArray() };
    }
    json.animations = [];
    return writeGlb(json, this.glb.binary, name, track, tracks);
  }
}

/** Replace a material with a matt one. */
function matt({ color, map, transparent, opacity, alphaTest, side, vertexColors }) {
  const material = skin();
  Object.assign(material, { map, transparent, opacity, alphaTest, side, vertexColors });
  if (color) material.color.copy(color);
  return material;
}

function quaternion(m) {
  return new THREE.Quaternion().setFromRotationMatrix(
    new THREE.Matrix4().set(m[0], m[1], m[2], 0, m[3], m[4], m[5], 0, m[6], m[7], m[8], 0, 0, 0, 0, 1));
}

function isVrm({ extensions }) {
  return Boolean(extensions?.VRM ?? extensions?.VRMC_vrm);
}

/** Find the joints of a glTF by the VRM extension or by node names. */
function humanoid(json) {
  const { VRM, VRMC_vrm: vrm } = json.extensions ?? {};
  const listed = vrm ? Object.entries(vrm.humanoid.humanBones).map(([bone, { node }]) => [bone, node])
    : (VRM?.humanoid?.humanBones ?? []).map(({ bone, node }) => [bone, node]);
  if (listed.length) return matched(listed, 2, (name) => name.toLowerCase());
  const skinned = new Set((json.skins ?? []).flatMap((each) => each.joints));
  const named = (json.nodes ?? []).map((node, i) => [node.name ?? "", i]).filter(([, i]) => json.nodes[i].mesh === undefined)
    .sort(([, a], [, b]) => skinned.has(b) - skinned.has(a));
  const plain = (name) => name.toLowerCase().replace(/^.*[:|]/, "").replace(/^mixamorig\d*/, "").replace(/[ _.-]/g, "");
  const whole = (name) => plain(name.replace(/[._]\d+$/, ""));  // some programs append numbers to names
  const all = [plain, whole].flatMap((reader) => [1, 2, 3].map((column) => matched(named, column, reader)));
  return all.reduce((best, found) => (Object.keys(found).length > Object.keys(best).length ? found : best));
}

/** Map joints to nodes, given pairs of name and node. Names are compared with a column of the table. */
function matched(named, column, reader) {
  const found = {};
  for (const [name, node] of named) {
    const entry = HUMAN.find((each) => each[column] === reader(name));
    if (entry && !(entry[0] in found)) found[entry[0]] = node;
  }
  return found;
}
