// SPDX-License-Identifier: MIT
// What there is of one camera's recordings, as the service says it, around the time that is looked at.
// Moments are Unix ms.

import { timeline } from "./api.js";
import { HOUR } from "./moments.js";

const AROUND = 30 * HOUR; // loaded before and after what was asked for
const FAR = 240 * HOUR; // looked through at once for what is farther away

export class Recordings {
  #name;
  #loading = null; // {from, to, answer}
  from = 0; // what follows is known from here to there
  to = 0;
  spans = []; // {from, to, codec, width, height}
  events = []; // {at, code, text, count}
  oldest = null; // of all that there is; null: nothing
  newest = null;
  asked = false; // it is known at all

  constructor(name) {
    this.#name = name;
  }

  get name() {
    return this.#name;
  }

  // Know all from one moment to another. Throws what timeline() does.
  async ensure(from, to) {
    if (this.asked && this.from <= from && to <= this.to) return;
    const loading = this.#loading;
    if (loading && loading.from <= from && to <= loading.to) {
      await loading.answer;
      return;
    }
    await this.#load(from - AROUND, to + AROUND);
  }

  // The same again: there may be more by now, or less.
  async refresh() {
    if (this.asked && !this.#loading) await this.#load(this.from, this.to);
  }

  // The span that has this moment, the first after it, the last before it; undefined: there is none, as far as is known.
  at(moment) {
    return this.spans.find((span) => span.from <= moment && moment < span.to);
  }

  after(moment) {
    return this.spans.find((span) => span.from > moment);
  }

  before(moment) {
    return this.spans.findLast((span) => span.to <= moment);
  }

  // Between spans: {from, to}.
  get gaps() {
    return this.spans.slice(1).flatMap((span, n) => {
      const before = this.spans[n];
      return span.from > before.to ? [{ from: before.to, to: span.from }] : [];
    });
  }

  // The next one that `list(this)` has with `moment(one)` after `at`, or the last one before it (`way` -1), however
  // far away; undefined: there is none.
  async find(list, moment, at, way) {
    const [from, to] = way > 0 ? [at, at + HOUR] : [at - HOUR, at];
    await this.ensure(from, to);
    for (;;) {
      const all = list(this);
      const found = way > 0 ? all.find((one) => moment(one) > at) : all.findLast((one) => moment(one) < at);
      if (found !== undefined) return found;
      if (this.oldest === null) return undefined;
      if (way > 0 ? this.to > this.newest : this.from < this.oldest) return undefined;
      if (way > 0) await this.#load(this.from, this.to + FAR);
      else await this.#load(this.from - FAR, this.to);
    }
  }

  async #load(from, to) {
    const answer = timeline(this.#name, from, to);
    const loading = { from, to, answer };
    this.#loading = loading;
    try {
      const said = await answer;
      if (this.#loading !== loading) return; // something else is looked at by now
      this.from = from;
      this.to = to;
      this.spans = said.spans.map(({ from_ns: begin, to_ns: end, ...rest }) => ({ from: begin / 1e6, to: end / 1e6, ...rest }));
      this.events = said.events.map(({ at_ns: at, ...rest }) => ({ at: at / 1e6, ...rest }));
      this.oldest = said.oldest_ns === null ? null : said.oldest_ns / 1e6;
      this.newest = said.newest_ns === null ? null : said.newest_ns / 1e6;
      this.asked = true;
    } finally {
      if (this.#loading === loading) this.#loading = null;
    }
  }
}
