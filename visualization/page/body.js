// The person: a skinned mesh fitted to the bones of a motion. visualization/body.py explains the file and the method.
"use strict";

const PARENTS = [-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19];
const CHILD = { 1: 4, 4: 7, 2: 5, 5: 8, 7: 10, 8: 11, 12: 15, 13: 16, 14: 17, 16: 18, 17: 19, 18: 20, 19: 21 };
const TOES = { 7: 10, 8: 11 };
const HALVES = [[13, 16], [14, 17], [0, 1], [0, 2]];
const HINGES = [[1, 4, [1, 0, 0]], [2, 5, [1, 0, 0]], [16, 18, [0, -1, 0]], [17, 19, [0, 1, 0]]];
const [BENT, FAR, SOLE, TIP, HEEL, HIGHEST] = [[0.17, 0.7], [2.1, 3.1], 0.01, 0.072, 0.205, 0.03];
const [LEVEL, NEAR] = [[0.2, 0.5], [0.05, 0.25]];
const ANCHORS = [...PARENTS.keys(), ...HALVES.map(([, below]) => below)].map((joint) => TOES[joint] ?? joint);

/** Vectors are arrays of three; rotations are arrays of nine, row by row. */
const vec = {
  sub: (a, b) => [a[0] - b[0], a[1] - b[1], a[2] - b[2]],
  add: (a, b, w = 1) => [a[0] + w * b[0], a[1] + w * b[1], a[2] + w * b[2]],
  dot: (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2],
  cross: (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]],
  length: (a) => Math.hypot(...a),
  unit: (a) => vec.scale(a, 1 / Math.max(Math.hypot(...a), 1e-9)),
  scale: (a, w) => [a[0] * w, a[1] * w, a[2] * w],
};
const turn = {
  none: [1, 0, 0, 0, 1, 0, 0, 0, 1],
  times: (a, b) => [0, 1, 2].flatMap((i) => [0, 1, 2].map((j) => a[3 * i] * b[j] + a[3 * i + 1] * b[3 + j] + a[3 * i + 2] * b[6 + j])),
  apply: (a, v) => [a[0] * v[0] + a[1] * v[1] + a[2] * v[2], a[3] * v[0] + a[4] * v[1] + a[5] * v[2], a[6] * v[0] + a[7] * v[1] + a[8] * v[2]],
  back: (a) => [a[0], a[3], a[6], a[1], a[4], a[7], a[2], a[5], a[8]],
  crossing: ([x, y, z]) => [0, -z, y, z, 0, -x, -y, x, 0],
  /** Rotation I + s C + c C C for the matrix C of a cross product. */
  made: (axis, s, c) => {
    const C = turn.crossing(axis), CC = turn.times(C, C);
    return turn.none.map((one, i) => one + s * C[i] + c * CC[i]);
  },
  about: (axis, angle) => turn.made(axis, Math.sin(angle), 1 - Math.cos(angle)),
  /** Shortest rotation from one direction to another. */
  swing: (start, end) => {
    const a = vec.unit(start), b = vec.unit(end);
    return turn.made(vec.cross(a, b), 1, 1 / Math.max(1 + vec.dot(a, b), 1e-6));
  },
  /** Rotation with the x axis across and the y axis close to up. */
  frame: (across, up) => {
    const x = vec.unit(across), z = vec.unit(vec.cross(x, up)), y = vec.cross(z, x);
    return [x[0], y[0], z[0], x[1], y[1], z[1], x[2], y[2], z[2]];
  },
  column: (a, i) => [a[i], a[3 + i], a[6 + i]],
};
const ramp = (value, [low, high]) => {
  const share = Math.min(Math.max((value - low) / (high - low), 0), 1);
  return share * share * (3 - 2 * share);
};
const median = (values) => {
  const sorted = Float64Array.from(values).sort(), half = sorted.length >> 1;
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
};

