// SPDX-License-Identifier: MIT
// A part of a picture, larger: by wheel, by two fingers, by keys; and what one finger says besides.

const MOST = 8;
const STEP = 1.25; // of a key
const TAP = 300; // ms that a finger is down, and between the two of a double tap
const STILL = 12; // px that it may move meanwhile
const SWIPE = 60; // px

export class Zoom {
  #screen;
  #picture;
  #told;
  #on = false;
  #scale = 1;
  #x = 0; // of the picture's left edge, in widths of the screen
  #y = 0;
  #fingers = new Map(); // pointerId: [x, y] of what is down
  #first = null; // {x, y, at, alone} of the first of them
  #tapped = { x: 0, y: 0, at: -Infinity };
  #kind = ""; // of the pointer that was used last

  // `changed(scale)`; `swiped(by)`: 1 to the left, so to the next; `doubled()` for a mouse's double click.
  constructor(screen, picture, told) {
    this.#screen = screen;
    this.#picture = picture;
    this.#told = told;
    const on = (name, act) =>
      screen.addEventListener(name, (event) => this.#on && !event.target.closest("button, a") && act(event), { passive: false });
    on("wheel", (event) => this.#turned(event));
    on("pointerdown", (event) => this.#down(event));
    on("pointermove", (event) => this.#move(event));
    on("pointerup", (event) => this.#up(event));
    on("pointercancel", () => this.#let());
    on("dblclick", () => this.#kind === "mouse" && told.doubled());
  }

  get scale() {
    return this.#scale;
  }

  enable(on) {
    if (on === this.#on) return;
    this.#on = on;
    this.#let();
    this.reset();
  }

  reset() {
    this.#set(1, 0, 0);
  }

  // One step in (1) or out (-1), about the middle.
  step(by) {
    this.#about(STEP ** by, 0.5, 0.5);
  }

  // Make it so many times as large, and leave this place, in widths and heights of the screen, where it is.
  #about(factor, x, y) {
    const scale = Math.min(MOST, Math.max(1, this.#scale * factor));
    const by = scale / this.#scale;
    this.#set(scale, x - (x - this.#x) * by, y - (y - this.#y) * by);
  }

  #set(scale, x, y) {
    const within = (value) => Math.min(0, Math.max(1 - scale, value)); // no edge comes into the screen
    const before = this.#scale;
    [this.#scale, this.#x, this.#y] = scale < 1.02 ? [1, 0, 0] : [scale, within(x), within(y)];
    const at = `translate(${100 * this.#x}%, ${100 * this.#y}%) scale(${this.#scale})`;
    this.#picture.style.transform = this.#scale === 1 ? "" : at;
    if (this.#scale !== before) this.#told.changed(this.#scale);
  }

  // In widths and heights of the screen.
  #place(x, y) {
    const box = this.#screen.getBoundingClientRect();
    return [(x - box.x) / box.width, (y - box.y) / box.height];
  }

  #turned(event) {
    event.preventDefault();
    const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 33 : 1;
    const by = Math.max(-100, Math.min(100, event.deltaY * lines));
    // Two fingers on a touchpad come as a wheel with Ctrl, and in small steps.
    this.#about(Math.exp(-by * (event.ctrlKey ? 0.01 : 0.0025)), ...this.#place(event.clientX, event.clientY));
  }

  #down(event) {
    this.#kind = event.pointerType;
    if (event.button !== 0) return;
    this.#screen.setPointerCapture(event.pointerId);
    if (!this.#fingers.size) this.#first = { x: event.clientX, y: event.clientY, at: event.timeStamp, alone: true };
    else this.#first.alone = false;
    this.#fingers.set(event.pointerId, [event.clientX, event.clientY]);
    this.#slide(0);
  }

  #move(event) {
    const before = this.#fingers.get(event.pointerId);
    if (!before) return;
    const now = [event.clientX, event.clientY];
    if (this.#fingers.size === 1) {
      const [width, height] = [this.#screen.clientWidth, this.#screen.clientHeight];
      if (this.#scale > 1) this.#set(this.#scale, this.#x + (now[0] - before[0]) / width, this.#y + (now[1] - before[1]) / height);
      else if (event.pointerType === "touch" && this.#first.alone) this.#slide(now[0] - this.#first.x);
    } else if (this.#fingers.size === 2) {
      const [other] = [...this.#fingers].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
      const apart = (place) => Math.max(20, Math.hypot(place[0] - other[0], place[1] - other[1]));
      const middle = (place) => this.#place((place[0] + other[0]) / 2, (place[1] + other[1]) / 2);
      const [was, is] = [middle(before), middle(now)];
      this.#about(apart(now) / apart(before), ...is);
      this.#set(this.#scale, this.#x + is[0] - was[0], this.#y + is[1] - was[1]);
    }
    this.#fingers.set(event.pointerId, now);
  }

  #up(event) {
    if (!this.#fingers.delete(event.pointerId) || this.#fingers.size) return;
    const { x, y, at, alone } = this.#first;
    this.#slide(0);
    if (event.pointerType !== "touch" || !alone) return;
    const [dx, dy] = [event.clientX - x, event.clientY - y];
    if (Math.hypot(dx, dy) < STILL && event.timeStamp - at < TAP) this.#tap(event);
    else if (this.#scale === 1 && Math.abs(dx) > SWIPE && Math.abs(dx) > 2 * Math.abs(dy)) this.#told.swiped(dx < 0 ? 1 : -1);
  }

  #tap({ clientX: x, clientY: y, timeStamp: at }) {
    const last = this.#tapped;
    const double = at - last.at < 1.5 * TAP && Math.hypot(x - last.x, y - last.y) < 3 * STILL;
    this.#tapped = double ? { x, y, at: -Infinity } : { x, y, at };
    if (!double) return;
    if (this.#scale > 1) this.reset();
    else this.#about(2.5, ...this.#place(x, y));
  }

  #let() {
    this.#fingers.clear();
    this.#slide(0);
  }

  // The picture follows the finger that swipes.
  #slide(by) {
    if (this.#scale === 1) this.#picture.style.transform = by ? `translateX(${by}px)` : "";
  }
}
