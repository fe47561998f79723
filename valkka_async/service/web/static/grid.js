// SPDX-License-Identifier: MIT
// All tiles: those of the cameras there are, in their order, as large as the window lets them be.

import { Tile } from "./tile.js";

const TICK = 250; // ms
const GAP = 12; // px, as in style.css
const LEAST = 240; // px: rather than in narrower tiles the cameras are not all in view, and the page scrolls
const COLUMN = 290; // px, the narrowest that tiles are made then
const RATIO = 9 / 16;

export class Grid {
  #element;
  #clock;
  #opened;
  #tiles = new Map();
  #large = null; // name
  #inView = new WeakSet();
  #observer;

  constructor(element, clock, opened) {
    this.#element = element;
    this.#clock = clock;
    this.#opened = opened;
    this.#observer = new IntersectionObserver((entries) => this.#saw(entries), { rootMargin: "80px" });
    document.addEventListener("visibilitychange", () => this.#look());
    // In the next frame: arranging resizes what is observed.
    new ResizeObserver(() => requestAnimationFrame(() => this.#arrange())).observe(element.parentElement);
    setInterval(() => this.#tick(), TICK);
  }

  get names() {
    return [...this.#tiles.keys()];
  }

  get tiles() {
    return [...this.#tiles.values()];
  }

  tile(name) {
    return this.#tiles.get(name);
  }

  follow(cameras) {
    const names = new Set(cameras.map((camera) => camera.name));
    for (const [name, tile] of this.#tiles) {
      if (names.has(name)) continue;
      this.#observer.unobserve(tile.element);
      tile.remove();
      this.#tiles.delete(name);
    }
    const known = this.#tiles;
    this.#tiles = new Map();
    cameras.forEach((camera, n) => {
      const tile = known.get(camera.name) ?? new Tile(camera, this.#clock, this.#opened);
      this.#tiles.set(camera.name, tile);
      // Moving an element that is in its place already would stop its video.
      const there = this.#element.children[n];
      if (there !== tile.element) this.#element.insertBefore(tile.element, there ?? null);
      if (!known.has(camera.name)) this.#observer.observe(tile.element);
      tile.element.classList.toggle("large", camera.name === this.#large);
      tile.follow(camera);
    });
    this.#arrange();
  }

  lost() {
    for (const tile of this.#tiles.values()) tile.lost();
  }

  // Show one camera large; null: all of them.
  enlarge(name) {
    const before = this.#tiles.get(this.#large);
    this.#large = name;
    this.#element.classList.toggle("single", name !== null);
    for (const tile of this.#tiles.values()) tile.element.classList.toggle("large", tile.name === name);
    this.#arrange();
    if (name === null) before?.focus(); // where one was
  }

  #saw(entries) {
    for (const entry of entries) {
      if (entry.isIntersecting) this.#inView.add(entry.target);
      else this.#inView.delete(entry.target);
    }
    this.#look();
  }

  #look() {
    for (const tile of this.#tiles.values()) tile.see(!document.hidden && this.#inView.has(tile.element));
  }

  #tick() {
    if (document.hidden) return;
    for (const tile of this.#tiles.values()) tile.tick();
  }

  // So many columns that all tiles are seen at once and are as large as can be; if that is too small to be of
  // use, as many as there is room for.
  #arrange() {
    const count = this.#tiles.size;
    if (!count || this.#large !== null) return;
    const box = getComputedStyle(this.#element);
    const width = this.#element.clientWidth - parseFloat(box.paddingLeft) - parseFloat(box.paddingRight);
    const top = this.#element.getBoundingClientRect().top + scrollY;
    const height = innerHeight - top - parseFloat(box.paddingTop) - parseFloat(box.paddingBottom);
    const foot = this.#tiles.values().next().value.element.querySelector(".foot").offsetHeight + 2;
    let [columns, best] = [1, 0];
    for (let n = 1; n <= count; n += 1) {
      const rows = Math.ceil(count / n);
      const wide = (width - GAP * (n - 1)) / n;
      const high = ((height - GAP * (rows - 1)) / rows - foot) / RATIO;
      const tile = Math.min(wide, high);
      if (tile > best) [columns, best] = [n, tile];
    }
    if (best < LEAST) {
      columns = Math.max(1, Math.floor((width + GAP) / (COLUMN + GAP)));
      best = (width - GAP * (columns - 1)) / columns;
    }
    this.#element.style.setProperty("--columns", String(columns));
    this.#element.style.setProperty("--tile", `${Math.floor(best)}px`);
  }
}