/** Joint rotations of a skeleton with 22 joints, relative to the T-pose. */
const Posture = {
  pelvis: (at) => turn.frame(vec.sub(at[1], at[2]), vec.sub(at[3], vec.scale(vec.add(at[1], at[2]), 0.5))),
  chest: (at) => turn.frame(vec.add(vec.sub(at[13], at[14]), vec.sub(at[16], at[17]), 0.5), vec.sub(at[12], at[9])),

  chained(offsets) {
    const at = [];
    PARENTS.forEach((parent, joint) => at.push(parent < 0 ? [0, 0, 0] : vec.add(at[parent], offsets[joint])));
    return at;
  },

  /** Joints of a track at an integer frame. */
  joints(track, frame) {
    const start = frame * track.joints * 3;
    return PARENTS.map((_, joint) => [...track.places.subarray(start + 3 * joint, start + 3 * joint + 3)]);
  },

  /** T-pose offsets with the bone lengths of a track; rest: directions of the T-pose. */
  offsets(track, rest) {
    const frames = Array.from({ length: track.frames }, (_, frame) => Posture.joints(track, frame));
    const offsets = PARENTS.map((parent, joint) => parent < 0 ? [0, 0, 0]
      : vec.scale(vec.unit(rest[joint]), median(frames.map((at) => vec.length(vec.sub(at[joint], at[parent]))))));
    const at = Posture.chained(offsets);
    for (const [parent, find] of [[0, Posture.pelvis], [9, Posture.chest]]) {
      const still = turn.back(find(at));
      const turns = frames.map((places) => turn.back(turn.times(find(places), still)));
      PARENTS.forEach((other, joint) => {
        if (other !== parent) return;
        let sum = [0, 0, 0];
        frames.forEach((places, i) => { sum = vec.add(sum, turn.apply(turns[i], vec.sub(places[joint], places[parent]))); });
        offsets[joint] = vec.scale(vec.unit(sum), vec.length(offsets[joint]));
      });
    }
    return offsets;
  },

  /** Height of the ankle above the toes, and of the toes above the floor, while a foot stands. */
  stances(track) {
    const frames = Array.from({ length: track.frames }, (_, frame) => Posture.joints(track, frame));
    return Object.entries(TOES).map(([ankle, toe]) => {
      const height = frames.map((at) => at[toe][1]), drop = frames.map((at) => at[ankle][1] - at[toe][1]);
      const low = Math.min(...height), middle = median(drop);
      const cost = frames.map((at, i) => {
        const next = frames[Math.min(i + 1, frames.length - 1)];
        const speed = Math.max(...[ankle, toe].map((joint) => vec.length(vec.sub(next[joint], at[joint]))));
        return speed + height[i] - low + 0.5 * Math.abs(drop[i] - middle);
      });
      const best = cost.map((_, i) => i).sort((a, b) => cost[a] - cost[b]).slice(0, Math.max(Math.floor(cost.length / 5), 1));
      return [median(best.map((i) => drop[i])), Math.min(Math.max(median(best.map((i) => height[i])), 0), HIGHEST)];
    });
  },

  /** Rotations from the T-pose to the bind pose. */
  file(joints, offsets, stance) {
    const turns = [];
    PARENTS.forEach((parent, joint) => {
      turns[joint] = parent > 0 && parent !== 9 ? turns[parent] : turn.none;
      if (!(joint in CHILD)) return;
      let bone = vec.sub(joints[CHILD[joint]], joints[joint]);
      if (joint in TOES) {
        const drop = Math.min(Math.max(stance[joint - 7][0] / vec.length(offsets[TOES[joint]]), -0.5), 0.95);
        bone = vec.scale(vec.unit([bone[0], 0, bone[2]]), Math.sqrt(1 - drop * drop));
        bone[1] = -drop;
      }
      turns[joint] = turn.times(turn.swing(turn.apply(turns[joint], offsets[CHILD[joint]]), bone), turns[joint]);
    });
    return turns;
  },

  /** Joint rotations in a pose. */
  world(at, offsets, still, file, stance) {
    const turns = [];
    turns[0] = turn.times(Posture.pelvis(at), still.pelvis);
    turns[9] = turn.times(Posture.chest(at), still.chest);
    for (const [joint, share] of [[3, 1 / 3], [6, 2 / 3]]) {
      const mean = turns[0].map((value, i) => (1 - share) * value + share * turns[9][i]);
      const between = turn.frame(turn.column(mean, 0), turn.column(mean, 1)), bone = vec.sub(at[joint + 3], at[joint]);
      turns[joint] = turn.times(turn.swing(turn.apply(between, offsets[joint + 3]), bone), between);
    }
    PARENTS.forEach((parent, joint) => {
      if (joint in turns) return;
      turns[joint] = turns[parent];
      if (joint in CHILD) {
        const bone = vec.sub(at[CHILD[joint]], at[joint]);
        turns[joint] = turn.times(turn.swing(turn.apply(turns[joint], offsets[CHILD[joint]]), bone), turns[joint]);
      }
    });
    return Posture.bent(at, turns, offsets, file, stance);
  },

  /** Twist limbs so that knees and elbows bend about their hinge axes, and keep shoes above the floor. */
  bent(at, turns, offsets, file, stance) {
    for (const [joint, child, axis] of HINGES) {
      const end = CHILD[child], upper = vec.unit(vec.sub(at[child], at[joint])), lower = vec.unit(vec.sub(at[end], at[child]));
      const cross = vec.cross(upper, lower), size = vec.length(cross), bend = Math.atan2(size, vec.dot(upper, lower));
      const now = turn.apply(turns[joint], axis), wanted = vec.scale(cross, 1 / Math.max(size, 1e-9));
      let twist = Math.atan2(vec.dot(vec.cross(now, wanted), upper), vec.dot(now, wanted));
      twist *= ramp(bend, BENT) * (1 - ramp(Math.abs(twist), FAR));
      const turned = turn.about(upper, twist);
      turns[joint] = turn.times(turned, turns[joint]);
      turns[child] = turn.times(turned, turns[child]);
      turns[child] = turn.times(turn.swing(turn.apply(turns[child], offsets[end]), lower), turns[child]);
      turns[end] = turns[child];
      if (end in TOES) {
        const foot = vec.sub(at[TOES[end]], at[end]);
        turns[end] = turn.times(turn.swing(turn.apply(turns[end], offsets[TOES[end]]), foot), turns[end]);
      }
    }
    for (const [ankle, toe] of Object.entries(TOES)) {
      const height = Math.max(at[toe][1] - stance[ankle - 7][1], 0), foot = vec.unit(vec.sub(at[toe], at[ankle]));
      let flat = turn.times(turns[ankle], turn.back(file[ankle]));
      const up = vec.cross(foot, turn.column(flat, 0))[1];
      const level = turn.about(foot, Math.atan2(-flat[3], up) * ramp(up, LEVEL) * (1 - ramp(height, NEAR)));
      turns[ankle] = turn.times(level, turns[ankle]);
      flat = turn.times(level, flat);
      const down = Math.asin(Math.min(Math.max(-flat[5], -1), 1));
      const [tip, heel] = [TIP, HEEL].map((length) => Math.asin(Math.min(height / length, 1)));
      turns[toe] = turn.times(turn.about(turn.column(flat, 0), Math.min(Math.max(down, -heel), tip) - down), turns[ankle]);
    }
    return turns;
  },
};

