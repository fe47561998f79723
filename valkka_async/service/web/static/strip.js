// SPDX-License-Identifier: MIT
// The strip of time under a camera's picture: what was recorded, gaps, events, and where one is. It is looked at,
// panned, zoomed and pointed at here; keys and words for screen readers are playback.js's. Moments are Unix ms.

import { kind } from "./happenings.js";
import * as moments from "./moments.js";

const LEAST = moments.MINUTE; // in view
const MOST = 25 * moments.HOUR;
const RULER = 22; // px of height: the scale, by which the strip is panned
const LANE = 9; // px: the events
const FOOT = 3;
const NOTCH = 2; // px of a gap that would be narrower
const NOTCHES = 60; // such gaps, and not more: of a camera that is recorded now and then, they say nothing
const GRIP = 9; // px around an end of what is marked
const CLICK = 4; // px that a pointer may move in a click
const WHEEL = 0.0025; // of zoom, for each px of a wheel
// px from where an event is.
const SHAPES = {
  "": [[0, -4], [4, 0], [0, 4], [-4, 0]],
  bad: [[-4, -4], [4, -4], [0, 4]],
  good: [[-4, 4], [4, 4], [0, -4]],
};
const NEAR = 5; // px at which one is pointed at

export class Strip {
  #element;
  #canvas;
  #events;
  #recordings = null;
  #pointers = new Map(); // id: {x, y}
  #drag = null; // {kind, x, from, to, moved}
  #drawing = false;
  from = 0;
  to = 0;
  now = 0;
  oldest = null;
  position = NaN; // what is shown
  live = true;
  range = null; // [from, to] that is marked

