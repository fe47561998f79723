// SPDX-License-Identifier: MIT
// All tiles: those of the cameras there are, in the order that somebody wants, as large as the window lets them be.

import { arranged, moved, staying } from "./order.js";
import { recall, remember } from "./settings.js";
import { Tile } from "./tile.js";

const TICK = 250; // ms
const LEAST = 216; // px: rather than in narrower tiles the cameras are not all in view, and the page scrolls
const COLUMN = 290; // px, the narrowest that tiles are made then
const RATIO = 9 / 16;
const BUSY = 3000; // ms in which nothing moves away from under somebody's hand

export class Grid {
  #element;
  #clock;
  #told;
  #shows;
  #tiles = new Map(); // in the config's order
  #visible = []; // in their order, without those that are not to be shown
  #large = null; // name
  #order = recall("order", "trouble");
  #own = recall("own", []);
  #touched = -Infinity; // performance.now() when somebody's hand was last over it
  #inView = new WeakSet();
  #observer;

  // `told`: as for Tile. `shows(tile)`: is it one of those that are wanted?
  constructor(element, clock, told, shows) {
    this.#element = element;
    this.#clock = clock;
    this.#told = told;
    this.#shows = shows;
    this.#observer = new IntersectionObserver((entries) => this.#saw(entries), { rootMargin: "80px" });
    document.addEventListener("visibilitychange", () => this.#look());
    // In the next frame: arranging resizes what is observed.
    new ResizeObserver(() => requestAnimationFrame(() => this.#size())).observe(element.parentElement);
    addEventListener("resize", () => requestAnimationFrame(() => this.#size()));
    for (const name of ["pointermove", "pointerdown"]) element.addEventListener(name, () => (this.#touched = performance.now()));
    this.#letMove();
    setInterval(() => this.#tick(), TICK);
  }

  get order() {
    return this.#order;
  }

  set order(order) {
    this.#order = order;
    remember("order", order);
    this.arrange();
  }

  // Of the cameras that are shown, in their order.
  get names() {
    return this.#visible.map((tile) => tile.name);
  }

  get tiles() {
    return [...this.#tiles.values()];
  }

  tile(name) {
    return this.#tiles.get(name);
  }

  // The one that keys are for while none is large: with the focus, or under the pointer.
  get pointed() {
    const element = document.activeElement?.closest("[data-camera]") ?? this.#element.querySelector("[data-camera]:hover");
    return this.#tiles.get(element?.dataset.camera);
  }

  follow(cameras) {
    const names = new Set(cameras.map((camera) => camera.name));
    for (const [name, tile] of this.#tiles) {
      if (names.has(name)) continue;
      this.#observer.unobserve(tile.element);
      tile.remove();
    }
    const known = this.#tiles;
    this.#tiles = new Map();
    for (const camera of cameras) {
      const tile = known.get(camera.name) ?? new Tile(camera, this.#clock, this.#told);
      this.#tiles.set(camera.name, tile);
      if (!known.has(camera.name)) this.#observer.observe(tile.element);
      tile.enlarge(camera.name === this.#large);
      tile.follow(camera);
    }
    const changed = known.size !== this.#tiles.size || [...known.keys()].some((name) => !this.#tiles.has(name));
    if (changed || performance.now() - this.#touched > BUSY) this.arrange();
  }

  lost() {
    for (const tile of this.#tiles.values()) tile.lost();
  }

  // Put them in their order, and show those that are wanted.
  arrange() {
    const list = arranged(this.tiles, this.#order, this.#own);
    this.#visible = list.filter((tile) => this.#shows(tile));
    for (const tile of list) tile.element.classList.toggle("out", !this.#visible.includes(tile));
    this.#element.toggleAttribute("data-own", this.#order === "own" && list.length > 1);
    const wanted = list.map((tile) => tile.element);
    const stay = staying([...this.#element.children], wanted);
    const focus = this.#element.contains(document.activeElement) ? document.activeElement : null;
    // A video stops for a moment when its element is moved, and the focus is lost.
    let after = null;
    for (const element of wanted.reverse()) {
      if (!stay.has(element)) this.#element.insertBefore(element, after);
      after = element;
    }
    if (document.activeElement !== focus) focus?.focus({ preventScroll: true });
    this.#size();
  }

  // Show one camera large; null: all of them.
  enlarge(name) {
    const before = this.#tiles.get(this.#large);
    if (name === this.#large) return;
    this.#large = name;
    this.#element.classList.toggle("single", name !== null);
    for (const tile of this.#tiles.values()) tile.enlarge(tile.name === name);
    this.#size();
    if (name === null) before?.focus(); // where one was
  }

  // Move the focus by so many tiles, or rows of them. Returns false where there is nothing to go to.
  step(by, rows) {
    const tiles = this.#visible;
    if (!tiles.length) return false;
    const columns = getComputedStyle(this.#element).gridTemplateColumns.split(" ").length;
    const at = tiles.findIndex((tile) => tile.element.contains(document.activeElement));
    const to = at < 0 ? 0 : at + by + rows * columns;
    tiles[Math.min(tiles.length - 1, Math.max(0, to))].focus();
    return true;
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

  // Somebody's own order: a tile is dragged by its handle to where it shall be, or moved by arrow keys on it.
  #letMove() {
    const grid = this.#element;
    let drawn = null; // name
    const handle = (event) => event.target.closest("[data-part=handle]");
    const name = (element) => element?.closest("[data-camera]")?.dataset.camera;
    grid.addEventListener("pointerdown", (event) => {
      if (!handle(event)) return;
      drawn = name(event.target);
      handle(event).setPointerCapture(event.pointerId);
    });
    grid.addEventListener("pointermove", (event) => {
      const over = drawn && name(document.elementFromPoint(event.clientX, event.clientY));
      if (over && over !== drawn) this.#put(drawn, over);
    });
    for (const end of ["pointerup", "pointercancel"]) grid.addEventListener(end, () => (drawn = null));
    grid.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
      if (!by || !handle(event)) return;
      event.preventDefault();
      const { names } = this;
      const to = names[names.indexOf(name(event.target)) + by];
      if (to) this.#put(name(event.target), to);
    });
  }

  #put(name, to) {
    const all = arranged(this.tiles, "own", this.#own).map((tile) => tile.name);
    this.#own = moved(all, name, to);
    remember("own", this.#own);
    this.arrange();
  }

  // So many columns that all tiles are seen at once and are as large as can be; if that is too small to be of
  // use, as many as there is room for.
  #size() {
    const count = this.#visible.length;
    if (!count || this.#large !== null) return;
    const box = getComputedStyle(this.#element);
    const gap = parseFloat(box.columnGap) || 0;
    const width = this.#element.clientWidth - parseFloat(box.paddingLeft) - parseFloat(box.paddingRight);
    const top = this.#element.getBoundingClientRect().top + scrollY;
    const height = innerHeight - top - parseFloat(box.paddingTop) - parseFloat(box.paddingBottom);
    const foot = this.#visible[0].footHeight;
    let [columns, best] = [1, 0];
    for (let n = 1; n <= count; n += 1) {
      const rows = Math.ceil(count / n);
      const wide = (width - gap * (n - 1)) / n;
      const high = ((height - gap * (rows - 1)) / rows - foot) / RATIO;
      const tile = Math.min(wide, high);
      if (tile > best) [columns, best] = [n, tile];
    }
    if (best < LEAST) {
      columns = Math.max(1, Math.floor((width + gap) / (COLUMN + gap)));
      best = (width - gap * (columns - 1)) / columns;
    }
    this.#element.style.setProperty("--columns", String(columns));
    this.#element.style.setProperty("--tile", `${Math.floor(best)}px`);
  }
}