/** The body mesh, shared by all figures. */
class Body {
  static async read({ file, palette, clothes, rest }) {
    const data = await unpack(file), view = new DataView(data.buffer);
    const [count, faces] = [view.getUint32(0, true), view.getUint32(4, true)];
    let start = 8;
    const take = (Kind, length) => {
      const part = new Kind(data.buffer.slice(start, start + length * Kind.BYTES_PER_ELEMENT));
      start += length * Kind.BYTES_PER_ELEMENT;
      return part;
    };
    const joints = take(Float32Array, 66), triangles = take(Uint16Array, 3 * faces), whole = take(Int16Array, 3 * count);
    const normals = Float32Array.from(take(Int8Array, 3 * count), (value) => value / 127);
    const body = { count, triangles, normals, palette, rest, places: Float32Array.from(whole, (value) => value / 1e4),
      bones: take(Uint8Array, 4 * count), weights: Float32Array.from(take(Uint8Array, 4 * count), (value) => value / 255),
      zones: take(Uint8Array, count), light: take(Uint8Array, count),
      joints: PARENTS.map((_, joint) => [...joints.subarray(3 * joint, 3 * joint + 3)]) };
    const left = new Set([1, 4, 7, 10, 16, 18, 20, 22, 24]), right = new Set([2, 5, 8, 11, 17, 19, 21, 23, 25]);
    body.sides = Float32Array.from(body.zones, (zone, i) => {
      let side = 0;
      for (let k = 4 * i; k < 4 * i + 4; k++) side += body.weights[k] * (left.has(body.bones[k]) - right.has(body.bones[k]));
      return clothes.includes(zone) ? side : 0;
    });
    return Object.assign(new Body(), body);
  }
}

