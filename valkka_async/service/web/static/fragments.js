// SPDX-License-Identifier: MIT
// Fragmented MP4 as it comes in, cut into whole pieces for a SourceBuffer: with its frames' times, and without
// its sound where nobody wants that (a browser would wait for sound that is missing).

const kind = (text) => [...text].reduce((sum, one) => sum * 256 + one.charCodeAt(0), 0);
const kinds = (...texts) => texts.map(kind);
const [MOOV, TRAK, TKHD, MDIA, MDHD, HDLR, MVEX, TREX] = kinds("moov", "trak", "tkhd", "mdia", "mdhd", "hdlr", "mvex", "trex");
const [MOOF, TRAF, TFHD, TFDT, TRUN, MDAT, SIDX, FREE] = kinds("moof", "traf", "tfhd", "tfdt", "trun", "mdat", "sidx", "free");
const SOUND = kind("soun");
const DELTA = 0x10000; // of a sample's flags: it needs another one

export class Splitter {
  #sound;
  #rest = new Uint8Array(0);
  #picture = 0; // its track
  #timescale = 1;
  #mute = new Set(); // tracks
  #keys;
  #sample = { decode: 0, end: 0, place: 0 }; // the last one of the picture: times, and where its duration is
  #held = null; // {bytes, place, decode, frame} a key frame that is shown until the next one
  sounds = false; // there is sound in what comes out

  // `sound`: leave it in. `keys`: key frames alone, each of them shown until the next one.
  constructor(sound, keys = false) {
    this.#sound = sound && !keys;
    this.#keys = keys;
  }

  // More bytes. Returns {init, media, frames}: the init segment, and whole fragments, or null; and {at, key} for
  // each of their frames, `at` in s from the beginning. Throws an Error for what is no MP4.
  push(bytes) {
    const data = this.#rest.length ? join(this.#rest, bytes) : bytes;
    const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
    const frames = [];
    let init = null;
    let moof = null; // whose samples come next
    const kept = [];
    let [begin, whole, at] = [0, 0, 0];
    while (at + 16 <= data.length) {
      const size = view.getUint32(at) === 1 ? Number(view.getBigUint64(at + 8)) : view.getUint32(at);
      if (size < 8) throw new Error("the service sends no MP4");
      const end = at + size;
      if (end > data.length) break;
      const what = view.getUint32(at + 4);
      if (what === MOOV) {
        this.#movie(view, at + 8, end);
        init = data.subarray(0, end);
        begin = whole = end;
      } else if (what === SIDX) {
        begin = whole = end;
      } else if (what === MOOF) {
        moof = [at + 8, end];
      } else if (what === MDAT) {
        const found = moof ? this.#fragment(view, ...moof) : [];
        if (!this.#keys) frames.push(...found);
        else if (found[0]?.key) {
          kept.push(...this.#until(this.#sample.decode, frames));
          const { decode, place } = this.#sample;
          this.#held = { bytes: data.slice(whole, end), place: place - whole, decode, frame: found[0] };
        }
        moof = null;
        whole = end;
      }
      at = end;
    }
    this.#rest = data.slice(whole);
    const media = this.#keys ? kept.reduce(join, new Uint8Array(0)) : data.subarray(begin, whole);
    return { init, media: media.length ? media : null, frames };
  }

  // There is no more. Returns what push() does, of what was held back.
  end() {
    const frames = [];
    const [media = null] = this.#until(this.#sample.end, frames);
    return { init: null, media, frames };
  }

  // The key frame that was held back, to be shown up to that time: [its bytes], or nothing.
  #until(time, frames) {
    const held = this.#held;
    this.#held = null;
    if (!held || time <= held.decode) return [];
    new DataView(held.bytes.buffer).setUint32(held.place, time - held.decode);
    frames.push(held.frame);
    return [held.bytes];
  }

  #movie(view, begin, end) {
    for (const [what, from, to] of boxes(view, begin, end)) {
      if (what === TRAK) this.#track(view, from, to);
    }
    for (const [, from, to] of boxes(view, begin, end, MVEX)) {
      for (const [, inner] of boxes(view, from, to, TREX)) {
        if (this.#mute.has(view.getUint32(inner + 4))) view.setUint32(inner - 4, FREE);
      }
    }
  }

  #track(view, begin, end) {
    let [number, timescale, sound] = [0, 1, false];
    for (const [, from] of boxes(view, begin, end, TKHD)) number = view.getUint32(from + (view.getUint8(from) ? 20 : 12));
    for (const [, from, to] of boxes(view, begin, end, MDIA)) {
      for (const [, at] of boxes(view, from, to, MDHD)) timescale = view.getUint32(at + (view.getUint8(at) ? 20 : 12));
      for (const [, at] of boxes(view, from, to, HDLR)) sound = view.getUint32(at + 8) === SOUND;
    }
    if (!sound) {
      this.#picture = number;
      this.#timescale = timescale;
    } else if (this.#sound) {
      this.sounds = true;
    } else {
      this.#mute.add(number);
      view.setUint32(begin - 4, FREE);
    }
  }

