// SPDX-License-Identifier: MIT
// Recordings as single pictures, where the browser does not play their video: as Film, which it stands in for.

import { still } from "./api.js";

const EVERY = 500; // ms between pictures
const WIDTH = 1280; // px
const STEP = 1000; // ms

export class Slides {
  #image;
  #recordings;
  #events;
  #at = 0;
  #moving = 0; // performance.now() since when it goes on from #at; 0: it does not
  #timer;
  #busy = false;
  #closed = false;
  #shown = NaN;
  rate = 1;
  sound = false;
  trouble = "";

  constructor(image, recordings, events) {
    this.#image = image;
    this.#recordings = recordings;
    this.#events = events;
    this.#timer = setInterval(() => this.#tick(), EVERY);
  }

  get time() {
    return this.#at;
  }

  get paused() {
    return !this.#moving;
  }

  get waiting() {
    return Number.isNaN(this.#shown);
  }

  play() {
    this.#moving = performance.now();
  }

  pause() {
    this.#moving = 0;
  }

  seek(at) {
    this.#at = at;
    this.#show();
  }

  step(by) {
    this.seek(this.#at + by * STEP);
    return true;
  }

  close() {
    this.#closed = true;
    clearInterval(this.#timer);
    URL.revokeObjectURL(this.#image.src);
    this.#image.removeAttribute("src");
  }

  async #tick() {
    if (!this.#moving || this.#busy) return;
    const now = performance.now();
    this.#at += (now - this.#moving) * this.rate;
    this.#moving = now;
    const all = this.#recordings;
    if (!all.at(this.#at)) {
      await all.refresh().catch(() => {});
      const next = all.after(this.#at);
      if (all.at(this.#at)) return;
      if (!next) {
        this.#events.ended();
        return;
      }
      this.#events.jumped(this.#at, next.from);
      this.#at = next.from;
    }
    this.#show();
  }

  async #show() {
    if (this.#busy) return;
    this.#busy = true;
    const at = this.#at;
    try {
      const url = URL.createObjectURL(await still(this.#recordings.name, at, WIDTH));
      if (this.#closed) {
        URL.revokeObjectURL(url);
        return;
      }
      const ahead = new Image(); // so that there is never nothing
      ahead.src = url;
      await ahead.decode();
      URL.revokeObjectURL(this.#image.src);
      this.#image.src = url;
      this.#shown = at;
      this.trouble = "";
    } catch (error) {
      this.trouble = error.message;
    } finally {
      this.#busy = false;
    }
    if (!this.#closed && Math.abs(this.#at - at) > EVERY && !this.#moving) this.#show(); // it was sent elsewhere meanwhile
  }
}
