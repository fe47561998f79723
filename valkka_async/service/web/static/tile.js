// SPDX-License-Identifier: MIT
// One camera on the page: its live view, how it is, and its buttons.

import { download, setRecording, snapshot } from "./api.js";
import { Stream } from "./stream.js";
import { toast } from "./toasts.js";
import * as words from "./words.js";

const SILENT = 3000; // ms without a frame of a camera that is reported live, until it is called stalled
const OLD = 2; // s from which on the age of a frame stands out
const OPENING = 700; // ms without a frame before the page says that it waits for one

export class Tile {
  #report;
  #clock;
  #connected = true;
  #at = 0; // performance.now() of the last status
  #stream;
  #parts;
  #busy = false; // a change of the recording is under way
  #snapping = false;
  #complaint = ""; // of the recording, as last shown

  // `opened(name)` when it was clicked.
  constructor(report, clock, opened) {
    this.#report = report;
    this.#clock = clock;
    const element = document.getElementById("tile-template").content.firstElementChild.cloneNode(true);
    this.element = element;
    element.dataset.camera = report.name;
    const part = (name) => element.querySelector(`[data-part="${name}"]`);
    this.#parts = Object.fromEntries(
      [...element.querySelectorAll("[data-part]")].map((one) => [one.dataset.part, one]),
    );
    this.#stream = new Stream(report.name, part("video"), part("still"));
    this.#parts.open.onclick = () => opened(report.name);
    this.#parts.snapshot.onclick = () => this.#snap();
    this.#parts.record.onclick = () => this.#record();
    this.#parts.fullscreen.onclick = () => this.fullscreen();
    this.#parts.fullscreen.hidden = !document.fullscreenEnabled;
  }

  get name() {
    return this.#report.name;
  }

  get title() {
    return this.#report.title || this.#report.name;
  }

  get state() {
    if (!this.#connected) return "lost";
    return this.#silent ? "stalled" : this.#report.state;
  }

  see(seen) {
    this.#stream.see(seen);
  }

  follow(report) {
    this.#report = report;
    this.#connected = true;
    this.#at = performance.now();
    this.#stream.follow(report);
    this.#complain();
    this.#label();
    this.tick();
  }

  // There is no connection to the service.
  lost() {
    this.#connected = false;
    this.#stream.follow(null);
    this.tick();
  }

  focus() {
    this.#parts.open.focus({ preventScroll: false });
  }

  fullscreen() {
    if (document.fullscreenElement) document.exitFullscreen();
    else this.element.requestFullscreen?.().catch(() => {});
  }

  remove() {
    this.#stream.close();
    this.element.remove();
  }

  // A few times per second: what changes by itself as time goes by.
  tick() {
    this.#stream.tick();
    const state = this.state;
    put(this.element.dataset, "state", state);
    put(this.element.dataset, "mode", this.#stream.mode);
    say(this.#parts.word, words.STATES[state] ?? state);
    const age = this.#age();
    say(this.#parts.age, age === null ? "" : words.age(age));
    put(this.#parts.age.dataset, "old", String(age !== null && age > OLD));
    this.#parts.snapshot.disabled = this.#snapping || !this.#connected;
    this.#cover(state, age);
    this.#showRecording();
  }

  // What the large view tells besides: [term, text] each.
  details() {
    const { name, camera, worker, recording } = this.#report;
    const readers = camera.outputs.reduce((sum, output) => sum + output.readers, 0);
    const list = [
      ["Name", name],
      ["Address", camera.url],
      ["Video", this.#facts() || "not known yet"],
      ["Key frames", camera.key_interval ? `every ${words.age(camera.key_interval)}` : "not known yet"],
      ["Received", `${words.count(camera.packets)} frames, ${words.plural(camera.errors, "error", "errors")}`],
      ["Connected again", camera.reconnects ? words.plural(camera.reconnects, "time", "times") : "never"],
      ["Readers", `${words.count(readers)} (${words.plural(camera.outputs.length, "ring", "rings")})`],
      ["CPU", `${Math.round(this.#report.cpu * 100)} % of a core`],
      ["Worker", worker.pid ? `process ${worker.pid}, ${words.bytes(worker.rss)}` : "not running"],
      ["Restarts", worker.restarts ? `${worker.restarts}; the last time it ${worker.last_exit}` : "none"],
    ];
    if (recording) list.push(["Recording", recordingText(recording)]);
    list.push(["This browser", this.#here()]);
    return list;
  }

  #here() {
    const stream = this.#stream;
    if (!stream.open) return "not connected";
    const how = stream.mode === "jpeg" ? "gets single frames (JPEG)" : "gets video";
    const behind = Number.isNaN(stream.behind) ? "" : `, ${stream.behind.toFixed(1)} s behind the newest frame`;
    return `${how}${behind}${stream.skipped ? `, ${words.plural(stream.skipped, "frame", "frames")} skipped` : ""}`;
  }

  get #silent() {
    const { state } = this.#report;
    const { fps } = this.#report.camera;
    const patience = Math.max(SILENT, fps > 0 ? 5000 / fps : 0);
    return state === "live" && this.#stream.shown && performance.now() - this.#stream.heard > patience;
  }

  // Of the frame that is shown, in s; null: there has never been one.
  #age() {
    const { captured } = this.#stream;
    if (!Number.isNaN(captured)) return (this.#clock.now() - captured) / 1000;
    const { last_packet_ns: last } = this.#report.camera;
    return last ? (this.#clock.now() - last / 1e6) / 1000 : null;
  }

  #facts() {
    const { codec, width, height } = this.#report.camera;
    return [width && `${width} × ${height}`, codec && words.codec(codec)].filter(Boolean).join(" · ");
  }

  #label() {
    const { name, title, state, camera } = this.#report;
    const parts = this.#parts;
    say(parts.title, this.title);
    put(parts.title, "title", title && title !== name ? name : "");
    put(parts.open, "ariaLabel", `${this.title}: show large`);
    put(parts.fullscreen, "ariaLabel", `${this.title}: full screen`);
    put(parts.snapshot, "ariaLabel", `Snapshot of ${this.title}`);
    say(parts.fps, state === "live" ? `${words.fps(camera.fps)} fps` : "");
    const dropped = camera.outputs.reduce((sum, output) => sum + output.dropped, 0);
    say(parts.drops, `${words.count(dropped + this.#stream.skipped)} dropped`);
    put(parts.drops.dataset, "some", String(dropped + this.#stream.skipped > 0));
    const skipped = `${words.count(this.#stream.skipped)} skipped on the way here`;
    put(parts.drops, "title", `${words.count(dropped)} dropped by the camera's rings, ${skipped}`);
    const facts = this.#facts();
    say(parts.facts, facts);
    parts.facts.hidden = !facts;
  }

  // What lies over a view that is not live, and says why.
  #cover(state, age) {
    const stream = this.#stream;
    const parts = this.#parts;
    let [title, reason, next] = ["", "", ""];
    if (state === "lost") {
      title = "No connection to the service";
    } else if (state !== "live") {
      const { cause, reason: said, retry_in: wait } = this.#report;
      const { url } = this.#report.camera;
      title = words.STATES[state] ?? state;
      reason = said.startsWith(`${url}: `) ? said.slice(url.length + 2) : said;
      if (state === "stalled") reason = `no frame for ${words.about(age ?? 0)}`;
      // The camera does not know of it: it is between the service and here.
      if (state !== this.#report.state) reason += " here; the camera itself is live";
      if (wait !== null) next = this.#countdown(wait);
      if (state === "connecting" && cause === null) reason = "waiting for the first frame";
    } else if (!stream.shown && (stream.mode === "none" || stream.quiet > OPENING)) {
      title = stream.mode === "none" ? "No live view" : "Opening …";
      reason = stream.trouble || this.#keyFrame();
    }
    const shown = Boolean(title);
    if (parts.cover.hidden !== !shown) parts.cover.hidden = !shown;
    say(parts.coverTitle, title);
    say(parts.coverReason, words.sentence(reason));
    say(parts.coverNext, words.sentence(next));
  }

  // Video can begin with a key frame only.
  #keyFrame() {
    const { key_interval: interval } = this.#report.camera;
    if (this.#stream.quiet < 3 * OPENING) return "";
    return `waiting for a key frame${interval > 2 ? `; this camera sends one every ${words.about(interval)}` : ""}`;
  }

  #countdown(wait) {
    const left = wait - (performance.now() - this.#at) / 1000;
    return left > 0.5 ? `next attempt in ${words.about(left)}` : "trying again …";
  }

  async #snap() {
    const button = this.#parts.snapshot;
    this.#snapping = true;
    button.disabled = true;
    try {
      const jpeg = await snapshot(this.name);
      const taken = new Date(this.#clock.now());
      download(jpeg, `${this.name}-${words.stamp(taken)}.jpg`);
    } catch (error) {
      toast(`${this.title}: no snapshot: ${error.message}`, "error");
    } finally {
      this.#snapping = false;
      button.disabled = !this.#connected;
    }
  }

  // The recording, if one is asked for and has not been given up.
  get #recording() {
    const { recording } = this.#report;
    return recording?.active ? recording : null;
  }

  async #record() {
    if (this.#busy) return;
    const on = !this.#recording;
    this.#busy = true;
    this.#showRecording();
    try {
      const before = this.#recording;
      const recording = await setRecording(this.name, on);
      this.#report = { ...this.#report, recording };
      this.#at = performance.now();
      if (before?.path && !on) toast(`${this.title}: recorded to ${before.path}`);
    } catch (error) {
      toast(`${this.title}: ${error.message}`, "error");
    } finally {
      this.#busy = false;
      this.#showRecording();
    }
  }

  #showRecording() {
    const recording = this.#recording;
    const { record, rec, recTime } = this.#parts;
    const on = Boolean(recording);
    put(record, "ariaPressed", String(on));
    record.disabled = this.#busy || !this.#connected || Boolean(recording?.always);
    let label = on ? `Stop recording ${this.title}` : `Record ${this.title}`;
    if (recording?.always) label = `${this.title} is always recorded`;
    put(record, "ariaLabel", label);
    put(record, "title", recording?.always ? "Always recorded (record: true)" : on ? "Stop recording" : "Record");
    rec.hidden = !on || !this.#connected;
    if (on) {
      put(rec.dataset, "state", recording.state);
      // Its own figure is that of the file; what counts here is since when it is asked for.
      const elapsed = (this.#clock.now() - recording.since_ns / 1e6) / 1000;
      const texts = { writing: words.lasting(elapsed), waiting: "REC …", failed: "REC !" };
      say(recTime, texts[recording.state]);
      put(rec, "title", recordingText(recording));
    }
  }

  #complain() {
    const { error } = this.#report.recording ?? {};
    const text = error?.text ?? "";
    if (text && text !== this.#complaint) toast(`${this.title}: recording: ${text}`, "error");
    this.#complaint = text;
  }
}

function recordingText(recording) {
  if (recording.error) return recording.error.text;
  if (recording.state === "waiting") return "waiting for frames; no file is open";
  return `${recording.path} (${words.bytes(recording.bytes)})`;
}

// Only what differs is written: these run a few times per second for each camera.
function put(target, key, value) {
  if (target[key] !== value) target[key] = value;
}

function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
