// SPDX-License-Identifier: MIT
// One camera's live view, over a WebSocket of its own: video, or JPEGs where the browser cannot play it. Open
// while the camera is in view.

import { liveUrl } from "./api.js";
import { Backoff } from "./backoff.js";
import { Player, canPlay } from "./player.js";
import { Still, StillPlayer } from "./still.js";
import * as streams from "./streams.js";

const HEAD = 24; // bytes before the payload of a binary message: see viewer.py
const [INIT, KEY, FRAGMENT, JPEG] = [0, 1, 2, 3];
// Of the cameras' codecs those that come as fragmented MP4, each in its plainest form: a browser that does not
// play that plays no other. The init segment says what exactly it is.
const PLAINEST = { h264: "avc1.42e01e", hevc: "hvc1.1.6.L93.B0" };
const ATTEMPT = 10_000; // ms that connecting may take
const SILENT = 10_000; // ms without a frame of a camera that is live after which it is connected again
const FIRST = 30_000; // the same until the first frame, which is a key frame, and those may be rare
const LINGER = 3000; // ms that a stream stays open when it is out of view, in case it comes back
const FAILURES = 3; // of the player, not far apart, after which it is JPEGs for a while
const CALM = 20_000; // ms without a failure after which earlier ones are forgotten

const GONE = 4404;
const FULL = 4429;

export class Stream {
  #name;
  #video;
  #still;
  #stills = false; // JPEGs are there
  #videos = false; // fragmented MP4 is there
  #seen = false;
  #linger = 0;
  #socket = null;
  #opened = 0;
  #timer = 0;
  #backoff = new Backoff(400, 10_000);
  #player = null;
  #live = false; // the camera is, as the service says
  #interval = 0; // ms between its frames
  #keyInterval = 0; // ms between its key frames; 0: not known
  #failures = 0;
  #failed = 0;
  #stillsFor = new Backoff(60_000, 600_000); // how long it then is JPEGs
  #notBefore = 0; // until then
  #refused = false; // the browser will never play it
  #loud = false; // with sound
  #sounds = false; // the camera has some
  #codec = "";
  #idle = false; // it is connected when somebody looks
  #skipped = 0; // by players that are gone, and on the way
  #dropped = 0; // by players that are gone
  mode = "none"; // "mse" or "jpeg": what is open, or would be
  shown = false; // a frame was shown since it was opened
  heard = 0; // performance.now() of the last frame
  trouble = ""; // why nothing is shown, as far as the service's report does not say it

  constructor(name, video, canvas) {
    this.#name = name;
    this.#video = video;
    this.#still = new Still(canvas);
  }

  // The service's report of the camera; null when there is no connection to the service.
  follow(report) {
    if (!report) {
      this.#close();
      return;
    }
    const { codec, fps, key_interval: keyInterval, sound } = streams.shown(report);
    const { state } = streams.speaker(report);
    this.#sounds = Boolean(sound.carried);
    if (codec && codec !== this.#codec) {
      this.#codec = codec;
      this.#refused = false;
    }
    this.#idle = state === "idle";
    // What has never been connected says nothing of its codec, and is connected when somebody looks.
    this.#videos = Boolean(report.live) && (this.#codec in PLAINEST || (!this.#codec && this.#idle));
    this.#stills = Boolean(report.still);
    this.#live = state === "live";
    this.#interval = fps > 0 ? 1000 / fps : 0;
    this.#keyInterval = 1000 * keyInterval;
    this.#update();
  }

