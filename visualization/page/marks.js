// Constraints of a motion: paths on the floor, points in space, headings; active ones are highlighted.
"use strict";

const FLAT = {
  vertexShader: "void main() { gl_Position = projectionMatrix * modelViewMatrix * vec4(position, 1.0); }",
  fragmentShader: `uniform vec3 colour; uniform float opacity;
    void main() {
      gl_FragColor = vec4(colour, opacity);
      #include <colorspace_fragment>
    }`,
};

class Marks {
  constructor() {
    this.group = new THREE.Group();
    this.colour = { value: new THREE.Color() };  // of all marks
    this.items = [];
  }

  paint(colour) {
    this.colour.value.set(colour);
  }

  /** Show the constraint markers of a motion (see visualization/html.py). */
  lay(marks) {
    for (const { meshes, material } of this.items) {
      this.group.remove(...meshes);
      for (const mesh of meshes) mesh.geometry.dispose();
      material.dispose();
    }
    this.items = marks.map(({ kind, points, first, last }) => {
      const material = new THREE.ShaderMaterial({ ...FLAT, transparent: true, depthWrite: false, side: THREE.DoubleSide,
        uniforms: { colour: this.colour, opacity: { value: 1 } } });
      const meshes = Marks.shapes(kind, points.map((point) => new THREE.Vector3(...point))).map(
        (geometry) => new THREE.Mesh(geometry, material));
      for (const mesh of meshes) mesh.renderOrder = 1;
      if (meshes.length) this.group.add(...meshes);
      return { meshes, material, first, last };
    });
  }

  static shapes(kind, places) {
    if (kind === "path") return [Marks.band(places, 0.035)];
    if (kind === "arrow") return [Marks.arrow(...places)];
    return places.map((place) => Marks.ball(place, kind === "pose" ? 0.018 : 0.05));
  }

  static ball(place, radius) {
    const outline = [], steps = 10;
    for (let i = 0; i <= steps; i++) {
      const angle = (i / steps - 0.5) * Math.PI;
      outline.push(new THREE.Vector2(radius * Math.cos(angle), radius * Math.sin(angle)));
    }
    return new THREE.LatheGeometry(outline, 20).translate(place.x, place.y, place.z);
  }

  /** Flat band through points on the floor. */
  static band(places, width) {
    const corners = [], faces = [];
    places.forEach((place, i) => {
      const next = places[Math.min(i + 1, places.length - 1)], last = places[Math.max(i - 1, 0)];
      const along = new THREE.Vector3().subVectors(next, last), across = new THREE.Vector3(along.z, 0, -along.x);
      if (across.lengthSq() > 1e-12) across.normalize().multiplyScalar(width);
      for (const side of [-1, 1]) corners.push(place.x + side * across.x, place.y, place.z + side * across.z);
      if (i) faces.push(2 * i - 2, 2 * i - 1, 2 * i, 2 * i, 2 * i - 1, 2 * i + 1);
    });
    return Marks.geometry(corners, faces);
  }

  /** Flat arrow between two points on the floor. */
  static arrow(from, to) {
    const along = new THREE.Vector3().subVectors(to, from), across = new THREE.Vector3(along.z, 0, -along.x).multiplyScalar(0.35);
    const corners = [[-1, 0], [1, 0], [0, 1]].flatMap(([side, ahead]) =>
      [from.x + side * across.x + ahead * along.x, from.y, from.z + side * across.z + ahead * along.z]);
    return Marks.geometry(corners, [0, 1, 2]);
  }

  static geometry(corners, faces) {
    const geometry = new THREE.BufferGeometry();
    geometry.setAttribute("position", new THREE.BufferAttribute(new Float32Array(corners), 3));
    geometry.setIndex(faces);
    return geometry;
  }

  /** Highlight the constraints that are active at a moment. */
  show(moment) {
    for (const { material, first, last } of this.items) {
      material.uniforms.opacity.value = moment >= first - 1 && moment <= last + 1 ? 0.9 : 0.35;
    }
  }
}
