// SPDX-License-Identifier: MIT
// Which camera is heard, and how loud.

import { describe, onPress, put } from "./buttons.js";
import { recall, remember } from "./settings.js";
import * as streams from "./streams.js";
import { toast } from "./toasts.js";
import * as words from "./words.js";

let heard = null; // the one that is
let volume = Math.min(1, Math.max(0, Number(recall("volume", 1)) || 0));

export class Sound {
  #camera;
  #stream;
  #parts;
  #state = "none";

  // `camera` has a `title`.
  constructor(camera, stream, parts) {
    this.#camera = camera;
    this.#stream = stream;
    this.#parts = parts;
    onPress(parts.sound, () => this.toggle());
    parts.volume.oninput = () => {
      volume = Number(parts.volume.value);
      remember("volume", volume);
      parts.video.volume = volume;
      if (!this.on) this.toggle();
    };
  }

  get on() {
    return heard === this;
  }

  get canBeHeard() {
    return this.#stream.audible;
  }

  // Why nothing is heard, though somebody listens.
  get trouble() {
    return this.on && this.#state === "silent" ? "No sound comes" : "";
  }

  toggle() {
    if (this.on || this.#stream.audible) this.hear(!this.on);
    else if (!this.#parts.sound.hidden) this.#parts.sound.click(); // which says why
    else toast(`${words.isolated(this.#camera.title)} has no sound`);
  }

  // With its sound, or without. One camera is heard at a time.
  hear(on) {
    if (on === this.on) return;
    if (on) heard?.hear(false);
    heard = on ? this : null;
    this.#parts.video.volume = volume;
    this.#stream.hear(on);
    this.#show();
  }

  tick(report) {
    this.#state = streams.shown(report).sound.state;
    if (this.on && !this.#stream.loud) {
      // The browser has refused it, and shows the picture by itself.
      heard = null;
      toast(`${words.isolated(this.#camera.title)}: this browser does not play its sound`, "error");
    }
    this.#show();
  }

  #show() {
    const { sound, volume: slider } = this.#parts;
    const { audible } = this.#stream;
    let reason = "";
    if (!audible) {
      const why = words.silence(this.#state);
      reason = why ? `No sound: ${why}` : this.#stream.silenced ? "No sound: this browser gets single frames" : "";
    }
    const shown = audible || Boolean(reason);
    if (sound.hidden === shown) sound.hidden = !shown;
    put(slider, "hidden", !audible);
    put(slider, "value", String(volume));
    put(slider, "ariaLabel", `Volume of ${this.#camera.title}`);
    put(sound, "ariaPressed", String(this.on));
    describe(sound, `Listen to ${this.#camera.title}`, this.on ? "Mute (M)" : "Sound (M)", reason);
  }
}

// Listen to this one, if another one is heard: to the next camera, when one goes there.
export function hearInstead(sound) {
  if (!heard || heard === sound) return;
  heard.hear(false);
  if (sound.canBeHeard) sound.hear(true);
}
