// SPDX-License-Identifier: MIT
// One camera's recording: its button, and the words over the picture.

import { clipUrl, happened, setRecording } from "./api.js";
import { describe, onPress, put, say } from "./buttons.js";
import { announce } from "./said.js";
import { toast } from "./toasts.js";
import * as words from "./words.js";

export class Recording {
  #camera;
  #clock;
  #parts;
  #status = null; // as reported: one that has been given up, too
  #at = 0; // performance.now() of that
  #connected = true;
  #busy = false; // a change is under way

  // `camera` has a `name` and a `title`.
  constructor(camera, clock, parts) {
    this.#camera = camera;
    this.#clock = clock;
    this.#parts = parts;
    onPress(parts.record, () => this.toggle());
  }

  follow(status, connected) {
    if (status && status !== this.#status) this.#at = performance.now();
    const before = this.#status;
    this.#status = status;
    this.#connected = connected;
    if (this.failed && before && before.state !== "failed") {
      const cause = words.recordingCause(status.error?.cause);
      announce(`recording of ${this.#camera.name}`, `${this.#camera.title}: not recorded, ${cause}`);
    }
    this.tick();
  }

  get failed() {
    return this.#status?.state === "failed";
  }

  // How it is, in words; "": not asked for.
  get text() {
    if (!this.#status) return "";
    const { state, error, path, bytes, active, retry_in: wait } = this.#status;
    if (error) {
      const left = wait === null ? 0 : wait - (performance.now() - this.#at) / 1000;
      const next = wait !== null ? words.countdown(left) : active ? "" : "not tried again";
      const since = `Nothing is written, for ${words.about(this.#passed(error.since_ns))}`;
      return [since, words.sentence(error.text), words.sentence(next)].filter(Boolean).join("\n");
    }
    if (state === "armed") return "Waiting for an event; the last seconds are kept in memory";
    if (state === "waiting") return path ? `Waiting for frames; the file so far is ${path}` : "Waiting for frames; no file is open";
    return `${path} (${words.bytes(bytes)})`;
  }

  get path() {
    return this.#status?.path ?? "";
  }

  async toggle() {
    if (this.#busy || !this.#connected) return;
    const before = this.#status;
    this.#busy = true;
    this.tick();
    try {
      if (before?.state === "armed") {
        await happened(this.#camera.name);
        const [last, next] = before.events.map((seconds) => words.about(seconds));
        this.#tell(`an event is recorded: the last ${last} and the next ${next}`);
      } else if (before?.active) {
        this.follow(await setRecording(this.#camera.name, false), true);
        this.#recorded(before);
      } else {
        this.follow(await setRecording(this.#camera.name, true), true);
        this.#tell("recording");
      }
    } catch (error) {
      this.#tell(error.message, "error");
    } finally {
      this.#busy = false;
      this.tick();
    }
  }

  #recorded({ since_ns: since, path }) {
    if (!path) {
      this.#tell("nothing was recorded");
      return;
    }
    const [from, to] = [since / 1e6, this.#clock.now()];
    const link = { text: "Save", url: clipUrl(this.#camera.name, from, to) };
    this.#tell(`recorded, ${words.lasting((to - from) / 1000)}`, "note", { link, title: path });
  }

  #tell(text, kind, more) {
    toast(`${words.isolated(this.#camera.title)}: ${text}`, kind, more);
  }

  tick() {
    const status = this.#status;
    const { record, rec, recTime, recWhy } = this.#parts;
    const { title } = this.#camera;
    const armed = status?.state === "armed";
    const on = Boolean(status?.active) && !armed;
    put(record, "ariaPressed", String(on));
    put(record, "ariaBusy", String(this.#busy));
    let reason = "";
    if (!this.#connected) reason = words.NO_SERVICE;
    else if (status?.always && !armed) reason = "Always recorded, as the config says";
    const [before, after] = (status?.events ?? []).map((seconds) => words.about(seconds));
    if (armed) describe(record, `Record an event of ${title}`, `Record an event: the last ${before} and the next ${after} (R)`, reason);
    else describe(record, `Record ${title}`, on ? "Stop recording (R)" : "Record (R)", reason);
    rec.hidden = !status || !this.#connected;
    if (rec.hidden) return;
    put(rec.dataset, "state", status.state);
    const texts = {
      // Its own figure is that of the file; what counts here is since when it is asked for.
      writing: words.lasting(this.#passed(status.since_ns)),
      waiting: "Recording waits",
      armed: "Waits for events",
      failed: `Not recorded: ${words.recordingCause(status.error?.cause)}`,
    };
    say(recTime, texts[status.state] ?? status.state);
    say(recWhy, status.state === "failed" ? this.text : "");
    put(rec, "title", this.text);
  }

  // Since a moment of the service's clock, in s.
  #passed(ns) {
    return (this.#clock.now() - ns / 1e6) / 1000;
  }
}
