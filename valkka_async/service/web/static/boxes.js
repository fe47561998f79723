// SPDX-License-Identifier: MIT
// As much of MP4 as is needed to know when a fragment is shown (ISO/IEC 14496-12).

const INSIDE = new Set(["moov", "trak", "mdia", "moof", "traf"]);

// Calls visit(kind, view of the contents) for each box, those inside others as well.
function walk(view, visit) {
  let at = 0;
  while (at + 8 <= view.byteLength) {
    let size = view.getUint32(at);
    const kind = String.fromCharCode(...new Uint8Array(view.buffer, view.byteOffset + at + 4, 4));
    if (size < 8 || at + size > view.byteLength) size = view.byteLength - at;
    const contents = new DataView(view.buffer, view.byteOffset + at + 8, size - 8);
    if (INSIDE.has(kind)) walk(contents, visit);
    else visit(kind, contents);
    at += size;
  }
}

// Units per second of the times in the fragments of this init segment (ftyp and moov).
export function timescale(segment) {
  let scale = 90_000;
  walk(view(segment), (kind, box) => {
    if (kind === "mdhd") scale = box.getUint32(box.getUint8(0) === 1 ? 20 : 12) || scale;
  });
  return scale;
}

// When the frame of a fragment of one sample is shown, in seconds.
export function shownAt(fragment, scale) {
  let decoded = 0;
  let offset = 0;
  walk(view(fragment), (kind, box) => {
    if (kind === "tfdt") decoded = box.getUint8(0) === 1 ? Number(box.getBigUint64(4)) : box.getUint32(4);
    if (kind === "trun") offset = compositionOffset(box);
  });
  return (decoded + offset) / scale;
}

function compositionOffset(trun) {
  const flags = trun.getUint32(0) & 0xffffff;
  if (!(flags & 0x800)) return 0;
  let at = 8;
  for (const field of [0x1, 0x4, 0x100, 0x200, 0x400]) if (flags & field) at += 4;
  return trun.getInt32(at);
}

function view(bytes) {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
