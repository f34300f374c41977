// Motions embedded in the page: packed by visualization/html.py, unpacked on first use.
"use strict";

async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Decode integers, channel by channel, from packed differences between frames, which are added to those in a base. */
function* unroll(planes, frames, base) {
  const count = planes.length / 2, step = (from, i) => from[i] | (from[count + i] << 8);
  for (let i = 0, sum = 0; i < count; i++) {
    if (i % frames === 0) sum = 0;
    sum += ((step(planes, i) + (base ? step(base, i) : 0)) << 16) >> 16;  // sign-extend 16 bits
    yield [i % frames, Math.floor(i / frames), sum];
  }
}

/** A motion of T frames and J joints: positions in metres, standing feet, and a smoothed camera target. */
class Track {
  constructor(places, standing, frames, joints, fps) {
    Object.assign(this, { places, standing, frames, joints, fps });
    this.path = this.smoothPath(0.6 * fps);
  }

  static async read(packed, base, frames, parents, fps) {
    const parts = [packed.steps, packed.standing, ...(base ? [base.steps] : [])], joints = parents.length;
    const [planes, standing, under] = await Promise.all(parts.map(unpack)), places = new Float32Array(frames * joints * 3);
    for (const [frame, channel, whole] of unroll(planes, frames, under)) places[frame * joints * 3 + channel] = whole * packed.unit;
    for (let frame = 0; frame < frames; frame++) {
      const root = frame * joints * 3;
      for (let i = 3; i < joints * 3; i++) places[root + i] += places[root + 3 * parents[Math.floor(i / 3)] + (i % 3)];
    }
    return new Track(places, standing, frames, joints, fps);
  }

  /** Interpolated position of a joint at a fractional frame. */
  place(joint, moment, out) {
    const frame = Math.min(Math.floor(moment), this.frames - 1);
    const next = Math.min(frame + 1, this.frames - 1);
    const a = (frame * this.joints + joint) * 3, b = (next * this.joints + joint) * 3, w = moment - frame, p = this.places;
    return out.set(p[a] + (p[b] - p[a]) * w, p[a + 1] + (p[b + 1] - p[a + 1]) * w, p[a + 2] + (p[b + 2] - p[a + 2]) * w);
  }

  stands(foot, frame) {
    return (this.standing[frame] >> foot) & 1;
  }

  /** Smoothed path of the root over the floor. */
  smoothPath(width) {
    const path = new Float32Array(this.frames * 2), reach = Math.ceil(2.5 * width);
    for (let frame = 0; frame < this.frames; frame++) {
      let x = 0, z = 0, sum = 0;
      for (let step = -reach; step <= reach; step++) {
        const other = Math.min(Math.max(frame + step, 0), this.frames - 1);
        const weight = Math.exp(-0.5 * (step / width) ** 2), i = other * this.joints * 3;
        x += weight * this.places[i];
        z += weight * this.places[i + 2];
        sum += weight;
      }
      path[2 * frame] = x / sum;
      path[2 * frame + 1] = z / sum;
    }
    return path;
  }

  /** Camera target at a moment. */
  focus(moment, out) {
    const frame = Math.min(Math.floor(moment), this.frames - 1), next = Math.min(frame + 1, this.frames - 1);
    const w = moment - frame, p = this.path;
    return out.set(p[2 * frame] + (p[2 * next] - p[2 * frame]) * w, 0, p[2 * frame + 1] + (p[2 * next + 1] - p[2 * frame + 1]) * w);
  }
}
