// Page controls: current motion and time, buttons and keyboard shortcuts.
"use strict";

const THEMES = {
  light: {
    trunk: "#8b95a5", left: "#2e74d6", right: "#e86238", rim: "#3a4048", sky: "#ffffff", ground: "#a9adb8", skyPower: 2.0,
    sunPower: 1.5, fillPower: 0.5, shadow: 0.3, line: "#8793a6", lineStrength: 0.75, glow: "#ffffff", way: "#eba31f", mark: "#1a9a50",
  },
  dark: {
    trunk: "#a4adbd", left: "#4b8ffb", right: "#ff774a", rim: "#4a5670", sky: "#c4d2ee", ground: "#2a2f3d", skyPower: 1.5,
    sunPower: 1.9, fillPower: 0.9, shadow: 0.55, line: "#8796b3", lineStrength: 0.5, glow: "#2b3342", way: "#ffbe4d", mark: "#4fd98a",
  },
};
const SPEEDS = [0.1, 0.25, 0.5, 1, 1.5, 2, 4];
const FORMATS = {
  own: "your character, animated", npy: "joints, NumPy", bvh: "skeleton, Blender, Maya, …", glb: "animated person, glTF",
  vrma: "VRM animation", npz: "SMPL rotations, AMASS", mp4: "video", gif: "video",
};
const KEYS = [
  ["space", "play or pause"], ["← →", "previous or next frame"], ["home, end", "first or last frame"], ["↑ ↓", "previous or next motion"],
  ["< >", "slower or faster"], ["L", "loop"], ["I", "as generated or feet locked"], ["T", "trails"], ["K", "constraints"], ["C", "contacts"],
  ["S", "colours of left and right"], ["G", "side by side"], ["F", "camera follows"], ["R", "reset the view"], ["D", "dark or light theme"], ["?", "keyboard shortcuts"],
];
const NO_WEBGL = "This browser has no 3-D graphics (WebGL), so the motions cannot be played. Enable hardware acceleration, or open "
  + "the page in another browser. Videos and other files next to the page do not need WebGL.";
const get = (id) => document.getElementById(id);

class Viewer {
  constructor(data) {
    Object.assign(this, { data, fps: data.fps, stage: new Stage(get("canvas"), data.skeleton, data.fps), tracks: new Map() });
    this.takes = new Takes(this, get("labels"));
    Object.assign(this, { number: 0, end: 0, kind: "locked", together: false, moment: 0, speed: 1, playing: false, looping: true });
    Object.assign(this, { stale: true, last: 0, seen: true, resting: false, running: false });
    this.fill();
    this.listen();
    const dark = window.matchMedia("(prefers-color-scheme: dark)");
    this.setTheme(dark.matches ? "dark" : "light");
    dark.addEventListener("change", () => this.setTheme(dark.matches ? "dark" : "light"));
    new ResizeObserver(() => this.fitWindow()).observe(get("canvas"));
    this.fitWindow();
    this.ready = (data.body ? Body.read(data.body) : Promise.resolve(null)).then((body) => {
      this.stage.body = body;
      get("character").hidden = !body;
      return this.choose(0);
    }).then(() => {
      this.stage.resetView();
      this.setPlaying(!window.matchMedia("(prefers-reduced-motion: reduce)").matches);
      new IntersectionObserver(([entry]) => { this.seen = entry.isIntersecting; this.run(); }).observe(get("canvas"));
      document.addEventListener("visibilitychange", () => this.run());
      this.run();
    });
  }

  get motion() { return this.data.motions[this.number]; }

  fill() {
    const { title, motions, fps } = this.data;
    document.title = title;
    get("title").textContent = title;
    document.body.classList.toggle("single", motions.length === 1);  // no list needed for a single motion
    document.body.classList.toggle("framed", window.parent !== window);  // embedded in a page that shows the caption
    get("count").textContent = `${motions.length} motion${motions.length > 1 ? "s" : ""}, ${fps} fps`;
    motions.forEach((motion, number) => {
      const button = document.createElement("button"), words = document.createElement("b"), more = document.createElement("span");
      words.textContent = this.title(motion);
      more.textContent = this.about(motion);
      button.append(words, more);
      button.addEventListener("click", () => { this.setTogether(false, number); this.setOpen(false); });
      get("list").appendChild(document.createElement("li")).append(button);
    });
    for (const speed of SPEEDS) get("speed").add(new Option(`${speed}×`, speed, speed === 1, speed === 1));
    for (const [key, what] of KEYS) {
      get("keylist").appendChild(document.createElement("dt")).textContent = key;
      get("keylist").appendChild(document.createElement("dd")).textContent = what;
    }
  }

  title(motion) {
    const { parts } = motion;
    return parts.length > 1 ? `${parts[0][1]}, then ${parts.length - 1} more` : motion.caption || motion.name;
  }

