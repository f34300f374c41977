// Scene around the figure: floor, shadow, light, trails, footprints, camera.
"use strict";

const FLOOR = {
  vertexShader: `
    varying vec3 place;
    void main() {
      place = (modelMatrix * vec4(position, 1.0)).xyz;
      gl_Position = projectionMatrix * viewMatrix * vec4(place, 1.0);
    }`,
  fragmentShader: `
    varying vec3 place;
    uniform vec3 focus, line, glow;
    uniform float strength;
    float grid(vec2 at, float width) {
      vec2 spread = fwidth(at), far = abs(fract(at - 0.5) - 0.5);
      vec2 cover = clamp(width + 0.5 - far / spread, 0.0, 1.0) * clamp(0.45 / spread, 0.0, 1.0);
      return max(cover.x, cover.y);
    }
    void main() {
      float away = length(place.xz - focus.xz);
      float fade = exp(-away * away / 14.0);
      float lines = max(grid(place.xz * 2.0, 0.45) * 0.4, grid(place.xz * 0.5, 0.7));
      float light = exp(-away * away / 6.0) * 0.55;
      float cover = max(lines * fade * strength, light);
      vec3 colour = mix(glow, line, clamp(lines * fade * strength / max(cover, 1e-4), 0.0, 1.0));
      gl_FragColor = vec4(colour, cover);
      #include <colorspace_fragment>
    }`,
};

const RIBBON = {
  vertexShader: `
    attribute vec3 ahead;
    attribute vec2 mark;  // moment in frames, side
    uniform float width, flatness;
    varying float moment, edge;
    void main() {
      vec3 along = ahead - position, eye = cameraPosition - position;
      vec3 across = normalize(mix(cross(along, eye), cross(along, vec3(0.0, 1.0, 0.0)), flatness) + vec3(1e-6));
      moment = mark.x;
      edge = mark.y;
      gl_Position = projectionMatrix * viewMatrix * vec4(position + across * mark.y * width, 1.0);
    }`,
  fragmentShader: `
    varying float moment, edge;
    uniform vec3 colour;
    uniform float now, span, cover, later;
    void main() {
      float age = (now - moment) / span;
      float shown = age < 0.0 ? later : cover * (1.0 - clamp(age, 0.0, 1.0));
      gl_FragColor = vec4(colour, shown * smoothstep(1.0, 0.4, abs(edge)));
      if (gl_FragColor.a < 0.004) discard;
      #include <colorspace_fragment>
    }`,
};

/** Trail of a joint that fades after a while. */
class Ribbon {
  constructor({ width, span, cover, later = 0, flatness = 0 }) {
    const numbers = { width, span, cover, later, flatness, now: 0 };
    this.uniforms = { colour: { value: new THREE.Color() } };
    for (const [name, value] of Object.entries(numbers)) this.uniforms[name] = { value };
    this.mesh = new THREE.Mesh(undefined, new THREE.ShaderMaterial({
      ...RIBBON, uniforms: this.uniforms, transparent: true, depthWrite: false, side: THREE.DoubleSide }));
    this.mesh.frustumCulled = false;
  }

  /** Set the points of the trail, one per frame. */
  lay(points) {
    const frames = points.length, place = [], ahead = [], mark = [], corners = [];
    points.forEach((point, frame) => {
      const next = points[Math.min(frame + 1, frames - 1)], last = points[Math.max(frame - 1, 0)];
      for (const side of [-1, 1]) {
        place.push(...point);
        ahead.push(...point.map((value, axis) => value + next[axis] - last[axis]));
        mark.push(frame, side);
      }
      if (frame) corners.push(2 * frame - 2, 2 * frame - 1, 2 * frame, 2 * frame, 2 * frame - 1, 2 * frame + 1);
    });
    const geometry = new THREE.BufferGeometry();
    for (const [name, values, size] of [["position", place, 3], ["ahead", ahead, 3], ["mark", mark, 2]]) {
      geometry.setAttribute(name, new THREE.BufferAttribute(new Float32Array(values), size));
    }
    geometry.setIndex(corners);
    this.mesh.geometry.dispose();
    this.mesh.geometry = geometry;
  }
}

const PERSONS = 4;    // maximum number of persons; more motions are shown on light figures
const APART = 1.3;    // metres between the paths of motions side by side
const CELL = 1.7;     // metres between figures in rows, which do not travel

const AWAY = [0.62, 0.3, 0.92];  // direction of the camera from its target
const ACROSS = [0.83, -0.56];    // horizontal direction to the right of the camera

