// SPDX-License-Identifier: MIT
// The picture of a time that is pointed at, above the strip. One is asked for at a time, and the last ones are kept.

import { still } from "./api.js";

const WIDTH = 240; // px
const KEPT = 150;
const EDGE = 4; // px

export class Preview {
  #figure;
  #image;
  #caption;
  #name = "";
  #kept = new Map(); // moment: URL, or "" where there is no picture
  #wanted = null;
  #asking = false;

  constructor(figure) {
    this.#figure = figure;
    this.#image = figure.querySelector("img");
    this.#caption = figure.querySelector("figcaption");
  }

  // Of another camera.
  of(name) {
    if (name === this.#name) return;
    this.#name = name;
    for (const url of this.#kept.values()) URL.revokeObjectURL(url);
    this.#kept.clear();
    this.hide();
  }

  // `at` px from the left edge: what is said of a moment, and its picture. NaN: it has none.
  show(at, text, moment) {
    this.#caption.textContent = text;
    this.#figure.hidden = false;
    const room = this.#figure.parentElement.clientWidth;
    const half = this.#figure.offsetWidth / 2;
    const place = Math.max(half + EDGE, Math.min(room - half - EDGE, at));
    this.#figure.style.left = `${place}px`;
    if (Number.isNaN(moment)) {
      this.#wanted = null;
      this.#image.hidden = true;
      return;
    }
    this.#wanted = moment;
    const known = this.#kept.get(moment);
    if (known === undefined) this.#ask();
    else this.#picture(known);
  }

  hide() {
    this.#wanted = null;
    this.#figure.hidden = true;
    this.#image.hidden = true;
  }

  #picture(url) {
    this.#image.hidden = !url;
    if (url && this.#image.src !== url) this.#image.src = url;
  }

  async #ask() {
    if (this.#asking) return;
    this.#asking = true;
    while (this.#wanted !== null && !this.#kept.has(this.#wanted)) {
      const [moment, name] = [this.#wanted, this.#name];
      let url = "";
      try {
        url = URL.createObjectURL(await still(name, moment, WIDTH));
      } catch (error) {
        if (!["empty", "format", "camera"].includes(error.code)) {
          this.#wanted = null; // it may be there when it is pointed at again
          break;
        }
      }
      if (name !== this.#name) {
        URL.revokeObjectURL(url);
        continue;
      }
      this.#kept.set(moment, url);
      if (this.#kept.size > KEPT) {
        const [oldest, gone] = this.#kept.entries().next().value;
        URL.revokeObjectURL(gone);
        this.#kept.delete(oldest);
      }
    }
    this.#asking = false;
    if (this.#wanted !== null) this.#picture(this.#kept.get(this.#wanted));
  }
}