  about(motion) {
    const takes = this.data.motions.filter((other) => other.caption === motion.caption);
    const take = takes.length > 1 ? ` · take ${takes.indexOf(motion) + 1}` : "";
    return `${(motion.frames / this.fps).toFixed(1)} s${take}`;
  }

  listen() {
    const clicks = {
      play: () => this.setPlaying(!this.playing), back: () => this.step(-1), step: () => this.step(1),
      loop: () => this.toggle("loop"), plain: () => this.setKind("plain"), locked: () => this.setKind("locked"),
      trails: () => this.toggle("trails"), marks: () => this.toggle("marks"), contacts: () => this.toggle("contacts"),
      sides: () => this.toggle("sides"), together: () => this.setTogether(!this.together), follow: () => this.toggle("follow"),
      view: () => this.resetView(), theme: () => this.setTheme(), keys: () => get("help").showModal(),
      menu: () => this.setOpen(true), veil: () => this.setOpen(false),
    };
    for (const [id, act] of Object.entries(clicks)) get(id).addEventListener("click", act);
    const pick = () => (this.stage.character ? this.setCharacter(null) : get("upload").click());
    get("character").addEventListener("click", pick);
    get("upload").addEventListener("change", ({ target }) => {
      if (target.files.length) this.setCharacter(target.files[0]);
      target.value = "";
    });
    for (const kind of ["dragover", "drop"]) {
      document.addEventListener(kind, (event) => {
        event.preventDefault();
        if (kind === "drop" && event.dataTransfer.files.length) this.setCharacter(event.dataTransfer.files[0]);
      });
    }
    get("scrub").addEventListener("input", (event) => { this.setPlaying(false); this.seek(Number(event.target.value)); });
    get("speed").addEventListener("change", (event) => this.setSpeed(Number(event.target.value)));
    this.stage.controls.addEventListener("change", () => { this.stale = true; });
    document.addEventListener("click", (event) => { if (!get("save").contains(event.target)) get("save").open = false; });
    document.addEventListener("keydown", (event) => this.press(event));
  }