/** Offsets on the floor for motions that are shown side by side, in metres. If there are many, or the screen is narrow,
 * they are in rows and do not travel. */
function places(tracks, narrow) {
  const [x, z] = ACROSS;
  if (tracks.length > PERSONS || (narrow && tracks.length > 1)) {
    const columns = tracks.length > PERSONS ? Math.ceil(Math.sqrt(tracks.length * 1.5)) : 2;
    return tracks.map((_, i) => {
      const column = (i % columns) * CELL, row = Math.floor(i / columns) * (columns > 2 ? CELL : 2 * CELL);
      return { x: x * column + z * row, z: z * column - x * row, still: true };
    });
  }
  if (tracks.length === 1) return [{ x: 0, z: 0, still: false }];
  let edge = 0;
  return tracks.map(({ path, frames }) => {
    const across = Array.from({ length: frames }, (_, i) => path[2 * i] * x + path[2 * i + 1] * z);
    const left = Math.min(...across), start = path[0] * -z + path[1] * x, shift = edge - left;
    edge += Math.max(...across) - left + APART;
    return { x: x * shift + z * start, z: z * shift - x * start, still: false };
  });
}

class Stage {
  constructor(canvas, skeleton, fps) {
    this.body = null;   // mesh of a person, once it is unpacked
    this.cast = [];     // figures in the scene: each with its track and its place
    this.pools = { person: [], light: [] };
    this.character = null;  // the visitor's character
    this.skeleton = skeleton;
    this.renderer = new THREE.WebGLRenderer({ canvas, antialias: true, alpha: true });
    this.renderer.setPixelRatio(Math.min(window.devicePixelRatio, 2));
    this.renderer.shadowMap.enabled = true;
    this.renderer.shadowMap.type = THREE.VSMShadowMap;
    this.scene = new THREE.Scene();
    this.camera = new THREE.PerspectiveCamera(30, 1, 0.05, 200);
    this.controls = new THREE.OrbitControls(this.camera, canvas);
    const small = window.matchMedia("(max-width: 760px), (max-height: 480px)");  // screens on which pages scroll by swiping up
    const swipe = () => { canvas.style.touchAction = small.matches ? "pan-y" : "none"; };
    small.addEventListener("change", swipe);
    swipe();
    Object.assign(this.controls, { enableDamping: true, dampingFactor: 0.12, maxPolarAngle: Math.PI * 0.53,
      minDistance: 0.8, maxDistance: 30, zoomSpeed: 0.8 });

    this.sides = true;  // whether left and right have different colours
    this.sky = new THREE.HemisphereLight();
    this.sun = this.makeSun();
    this.fill = new THREE.DirectionalLight();
    this.floor = new THREE.Mesh(new THREE.PlaneGeometry(60, 60).rotateX(-Math.PI / 2), new THREE.ShaderMaterial({
      ...FLOOR, transparent: true, depthWrite: false, uniforms: {
        focus: { value: new THREE.Vector3() }, line: { value: new THREE.Color() }, glow: { value: new THREE.Color() },
        strength: { value: 1 } } }));
    this.shadow = new THREE.Mesh(new THREE.PlaneGeometry(60, 60).rotateX(-Math.PI / 2), new THREE.ShadowMaterial());
    this.shadow.receiveShadow = true;
    this.shadow.material.depthWrite = false;
    this.shadow.position.y = 0.001;
    this.floor.renderOrder = -3;
    this.shadow.renderOrder = -2;
    this.scene.add(this.sky, this.sun, this.sun.target, this.fill, this.floor, this.shadow);

    this.trails = new THREE.Group();
    this.way = new Ribbon({ width: 0.018, span: 1e9, cover: 0.85, later: 0.16, flatness: 1 });
    this.tips = skeleton.tips.map(() => new Ribbon({ width: 0.013, span: 1.3 * fps, cover: 0.75 }));
    this.trails.add(this.way.mesh, ...this.tips.map((tip) => tip.mesh));
    this.prints = new THREE.Group();
    this.prints.add(...skeleton.feet.map(() => this.makePrint()));
    this.marks = new Marks();
    this.scene.add(this.trails, this.prints, this.marks.group);

    this.focus = new THREE.Vector3();
    this.before = new THREE.Vector3();
    this.point = new THREE.Vector3();
    this.follow = true;
    this.resetView();
  }

  makeSun() {
    const sun = new THREE.DirectionalLight();
    sun.castShadow = true;
    sun.shadow.mapSize.set(256, 256);
    Object.assign(sun.shadow.camera, { left: -2.4, right: 2.4, top: 2.4, bottom: -2.4, near: 0.5, far: 14 });
    Object.assign(sun.shadow, { radius: 3, blurSamples: 8, bias: -0.0004 });
    return sun;
  }

