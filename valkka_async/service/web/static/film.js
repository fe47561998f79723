// SPDX-License-Identifier: MIT
// Recordings in a <video>, by way of Media Source Extensions: any time of them, over gaps and from one file to the
// next. Moments are Unix ms. Clips of some seconds are asked for as they are needed, and each is put where it belongs
// by when it was taken, so that a camera's clock that is wrong leads nobody astray.

import { Refusal, clip, read } from "./api.js";
import { Backoff } from "./backoff.js";
import { Splitter } from "./fragments.js";
import { Source, mime } from "./player.js";

const CLIP = 15_000; // ms of what is asked for at once, at normal speed
const LONGEST_CLIP = 60_000; // at any speed
const FAST = 4; // times: above it, key frames alone are decoded
const AHEAD = 2 * CLIP; // that are there before they are shown
const MOST_AHEAD = 120_000; // at any speed
const BEHIND = 15; // s that stay, to step back
const SHORT = 300; // ms: less than this is not worth a request
const SOON = 3_600_000; // ms for which the recordings are to be known
const LONGEST = 10 * 86_400; // s in one MediaSource
const TICK = 150; // ms
const NEAR = 0.12; // s before the end of what there is, where one is at the end
const STOPS = 1; // s before it, where browsers may stop at normal speed
const STANDS = 4; // looks
const PAUSE = 1500; // ms: a longer one is told
const AGAIN = 1000; // ms until there may be more of a recording that goes on
const MARGIN = 0.001; // s
const JITTER = 0.5; // s
const FAILURES = 3; // within CALM, until it is given up
const CALM = 20_000; // ms

let stretches = true; // a key frame lasts in this browser's buffer as long as it says

export class Film {
  #video;
  #recordings;
  #events;
  #session = null; // {media, buffer, url, type, sounds, base, abort}
  #loading = null; // the AbortController of what is asked for
  #frames = []; // s, of what is in the buffer, in their order
  #keys = [];
  #target = 0; // where it was sent last
  #fresh = false; // what is in the buffer has been loaded for #target
  #over = false; // there is nothing after it
  #rate = 1;
  #sound = false;
  #shown = 0; // s, at the last look
  #stands = 0; // looks since which that is the same
  #failures = [];
  #timer;
  trouble = ""; // why it does not go on, while it is tried again

  // `jumped(from, to)` over a gap; `ended()`: there is nothing more; `failed(text)` for good.
  constructor(video, recordings, events) {
    this.#video = video;
    this.#recordings = recordings;
    this.#events = events;
    this.#timer = setInterval(() => this.#tick(), TICK);
    video.muted = true;
  }

  // The moment that is shown.
  get time() {
    const session = this.#session;
    return session && this.#video.readyState > 0 ? Math.round(session.base + 1000 * this.#video.currentTime) : this.#target;
  }

  get paused() {
    return this.#video.paused;
  }

  // It waits for something to show.
  get waiting() {
    return this.#video.seeking || this.#video.readyState < HTMLMediaElement.HAVE_CURRENT_DATA;
  }

