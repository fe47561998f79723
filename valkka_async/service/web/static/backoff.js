// SPDX-License-Identifier: MIT
// Pauses between attempts, in ms: each twice the one before, up to `most`, and never two pages in step.

export class Backoff {
  #first;
  #most;
  #next;

  constructor(first, most) {
    this.#first = first;
    this.#most = most;
    this.#next = first;
  }

  next() {
    const pause = this.#next * (0.75 + Math.random() / 2);
    this.#next = Math.min(this.#next * 2, this.#most);
    return pause;
  }

  reset() {
    this.#next = this.#first;
  }
}