  makePrint() {
    const print = new THREE.Mesh(new THREE.PlaneGeometry(0.26, 0.26).rotateX(-Math.PI / 2), new THREE.ShaderMaterial({
      uniforms: { colour: { value: new THREE.Color() } }, transparent: true, depthWrite: false,
      vertexShader: "varying vec2 at; void main() { at = uv * 2.0 - 1.0; gl_Position = projectionMatrix * modelViewMatrix * vec4(position, 1.0); }",
      fragmentShader: `varying vec2 at; uniform vec3 colour;
        void main() {
          float r = length(at), ring = smoothstep(0.16, 0.06, abs(r - 0.78)), inside = 0.22 * smoothstep(0.82, 0.7, r);
          gl_FragColor = vec4(colour, max(ring, inside));
          #include <colorspace_fragment>
        }` }));
    print.renderOrder = -1;
    return print;
  }

  /** Apply the colours of a theme (viewer.js). */
  paint(theme) {
    this.theme = theme;
    for (const { figure } of this.cast) this.dress(figure);
    this.sky.color.set(theme.sky);
    this.sky.groundColor.set(theme.ground);
    this.sky.intensity = theme.skyPower;
    this.sun.intensity = theme.sunPower;
    this.fill.intensity = theme.fillPower;
    this.shadow.material.opacity = theme.shadow;
    const { line, glow, strength } = this.floor.material.uniforms;
    line.value.set(theme.line);
    glow.value.set(theme.glow);
    strength.value = theme.lineStrength;
    this.way.uniforms.colour.value.set(theme.way);
    this.marks.paint(theme.mark);
    const side = (joint) => (this.skeleton.left.includes(joint) ? theme.left : theme.right);
    this.tips.forEach((tip, i) => tip.uniforms.colour.value.set(side(this.skeleton.tips[i])));
    this.prints.children.forEach((print, i) => print.material.uniforms.colour.value.set(side(this.skeleton.feet[i])));
  }

  dress(figure) {
    figure.colour([this.theme.trunk, this.theme.left, this.theme.right], this.theme.rim, this.sides);
  }

  /** Figures for a number of motions: persons, or light figures for many. */
  figures(count) {
    if (this.character && count === 1) return [this.character];
    const kind = this.body && count <= PERSONS ? "person" : "light", pool = this.pools[kind];
    while (pool.length < count) pool.push(kind === "person" ? new Person(this.body) : new Figure(this.skeleton));
    return pool.slice(0, count);
  }

  /** Show motions: one, or several side by side. */
  load(tracks, marks = []) {
    const [track] = tracks, spots = places(tracks, this.camera.aspect < 1);
    this.track = track;
    for (const { figure } of this.cast) this.scene.remove(figure.group);
    this.cast = this.figures(tracks.length).map((figure, i) => ({ figure, track: tracks[i], ...spots[i] }));
    for (const { figure, track: its } of this.cast) {
      figure.fit(its);
      this.dress(figure);
      this.scene.add(figure.group);
    }
    this.widen();
    for (const extra of [this.trails, this.prints, this.marks.group]) extra.userData.alone = tracks.length === 1 && !this.character;
    this.spread();
    this.marks.lay(tracks.length === 1 && !this.character ? marks : []);
    const points = (find) => Array.from({ length: track.frames }, (_, frame) => find(frame).toArray());
    this.way.lay(points((frame) => track.focus(frame, this.point).setY(0.004)));
    this.tips.forEach((tip, i) => tip.lay(points((frame) => track.place(this.skeleton.tips[i], frame, this.point))));
    this.resetView();
  }

  /** Make the shadows reach all figures. */
  widen() {
    const { camera } = this.sun.shadow;
    let reach = 2.4;
    for (const frame of [0, 0.5, 1].map((share) => share * Math.max(...this.cast.map(({ track }) => track.frames - 1)))) {
      const middle = this.middleOf(frame, new THREE.Vector3());
      for (const each of this.cast) reach = Math.max(reach, 1.6 + this.ground(each, frame, this.point).distanceTo(middle));
    }
    Object.assign(camera, { left: -reach, right: reach, top: reach, bottom: -reach, near: 0.5, far: 12 + 2 * reach });
    camera.updateProjectionMatrix();
  }

  /** Show trails, footprints and marks of a single motion, if they are switched on. */
  spread() {
    for (const extra of [this.trails, this.prints, this.marks.group]) {
      extra.visible = extra.userData.on !== false && extra.userData.alone !== false;
    }
  }

