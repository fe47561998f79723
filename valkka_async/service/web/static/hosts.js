// SPDX-License-Identifier: MIT
// Cameras of other hosts: their names, and a snapshot of one when it is clicked. Nothing of theirs is read between.

import { hostCameras, hostSnapshot } from "./api.js";
import { toast } from "./toasts.js";

const AGAIN = 10_000; // ms between looks for which there are

export class Hosts {
  #section;
  #list;
  #buttons = new Map();

  constructor(section) {
    this.#section = section;
    this.#list = section.querySelector("div");
  }

  async start() {
    for (;;) {
      if (!document.hidden) this.#follow(await hostCameras().catch(() => [...this.#buttons.keys()]));
      await new Promise((done) => setTimeout(done, AGAIN));
    }
  }

  #follow(names) {
    for (const [name, button] of this.#buttons) {
      if (names.includes(name)) continue;
      URL.revokeObjectURL(button.querySelector("img").src);
      button.remove();
      this.#buttons.delete(name);
    }
    for (const name of names) {
      if (this.#buttons.has(name)) continue;
      const button = this.#make(name);
      this.#buttons.set(name, button);
      this.#list.append(button);
    }
    this.#section.hidden = !names.length;
  }

  #make(name) {
    const button = document.createElement("button");
    button.type = "button";
    button.title = `Snapshot of ${name}`;
    const image = document.createElement("img");
    image.alt = "";
    image.hidden = true;
    button.append(image, name);
    button.onclick = async () => {
      button.disabled = true;
      try {
        const before = image.src;
        image.src = URL.createObjectURL(await hostSnapshot(name));
        image.hidden = false;
        if (before) URL.revokeObjectURL(before);
      } catch (error) {
        toast(`${name}: no snapshot: ${error.message}`, "error");
      }
      button.disabled = false;
    };
    return button;
  }
}
