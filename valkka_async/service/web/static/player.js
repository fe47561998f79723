// SPDX-License-Identifier: MIT
// Fragmented MP4 into a <video>, by way of Media Source Extensions, near the live edge and in bounded memory.

import { LiveEdge } from "./edge.js";

export const Source = globalThis.MediaSource ?? globalThis.ManagedMediaSource; // the latter on iPhones
const KEEP = 10; // s of what was shown that may stay in the buffer
const SLACK = 5; // s more before any of it is removed, so that this is not done for each frame
const QUEUE_BYTES = 8 << 20; // that wait for the buffer, at most
const QUEUE_LENGTH = 1000;
const APPEND_BYTES = 512 << 10; // at once: a GOP for a new viewer would else take a second
const STUCK = 2000; // ms that the time may stand still with frames ahead
const ASLEEP = 1500; // ms between two looks, which are made a few times per second
const LATE = 3; // s by which what is shown is too old
const SETTLING = 3000; // ms from the first frame in which the buffer may run empty, as it has but one
const REMEMBERED = 1000; // frames whose time of capture is known

export const canPlay = (codec) => Boolean(Source?.isTypeSupported(mime(codec)));
export const mime = (codec) => `video/mp4; codecs="${codec}"`;

export class Player {
  #video;
  #still;
  #events;
  #muted;
  #edge = new LiveEdge();
  #session = null; // {abort, url, media, buffer, type, settled} of one MediaSource
  #announced = null; // {codec, reset} of the init segment that comes next
  #queue = []; // {type, data} an init segment, {data} a fragment
  #queued = 0; // bytes
  #needsKey = true;
  #init = null; // the last init segment, for the next MediaSource
  #frames = []; // {at, captured}: when those in the buffer are shown and were taken
  #keys = []; // when key frames in the buffer are shown
  #time = 0; // what was shown at the last look, and since when that did not change
  #since = 0;
  #nudges = 0;
  #ticked = 0; // performance.now() of the last look
  #current = 0; // performance.now() when the newest frame was last near to what is shown
  behind = NaN; // s behind the newest frame
  skipped = 0; // frames that were not shown for want of room, or as what came after them was due
  #dropped = 0; // by MediaSources that are gone

  // `shown()` for the first frame of each MediaSource, `failed(text)` when it has to be connected again,
  // `refused(text)` when this browser will not play it. `muted`: there is no sound, or nobody wants it.
  constructor(video, still, { shown, failed, refused }, muted) {
    this.#muted = muted;
    this.#video = video;
    this.#still = still;
    this.#events = { shown, failed, refused };
  }

  // An init segment comes: its codec, and whether the time axis begins again with it.
  announce(codec, reset) {
    this.#announced = { codec, reset };
  }