/** A person: the body mesh scaled to a track. */
class Person {
  constructor(body) {
    this.body = body;
    this.material = skin();
    this.material.vertexColors = true;
    this.material.side = THREE.DoubleSide;  // collars and sleeves are open
    const geometry = new THREE.BufferGeometry(), count = 3 * body.count;
    for (const name of ["position", "normal", "color"]) {
      geometry.setAttribute(name, new THREE.BufferAttribute(new Float32Array(count), 3));
    }
    geometry.setIndex(new THREE.BufferAttribute(body.triangles, 1));
    this.mesh = new THREE.Mesh(geometry, this.material);
    this.mesh.castShadow = true;
    this.mesh.frustumCulled = false;
    this.group = new THREE.Group().add(this.mesh);
    this.places = new Float32Array(count);
    this.point = new THREE.Vector3();
  }

  /** Colour the clothes, by side if sides are given. */
  colour([, left, right], rim, sides) {
    const { zones, light, palette } = this.body, mixed = new THREE.Color(), colours = palette.map((each) => new THREE.Color(each));
    const both = [new THREE.Color(left), new THREE.Color(right)], out = this.mesh.geometry.attributes.color;
    zones.forEach((zone, i) => {
      const side = sides ? this.body.sides[i] : 0;
      mixed.copy(colours[zone]).lerp(both[side > 0 ? 0 : 1], 0.92 * Math.abs(side)).multiplyScalar(0.42 + 0.58 * light[i] / 255);
      out.setXYZ(i, mixed.r, mixed.g, mixed.b);
    });
    out.needsUpdate = true;
    this.material.userData.rim.value.set(rim);
  }

