// Editors for timelines (blocks and waypoints) and for the parts of a motion to regenerate.
"use strict";

const STEP = 0.2, SHORTEST = 0.4, LONGEST = 30;  // seconds
const FLOOR = 4, FARTHEST = 20, PACE = 0.1;       // metres: edge of the floor plan, limit of waypoints, step of a key
const snap = (seconds) => Math.round(seconds / STEP) * STEP;
const rounded = (seconds) => Number(seconds.toFixed(2));
const make = (tag, properties, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};

/** Call ``move`` with the share of the width of ``area`` under the pointer until it is released, then ``end``. */
function drag(event, area, move, end) {
  event.preventDefault();
  const { left, width } = area.getBoundingClientRect(), stop = new AbortController(), { signal } = stop;
  const share = (at) => Math.min(Math.max((at.clientX - left) / width, 0), 1);
  move(share(event));
  addEventListener("pointermove", (at) => move(share(at)), { signal });
  for (const type of ["pointerup", "pointercancel"]) addEventListener(type, () => { stop.abort(); end(); }, { signal });
}

/** Editor for a timeline. The value is { blocks, upper, waypoints, remakes } as in an ask. */
lamp.timeline = (element, trigger, watch, props) => {
  const root = element.querySelector(".timeline");
  const copy = (from) => JSON.parse(JSON.stringify(from));
  let value = copy(props.value), chosen = { track: "blocks", number: 0 }, time = 2;
  const end = () => value.blocks.at(-1).end;
  const scale = () => Math.min(Math.max(end() + 2, 6), LONGEST);
  const save = () => { props.value = { ...copy(value), waypoints: copy(value.waypoints).sort((a, b) => a.time - b.time) }; };
  const commit = () => { save(); draw(); };
  const selected = () => value[chosen.track][chosen.number];

  /** Move the edge of a block. Neighbouring blocks of the whole body shrink or grow; others limit the movement. */
  function moveEdge(track, number, edge, seconds) {
    const blocks = value[track], block = blocks[number], next = blocks[number + 1], last = blocks[number - 1];
    const at = snap(seconds);
    if (edge === "start") {
      block.start = rounded(Math.min(Math.max(at, last ? last.end : 0), block.end - SHORTEST));
    } else {
      const most = track === "upper" ? (next ? next.start : end()) : next ? next.end - SHORTEST : LONGEST;
      block.end = rounded(Math.min(Math.max(at, block.start + SHORTEST), most));
      if (track === "blocks" && next) next.start = block.end;
    }
  }

  function add(track) {
    const blocks = value[track], from = track === "blocks" ? end() : blocks.length ? blocks.at(-1).end : 0;
    const to = Math.min(from + (track === "blocks" ? 3 : 2), track === "blocks" ? LONGEST : end());
    if (to - from < SHORTEST) return;
    blocks.push({ text: track === "blocks" ? "a person bows" : "a person waves", start: rounded(from), end: rounded(to) });
    chosen = { track, number: blocks.length - 1 };
    commit();
  }

  function remove() {
    const blocks = value[chosen.track], [gone] = blocks.splice(chosen.number, 1);
    if (chosen.track === "blocks") {
      for (const block of blocks.slice(chosen.number)) {
        block.start = rounded(block.start - gone.end + gone.start);
        block.end = rounded(block.end - gone.end + gone.start);
      }
      value.upper = value.upper.filter((block) => block.end <= end());
      value.waypoints = value.waypoints.filter((point) => point.time <= end());
    }
    value.remakes = [];
    chosen = { track: "blocks", number: 0 };
    commit();
    root.querySelector(".block").focus();
  }

  function block(track, lane, one, number) {
    const label = track === "blocks" ? "Whole body" : "Upper body", active = chosen.track === track && chosen.number === number;
    const again = value.remakes.some((remake) => remake.block === number && (remake.track === "body") === (track === "blocks"));
    const button = make("button", { className: `block${active ? " active" : ""}${again ? " remade" : ""}`,
      ariaLabel: `${label}: ${one.text}, ${one.start} to ${one.end} s. Left and right arrows move its end${
        track === "upper" ? ", with Shift its start" : ""}.`, ariaPressed: active },
    make("span", { className: "words", textContent: one.text }));
    Object.assign(button.style, { left: `${100 * one.start / scale()}%`, width: `${100 * (one.end - one.start) / scale()}%` });
    button.addEventListener("click", () => { chosen = { track, number }; draw(); });
    button.addEventListener("keydown", (event) => {
      const way = { ArrowLeft: -STEP, ArrowRight: STEP }[event.key];
      if (!way) return;
      event.preventDefault();
      const edge = event.shiftKey && track === "upper" ? "start" : "end";
      moveEdge(track, number, edge, one[edge] + way);
      commit();
    });
    const edges = track === "blocks" ? ["end"] : ["start", "end"];
    for (const edge of edges) {
      const handle = make("i", { className: `edge ${edge}` });
      handle.addEventListener("pointerdown", (event) => {
        event.stopPropagation();
        const seconds = scale();  // fixed while dragging
        drag(event, lane, (share) => {
          moveEdge(track, number, edge, share * seconds);
          Object.assign(button.style, { left: `${100 * one.start / seconds}%`, width: `${100 * (one.end - one.start) / seconds}%` });
          handle.title = `${one[edge]} s`;
        }, commit);
      });
      button.append(handle);
    }
    return button;
  }

  function lane(track, title) {
    const bar = make("div", { className: "lane" });
    bar.dataset.track = track;
    value[track].forEach((one, number) => bar.append(block(track, bar, one, number)));
    const plus = make("button", { className: "plus", textContent: "+", ariaLabel: `Add a block to ${title}` });
    plus.addEventListener("click", () => add(track));
    return make("div", { className: "track" }, make("b", { textContent: title }), bar, plus);
  }

  function ruler() {
    const bar = make("div", { className: "ruler" }), step = scale() > 15 ? 5 : scale() > 8 ? 2 : 1;
    for (let second = 0; second <= scale(); second += step) {
      const mark = make("span", { textContent: `${second} s` });
      mark.style.left = `${100 * second / scale()}%`;
      bar.append(mark);
    }
    return make("div", { className: "track" }, make("b"), bar, make("span"));
  }

  function details() {
    const one = selected(), text = make("input", { value: one.text, maxLength: 400, ariaLabel: "Prompt of the block" });
    text.addEventListener("input", () => {
      one.text = text.value;
      save();  // without drawing, which would replace the focused element
      root.querySelector(".block.active .words").textContent = text.value;
    });
    const gone = make("button", { textContent: "Remove", disabled: chosen.track === "blocks" && value.blocks.length === 1 });
    gone.addEventListener("click", remove);
    const again = make("button", { textContent: "Make this block again" });
    again.addEventListener("click", () => trigger("select", { action: "remake", id: `${chosen.track === "blocks" ? "body" : "upper"} ${chosen.number}` }));
    const times = make("span", { textContent: `${one.start} to ${one.end} s` });
    return make("div", { className: "details" }, text, make("div", {}, times, again, gone));
  }

  /** Waypoints: a floor plan to click, and a row of numbers for each. */
  function floor() {
    const plan = make("div", { className: "plan", role: "group", ariaLabel: "Floor, seen from above" });
    const rows = make("div", { className: "waypoints" });
    const share = (metres) => `${50 - 50 * Math.min(Math.max(metres / FLOOR, -1), 1)}%`;  // +x is to the left
    const within = (metres) => rounded(Math.min(Math.max(metres, -FARTHEST), FARTHEST));

    function mark() {
      const start = make("i", { className: "start", title: "start, facing up" });
      Object.assign(start.style, { left: share(0), top: share(0) });
      plan.replaceChildren(start, ...value.waypoints.map((point, number) => {
        const dot = make("button", { className: "point", textContent: point.time, title: "Click to remove, arrow keys to move",
          ariaLabel: `Waypoint at ${point.time} s, ${point.x} m left, ${point.z} m ahead. Press Enter to remove it, arrow keys to move it.` });
        Object.assign(dot.style, { left: share(point.x), top: share(point.z) });
        dot.addEventListener("click", (event) => { event.stopPropagation(); drop(number); });
        dot.addEventListener("keydown", (event) => {
          const [x, z] = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key] ?? [0, 0];
          if (!x && !z) return;
          event.preventDefault();
          Object.assign(point, { x: within(point.x + x * PACE), z: within(point.z + z * PACE) });
          commit();
        });
        return dot;
      }));
    }

    function drop(number) {
      value.waypoints.splice(number, 1);
      commit();
      root.querySelector(".add").focus();
    }

    function add(x, z) {
      const point = { x: within(x), z: within(z), time: rounded(Math.min(time, end())) };
      value.waypoints = [...value.waypoints.filter((other) => other.time !== point.time), point].sort((a, b) => a.time - b.time);
      time = Math.min(time + 1, end());
      commit();
      return value.waypoints.indexOf(point);
    }

    value.waypoints.forEach((point, number) => {
      const fields = [["time", "time (s)", 0, end(), STEP], ["x", "left (m)", -FARTHEST, FARTHEST, PACE], ["z", "ahead (m)", -FARTHEST, FARTHEST, PACE]];
      const row = make("div", {}, ...fields.map(([name, unit, min, max, step]) => {
        const field = make("input", { type: "number", min, max, step, value: point[name], ariaLabel: `Waypoint ${number + 1}: ${unit}` });
        field.addEventListener("change", () => {
          point[name] = field.value = rounded(Math.min(Math.max(Number(field.value) || 0, min), max));
          save();  // without drawing, which would take the focus
          mark();
        });
        return make("label", {}, unit, field);
      }));
      const gone = make("button", { textContent: "✕", title: "Remove", ariaLabel: `Remove waypoint ${number + 1}` });
      gone.addEventListener("click", () => drop(number));
      row.append(gone);
      rows.append(row);
    });
    plan.addEventListener("click", (event) => {
      const { left, top, width, height } = plan.getBoundingClientRect();
      add(FLOOR * (1 - 2 * (event.clientX - left) / width), FLOOR * (1 - 2 * (event.clientY - top) / height));
    });
    const when = make("input", { type: "number", min: 0, max: end(), step: STEP, value: rounded(Math.min(time, end())) });
    when.addEventListener("change", () => { time = Math.min(Math.max(Number(when.value) || 0, 0), end()); });
    const more = make("button", { className: "add", textContent: "Add" });
    more.addEventListener("click", () => {
      const last = value.waypoints.findLast((point) => point.time < time) ?? { x: 0, z: 0 }, number = add(last.x, last.z + 1);
      root.querySelectorAll(".waypoints > div")[number].querySelectorAll("input")[1].focus();
    });
    mark();
    return make("details", { open: value.waypoints.length > 0 }, make("summary", { textContent: "Waypoints" }),
      make("div", { className: "next" }, make("label", {}, "Be there at (s) ", when), more),
      make("p", { textContent: "Click the floor or press Add. A square is 1 m." }), rows, plan);
  }

  function draw() {
    const controls = () => [...root.querySelectorAll("button, input, summary")];
    const open = root.querySelector("details")?.open, focused = controls().indexOf(document.activeElement);
    const parts = [ruler(), lane("blocks", "Whole body"), lane("upper", "Upper body"), details(), floor()];
    if (open !== undefined) parts.at(-1).open = open || value.waypoints.length > 0;
    root.replaceChildren(...parts);
    if (focused >= 0) controls()[focused]?.focus();
  }

  watch("value", () => { value = copy(props.value); chosen = { track: "blocks", number: 0 }; draw(); });
  draw();
};