  /** Camera target at a moment: the centre of the figures. */
  middleOf(moment, out) {
    out.set(0, 0, 0);
    for (const each of this.cast) out.add(this.ground(each, moment, this.point));
    return out.divideScalar(Math.max(this.cast.length, 1));
  }

  /** Position of a figure on the floor at a moment. */
  ground({ track, figure, x, z, still }, moment, out) {
    if (still) return out.set(x, 0, z);
    track.focus(Math.min(moment, track.frames - 1), out).multiplyScalar(figure.scale ?? 1);  // scale of a character
    return out.set(out.x + x, 0, out.z + z);
  }

  /** Reset the view: from the side and slightly above, at the figure or, if the camera is still, at its whole path. */
  resetView() {
    this.controls.enableDamping = false;
    this.controls.update();  // discards the remaining damping of a drag
    this.controls.enableDamping = true;
    const { camera, controls, follow, cast, point } = this, away = new THREE.Vector3(...AWAY).normalize();
    const across = new THREE.Vector3(away.z, 0, -away.x).normalize(), up = new THREE.Vector3().crossVectors(away, across);
    const target = follow || !cast.length ? this.focus.clone() : this.middle();
    controls.target.copy(target).setY(0.88);
    // The nearest distance from which all points are in view.
    const high = Math.tan(camera.fov * Math.PI / 360), wide = high * camera.aspect * 0.94;
    let distance = Math.max(1, 0.62 / Math.max(camera.aspect, 0.1)) * 4.7;
    const need = (place) => {
      const local = place.sub(controls.target), side = Math.abs(local.dot(across)), rise = local.dot(up);
      distance = Math.max(distance, local.dot(away) + Math.max(side / wide, rise / (high * 0.76), -rise / (high * 0.9)));
    };
    for (const each of cast) {
      const step = Math.max(1, Math.floor(each.track.frames / 60));
      for (let frame = 0; frame < each.track.frames; frame += step) {
        const place = this.ground(each, frame, new THREE.Vector3());
        if (follow) place.sub(this.middleOf(frame, new THREE.Vector3())).add(target);
        for (const side of [-0.45, 0.45]) for (const y of [0, 1.85]) need(point.copy(place).addScaledVector(across, side).setY(y));
      }
    }
    camera.position.copy(away).multiplyScalar(distance).add(controls.target);
    controls.maxDistance = Math.max(30, 2 * distance);
    controls.update();
  }

  /** Middle of the whole path. */
  middle() {
    const low = new THREE.Vector3(Infinity, 0, Infinity), high = new THREE.Vector3(-Infinity, 0, -Infinity);
    for (const each of this.cast) {
      for (let frame = 0; frame < each.track.frames; frame++) {
        this.ground(each, frame, this.point);
        low.min(this.point);
        high.max(this.point);
      }
    }
    return low.add(high).divideScalar(2);
  }

  show(moment) {
    const { track, focus, point } = this;
    for (const each of this.cast) {
      const at = Math.min(moment, each.track.frames - 1);
      each.figure.pose(each.track, at);
      each.figure.group.position.set(each.x, 0, each.z);
      if (each.still) each.figure.group.position.sub(each.track.focus(at, point));
    }
    this.before.copy(focus);
    this.middleOf(moment, focus);
    if (this.follow) {
      point.copy(focus).sub(this.before);
      this.camera.position.add(point);
      this.controls.target.add(point);
    }
    this.floor.material.uniforms.focus.value.copy(focus);
    for (const plane of [this.floor, this.shadow]) plane.position.set(focus.x, plane.position.y, focus.z);
    const height = Math.max(1, this.sun.shadow.camera.right / 3);
    this.sun.position.copy(focus).add(point.set(-1.7, 4.6, 2.0).multiplyScalar(height));
    this.sun.target.position.copy(focus).setY(0.5);
    this.fill.position.set(2, 1.2, -3);
    for (const ribbon of [this.way, ...this.tips]) ribbon.uniforms.now.value = moment;
    this.marks.show(moment);
    this.prints.children.forEach((print, foot) => {
      print.visible = Boolean(track.stands(foot, Math.round(moment)));
      track.place(this.skeleton.feet[foot], moment, print.position).y = 0.0018 + 0.0004 * foot;
    });
  }

  resize(width, height) {
    this.renderer.setSize(width, height, false);
    this.camera.aspect = width / height;
    this.camera.updateProjectionMatrix();
  }

  draw() {
    this.renderer.render(this.scene, this.camera);
  }
}