  #fragment(view, begin, end) {
    const frames = [];
    for (const [, from, to] of boxes(view, begin, end, TRAF)) {
      let [number, flags, duration, decode] = [0, 0, 0, 0];
      for (const [what, at, past] of boxes(view, from, to)) {
        if (what === TFHD) [number, duration, flags] = defaults(view, at);
        else if (what === TFDT) decode = view.getUint8(at) ? Number(view.getBigUint64(at + 4)) : view.getUint32(at + 4);
        else if (what === TRUN && number === this.#picture) {
          for (const sample of samples(view, at, past, duration, flags)) {
            frames.push({ at: (decode + sample.later) / this.#timescale, key: (sample.flags & DELTA) === 0 });
            this.#sample = { decode, end: decode + sample.duration, place: sample.place };
            decode += sample.duration;
          }
        }
      }
      if (this.#mute.has(number)) view.setUint32(from - 4, FREE);
    }
    return frames;
  }
}

// Those of a kind, or all: their kinds, and where their contents are.
function* boxes(view, begin, end, wanted = 0) {
  for (let at = begin; at + 8 <= end; ) {
    const size = view.getUint32(at);
    const what = view.getUint32(at + 4);
    if (size < 8 || at + size > end) throw new Error("the service sends no MP4");
    if (!wanted || what === wanted) yield [what, at + 8, at + size];
    at += size;
  }
}

// What a tfhd box says: track, duration and flags of samples that do not say their own.
function defaults(view, begin) {
  const said = view.getUint32(begin) & 0xffffff;
  let at = begin + 8 + (said & 1 ? 8 : 0) + (said & 2 ? 4 : 0);
  const take = (flag) => (said & flag ? view.getUint32((at += 4) - 4) : 0);
  const duration = take(8);
  take(0x10);
  return [view.getUint32(begin + 4), duration, take(0x20)];
}

// Those of a trun box: duration, and where that is; flags, and by how much each is shown later than it is decoded.
function* samples(view, begin, end, duration, flags) {
  const said = view.getUint32(begin) & 0xffffff;
  const count = view.getUint32(begin + 4);
  let at = begin + 8;
  const take = (flag, other) => (said & flag ? view.getUint32((at += 4) - 4) : other);
  take(1, 0);
  const first = take(4, flags);
  for (let n = 0; n < count && at <= end; n += 1) {
    const place = at;
    const lasts = take(0x100, duration);
    take(0x200, 0);
    const own = take(0x400, n ? flags : first);
    yield { duration: lasts, place, flags: own, later: take(0x800, 0) | 0 };
  }
}

function join(first, second) {
  const whole = new Uint8Array(first.length + second.length);
  whole.set(first);
  whole.set(second, first.length);
  return whole;
}
