// Light figure: a torso, and a tapered capsule for each other part from visualization/glb.py.
"use strict";

const RIM = `
  float rim = pow(1.0 - abs(dot(normalize(vViewPosition), normal)), 4.0);
  outgoingLight += rim * rimColour * (0.3 + diffuse);
  #include <opaque_fragment>`;

/** Matt material with a faint rim light. */
function skin() {
  const material = new THREE.MeshLambertMaterial();
  material.userData.rim = { value: new THREE.Color() };
  material.onBeforeCompile = (shader) => {
    shader.uniforms.rimColour = material.userData.rim;
    shader.fragmentShader = "uniform vec3 rimColour;\n" + shader.fragmentShader.replace("#include <opaque_fragment>", RIM);
  };
  return material;
}

/** Capsule from the origin along y. */
function capsule([low, high], length) {
  const outline = [], steps = 8;
  for (let i = 0; i <= steps; i++) {
    const angle = (i / steps - 1) * Math.PI / 2;
    outline.push(new THREE.Vector2(low * Math.cos(angle), low * Math.sin(angle)));
  }
  for (let i = 0; i <= steps; i++) {
    const angle = (i / steps) * Math.PI / 2;
    outline.push(new THREE.Vector2(high * Math.cos(angle), length + high * Math.sin(angle)));
  }
  return new THREE.LatheGeometry(outline, 28);
}

/** Smooth, flattened tube around the spine that turns with the hips at the bottom and the shoulders at the top. */
class Torso {
  static PIECES = 7;   // per bone
  static CAP = 6;      // rings of the round lower end
  static AROUND = 32;

  constructor(parts, material) {
    this.joints = [parts[0].start, ...parts.map((part) => part.end)];
    this.radii = [parts[0].radii[0], ...parts.map((part) => part.radii[1])];
    this.depth = parts[0].depth;
    this.rings = Torso.CAP + parts.length * Torso.PIECES + 1;
    const geometry = new THREE.BufferGeometry(), corners = [], around = Torso.AROUND;
    geometry.setAttribute("position", new THREE.BufferAttribute(new Float32Array(this.rings * around * 3), 3));
    for (let ring = 0; ring + 1 < this.rings; ring++) {
      for (let i = 0; i < around; i++) {
        const a = ring * around + i, b = ring * around + (i + 1) % around;
        corners.push(a, b + around, b, a, a + around, b + around);
      }
    }
    geometry.setIndex(corners);
    this.mesh = new THREE.Mesh(geometry, material);
    this.mesh.castShadow = true;
    this.mesh.frustumCulled = false;
    this.places = this.joints.map(() => new THREE.Vector3());
    [this.at, this.along, this.across, this.front] = Array.from({ length: 4 }, () => new THREE.Vector3());
  }

  /** Catmull-Rom spline through values, at an index plus a fraction of the way to the next. */
  static curve(values, i, t) {
    const [p, a, b, n] = [values[Math.max(i - 1, 0)], values[i], values[i + 1], values[Math.min(i + 2, values.length - 1)]];
    return a + t * ((b - p) / 2 + t * (p - 2.5 * a + 2 * b - n / 2 + t * (1.5 * (a - b) + (n - p) / 2)));
  }

