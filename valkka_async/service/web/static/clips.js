// SPDX-License-Identifier: MIT
// A part of the recordings as a file: from when to when, how far it is, and what is wrong with it.

import { clip, clipUrl, download, read } from "./api.js";
import * as moments from "./moments.js";
import * as words from "./words.js";

const LARGE = 256e6; // bytes: the browser itself saves what is larger, as it comes
const LOOK = 200; // ms between two looks at how far it is

const WRONG = {
  empty: "nothing was recorded in this time",
  changed: "the picture's size or codec changes in this time; save a part of it:",
  gone: "it has been deleted meanwhile",
};

export class Clips {
  #parts;
  #events;
  #name = "";
  #saving = null; // the AbortController of what is on its way

  // `here()`: the moment that is shown; `marked(range)`: from when to when, or null; `told(text)`.
  constructor(parts, events) {
    this.#parts = parts;
    this.#events = events;
    parts.clip.onsubmit = (event) => {
      event.preventDefault();
      if (this.#saving) this.#saving.abort();
      else this.#save(...this.range);
    };
    parts.clipFrom.onchange = parts.clipTo.onchange = () => this.#changed();
    parts.clipFromHere.onclick = () => this.begin();
    parts.clipToHere.onclick = () => this.end();
    parts.clipClose.onclick = () => this.close();
    parts.clip.onkeydown = (event) => {
      if (event.key !== "Escape") return;
      event.preventDefault();
      this.close();
    };
  }

  get open() {
    return !this.#parts.clip.hidden;
  }

  // [from, to]; NaN where nothing is said.
  get range() {
    return [this.#parts.clipFrom, this.#parts.clipTo].map((input) => moments.moment(...input.value.split("T")));
  }

  // Of this camera, with this range to begin with.
  show(name, from, to) {
    this.#name = name;
    this.#parts.clip.hidden = false;
    this.#parts.openClip.ariaExpanded = "true";
    this.set(from, to);
    this.#parts.clipFrom.focus();
  }

  close() {
    if (!this.open) return;
    const inside = this.#parts.clip.contains(document.activeElement);
    this.#saving?.abort();
    this.#parts.clip.hidden = true;
    this.#parts.openClip.ariaExpanded = "false";
    this.#events.marked(null);
    if (inside) this.#parts.strip.focus(); // for which the keys are, and not the button, which Space would press
  }

  set(from, to) {
    this.#parts.clipFrom.value = moments.bothValue(from);
    this.#parts.clipTo.value = moments.bothValue(to);
    this.#changed();
  }

  // From what is shown on, or up to there.
  begin() {
    const at = this.#events.here();
    const [, to] = this.range;
    this.set(at, to > at ? to : at + 10_000);
  }

  end() {
    const at = Math.ceil(this.#events.here() / 1000) * 1000;
    const [from] = this.range;
    this.set(from < at ? from : at - 10_000, at);
  }

  #changed() {
    const [from, to] = this.range;
    const good = from < to;
    const { clipLength, clipSave } = this.#parts;
    clipLength.textContent = good ? words.lasting((to - from) / 1000) : "";
    clipSave.disabled = !good && !this.#saving;
    this.#wrong(Number.isNaN(from) || Number.isNaN(to) || good ? "" : "it ends before it begins");
    this.#events.marked(good ? [from, to] : null);
  }

  #wrong(text, parts = []) {
    const { clipWrong, clipParts, clipSave } = this.#parts;
    clipWrong.textContent = words.sentence(text);
    clipWrong.hidden = !text;
    clipParts.hidden = !parts.length;
    clipParts.replaceChildren(
      ...parts.map(({ from, to }) => {
        const button = document.createElement("button");
        button.type = "button";
        button.className = "text";
        button.textContent = `${moments.time(from)} – ${moments.time(to)}`;
        button.onclick = () => {
          clipSave.focus(); // this button goes
          this.set(from, to);
          this.#save(from, to); // whose ends are not whole seconds
        };
        return button;
      }),
    );
  }

  async #save(from, to) {
    const { clipSave, clipProgress } = this.#parts;
    const abort = new AbortController();
    this.#saving = abort;
    this.#wrong("");
    clipSave.textContent = "Cancel";
    clipProgress.hidden = false;
    this.#progress(0, 0);
    try {
      this.#events.told(await this.#get(from, to, abort.signal));
    } catch (error) {
      if (abort.signal.aborted) this.#events.told("The clip was not saved.");
      else this.#wrong(WRONG[error.code] ?? `the clip was not saved: ${error.message}`, error.parts);
    } finally {
      this.#saving = null;
      clipSave.textContent = "Save";
      clipProgress.hidden = true;
    }
  }

  // Returns what is to be said of it.
  async #get(from, to, signal) {
    const answer = await clip(this.#name, from, to, signal);
    const size = Number(answer.headers.get("Content-Length"));
    const [begin, end] = ["X-From-Ns", "X-To-Ns"].map((name) => Number(answer.headers.get(name)) / 1e6);
    const said = `${moments.time(begin)} to ${moments.time(end)} (${words.bytes(size)})`;
    if (size > LARGE) {
      answer.body.cancel();
      const link = document.createElement("a");
      link.href = clipUrl(this.#name, from, to);
      link.download = "";
      link.click();
      return `The browser saves ${said}.`;
    }
    const reader = answer.body.getReader();
    const blocks = [];
    let [got, looked] = [0, 0];
    for (;;) {
      const { done, value } = await read(reader, signal);
      if (done) break;
      blocks.push(value);
      got += value.length;
      if (performance.now() - looked < LOOK) continue;
      looked = performance.now();
      this.#progress(got, size);
    }
    download(new Blob(blocks, { type: "video/mp4" }), `${this.#name}-${words.stamp(new Date(begin))}.mp4`);
    return `Saved ${said}.${from - begin > 500 ? " A clip begins with a key frame." : ""}`;
  }

  #progress(got, size) {
    this.#parts.clipBar.value = size ? got / size : 0;
    this.#parts.clipBytes.textContent = size ? `${words.bytes(got)} of ${words.bytes(size)}` : "";
  }
}
