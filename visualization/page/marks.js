// Constraints that a motion follows: paths on the floor, points in space, directions, each lit up in its time.
"use strict";

class Marks {
  constructor() {
    this.group = new THREE.Group();
    this.colour = new THREE.Color();
    this.items = [];
  }

  paint(colour) {
    this.colour.set(colour);
    for (const { mesh } of this.items) mesh.material.color.copy(this.colour);
  }

  /** Show the marks of a motion: see visualization/marks.py. */
  lay(marks) {
    for (const { mesh } of this.items) {
      this.group.remove(mesh);
      mesh.geometry.dispose();
      mesh.material.dispose();
    }
    this.items = marks.map(({ kind, points, first, last }) => {
      const places = points.map((point) => new THREE.Vector3(...point)), mesh = this.mesh(kind, places);
      mesh.material.color.copy(this.colour);
      mesh.renderOrder = 1;
      this.group.add(mesh);
      return { mesh, first, last };
    });
  }

  mesh(kind, places) {
    const material = new THREE.MeshBasicMaterial({ transparent: true, depthWrite: false });
    if (kind === "path") return new THREE.Mesh(Marks.band(places, 0.035), Object.assign(material, { side: THREE.DoubleSide }));
    if (kind === "arrow") return new THREE.Mesh(Marks.arrow(...places), Object.assign(material, { side: THREE.DoubleSide }));
    const ball = new THREE.InstancedMesh(new THREE.SphereGeometry(kind === "pose" ? 0.018 : 0.045, 20, 14), material, places.length);
    places.forEach((place, i) => ball.setMatrixAt(i, new THREE.Matrix4().setPosition(place)));
    ball.frustumCulled = false;
    return ball;
  }

  /** A flat band through points on the floor. */
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

  /** A flat arrow from one point on the floor to another. */
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

  /** Constraints of the moment stand out from those before and after it. */
  show(moment) {
    for (const { mesh, first, last } of this.items) {
      mesh.material.opacity = moment >= first - 1 && moment <= last + 1 ? 0.9 : 0.35;
    }
  }
}