  pose(track, moment, hip, shoulder) {
    const { at, along, across, front, places } = this, bones = places.length - 1;
    this.joints.forEach((joint, i) => track.place(joint, moment, places[i]));
    const axes = ["x", "y", "z"].map((axis) => places.map((place) => place[axis]));
    const position = this.mesh.geometry.attributes.position;
    for (let ring = 0, corner = 0; ring < this.rings; ring++) {
      const way = Math.max(ring - Torso.CAP, 0) / Torso.PIECES, bone = Math.min(Math.floor(way), bones - 1), t = way - bone;
      at.set(...axes.map((values) => Torso.curve(values, bone, t)));
      along.copy(places[bone + 1]).sub(places[bone]);
      if (bone + 1 < bones) along.lerp(front.copy(places[bone + 2]).sub(places[bone + 1]), t / 2);
      if (bone > 0) along.lerp(front.copy(places[bone]).sub(places[bone - 1]), (1 - t) / 2);
      along.normalize();
      across.copy(hip).lerp(shoulder, way / bones).addScaledVector(along, -across.dot(along)).normalize();
      front.crossVectors(across, along);
      const angle = Math.min(ring / Torso.CAP - 1, 0) * Math.PI / 2 * 0.999;
      // The chest keeps its width up to the shoulders.
      const radius = Torso.curve(this.radii, bone, bone + 1 < bones ? t : t ** 3);
      at.addScaledVector(along, radius * Math.sin(angle));
      for (let i = 0; i < Torso.AROUND; i++, corner++) {
        const turn = (i / Torso.AROUND) * 2 * Math.PI, out = radius * Math.cos(angle);
        const side = out * Math.cos(turn), deep = this.depth * out * Math.sin(turn);
        position.setXYZ(corner, at.x + across.x * side + front.x * deep, at.y + across.y * side + front.y * deep,
          at.z + across.z * side + front.z * deep);
      }
    }
    position.needsUpdate = true;
    this.mesh.geometry.computeVertexNormals();
  }
}

class Figure {
  constructor({ parts: all, hips, shoulders }) {
    const parts = all.filter((part) => part.depth === 1), torso = all.filter((part) => part.depth !== 1);
    Object.assign(this, { parts, hips, shoulders });
    this.group = new THREE.Group();
    this.skins = [skin(), skin(), skin()];  // trunk, left, right
    this.torso = new Torso(torso, this.skins[0]);
    this.group.add(this.torso.mesh);
    this.meshes = parts.map((part) => {
      const mesh = new THREE.Mesh(undefined, this.skins[part.side]);
      mesh.castShadow = true;
      mesh.matrixAutoUpdate = false;
      mesh.frustumCulled = false;
      this.group.add(mesh);
      return mesh;
    });
    this.lengths = parts.map(() => 1);
    [this.a, this.b, this.along, this.across, this.front, this.hip, this.shoulder] =
      Array.from({ length: 7 }, () => new THREE.Vector3());
  }

  colour(colours, rim, sides) {
    this.skins.forEach((material, side) => {
      material.color.set(colours[sides ? side : 0]);
      material.userData.rim.value.set(rim);
    });
  }

  /** Build the meshes for the body of a track. */
  fit(track) {
    this.parts.forEach((part, i) => {
      const bone = track.place(part.start, 0, this.a).distanceTo(track.place(part.end, 0, this.b));
      this.lengths[i] = Math.max(part.past ? part.past[1] - part.past[0] : bone, 1e-4);
      this.lengths[i] = Math.max(Math.round(100 * this.lengths[i]) / 100, 1e-4);  // so that bodies share capsules
      this.meshes[i].geometry = Figure.shared(part.radii, this.lengths[i]);
    });
  }

  static capsules = new Map();

  static shared(radii, length) {
    const key = `${radii} ${length}`;
    if (!Figure.capsules.has(key)) Figure.capsules.set(key, capsule(radii, length));
    return Figure.capsules.get(key);
  }

  side(track, [left, right], moment, out) {
    return track.place(left, moment, out).sub(track.place(right, moment, this.a)).normalize();
  }

  pose(track, moment) {
    const { a, b, along, across, front, hip, shoulder } = this;
    this.side(track, this.hips, moment, hip);
    this.side(track, this.shoulders, moment, shoulder);
    this.torso.pose(track, moment, hip, shoulder);
    this.parts.forEach((part, i) => {
      track.place(part.start, moment, a);
      along.copy(track.place(part.end, moment, b)).sub(a);
      const length = along.length();
      along.normalize();
      if (part.past) a.copy(b).addScaledVector(along, part.past[0]);
      across.copy(shoulder).addScaledVector(along, -shoulder.dot(along));
      if (across.lengthSq() < 0.02) across.set(0.3, 0, 1).addScaledVector(along, -along.x * 0.3 - along.z);
      across.normalize();
      front.crossVectors(across, along);
      const stretch = part.past ? 1 : length / this.lengths[i];
      this.meshes[i].matrix.makeBasis(across, along.multiplyScalar(stretch), front).setPosition(a);
    });
  }
}