  press(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || get("help").open || event.target instanceof HTMLSelectElement) return;
    const pace = (way) => this.setSpeed(SPEEDS[Math.min(Math.max(SPEEDS.indexOf(this.speed) + way, 0), SPEEDS.length - 1)]);
    const acts = {
      " ": () => this.setPlaying(!this.playing), arrowleft: () => this.step(-1), arrowright: () => this.step(1),
      arrowup: () => this.choose(this.number - 1), arrowdown: () => this.choose(this.number + 1),
      home: () => this.jump(0), end: () => this.jump(this.end), "<": () => pace(-1), ">": () => pace(1),
      l: () => this.toggle("loop"), i: () => this.setKind(this.kind === "plain" ? "locked" : "plain"),
      t: () => this.toggle("trails"), k: () => this.toggle("marks"), c: () => this.toggle("contacts"), s: () => this.toggle("sides"),
      g: () => this.setTogether(!this.together), f: () => this.toggle("follow"),
      r: () => this.resetView(), d: () => this.setTheme(), "?": () => get("help").showModal(),
      escape: () => { this.setOpen(false); get("save").open = false; },
    };
    const act = acts[event.key.toLowerCase()];
    if (!act || (event.key === " " && event.target.closest("button, summary"))) return;
    event.preventDefault();
    act();
  }

  async choose(number) {
    if (!(number in this.data.motions)) return;
    this.number = number;
    [...get("list").querySelectorAll("button")].forEach((button, i) => button.setAttribute("aria-current", i === number));
    get("list").children[number].scrollIntoView({ block: "nearest" });
    this.end = this.motion.frames - 1;
    get("scrub").max = this.end;
    this.listFiles();
    get("marks").hidden = !this.motion.marks.length;
    this.moment = 0;
    this.tell();
    await this.mount();
  }

  /** Show the current prompt of a sequence of prompts. */
  tell() {
    const { motion, number } = this, { parts } = motion;
    const part = parts.findLastIndex(([start]) => start <= Math.round(this.moment));
    const which = part < 0 ? "" : ` · prompt ${part + 1} of ${parts.length}`;
    document.body.classList.toggle("sequence", part >= 0);
    get("caption").textContent = part < 0 ? this.title(motion) : parts[part][1];
    get("detail").textContent = `${this.about(motion)} · ${number + 1} of ${this.data.motions.length}${which}`;
  }

  /** Show the selected motion, as generated or with locked feet. */
  async mount() {
    const { number, kind, together } = this, numbers = together ? this.takes.group() : [number];
    const tracks = await Promise.all(numbers.map((each) => this.track(this.data.motions[each], kind)));
    if (number !== this.number || kind !== this.kind || together !== this.together) return;  // something else was selected
    this.stage.load(tracks, this.motion.marks);
    this.takes.label(numbers);
    this.end = Math.max(...tracks.map((track) => track.frames)) - 1;
    get("scrub").max = this.end;
    this.drawLanes();
    this.seek(this.moment);
  }

  /** List the downloads of the selected motion: files the page can create, and files next to it. A page opened from disk
   * creates all files it can, because browsers open local files instead of saving them. */
  listFiles() {
    const { motion, kind } = this, local = location.protocol === "file:";
    const beside = new Map(motion.files[kind].map((path) => [path.split(".").pop(), path]));
    const { character, body } = this.stage, title = this.title(motion);
    const makes = { npy: npyFile, ...(body && { vrma: (track) => vrmaFile(track, body, title) }),
      ...(character && { own: (track) => character.animated(track, title) }),
      ...(motion.bvh[kind] && { bvh: (track) => bvhFile(track, motion.bvh[kind], kind === "locked" ? motion.bvh.plain : null) }) };
    const formats = Object.keys(FORMATS).filter((format) => beside.has(format) || format in makes);
    get("files").replaceChildren(...formats.map((format) => {
      const path = beside.get(format), what = document.createElement("span");
      const stem = `${motion.name}${kind === "locked" ? "_ik" : ""}`, own = `${character?.name.replace(/\.\w+$/, "")}_${stem}.glb`;
      const name = format === "own" ? own : path ? path.split("/").pop() : `${stem}.${format}`;
      const makesIt = format in makes && (local || !path);
      const entry = document.createElement(makesIt ? "button" : "a");
      entry.textContent = format === "own" ? ".glb" : `.${format}`;
      what.textContent = FORMATS[format];
      if (makesIt) {
        entry.addEventListener("click", async () => save(await makes[format](await this.track(motion, kind)), name));
      } else {
        entry.href = path.split("/").map(encodeURIComponent).join("/");
        entry.download = name;
        if (local) Object.assign(entry, { target: "_blank", title: "Opens in a new tab; save it from there" });  // keeps this page open
      }
      entry.append(what);
      return entry;
    }));
  }

  /** Unpacked motion, as generated or with locked feet, cached. */
  track(motion, kind) {
    const key = `${this.data.motions.indexOf(motion)} ${kind}`;
    if (!this.tracks.has(key)) {
      const base = kind === "locked" ? motion.tracks.plain : null;
      this.tracks.set(key, Track.read(motion.tracks[kind], base, motion.frames, this.data.skeleton.parents, this.fps));
    }
    return this.tracks.get(key);
  }

  setKind(kind) {
    this.kind = kind;
    for (const id of ["plain", "locked"]) get(id).setAttribute("aria-pressed", id === kind);
    this.listFiles();
    this.mount();
  }

  /** Show motions on the visitor's character, or on the person again without a file. */
  async setCharacter(file) {
    get("fault").hidden = true;
    try {
      this.stage.character = file ? await Character.read(file, this.stage.body) : null;
    } catch (error) {
      get("fault").textContent = error.message;
      get("fault").hidden = false;
    }
    const { character } = this.stage;
    get("character").setAttribute("aria-pressed", Boolean(character));
    get("character").textContent = character ? `${character.name} ×` : "Your character";
    this.listFiles();
    await this.mount();
    this.stale = true;
  }

  /** Show the selected motion and others side by side, or a motion alone. */
  async setTogether(together, number = this.number) {
    this.together = together;
    get("together").setAttribute("aria-pressed", together);
    await this.choose(number);
  }

  toggle(id) {
    const on = get(id).getAttribute("aria-pressed") !== "true";
    get(id).setAttribute("aria-pressed", on);
    if (id === "loop") this.looping = on;
    const extra = { trails: this.stage.trails, marks: this.stage.marks.group, contacts: this.stage.prints }[id];
    if (extra) { extra.userData.on = on; this.stage.spread(); }
    if (id === "contacts") this.drawLanes();
    if (id === "sides") { this.stage.sides = on; this.stage.paint(THEMES[this.theme]); }
    if (id === "follow") { this.stage.follow = on; this.stage.resetView(); }
    this.stale = true;
  }

  setTheme(name) {
    this.theme = name || (this.theme === "dark" ? "light" : "dark");
    document.documentElement.dataset.theme = this.theme;
    this.stage.paint(THEMES[this.theme]);
    if (this.stage.track) this.drawLanes();
    this.stale = true;
  }

  setSpeed(speed) {
    this.speed = speed;
    get("speed").value = speed;
  }

  setPlaying(playing) {
    if (playing && this.moment >= this.end) this.moment = 0;
    this.playing = playing;
    get("play").querySelector("use").setAttribute("href", playing ? "#i-pause" : "#i-play");
    get("play").setAttribute("aria-label", playing ? "Pause" : "Play");
  }

  setOpen(open) {
    document.body.classList.toggle("open", open);
    get("veil").hidden = !open;
  }

  resetView() {
    this.stage.resetView();
    this.stale = true;
  }

  step(frames) {
    this.jump(Math.round(this.moment) + frames);
  }

  jump(frame) {
    this.setPlaying(false);
    this.seek(Math.min(Math.max(frame, 0), this.end));
  }

  /** Show a moment in frames; fractions are interpolated. */
  seek(moment) {
    this.moment = moment;
    this.stage.show(moment);
    this.tell();
    get("scrub").value = moment;
    get("now").textContent = `${(moment / this.fps).toFixed(2)} s`;
    get("all").textContent = ` / ${(this.end / this.fps).toFixed(2)} s`;
    get("frame").textContent = ` · ${Math.round(moment) + 1}/${this.end + 1}`;
    this.stale = true;
  }

  /** Advance playback by a time in seconds. */
  advance(seconds) {
    if (!this.playing || !this.stage.track) return;
    let moment = this.moment + seconds * this.fps * this.speed;
    if (moment >= this.end) {
      moment = this.looping && this.end ? moment % this.end : this.end;
      if (!this.looping) this.setPlaying(false);
    }
    this.seek(moment);
  }

  /** Whether the motion is visible. */
  get visible() { return this.seen && !this.resting && !document.hidden; }

  /** Draw as long as the page is visible. */
  run() {
    if (this.running || !this.visible) return;
    this.running = true;
    this.stale = true;
    requestAnimationFrame((time) => this.tick(time));
  }

  tick(time) {
    this.running = this.visible;
    if (!this.running) return;
    this.advance(Math.min((time - this.last) / 1000, 0.25));
    this.last = time;
    this.stage.controls.update();
    if (this.stale) {
      this.stale = false;
      this.stage.draw();
      this.takes.place();
    }
    requestAnimationFrame((next) => this.tick(next));
  }

  fitWindow() {
    const { clientWidth, clientHeight } = get("canvas");
    if (!clientWidth || !clientHeight) return;
    this.stage.resize(clientWidth, clientHeight);
    if (this.stage.track) { this.drawLanes(); this.stage.draw(); }
  }

  /** Draw the timeline behind the scrubber: foot contacts (left foot at the top), regenerated parts, prompt boundaries. */
  drawLanes() {
    const canvas = get("lanes"), { track } = this.stage, pen = canvas.getContext("2d");
    const scale = Math.min(window.devicePixelRatio, 2), style = getComputedStyle(document.documentElement);
    const width = canvas.width = canvas.clientWidth * scale, height = canvas.height = canvas.clientHeight * scale;
    const { feet, left } = this.data.skeleton, step = width / Math.max(this.end, 1);
    const lane = 7 * scale, gap = 2.5 * scale, shown = this.stage.prints.userData.on !== false;
    pen.fillStyle = style.getPropertyValue("--remade");
    for (const [first, last] of this.motion.remade) pen.fillRect((first - 0.5) * step, 0, (last - first + 1) * step, height);
    for (const row of [0, 1]) {
      const top = height / 2 + (row ? gap / 2 : -lane - gap / 2);
      pen.fillStyle = style.getPropertyValue("--line");
      pen.beginPath();
      pen.roundRect(0, top, width, lane, lane / 2);
      pen.fill();
      pen.fillStyle = style.getPropertyValue(row ? "--right" : "--left");
      const stands = (frame) => feet.some((joint, foot) => left.includes(joint) === !row && track.stands(foot, frame));
      for (let frame = 0, begin = -1; shown && frame <= track.frames; frame++) {
        const down = frame < track.frames && stands(frame);
        if (down && begin < 0) begin = frame;
        if (!down && begin >= 0) {
          const from = Math.max((begin - 0.5) * step, 0), to = Math.min((frame - 0.5) * step, width);
          pen.beginPath();
          pen.roundRect(from, top, to - from, lane, lane / 2);
          pen.fill();
          begin = -1;
        }
      }
    }
    pen.fillStyle = style.getPropertyValue("--mark");
    for (const [start] of this.motion.parts.slice(1)) pen.fillRect(start * step - scale, 0, 2 * scale, height);
  }
}

try {
  window.viewer = new Viewer(JSON.parse(get("data").textContent));
} catch (error) {
  const draws = document.createElement("canvas").getContext("webgl2");
  get("fault").textContent = draws ? `This browser cannot show the motions: ${error.message}` : NO_WEBGL;
  get("fault").hidden = false;
  document.body.classList.add("single", "failed");
  throw error;
}