/** Parts in text such as "0.3,0.6" or, in tokens, "20,40", as shares of a motion. Invalid ones are omitted. */
function partsIn(text, tokens) {
  return text.split(/\s+/).map((word) => word.split(",").map((end) => Math.min(end / (word.includes(".") ? 1 : tokens), 1)))
    .filter(([from, to]) => 0 <= from && from < to).sort((a, b) => a[0] - b[0]);
}

/** Editor for ranges on the contact bar of a motion. The value is { seconds, left, right, tokens, sections }, or null. */
lamp.paint = (element, trigger, watch, props) => {
  const root = element.querySelector(".paint"), SMALLEST = 0.02, HUNDREDTH = 0.01;
  let ranges = [];
  const report = () => {
    const sections = ranges.map(([from, to]) => `${from.toFixed(2)},${to.toFixed(2)}`).join(" ");
    props.value = { ...props.value, sections };
    trigger("input");
  };
  const place = (strip, from, to) => Object.assign(strip.style, { left: `${100 * from}%`, width: `${100 * (to - from)}%` });

  function strips(runs, name) {
    return (runs || []).map(([from, to]) => {
      const strip = make("i", { className: name });
      place(strip, from / props.value.seconds, to / props.value.seconds);
      return strip;
    });
  }

  function range([from, to], number) {
    const { seconds } = props.value, strip = make("i", { className: "painted", tabIndex: 0, role: "slider",
      ariaLabel: `Part ${number + 1}. Left and right arrows move it, with Shift its end; Delete removes it.`,
      ariaValueMin: 0, ariaValueMax: seconds.toFixed(1), ariaValueNow: (from * seconds).toFixed(1),
      ariaValueText: `${(from * seconds).toFixed(1)} to ${(to * seconds).toFixed(1)} s` });
    place(strip, from, to);
    strip.addEventListener("keydown", (event) => press(event, number));
    return strip;
  }

  /** Move, extend or remove a range by keyboard, up to its neighbours. */
  function press(event, number) {
    const way = { ArrowLeft: -HUNDREDTH, ArrowRight: HUNDREDTH }[event.key], [from, to] = ranges[number];
    const low = ranges[number - 1]?.[1] ?? 0, high = ranges[number + 1]?.[0] ?? 1;
    if (event.key === "Delete" || event.key === "Backspace") ranges.splice(number, 1);
    else if (way && event.shiftKey) ranges[number] = [from, Math.min(Math.max(to + way, from + SMALLEST), high)];
    else if (way) ranges[number] = [from, to].map((end) => end + Math.min(Math.max(way, low - from), high - to));
    else return;
    event.preventDefault();
    commit(number);
  }

  /** Add a part in the middle of the longest gap. */
  function add() {
    const ends = [0, ...ranges.flat(), 1], gaps = ends.flatMap((end, i) => (i % 2 ? [] : [[end, ends[i + 1]]]));
    const [from, to] = gaps.reduce((best, gap) => (gap[1] - gap[0] > best[1] - best[0] ? gap : best));
    const half = Math.min((to - from) / 2, 0.1), middle = (from + to) / 2;
    if (2 * half < SMALLEST) return;
    ranges = [...ranges, [middle - half, middle + half]].sort((a, b) => a[0] - b[0]);
    commit(ranges.findIndex(([start]) => start === middle - half));
  }

  /** Save, and focus a range or, if there is none, the button that adds one. */
  function commit(number) {
    draw();
    (root.querySelectorAll(".painted")[Math.min(number, ranges.length - 1)] ?? root.querySelector("button")).focus();
    report();
  }

  function draw() {
    root.replaceChildren();
    if (!props.value) return;
    const bar = make("div", { className: "bar" }, ...strips(props.value.left, "left"), ...strips(props.value.right, "right"),
      ...ranges.map(range));
    bar.addEventListener("pointerdown", (event) => {
      let from = null, to = null;
      const fresh = make("i", { className: "painted" });
      bar.append(fresh);
      drag(event, bar, (share) => {
        from ??= share;
        to = share;
        place(fresh, Math.min(from, to), Math.max(from, to));
      }, () => {
        const range = [Math.min(from, to), Math.max(from, to)];
        const apart = ranges.filter(([a, b]) => b < range[0] || a > range[1]);  // a new range replaces those that it overlaps
        if (range[1] - range[0] >= 0.01) ranges = [...apart, range].sort((a, b) => a[0] - b[0]);
        else ranges = apart;  // a click removes
        draw();
        report();
      });
    });
    const more = make("button", { textContent: "Add a part" });
    more.addEventListener("click", add);
    root.append(bar, make("div", {}, more, make("p", { textContent: `${props.value.seconds.toFixed(1)} s. Paint the parts to `
      + "regenerate on the contacts of the feet; click one to remove it." })));
  }

  function read() {
    ranges = props.value ? partsIn(props.value.sections, props.value.tokens) : [];
    draw();
  }

  watch("value", read);
  read();
};