  /** Scale the body to the bone lengths of a track. */
  fit(track) {
    const { body } = this, offsets = Posture.offsets(track, body.rest), stance = Posture.stances(track);
    const file = Posture.file(body.joints, offsets, stance), still = Posture.chained(offsets);
    Object.assign(this, { offsets, stance, file });
    this.still = { pelvis: turn.back(Posture.pelvis(still)), chest: turn.back(Posture.chest(still)) };
    const bones = body.joints.map((place, joint) => vec.length(vec.sub(place, body.joints[Math.max(PARENTS[joint], 0)])));
    const sizes = offsets.map((offset) => vec.length(offset)), ratio = sizes.map((size, i) => bones[i] > 1e-6 ? size / bones[i] : 1);
    const sum = (values, joints) => joints.reduce((total, joint) => total + values[joint], 0), spine = [3, 6, 9, 12];
    const trunk = sum(sizes, spine) / sum(bones, spine), girth = (sum(ratio, [1, 2, 4, 5, 7, 8]) / 6 + trunk) / 2;
    const scale = PARENTS.map((_, joint) => turn.none.map((one, i) => one * (i === 4 && [0, 3, 6, 9].includes(joint) ? trunk : girth)));
    for (const joint of [1, 2, 4, 5, 16, 17, 18, 19]) {
      const along = vec.unit(vec.sub(body.joints[CHILD[joint]], body.joints[joint])), more = ratio[CHILD[joint]] - girth;
      scale[joint] = scale[joint].map((value, i) => value + more * along[Math.floor(i / 3)] * along[i % 3]);
    }
    this.joints = [];
    PARENTS.forEach((parent, joint) => this.joints.push(parent < 0 ? [0, 0, 0]
      : vec.add(this.joints[parent], turn.apply(file[parent], offsets[joint]))));
    for (const [above] of HALVES) scale.push(scale[above]);
    const moved = scale.map((matrix, joint) =>
      vec.sub(this.joints[ANCHORS[joint]], turn.apply(matrix, body.joints[ANCHORS[joint]])));
    for (const [ankle, toe] of Object.entries(TOES)) {
      for (const joint of [ankle, toe]) moved[joint][1] += girth * SOLE - stance[ankle - 7][1];
    }
    this.skin(scale, moved, body.places, this.places);
  }

  /** Transform vertices by the rotations and translations of their joints, blended by weight. */
  skin(moves, moved, from, to, normals = null) {
    const { bones, weights, count } = this.body, [m, at, n] = [new Float64Array(9), new Float64Array(3), this.body.normals];
    const flatMoves = moves.flat(), flatMoved = moved.flat();
    for (let i = 0; i < count; i++) {
      m.fill(0);
      at.fill(0);
      for (let k = 4 * i; k < 4 * i + 4; k++) {
        const w = weights[k], bone = bones[k];
        if (!w) continue;
        for (let c = 0; c < 9; c++) m[c] += w * flatMoves[9 * bone + c];
        for (let c = 0; c < 3; c++) at[c] += w * flatMoved[3 * bone + c];
      }
      const v = 3 * i, x = from[v], y = from[v + 1], z = from[v + 2];
      for (let c = 0; c < 3; c++) {
        to[v + c] = m[3 * c] * x + m[3 * c + 1] * y + m[3 * c + 2] * z + at[c];
        if (normals) normals[v + c] = m[3 * c] * n[v] + m[3 * c + 1] * n[v + 1] + m[3 * c + 2] * n[v + 2];
      }
    }
  }

  pose(track, moment) {
    const { position, normal } = this.mesh.geometry.attributes, { zones, bones } = this.body;
    const at = PARENTS.map((_, joint) => track.place(joint, moment, this.point).toArray());
    const turns = Posture.world(at, this.offsets, this.still, this.file, this.stance);
    for (const [ankle, toe] of Object.entries(TOES)) {  // shoes turn with the toes where these point further down
      const rise = (joint) => vec.dot(turns[joint].slice(3, 6), this.file[ankle].slice(6));
      if (rise(toe) < rise(ankle)) turns[ankle] = turns[toe];
    }
    const moves = turns.map((each, joint) => turn.times(each, turn.back(this.file[joint])));
    for (const [above, below] of HALVES) {
      const mean = moves[above].map((value, i) => (value + moves[below][i]) / 2);
      moves.push(turn.frame(turn.column(mean, 0), turn.column(mean, 1)));
    }
    const moved = moves.map((each, joint) => vec.sub(at[ANCHORS[joint]], turn.apply(each, this.joints[ANCHORS[joint]])));
    this.skin(moves, moved, this.places, position.array, normal.array);
    const ground = Math.min(0, at[10][1], at[11][1]);
    for (let i = 0; i < zones.length; i++) {  // soles and uppers
      if ((zones[i] === 4 || zones[i] === 5) && bones[4 * i] !== 15) position.array[3 * i + 1] = Math.max(position.array[3 * i + 1], ground);
    }
    position.needsUpdate = normal.needsUpdate = true;
  }
}