  // `sought(moment)` when one was clicked at or dragged to; `pointed(moment, px)`, and `left()` when none is any more;
  // `viewed()` when other times are in view; `marked(from, to)` when an end of what is marked was dragged.
  constructor(element, events) {
    this.#element = element;
    this.#canvas = element.querySelector("canvas");
    this.#events = events;
    const on = (name, act, options) => element.addEventListener(name, act, options);
    on("pointerdown", (event) => this.#down(event));
    on("pointermove", (event) => this.#move(event));
    on("pointerup", (event) => this.#up(event, true));
    on("pointercancel", (event) => this.#up(event, false));
    on("pointerleave", () => this.#drag || this.#events.left());
    on("wheel", (event) => this.#wheel(event), { passive: false });
    new ResizeObserver(() => this.draw()).observe(element);
  }

  show(recordings) {
    this.#recordings = recordings;
    this.draw();
  }

  // ------------------------------------------------------------------------------------- what is in view

  // Look at these times, as far as there may be something.
  view(from, to) {
    const length = Math.max(LEAST, Math.min(MOST, to - from));
    const middle = (from + to) / 2;
    const first = moments.day(this.oldest ?? this.now).from;
    const last = moments.day(this.now).to;
    let begin = middle - length / 2;
    begin = Math.max(Math.min(begin, last - length), Math.min(first, last - length));
    if (begin === this.from && begin + length === this.to) return;
    this.from = begin;
    this.to = begin + length;
    this.#events.viewed();
    this.draw();
  }

  day(at) {
    const { from, to } = moments.day(at);
    this.view(from, to);
  }

  has(at) {
    return this.from <= at && at <= this.to;
  }

  // Nearer (above 1) or farther, around a moment that stays where it is.
  zoom(by, around = this.has(this.position) ? this.position : (this.from + this.to) / 2) {
    const length = Math.max(LEAST, Math.min(MOST, (this.to - this.from) / by));
    const share = (around - this.from) / (this.to - this.from);
    this.view(around - share * length, around + (1 - share) * length);
  }

  // The event that is pointed at there; undefined: none is.
  event(at) {
    const far = (one) => Math.abs(one.at - at);
    const near = (this.#recordings?.events ?? []).filter((one) => far(one) < NEAR * this.grain);
    return near.sort((a, b) => far(a) - far(b))[0];
  }

  pan(by) {
    this.view(this.from + by, this.to + by);
  }

  // ms that a px stands for.
  get grain() {
    return (this.to - this.from) / Math.max(1, this.#element.clientWidth);
  }

  #moment(x) {
    return this.from + x * this.grain;
  }

  #x(moment) {
    return (moment - this.from) / this.grain;
  }

  // ----------------------------------------------------------------------------------- what is done to it

  #place(event) {
    const box = this.#element.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  }

  #down(event) {
    if (event.button !== 0) return;
    const place = this.#place(event);
    this.#pointers.set(event.pointerId, place);
    this.#element.setPointerCapture(event.pointerId);
    const view = { from: this.from, to: this.to };
    if (this.#pointers.size === 2) {
      this.#events.left();
      this.#drag = { kind: "pinch", ...this.#span(), ...view };
      return;
    }
    const reach = event.pointerType === "touch" ? 2 * GRIP : GRIP;
    const end = (this.range ?? []).findIndex((at) => Math.abs(this.#x(at) - place.x) < reach);
    const kind = end >= 0 && place.y > RULER ? "mark" : place.y < RULER ? "pan" : "seek";
    this.#drag = { kind, end, x: place.x, moved: false, ...view };
    if (kind === "seek") this.#events.pointed(this.#moment(place.x), place.x);
  }

  // Of two fingers: their middle, and how far apart they are.
  #span() {
    const [a, b] = [...this.#pointers.values()];
    return { x: (a.x + b.x) / 2, apart: Math.max(20, Math.abs(a.x - b.x)) };
  }

  #move(event) {
    const place = this.#place(event);
    const drag = this.#drag;
    if (!drag) {
      this.#element.style.cursor = place.y < RULER ? "grab" : "pointer";
      if (place.y >= RULER) this.#events.pointed(this.#moment(place.x), place.x);
      else this.#events.left();
      return;
    }
    if (!this.#pointers.has(event.pointerId)) return;
    this.#pointers.set(event.pointerId, place);
    const grain = (drag.to - drag.from) / this.#element.clientWidth;
    if (drag.kind === "pinch") {
      const { x, apart } = this.#span();
      const around = drag.from + drag.x * grain;
      const length = Math.max(LEAST, Math.min(MOST, ((drag.to - drag.from) * drag.apart) / apart));
      const begin = around - (x / this.#element.clientWidth) * length;
      this.view(begin, begin + length);
      return;
    }
    drag.moved ||= Math.abs(place.x - drag.x) > CLICK;
    if (!drag.moved) return;
    if (drag.kind === "pan") {
      const by = (drag.x - place.x) * grain;
      this.view(drag.from + by, drag.to + by);
    } else {
      const at = this.#moment(Math.max(0, Math.min(this.#element.clientWidth, place.x)));
      this.#events.pointed(at, place.x);
      if (drag.kind === "mark") {
        const other = this.range[1 - drag.end];
        this.#events.marked(...(drag.end === 0 ? [Math.min(at, other - 1000), other] : [other, Math.max(at, other + 1000)]));
      } else {
        this.position = at; // as if it were there already
        this.draw();
      }
    }
  }

  #up(event, done) {
    const place = this.#pointers.get(event.pointerId);
    this.#pointers.delete(event.pointerId);
    const drag = this.#drag;
    if (!drag || !place) return;
    this.#drag = null;
    if (drag.kind === "pinch") return;
    if (event.pointerType !== "mouse" || drag.kind === "mark") this.#events.left();
    if (done && drag.kind === "seek") this.#events.sought(this.#moment(place.x));
    this.draw();
  }

  get dragged() {
    return this.#drag !== null;
  }

  #wheel(event) {
    event.preventDefault();
    const unit = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 20 : 1;
    const [x, y] = [event.deltaX * unit, event.deltaY * unit];
    if (event.shiftKey || Math.abs(x) > Math.abs(y)) this.pan((x || y) * this.grain);
    else this.zoom(Math.exp(-y * WHEEL), this.#moment(this.#place(event).x));
  }

  // --------------------------------------------------------------------------------------- how it looks

  draw() {
    if (this.#drawing) return;
    this.#drawing = true;
    requestAnimationFrame(() => {
      this.#drawing = false;
      this.#paint();
    });
  }

  #paint() {
    const [width, height] = [this.#element.clientWidth, this.#element.clientHeight];
    if (!width || !height || this.to <= this.from) return;
    const sharp = globalThis.devicePixelRatio || 1;
    const canvas = this.#canvas;
    if (canvas.width !== Math.round(width * sharp) || canvas.height !== Math.round(height * sharp)) {
      canvas.width = Math.round(width * sharp);
      canvas.height = Math.round(height * sharp);
    }
    const pen = canvas.getContext("2d");
    pen.setTransform(sharp, 0, 0, sharp, 0, 0);
    pen.clearRect(0, 0, width, height);
    const style = getComputedStyle(this.#element);
    const colour = (name) => style.getPropertyValue(`--${name}`);
    const top = RULER + LANE;
    const track = { top, height: height - top - FOOT };
    this.#paintTrack(pen, colour, width, track);
    this.#paintScale(pen, colour, style, width, height);
    this.#paintEvents(pen, colour);
    if (this.range) this.#paintRange(pen, colour, track);
    if (!Number.isNaN(this.position)) this.#paintHead(pen, this.live ? colour("head-live") : colour("head"), colour("ground"), height);
  }

  #paintTrack(pen, colour, width, { top, height }) {
    const now = Math.min(width, this.#x(this.now));
    pen.fillStyle = colour("empty");
    if (now > 0) pen.fillRect(0, top, now, height);
    const all = this.#recordings;
    pen.fillStyle = colour("recorded");
    let narrow = [];
    let past = null;
    for (const { from, to } of all?.spans ?? []) {
      const [left, right] = [this.#x(from), this.#x(to)];
      if (right >= 0 && left <= width) {
        pen.fillRect(Math.max(0, left), top, Math.max(1, Math.min(width, right) - Math.max(0, left)), height);
        if (past !== null && left > past && left - past < NOTCH) narrow.push((left + past) / 2);
      }
      past = right;
    }
    if (narrow.length > NOTCHES) narrow = [];
    pen.fillStyle = colour("ground");
    for (const x of narrow) pen.fillRect(x - NOTCH / 2, top, NOTCH, height);
  }

  #paintScale(pen, colour, style, width, height) {
    pen.font = `11px ${style.fontFamily}`;
    pen.textBaseline = "middle";
    pen.textAlign = "center";
    for (const { at, label, midnight } of moments.scale(this.from, this.to, width, 62)) {
      const x = Math.round(this.#x(at)) + 0.5;
      pen.fillStyle = colour("rule");
      pen.fillRect(x - 0.5, RULER - 2, 1, height - RULER + 2 - FOOT);
      pen.fillStyle = colour("figure");
      const half = pen.measureText(label).width / 2;
      const place = midnight ? Math.max(half, x) : x; // at the edge, half a time says nothing
      if (place >= half && place + half < width) pen.fillText(label, place, RULER / 2);
    }
  }

  // Diamonds; what is bad points down, and what is good again, up.
  #paintEvents(pen, colour) {
    const middle = RULER + LANE / 2 - 0.5;
    const inks = { "": colour("event"), bad: colour("event-bad"), good: colour("event-good") };
    for (const event of this.#recordings?.events ?? []) {
      const x = this.#x(event.at);
      if (x < -4 || x > this.#element.clientWidth + 4) continue;
      const how = kind(event);
      pen.fillStyle = inks[how];
      pen.beginPath();
      for (const [by, down] of SHAPES[how]) pen.lineTo(x + by, middle + down);
      pen.fill();
    }
  }

  #paintRange(pen, colour, { top, height }) {
    const [left, right] = this.range.map((at) => this.#x(at));
    pen.fillStyle = colour("head");
    pen.globalAlpha = 0.25;
    pen.fillRect(left, top, right - left, height);
    pen.globalAlpha = 1;
    for (const [x, way] of [[left, 1], [right, -1]]) {
      pen.fillRect(x - 1, top, 2, height);
      pen.fillRect(x - 1, top, 5 * way, 2);
      pen.fillRect(x - 1, top + height - 2, 5 * way, 2);
    }
  }

  #paintHead(pen, ink, rim, height) {
    const x = this.#x(this.position);
    pen.fillStyle = rim;
    pen.fillRect(x - 2, RULER, 4, height - RULER);
    pen.fillStyle = ink;
    pen.fillRect(x - 1, RULER, 2, height - RULER);
    pen.beginPath();
    pen.moveTo(x - 6, RULER - 3);
    pen.lineTo(x + 6, RULER - 3);
    pen.lineTo(x, RULER + 6);
    pen.fill();
  }
}
