// SPDX-License-Identifier: MIT
// Whether more frames than a few were dropped lately.

const WINDOW = 60_000; // ms
const EACH = 1000; // ms between samples
const FEW = 5; // in the window
const SHARE = 0.05; // of the frames in it: fewer are hardly seen

export class Drops {
  #samples = []; // {at, count}

  // `count`: all that were dropped until now. Returns how many that were in the last minute; 0 if they are few.
  lately(count, fps) {
    const now = performance.now();
    const last = this.#samples.at(-1);
    if (last && count < last.count) this.#samples = []; // a process has begun to count again
    if (!this.#samples.length || now - last.at >= EACH) this.#samples.push({ at: now, count });
    while (now - this.#samples[0].at > WINDOW) this.#samples.shift();
    const lately = count - this.#samples[0].count;
    return lately >= FEW && lately > SHARE * fps * (WINDOW / 1000) ? lately : 0;
  }
}