  play() {
    this.#video.play().catch((error) => {
      if (error.name === "NotAllowedError") this.#events.failed("this browser does not let it play");
    });
  }

  pause() {
    this.#video.pause();
  }

  // 1/4 to 16.
  set rate(rate) {
    const before = this.#fast;
    this.#rate = rate;
    if (this.#fast !== before && this.#session) this.#open(this.time); // with other frames
    this.#video.playbackRate = this.#video.defaultPlaybackRate = rate; // the latter for the next MediaSource
  }

  get #fast() {
    return this.#rate > FAST && stretches;
  }

  get sound() {
    return this.#sound;
  }

  set sound(on) {
    if (on === this.#sound) return;
    this.#sound = on;
    this.#video.muted = !on;
    if (this.#session) this.#open(this.time); // one has tracks of sound, or has none
  }

  // Show this moment, which is recorded, and go on from there if it plays.
  seek(at) {
    this.#target = at;
    const session = this.#session;
    if (!session || at < session.base || at > session.base + 1000 * LONGEST) {
      this.#open(at);
      return;
    }
    const place = (at - session.base) / 1000;
    const there = ranges(session.buffer).some(([from, to]) => from <= place && place < to - NEAR);
    this.#video.currentTime = place;
    if (!there && session.media.readyState === "open") this.#load(session, at);
  }

  // A frame on (1) or back (-1). Returns whether there is one, as far as it has been loaded.
  step(by) {
    const now = this.#video.currentTime;
    const shown = this.#frames.findLast((at) => at <= now + MARGIN) ?? now;
    const next = by > 0 ? this.#frames.find((at) => at > shown + MARGIN) : this.#frames.findLast((at) => at < shown - MARGIN);
    if (next === undefined) return false;
    this.#video.currentTime = next + MARGIN;
    return true;
  }

  close() {
    clearInterval(this.#timer);
    this.#end();
  }

  // ------------------------------------------------------------------------------------- a MediaSource

  #open(at) {
    const paused = this.#video.paused;
    this.#end();
    const media = new Source();
    const abort = new AbortController();
    const session = { media, abort, url: URL.createObjectURL(media), buffer: null, type: "", sounds: false, base: at - 86_400_000 };
    this.#session = session;
    const { signal } = abort;
    this.#target = at;
    media.addEventListener(
      "sourceopen",
      () => {
        media.duration = LONGEST;
        this.#video.currentTime = (this.#target - session.base) / 1000;
        this.#load(session, this.#target);
      },
      { signal, once: true },
    );
    const broken = () => this.#break(session, this.#video.error?.message || "the browser cannot decode it");
    this.#video.addEventListener("error", broken, { signal });
    this.#video.disableRemotePlayback = true; // a ManagedMediaSource asks for it
    this.#video.src = session.url;
    this.#video.playbackRate = this.#rate;
    if (!paused) this.play();
  }

  #end() {
    this.#loading?.abort();
    const session = this.#session;
    this.#session = null;
    if (!session) return;
    session.abort.abort();
    this.#video.removeAttribute("src");
    this.#video.load();
    URL.revokeObjectURL(session.url);
  }

  // What is damaged is passed over, a little farther each time.
  #break(session, text) {
    if (session !== this.#session) return;
    const now = performance.now();
    this.#failures = [...this.#failures.filter((at) => now - at < CALM), now];
    const at = this.time + 1000 * 2 ** this.#failures.length;
    if (this.#failures.length >= FAILURES) {
      this.#end();
      this.#events.failed(text);
    } else this.#open(at);
  }

  // --------------------------------------------------------------------------------------- what is in it

  #load(session, at) {
    this.#loading?.abort();
    const abort = new AbortController();
    this.#loading = abort;
    this.#over = this.#fresh = false;
    this.trouble = "";
    this.#feed(session, at, abort.signal).catch((error) => {
      if (!abort.signal.aborted) this.#break(session, error.message);
    });
  }

  // From there on, as far ahead as it makes sense, until it is aborted.
  async #feed(session, at, signal) {
    await settled(session.buffer, signal);
    if (ranges(session.buffer).length) {
      session.buffer.remove(0, LONGEST);
      await settled(session.buffer, signal);
    }
    this.#frames = [];
    this.#keys = [];
    this.#fresh = true;
    const backoff = new Backoff(500, 10_000);
    for (let next = at; ; ) {
      while (this.#ahead(session) > Math.min(MOST_AHEAD, AHEAD * Math.max(1, this.#rate)) / 1000) await pause(200, signal);
      try {
        const piece = await this.#piece(next);
        signal.throwIfAborted();
        this.#over = !piece;
        if (piece) {
          next = await this.#take(session, piece, signal);
        } else {
          await pause(AGAIN, signal);
          await this.#recordings.refresh();
        }
        backoff.reset();
        this.trouble = "";
      } catch (error) {
        signal.throwIfAborted();
        if (!(error instanceof Refusal)) throw error;
        if (error.code === "empty" || error.code === "gone") await this.#recordings.refresh(); // deleted meanwhile
        else this.trouble = error.message;
        await pause(backoff.next(), signal);
      }
    }
  }

  // What is to be asked for next; null: there is nothing now.
  async #piece(next) {
    const all = this.#recordings;
    await all.ensure(next, next + SOON);
    let span = all.at(next) ?? all.after(next);
    if (span && span.to - next < SHORT) span = all.after(next);
    if (!span) return null;
    const from = Math.max(next, span.from);
    return { span, from, to: Math.min(span.to, from + Math.min(LONGEST_CLIP, CLIP * Math.max(1, this.#rate))) };
  }

  // Get it into the buffer. Returns where it goes on.
  async #take(session, { span, from, to }, signal) {
    let answer;
    try {
      answer = await clip(this.#recordings.name, from, to, signal);
    } catch (error) {
      if (error.code !== "changed") throw error;
      // Two recordings share a moment: a part of it, then.
      const part = error.parts.find((one) => one.to - one.from >= SHORT) ?? error.parts.at(-1);
      return part.from <= from && part.to >= to ? to : this.#take(session, { span, ...part }, signal);
    }
    const begin = Number(answer.headers.get("X-From-Ns")) / 1e6;
    const splitter = new Splitter(this.#sound, this.#fast);
    const reader = answer.body.getReader();
    let offset = NaN; // of its times, which begin with its sound
    try {
      for (;;) {
        const { done, value } = await read(reader, signal);
        const { init, media, frames } = done ? splitter.end() : splitter.push(value);
        if (init) await this.#begin(session, init, splitter.sounds, span.codec, begin, signal);
        if (!media && done) break;
        if (!media) continue;
        if (Number.isNaN(offset)) {
          const place = this.#place((begin - session.base) / 1000, begin < from - 1);
          offset = place - (frames[0]?.at ?? 0);
          await settled(session.buffer, signal);
          session.buffer.timestampOffset = offset;
          this.#cut(place);
        }
        await this.#append(session, media, signal);
        const times = frames.map((frame) => frame.at + offset);
        this.#frames = [...this.#frames, ...times].sort((a, b) => a - b);
        this.#keys.push(...frames.filter((frame) => frame.key).map((frame) => frame.at + offset));
        if (this.#fast && this.#keys.length > 4 && ranges(session.buffer).length > this.#keys.length / 2) {
          // WebKitGTK knows better how long they last, and would jump from one to the next: all frames, then.
          stretches = false;
          this.#open(this.time);
          signal.throwIfAborted();
        }
        if (done) break;
      }
    } finally {
      reader.cancel().catch(() => {});
    }
    return to;
  }

  // Where a clip belongs by its time. `again`: it begins with the last key frame that is there. Then it belongs where
  // that is, as times of day are those of packets that came when they could.
  #place(at, again) {
    const key = again ? this.#keys.at(-1) : undefined;
    return key !== undefined && Math.abs(key - at) < JITTER ? key : at;
  }

  // What comes next replaces what there was of that time.
  #cut(at) {
    this.#frames = this.#frames.filter((one) => one < at - MARGIN);
    this.#keys = this.#keys.filter((one) => one < at - MARGIN);
  }

  // An init segment, which may be of another kind than the last one.
  async #begin(session, init, sounds, codec, at, signal) {
    const type = mime(sounds ? codec : codec.split(",")[0]);
    if (!session.buffer) {
      session.buffer = session.media.addSourceBuffer(type);
      session.sounds = sounds;
    } else if (session.sounds !== sounds) {
      // Tracks do not come and go in one: when all of it has been shown, there is another one.
      while (this.#ahead(session) > NEAR) await pause(TICK, signal);
      this.#open(Math.max(at, this.time));
      signal.throwIfAborted();
    } else if (type !== session.type) {
      session.buffer.changeType(type);
    }
    session.type = type;
    await this.#append(session, init, signal);
  }

  async #append(session, data, signal) {
    for (;;) {
      await settled(session.buffer, signal);
      this.#trim(session, BEHIND);
      await settled(session.buffer, signal);
      try {
        session.buffer.appendBuffer(data);
        await settled(session.buffer, signal);
        return;
      } catch (error) {
        if (error.name !== "QuotaExceededError") throw error;
        this.#trim(session, 1);
        await pause(500, signal);
      }
    }
  }

  // Up to a key frame only: the browser removes up to the next one anyway, and that may not have been shown yet.
  #trim(session, behind) {
    const key = this.#keys.findLast((at) => at <= this.#video.currentTime - behind);
    const [first] = ranges(session.buffer);
    if (key === undefined || !first || key - first[0] < 1) return;
    session.buffer.remove(0, key);
    this.#cutBefore(key);
  }

  #cutBefore(at) {
    this.#frames = this.#frames.filter((one) => one >= at);
    this.#keys = this.#keys.filter((one) => one >= at);
  }

  // s that are in the buffer and still to be shown.
  #ahead(session) {
    const now = this.#video.currentTime;
    return ranges(session.buffer).reduce((sum, [from, to]) => sum + Math.max(0, to - Math.max(from, now)), 0);
  }

  // What no event tells: the end of what there is, and gaps.
  #tick() {
    const session = this.#session;
    if (!session?.buffer || !this.#fresh) return;
    const now = this.#video.currentTime;
    const all = ranges(session.buffer);
    const here = all.find(([from, to]) => from <= now && now < to);
    const left = here ? here[1] - now : 0;
    this.#stands = now === this.#shown ? this.#stands + 1 : 0;
    this.#shown = now;
    const waits = this.#video.readyState < HTMLMediaElement.HAVE_FUTURE_DATA || this.#stands > STANDS;
    const stops = left < STOPS * Math.max(1, this.#rate) && waits;
    if (here && ((left > NEAR && !stops) || this.#video.paused || this.#video.seeking)) return;
    const next = all.find(([from]) => from > now);
    if (next) {
      this.#video.currentTime = next[0] + MARGIN;
      const [from, to] = [session.base + 1000 * (here ? here[1] : now), session.base + 1000 * next[0]];
      if (to - from > PAUSE) this.#events.jumped(from, to);
    } else if (this.#over && all.length && !this.#video.paused) {
      this.#events.ended();
    }
  }
}

function ranges(buffer) {
  const all = [];
  for (let n = 0; n < (buffer?.buffered.length ?? 0); n += 1) all.push([buffer.buffered.start(n), buffer.buffered.end(n)]);
  return all;
}

// Until a buffer is done with what it was given. Throws what `signal` is aborted with.
async function settled(buffer, signal) {
  while (buffer?.updating) {
    await new Promise((done) => buffer.addEventListener("updateend", done, { once: true }));
  }
  signal.throwIfAborted();
}

function pause(ms, signal) {
  return new Promise((done, fail) => {
    signal.throwIfAborted();
    const stop = () => (clearTimeout(timer), fail(signal.reason));
    const timer = setTimeout(() => (signal.removeEventListener("abort", stop), done()), ms);
    signal.addEventListener("abort", stop);
  });
}
