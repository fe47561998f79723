// SPDX-License-Identifier: MIT
// One camera on the page: its live view, how it is, and its buttons.

import { download, snapshot } from "./api.js";
import { toggleBare } from "./bare.js";
import { Boxes } from "./boxes.js";
import { describe, onPress, put, say } from "./buttons.js";
import { Drops } from "./drops.js";
import { Recording } from "./record.js";
import { announce } from "./said.js";
import { Sound } from "./sound.js";
import { Stream } from "./stream.js";
import * as streams from "./streams.js";
import { toast } from "./toasts.js";
import * as words from "./words.js";
import { Zoom } from "./zoom.js";

const SILENT = 3000; // ms without a frame of a camera that is reported live, until it is called stalled
const OLD = 2; // s from which on the age of a frame stands out
const OPENING = 700; // ms without a frame before the page says that it waits for one
const TROUBLED = 2000; // ms of trouble after which a camera comes first
const CALM = 10_000; // ms without any after which it is back in its place

export class Tile {
  #report;
  #clock;
  #connected = true;
  #at = 0; // performance.now() of the last status
  #stream;
  #boxes;
  #recording;
  #sound;
  #zoom;
  #parts;
  #drops = new Drops();
  #seen = false;
  #instead = null; // what is shown in place of the live view
  #snapping = false;
  #trouble = null; // {is, since, shown}
  #said = ""; // the state that was announced

