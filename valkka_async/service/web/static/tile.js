// SPDX-License-Identifier: MIT
// One camera on the page: its live view, how it is, and its buttons.

import { download, setRecording, snapshot } from "./api.js";
import { Boxes } from "./boxes.js";
import { Stream } from "./stream.js";
import * as streams from "./streams.js";
import { toast } from "./toasts.js";
import * as words from "./words.js";

const SILENT = 3000; // ms without a frame of a camera that is reported live, until it is called stalled
const OLD = 2; // s from which on the age of a frame stands out
const OPENING = 700; // ms without a frame before the page says that it waits for one

let loud = null; // the one tile that is heard

export class Tile {
  #report;
  #clock;
  #connected = true;
  #at = 0; // performance.now() of the last status
  #stream;
  #boxes;
  #parts;
  #busy = false; // a change of the recording is under way
  #snapping = false;
  #complaint = ""; // of the recording, as last shown
  #seen = false;
  #instead = null; // what is shown in place of the live view

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
    const told = (code, reason) => toast(`${this.title}: no boxes: ${reason}`, code === "ring" ? "error" : undefined);
    this.#boxes = new Boxes(report.name, part("boxes"), () => this.#stream.captured, told);
    this.#parts.drawBoxes.onclick = () => this.toggleBoxes();
    this.#parts.open.onclick = () => opened(report.name);
    this.#parts.snapshot.onclick = () => this.#snap();
    this.#parts.record.onclick = () => this.#record();
    this.#parts.sound.onclick = () => this.toggleSound();
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
    return this.#silent ? "stalled" : streams.speaker(this.#report).state;
  }

  // Of the camera as a whole, whatever this tile shows of it.
  get overall() {
    return this.state === "live" ? this.#report.state : this.state;
  }

  get report() {
    return this.#report;
  }

  see(seen) {
    this.#seen = seen;
    this.#stream.see(seen && !this.#instead);
    this.#boxes.see(seen && !this.#instead);
  }

  // Show something else in place of the live view, of which `picture()` gives {blob, at}; null: nothing else.
  instead(other) {
    this.#instead = other;
    this.see(this.#seen);
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

  toggleSound() {
    if (this.#stream.loud || this.#stream.audible) this.hear(!this.#stream.loud);
  }

  // With its sound, or without. One camera is heard at a time.
  hear(on) {
    if (on && loud !== this) loud?.hear(false);
    loud = on ? this : loud === this ? null : loud;
    this.#stream.hear(on);
    this.#showSound();
  }

  // With what analysers found in its frames drawn over it, or without.
  toggleBoxes() {
    this.#boxes.toggle();
    put(this.#parts.drawBoxes, "ariaPressed", String(this.#boxes.on));
  }

  focus() {
    this.#parts.open.focus({ preventScroll: false });
  }

  fullscreen() {
    if (document.fullscreenElement) document.exitFullscreen();
    else this.element.requestFullscreen?.().catch(() => {});
  }

  remove() {
    if (loud === this) loud = null;
    this.#stream.close();
    this.#boxes.close();
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
    this.#showSound();
    this.#showRecording();
  }

  // What the large view tells besides: [term, text] each.
  details() {
    const { name, camera, worker, recording } = this.#report;
    const readers = camera.outputs.reduce((sum, output) => sum + output.readers, 0);
    const several = camera.streams.length > 1;
    const list = [
      ["Name", name],
      ...camera.streams.flatMap((stream) => (several ? this.#inShort(stream) : inFull(stream))),
      ["Readers", `${words.count(readers)} (${words.plural(camera.outputs.length, "ring", "rings")})`],
      ["CPU", `${Math.round(this.#report.cpu * 100)} % of a core`],
      ["Worker", worker.pid ? `process ${worker.pid}, ${words.bytes(worker.rss)}` : "not running"],
      ["Restarts", worker.restarts ? `${worker.restarts}; the last time it ${worker.last_exit}` : "none"],
    ];
    for (const code of camera.warnings) list.push(["Warning", words.warning(code)]);
    if (recording) list.push(["Recording", this.#recordingText(recording)]);
    list.push(["This browser", this.#here()]);
    return list;
  }

  // One of several, in a few lines.
  #inShort(stream) {
    const name = stream === streams.shown(this.#report) ? `Stream ${stream.name}, shown here` : `Stream ${stream.name}`;
    const said = [words.STATES[stream.state] ?? stream.state, streams.plain(stream)].filter(Boolean).join(": ");
    const texts = [facts(stream), `${words.fps(stream.fps)} fps`];
    if (stream.key_interval) texts.push(`key frames every ${words.age(stream.key_interval)}`);
    if (stream.sound.carried) texts.push(words.sound(stream.sound));
    const counts = [];
    if (stream.errors) counts.push(words.plural(stream.errors, "error", "errors"));
    if (stream.reconnects) counts.push(`connected again ${words.plural(stream.reconnects, "time", "times")}`);
    const how = stream.state === "live" ? texts.join(", ") : said;
    return [[name, [stream.url, how, counts.join(", ")].filter(Boolean).join("\n")]];
  }

  #here() {
    const stream = this.#stream;
    if (!stream.open) return "not connected";
    const how = stream.mode === "jpeg" ? "gets single frames (JPEG)" : "gets video";
    const behind = Number.isNaN(stream.behind) ? "" : `, ${stream.behind.toFixed(1)} s behind the newest frame`;
    return `${how}${behind}${stream.skipped ? `, ${words.plural(stream.skipped, "frame", "frames")} skipped` : ""}`;
  }

  get #silent() {
    const { state } = streams.speaker(this.#report);
    const { fps } = streams.shown(this.#report);
    const patience = Math.max(SILENT, fps > 0 ? 5000 / fps : 0);
    return state === "live" && this.#stream.shown && performance.now() - this.#stream.heard > patience;
  }

  // Of the frame that is shown, in s; null: there has never been one.
  #age() {
    const { captured } = this.#stream;
    if (!Number.isNaN(captured)) return (this.#clock.now() - captured) / 1000;
    const { last_packet_ns: last, state } = streams.shown(this.#report);
    if (state === "idle") return null;
    return last ? (this.#clock.now() - last / 1e6) / 1000 : null;
  }

  #label() {
    const { name, title, camera } = this.#report;
    const { state } = streams.speaker(this.#report);
    const stream = streams.shown(this.#report);
    const parts = this.#parts;
    say(parts.title, this.title);
    put(parts.title, "title", title && title !== name ? name : "");
    put(parts.open, "ariaLabel", `${this.title}: show large`);
    put(parts.drawBoxes, "ariaLabel", `Boxes in ${this.title}`);
    put(parts.fullscreen, "ariaLabel", `${this.title}: full screen`);
    put(parts.snapshot, "ariaLabel", `Snapshot of ${this.title}`);
    say(parts.fps, state === "live" ? `${words.fps(stream.fps)} fps` : "");
    const dropped = camera.outputs.reduce((sum, output) => sum + output.dropped, 0);
    say(parts.drops, `${words.count(dropped + this.#stream.skipped)} dropped`);
    put(parts.drops.dataset, "some", String(dropped + this.#stream.skipped > 0));
    const skipped = `${words.count(this.#stream.skipped)} skipped on the way here`;
    put(parts.drops, "title", `${words.count(dropped)} dropped by the camera's rings, ${skipped}`);
    const known = facts(stream);
    say(parts.facts, known);
    parts.facts.hidden = !known;
    const others = streams.troubled(this.#report);
    const word = (one) => `${one.name}: ${(words.STATES[one.state] ?? one.state).toLowerCase()}`;
    say(parts.others, others.map(word).join(", "));
    put(parts.others, "title", others.map((one) => words.sentence(streams.plain(one))).join("\n"));
    parts.others.hidden = !others.length;
  }

  // What lies over a view that is not live, and says why.
  #cover(state, age) {
    const stream = this.#stream;
    const parts = this.#parts;
    let [title, reason, next] = ["", "", ""];
    if (state === "lost") {
      title = "No connection to the service";
    } else if (state !== "live") {
      const { cause, reason: said, retry_in: wait } = streams.speaker(this.#report);
      const { url } = streams.shown(this.#report);
      title = words.STATES[state] ?? state;
      reason = streams.plain({ reason: said, url });
      if (state === "stalled") reason = `no frame for ${words.about(age ?? 0)}`;
      // The camera does not know of it: it is between the service and here.
      if (state !== streams.speaker(this.#report).state) reason += " here; the camera itself is live";
      if (wait !== null) next = this.#countdown(wait);
      if (state === "connecting" && cause === null) reason = "waiting for the first frame";
      if (state === "idle") reason = "it is connected when somebody looks";
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
    const { key_interval: interval } = streams.shown(this.#report);
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
      const other = this.#instead ? await this.#instead.picture() : null;
      const jpeg = other ? other.blob : await snapshot(this.name);
      download(jpeg, `${this.name}-${words.stamp(new Date(other ? other.at : this.#clock.now()))}.jpg`);
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
    const { recording: asked } = this.#report; // one that has been given up is shown too
    const recording = this.#recording;
    const { record, rec, recTime } = this.#parts;
    const on = Boolean(recording);
    put(record, "ariaPressed", String(on));
    record.disabled = this.#busy || !this.#connected || Boolean(recording?.always);
    let label = on ? `Stop recording ${this.title}` : `Record ${this.title}`;
    if (recording?.always) label = `${this.title} is always recorded`;
    put(record, "ariaLabel", label);
    put(record, "title", recording?.always ? "Always recorded (record: true)" : on ? "Stop recording" : "Record");
    rec.hidden = !asked || !this.#connected;
    if (asked) {
      put(rec.dataset, "state", asked.state);
      const texts = {
        // Its own figure is that of the file; what counts here is since when it is asked for.
        writing: words.lasting(this.#passed(asked.since_ns)),
        waiting: "Recording waits",
        armed: "Waits for events",
        failed: `Not recorded: ${words.recordingCause(asked.error?.cause)}`,
      };
      say(recTime, texts[asked.state]);
      put(rec, "title", this.#recordingText(asked));
    }
  }

  // Since a moment of the service's clock, in s.
  #passed(ns) {
    return (this.#clock.now() - ns / 1e6) / 1000;
  }

  #recordingText({ state, error, path, bytes, active, retry_in: wait }) {
    if (error) {
      const next = wait !== null ? this.#countdown(wait) : active ? "" : "not tried again";
      const texts = [`Nothing is written, for ${words.about(this.#passed(error.since_ns))}`, words.sentence(error.text), words.sentence(next)];
      return texts.filter(Boolean).join("\n");
    }
    if (state === "armed") return "Waiting for an event; the last seconds are kept in memory";
    if (state === "waiting") return path ? `Waiting for frames; the file so far is ${path}` : "Waiting for frames; no file is open";
    return `${path} (${words.bytes(bytes)})`;
  }

  #showSound() {
    const { sound } = this.#parts;
    const { loud: on, audible } = this.#stream;
    if (sound.hidden === audible) sound.hidden = !audible;
    put(sound, "ariaPressed", String(on));
    put(sound, "ariaLabel", `${on ? "Mute" : "Listen to"} ${this.title}`);
    put(sound, "title", on ? "Mute (M)" : "Sound (M)");
  }

  #complain() {
    const { error } = this.#report.recording ?? {};
    const text = error?.text ?? "";
    if (text && text !== this.#complaint) toast(`${this.title}: recording: ${text}`, "error");
    this.#complaint = text;
  }
}

// "1920 × 1080 · H.264"
function facts({ codec, width, height }) {
  return [width && `${width} × ${height}`, codec && words.codec(codec)].filter(Boolean).join(" · ");
}

function inFull(stream) {
  return [
    ["Address", stream.url],
    ["Video", facts(stream) || "not known yet"],
    ["Sound", words.sound(stream.sound)],
    ["Key frames", stream.key_interval ? `every ${words.age(stream.key_interval)}` : "not known yet"],
    ["Received", `${words.count(stream.packets)} frames, ${words.plural(stream.errors, "error", "errors")}`],
    ["Connected again", stream.reconnects ? words.plural(stream.reconnects, "time", "times") : "never"],
  ];
}

// Only what differs is written: these run a few times per second for each camera.
function put(target, key, value) {
  if (target[key] !== value) target[key] = value;
}

function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