  // Is it in view?
  see(seen) {
    if (seen === this.#seen) return;
    this.#seen = seen;
    clearTimeout(this.#linger);
    if (seen) this.#update();
    else this.#linger = setTimeout(() => this.#close(), LINGER);
  }

  get open() {
    return this.#socket !== null;
  }

  // Could there be sound? And is there?
  get audible() {
    return this.#sounds && this.mode === "mse";
  }

  // It has some, which single frames do not carry.
  get silenced() {
    return this.#sounds && this.mode === "jpeg";
  }

  get loud() {
    return this.#loud;
  }

  // With sound from here on, or without. Browsers allow it after a click.
  hear(loud) {
    if (loud === this.#loud) return;
    this.#loud = loud;
    if (this.mode !== "mse") return;
    this.#close();
    this.#update();
  }

  // ms since a frame came, or since it was opened.
  get quiet() {
    return performance.now() - Math.max(this.heard, this.#opened);
  }

  // Capture time of what is shown, in Unix ms by the service's clock. NaN: nothing is shown.
  get captured() {
    return this.#player?.captured ?? NaN;
  }

  get behind() {
    return this.#player?.behind ?? NaN;
  }

  // Frames that were left out because this browser, or the line to it, was too slow.
  get skipped() {
    return this.#skipped + (this.#player?.skipped ?? 0);
  }

  // Frames that were here, and that this browser has not drawn in time.
  get dropped() {
    return this.#dropped + (this.#player?.dropped ?? 0);
  }

  tick() {
    this.#player?.tick();
    if (!this.#socket) return;
    const begun = this.heard > this.#opened;
    const patience = begun ? Math.max(SILENT, 5 * this.#interval) : Math.max(FIRST, 2 * this.#keyInterval);
    const connecting = this.#socket.readyState === WebSocket.CONNECTING;
    if (connecting ? this.quiet > ATTEMPT : this.#live && this.quiet > patience) this.#again();
    else if (this.mode === "jpeg" && this.#choice() === "mse") this.#update();
  }

  close() {
    clearTimeout(this.#linger);
    this.#seen = false;
    this.#close();
  }

  #choice() {
    const video = this.#videos && !this.#refused && canPlay(PLAINEST[this.#codec || "h264"]);
    if (video && performance.now() >= this.#notBefore) return "mse";
    if (this.#stills) return "jpeg";
    return video ? "mse" : "none";
  }

  #update() {
    const mode = this.#choice();
    if (mode !== this.mode) {
      this.#close();
      this.mode = mode;
      this.#backoff.reset();
    }
    // Before the camera has been reached once, its codec is unknown; and it sends nothing.
    if (!this.#codec && !this.#idle) return;
    if (mode === "none") this.trouble = this.#nothing();
    else if (this.#seen && !this.#socket && !this.#timer) this.#connect();
  }

  #nothing() {
    if (!this.#videos && !this.#stills) return "there is no live view of this camera (live: false)";
    return "this browser does not play its video";
  }

  #connect() {
    clearTimeout(this.#timer);
    this.#timer = 0;
    this.#player ??= this.#makePlayer();
    const format = this.mode === "jpeg" ? "jpeg" : this.#loud ? "sound" : "fmp4";
    const socket = new WebSocket(liveUrl(this.#name, format));
    socket.binaryType = "arraybuffer";
    this.#socket = socket;
    this.#opened = performance.now();
    socket.onmessage = ({ data }) => {
      if (typeof data === "string") this.#told(JSON.parse(data));
      else this.#got(data);
    };
    socket.onclose = ({ code }) => {
      this.#drop();
      if (code === FULL) this.trouble = "too many are watching now";
      if (code !== GONE) this.#later(); // else the status says when it is there again
    };
  }

  #makePlayer() {
    const shown = () => {
      this.shown = true;
      this.trouble = "";
    };
    if (this.mode === "jpeg") return new StillPlayer(this.#still, { shown, failed: (text) => (this.trouble = text) });
    const events = { shown, failed: (text) => this.#fail(text), refused: (text) => this.#refuse(text) };
    return new Player(this.#video, this.#still, events, !this.#loud);
  }

  #told(message) {
    if (message.type === "init") this.#player.announce?.(message.codec, message.reset);
    else if (message.type === "skipped") this.#skipped += message.frames;
    else if (message.type === "waiting" && !this.shown && message.code !== "no_frames") {
      this.trouble = message.reason; // that there are no frames can be seen
    }
  }

  #got(data) {
    if (data.byteLength < HEAD) return;
    const head = new DataView(data, 0, HEAD);
    const kind = head.getUint8(0);
    const captured = head.getFloat64(8, true);
    const shown = head.getFloat64(16, true);
    const payload = new Uint8Array(data, HEAD);
    this.#backoff.reset();
    if (kind === INIT) {
      this.#player.init?.(payload);
      return;
    }
    this.heard = performance.now();
    if (this.mode === "mse" && (kind === KEY || kind === FRAGMENT)) {
      this.#player.take(captured, payload, shown, kind === KEY);
    } else if (this.mode === "jpeg" && kind === JPEG) this.#player.take(captured, payload);
  }

  #fail(text) {
    const now = performance.now();
    this.#failures = now - this.#failed > CALM ? 1 : this.#failures + 1;
    this.#failed = now;
    this.trouble = text;
    if (this.#failures >= FAILURES && this.#stills) {
      this.#failures = 0;
      this.#notBefore = now + this.#stillsFor.next();
      this.#close();
      this.#update();
    } else {
      this.#again();
    }
  }

  #refuse(text) {
    if (this.#loud) {
      this.hear(false); // the picture by itself, perhaps
      return;
    }
    this.#refused = true;
    this.#close();
    this.#update();
    if (this.mode === "none") this.trouble = text;
  }

  #again() {
    this.#drop();
    this.#later();
  }

  #later() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      this.#timer = 0;
      this.#update();
    }, this.#backoff.next());
  }

  // The connection, but not the player, which shows what it has.
  #drop() {
    const socket = this.#socket;
    this.#socket = null;
    if (socket) {
      socket.onmessage = socket.onclose = null;
      socket.close();
    }
  }

  // All of it; the canvas shows the last frame.
  #close() {
    clearTimeout(this.#timer);
    this.#timer = 0;
    this.#drop();
    this.#skipped += this.#player?.skipped ?? 0;
    this.#dropped += this.#player?.dropped ?? 0;
    this.#player?.close();
    this.#player = null;
    this.shown = false;
    this.trouble = "";
  }
}