  // `opened(name)` when it was clicked; `swiped(by)` when the next one (1) is wanted, or the one before (-1).
  constructor(report, clock, { opened, swiped }) {
    this.#report = report;
    this.#clock = clock;
    const element = document.getElementById("tile-template").content.firstElementChild.cloneNode(true);
    this.element = element;
    element.dataset.camera = report.name;
    const parts = Object.fromEntries([...element.querySelectorAll("[data-part]")].map((one) => [one.dataset.part, one]));
    this.#parts = parts;
    this.#stream = new Stream(report.name, parts.video, parts.still);
    const told = (code, reason) => this.#tell(`no boxes: ${reason}`, code === "ring" ? "error" : "note");
    this.#boxes = new Boxes(report.name, parts.boxes, () => this.#stream.captured, told);
    this.#recording = new Recording(this, clock, parts);
    this.#sound = new Sound(this, this.#stream, parts);
    const changed = (scale) => this.#zoomed(scale);
    this.#zoom = new Zoom(parts.screen, parts.picture, { changed, swiped, doubled: toggleBare });
    onPress(parts.drawBoxes, () => this.toggleBoxes());
    onPress(parts.snapshot, () => this.snap());
    onPress(parts.float, () => this.float());
    parts.open.onclick = () => opened(report.name);
    parts.zoom.onclick = () => this.#zoom.reset();
    parts.float.hidden = !document.pictureInPictureEnabled;
    for (const name of ["enterpictureinpicture", "leavepictureinpicture"]) {
      parts.video.addEventListener(name, () => this.see(this.#seen));
    }
  }

  get name() {
    return this.#report.name;
  }

  get title() {
    return this.#report.title || this.#report.name;
  }

  get group() {
    return this.#report.group;
  }

  get report() {
    return this.#report;
  }

  get state() {
    if (!this.#connected) return "lost";
    return this.#silent ? "stalled" : streams.speaker(this.#report).state;
  }

  // Of the camera as a whole, whatever this tile shows of it.
  get overall() {
    return this.state === "live" ? this.#report.state : this.state;
  }

  // Is it to be recorded, and is not?
  get unrecorded() {
    return this.#recording.failed;
  }

  // Does it need a look? Not for a moment's sake, so that tiles stay where they are.
  get troubled() {
    return Boolean(this.#trouble?.shown);
  }

  get recordingText() {
    return this.#recording.text;
  }

  get zoom() {
    return this.#zoom;
  }

  get sound() {
    return this.#sound;
  }

  see(seen) {
    this.#seen = seen;
    const live = seen && !this.#instead;
    this.#stream.see(live || this.#floats); // in its own window it is seen wherever the page is
    this.#boxes.see(live);
  }

  // Show something else in place of the live view, of which `picture()` gives {blob, at}; null: nothing else.
  instead(other) {
    this.#instead = other;
    this.element.toggleAttribute("data-recorded", other !== null);
    this.see(this.#seen);
  }

  follow(report) {
    this.#report = report;
    this.#connected = true;
    this.#at = performance.now();
    this.#stream.follow(report);
    this.#recording.follow(report.recording, true);
    this.#label();
    this.tick();
  }

  // There is no connection to the service.
  lost() {
    this.#connected = false;
    this.#stream.follow(null);
    this.#recording.follow(this.#report.recording, false);
    this.tick();
  }

  // The only one that is shown, or one of many.
  enlarge(large) {
    this.element.classList.toggle("large", large);
    this.#zoom.enable(large);
  }

  // With what analysers found in its frames drawn over it, or without.
  toggleBoxes() {
    this.#boxes.toggle();
    put(this.#parts.drawBoxes, "ariaPressed", String(this.#boxes.on));
  }

  record() {
    this.#parts.record.click();
  }

  // In a small window of its own, over all others, or no longer.
  async float() {
    if (this.#parts.float.hidden) return;
    try {
      if (this.#floats) await document.exitPictureInPicture();
      else await this.#parts.video.requestPictureInPicture();
    } catch (error) {
      this.#tell(`no picture-in-picture: ${error.message}`, "error");
    }
  }

  async snap() {
    if (this.#snapping) return;
    this.#snapping = true;
    this.tick();
    try {
      const other = await this.#instead?.picture();
      const { blob, at } = other ?? { blob: await snapshot(this.name), at: this.#clock.now() };
      const file = `${this.name}-${words.stamp(new Date(at))}.jpg`;
      download(blob, file);
      this.#tell(`snapshot saved as ${file}`);
    } catch (error) {
      this.#tell(`no snapshot: ${error.message}`, "error");
    } finally {
      this.#snapping = false;
      this.tick();
    }
  }

  // px that it has besides its picture.
  get footHeight() {
    return this.element.offsetHeight - this.#parts.screen.offsetHeight;
  }

  focus() {
    this.#parts.open.focus({ preventScroll: false });
  }

  remove() {
    this.#sound.hear(false);
    if (this.#floats) document.exitPictureInPicture().catch(() => {});
    this.#stream.close();
    this.#boxes.close();
    announce(this.name, "");
    this.element.remove();
  }

  // A few times per second: what changes by itself as time goes by.
  tick() {
    this.#stream.tick();
    const { state } = this;
    put(this.element.dataset, "state", state);
    put(this.element.dataset, "mode", this.#stream.mode);
    say(this.#parts.word, words.STATES[state] ?? state);
    const age = this.#age();
    this.#cover(state, age);
    this.#notes(state, age);
    this.#buttons();
    this.#sound.tick(this.#report);
    this.#recording.tick();
    this.#judge();
  }

  // What this browser gets of it.
  get here() {
    const stream = this.#stream;
    if (!stream.open) return "not connected";
    const how = stream.mode === "jpeg" ? "gets single frames (JPEG)" : "gets video";
    const behind = Number.isNaN(stream.behind) ? "" : `${stream.behind.toFixed(1)} s behind the newest frame`;
    const counts = [
      stream.skipped && `${words.plural(stream.skipped, "frame", "frames")} skipped`,
      stream.dropped && `${words.plural(stream.dropped, "frame", "frames")} not drawn in time`,
    ];
    return [how, behind, ...counts].filter(Boolean).join(", ");
  }

  get #floats() {
    return document.pictureInPictureElement === this.#parts.video;
  }

  get #silent() {
    const { state } = streams.speaker(this.#report);
    const { fps } = streams.shown(this.#report);
    const patience = Math.max(SILENT, fps > 0 ? 5000 / fps : 0);
    return state === "live" && this.#stream.shown && performance.now() - this.#stream.heard > patience;
  }

  #tell(text, kind) {
    toast(`${words.isolated(this.title)}: ${text}`, kind);
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
    const { title } = this;
    const parts = this.#parts;
    say(parts.title, title);
    put(parts.title, "title", title === this.name ? title : `${title} (${this.name})`);
    put(this.element, "ariaLabel", title);
    put(parts.open, "ariaLabel", `${title}: show large`);
    put(parts.handle, "ariaLabel", `Move ${title}: drag it, or press arrow keys`);
    const known = words.video(streams.shown(this.#report));
    say(parts.facts, known);
    parts.facts.hidden = !known;
    const others = streams.troubled(this.#report);
    const word = (one) => `${one.name}: ${(words.STATES[one.state] ?? one.state).toLowerCase()}`;
    const why = others.map((one) => words.sentence(streams.plain(one))).join("\n");
    say(parts.othersWord, others.map(word).join(", "));
    say(parts.othersWhy, why);
    put(parts.others, "title", why);
    parts.others.hidden = !others.length;
  }

  #buttons() {
    const { title } = this;
    const { snapshot: snap, drawBoxes, float } = this.#parts;
    const lost = this.#connected ? "" : words.NO_SERVICE;
    describe(snap, `Snapshot of ${title}`, "Snapshot (S)", lost);
    put(snap, "ariaBusy", String(this.#snapping));
    describe(drawBoxes, `Boxes in ${title}`, "Boxes (B)");
    const still = this.#stream.mode === "jpeg" ? "This browser shows single frames of it, which cannot float" : "";
    describe(float, `${title}: picture-in-picture`, "Picture-in-picture (P)", lost || still);
    put(float, "ariaPressed", String(this.#floats));
  }

  #zoomed(scale) {
    const { zoom } = this.#parts;
    const shown = scale > 1;
    this.element.toggleAttribute("data-zoomed", shown);
    zoom.hidden = !shown;
    say(zoom, `${scale.toFixed(1)}×`);
    put(zoom, "ariaLabel", `${scale.toFixed(1)} times as large: show the whole picture`);
  }

  // What is not as it should be, while it is live.
  #notes(state, age) {
    const { age: old, drops, silence } = this.#parts;
    const live = state === "live" && this.#stream.shown;
    say(old, live && age > OLD ? `${words.age(age)} behind` : "");
    const rings = this.#report.camera.outputs.reduce((sum, output) => sum + output.dropped, 0);
    const { skipped, dropped } = this.#stream;
    const lately = this.#drops.lately(rings + skipped + dropped, streams.shown(this.#report).fps);
    say(drops, live && lately ? `${words.plural(lately, "frame", "frames")} dropped in a minute` : "");
    const all = [`${words.count(rings)} by the camera's rings`, `${words.count(skipped)} on the way here`, `${words.count(dropped)} by this browser`];
    put(drops, "title", `So far dropped: ${all.join(", ")}`);
    say(silence, this.#sound.trouble);
  }

  // What lies over a view that is not live, and says why.
  #cover(state, age) {
    const stream = this.#stream;
    const parts = this.#parts;
    let [title, reason, next] = ["", "", ""];
    if (state === "lost") {
      title = words.STATES.lost; // the page says to what
    } else if (state !== "live") {
      const { cause, reason: said, retry_in: wait } = streams.speaker(this.#report);
      const { url } = streams.shown(this.#report);
      title = words.STATES[state] ?? state;
      reason = streams.plain({ reason: said, url });
      if (state === "stalled") reason = `no frame for ${words.about(age ?? 0)}`;
      // The camera does not know of it: it is between the service and here.
      if (state !== streams.speaker(this.#report).state) reason += " here; the camera itself is live";
      if (wait !== null) next = words.countdown(wait - (performance.now() - this.#at) / 1000);
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
    put(parts.coverReason, "title", words.sentence(reason));
    say(parts.coverNext, words.sentence(next));
  }

  // Video can begin with a key frame only.
  #keyFrame() {
    const { key_interval: interval } = streams.shown(this.#report);
    if (this.#stream.quiet < 3 * OPENING) return "";
    return `waiting for a key frame${interval > 2 ? `; this camera sends one every ${words.about(interval)}` : ""}`;
  }

  #judge() {
    if (!this.#connected) return;
    const now = performance.now();
    const { overall, unrecorded } = this;
    const is = words.TROUBLE.includes(overall) || unrecorded;
    this.#trouble ??= { is, since: now, shown: is };
    const trouble = this.#trouble;
    if (is !== trouble.is) [trouble.is, trouble.since] = [is, now];
    if (is !== trouble.shown && now - trouble.since > (is ? TROUBLED : CALM)) trouble.shown = is;
    const state = words.TROUBLE.includes(overall) ? overall : overall === "live" ? "live" : this.#said;
    if (this.#said && state !== this.#said) {
      const { reason, url } = { ...streams.shown(this.#report), reason: streams.speaker(this.#report).reason };
      const why = state === "live" ? "" : streams.plain({ reason, url });
      announce(this.name, [`${this.title}: ${state === "live" ? "live again" : words.STATES[state].toLowerCase()}`, why].filter(Boolean).join(", "));
    }
    this.#said = state || "live";
  }
}
