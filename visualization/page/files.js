// Create downloads from the data in the page, if there are no files next to it, or if the browser would only open them.
"use strict";

/** The joints of a track as NumPy's .npy: float32, (frames, joints, 3), metres. */
function npyFile({ places, frames, joints }) {
  const shape = `{'descr': '<f4', 'fortran_order': False, 'shape': (${frames}, ${joints}, 3), }`;
  const header = `${shape.padEnd(64 * Math.ceil((shape.length + 11) / 64) - 11)}\n`;  // follows 10 bytes
  const start = Uint8Array.of(0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59, 1, 0, header.length & 255, header.length >> 8);
  return new Blob([start, header, places], { type: "application/octet-stream" });
}

/** BVH file with the positions of a track and the angles encoded by visualization/html.py. */
async function bvhFile({ places, frames, joints }, packed, base) {
  const parts = [packed.head || base.head, packed.steps, ...(base ? [base.steps] : [])];
  const [head, planes, under] = await Promise.all(parts.map(unpack));
  const rows = Array.from({ length: frames }, (_, frame) =>
    Array.from(places.subarray(frame * joints * 3, frame * joints * 3 + 3), (place) => place.toFixed(5)));
  for (const [frame, , whole] of unroll(planes, frames, under)) {
    const angle = whole * packed.unit;
    rows[frame].push((angle - 360 * Math.round(angle / 360)).toFixed(2));
  }
  const text = rows.map((row) => `${row.join(" ")}\n`).join("");
  return new Blob([head, text], { type: "application/octet-stream" });
}

/** Save a file with the browser. */
function save(file, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(file);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}