  init(data) {
    const announced = this.#announced;
    if (!announced) return;
    this.#announced = null;
    if (!canPlay(announced.codec)) {
      this.#events.refused(`this browser does not play ${announced.codec}`);
      return;
    }
    this.#init = { type: mime(announced.codec), data };
    if (announced.reset || !this.#session) this.#renew();
    else this.#put(this.#init);
    this.#needsKey = true;
    this.#feed();
  }

  // A fragment: its capture time (Unix ms), when it is shown (s), and whether it is a key frame.
  take(captured, data, at, key) {
    if (!this.#init || (this.#needsKey && !key)) return;
    this.#needsKey = false;
    this.#frames.push({ at, captured });
    if (this.#frames.length > REMEMBERED) this.#frames.shift();
    if (key) this.#keys.push(at);
    if (this.#keys.length > REMEMBERED) this.#keys.shift();
    this.#put({ data });
    this.#feed();
  }

  // Capture time of the frame that is shown, in Unix ms.
  get captured() {
    const now = this.#video.currentTime;
    for (let n = this.#frames.length - 1; n >= 0; n -= 1) {
      if (this.#frames[n].at <= now + 0.001) return this.#frames[n].captured;
    }
    return NaN;
  }

  // Frames that this browser has decoded, or not, and has not drawn in time.
  get dropped() {
    const now = this.#session ? (this.#video.getVideoPlaybackQuality?.().droppedVideoFrames ?? 0) : 0;
    return this.#dropped + now;
  }

  // To be called a few times per second: what no event tells.
  tick() {
    if (!this.#session?.buffer) return;
    this.#steer();
    const now = performance.now();
    if (now - this.#ticked > ASLEEP) this.#since = this.#current = now; // nothing is to be held against it
    this.#ticked = now;
    const shown = this.#video.currentTime;
    const ahead = this.behind > 0.5 && !this.#video.seeking;
    if (shown !== this.#time || !ahead) {
      this.#time = shown;
      this.#since = now;
    } else if (now - this.#since > STUCK) {
      this.#since = now;
      this.#nudges += 1;
      if (this.#nudges > 3) this.#fail("the video does not move");
      else this.#jump();
    }
    // Frames come, and it makes nothing of them.
    const newest = this.#frames.at(-1)?.at ?? shown;
    if (newest - shown < LATE) this.#current = now;
    else if (now - this.#current > STUCK) this.#fail("the browser does not keep up with it");
    if (this.#session && this.#video.paused) this.#play(); // browsers pause what they think nobody sees
  }

  close() {
    this.#still.keep(this.#video);
    this.#end();
    this.#forget();
    this.#init = null;
  }

  #put(item) {
    this.#queue.push(item);
    this.#queued += item.data.byteLength;
    if (this.#queued > QUEUE_BYTES || this.#queue.length > QUEUE_LENGTH) {
      // It goes on with the next key frame; init segments are needed.
      this.skipped += this.#queue.filter((one) => !one.type).length;
      this.#queue = this.#queue.filter((one) => one.type).slice(-1);
      this.#queued = this.#queue.reduce((sum, one) => sum + one.data.byteLength, 0);
      this.#needsKey = true;
    }
  }

  #forget() {
    this.#queue = [];
    this.#queued = 0;
    this.#frames = [];
    this.#keys = [];
    this.#needsKey = true;
  }

  // A new MediaSource; until it shows something, the canvas behind does.
  #renew() {
    this.#still.keep(this.#video);
    this.#end();
    this.#forget();
    this.#put(this.#init);
    const media = new Source();
    const abort = new AbortController();
    const url = URL.createObjectURL(media);
    const session = { abort, url, media, buffer: null, type: "", settled: Infinity };
    const on = (target, name, act) =>
      target.addEventListener(name, (event) => this.#session === session && act(event), { signal: abort.signal });
    this.#session = session;
    this.#edge = new LiveEdge();
    this.#since = this.#current = performance.now();
    on(media, "sourceopen", () => this.#open(session, on));
    on(this.#video, "error", () => this.#fail(this.#video.error?.message || "the browser cannot decode it"));
    on(this.#video, "waiting", () => {
      if (performance.now() > session.settled && !this.#video.seeking) this.#edge.late();
    });
    on(this.#video, "loadeddata", () => {
      session.settled = performance.now() + SETTLING;
      this.#nudges = 0;
      this.#events.shown();
    });
    this.#video.muted = this.#muted;
    this.#video.disableRemotePlayback = true; // a ManagedMediaSource asks for it
    this.#video.src = url;
    this.#play();
  }

  #open(session, on) {
    const { type } = this.#init;
    try {
      session.buffer = session.media.addSourceBuffer(type);
    } catch (error) {
      this.#events.refused(error.message);
      return;
    }
    session.type = type;
    on(session.buffer, "error", () => this.#fail("the browser cannot read it"));
    on(session.buffer, "updateend", () => {
      this.#steer();
      this.#feed();
    });
    this.#feed();
  }

  #end() {
    const session = this.#session;
    this.#dropped = this.dropped; // the browser begins again at 0
    this.#session = null;
    this.behind = NaN;
    if (!session) return;
    session.abort.abort();
    this.#video.removeAttribute("src");
    this.#video.load();
    URL.revokeObjectURL(session.url);
  }

  async #play() {
    try {
      await this.#video.play();
    } catch (error) {
      if (error.name === "NotAllowedError") this.#events.refused("this browser does not let videos play by themselves");
      // Anything else is because there is another source by now.
    }
  }

  #feed() {
    const session = this.#session;
    if (!session?.buffer || session.buffer.updating || session.media.readyState !== "open") return;
    if (this.#trim(this.#video.currentTime - KEEP, SLACK) || !this.#queue.length) return;
    const [first] = this.#queue;
    const items = first.type ? [first] : this.#batch();
    try {
      if (first.type && first.type !== session.type) {
        session.buffer.changeType(first.type);
        session.type = first.type;
      }
      session.buffer.appendBuffer(items.length === 1 ? first.data : join(items.map((one) => one.data)));
    } catch (error) {
      if (error.name === "QuotaExceededError") this.#full();
      else this.#fail(error.message);
      return;
    }
    this.#queue.splice(0, items.length);
    this.#queued -= items.reduce((sum, one) => sum + one.data.byteLength, 0);
  }

  #batch() {
    const items = [];
    let bytes = 0;
    for (const item of this.#queue) {
      bytes += item.data.byteLength;
      if (item.type || (items.length && bytes > APPEND_BYTES)) break;
      items.push(item);
    }
    return items;
  }

  // Remove what was shown before `time`, if that is `slack` seconds or more. Up to a key frame only: the browser
  // removes up to the next one anyway, and that may not have been shown yet. Returns whether it does.
  #trim(time, slack) {
    const { buffer } = this.#session;
    const key = this.#keys.findLast((at) => at <= time);
    if (key === undefined || !buffer.buffered.length || key - buffer.buffered.start(0) <= slack) return false;
    buffer.remove(0, key);
    this.#keys = this.#keys.filter((at) => at >= key);
    return true;
  }

  #full() {
    if (this.#trim(this.#video.currentTime, 0.01)) return; // goes on at its updateend
    // One GOP fills it all: start again with the next.
    this.skipped += this.#queue.length;
    this.#renew();
  }

  #steer() {
    const session = this.#session;
    const { buffer } = session;
    if (session.media.readyState !== "open" || !buffer.buffered.length) return;
    const video = this.#video;
    const { seek, rate, behind } = this.#edge.steer(video.currentTime, buffer.buffered, performance.now() / 1000);
    this.behind = behind;
    if (seek !== null) this.#go(seek);
    if (video.playbackRate !== rate) video.playbackRate = rate;
  }

  #jump() {
    const { buffered } = this.#session.buffer;
    if (buffered.length) this.#go(buffered.end(buffered.length - 1) - 0.05);
  }

  #go(time) {
    const now = this.#video.currentTime;
    // What a browser that has just begun, or was not looked at, leaves out is no loss.
    const counts = performance.now() > this.#session.settled && performance.now() - this.#ticked < ASLEEP;
    if (counts) this.skipped += this.#frames.filter(({ at }) => at > now && at < time).length;
    this.#video.currentTime = time;
  }

  #fail(text) {
    this.#still.keep(this.#video);
    this.#end();
    this.#forget();
    this.#init = null;
    this.#events.failed(text);
  }
}

function join(parts) {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.byteLength, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.byteLength;
  }
  return whole;
}
