// SPDX-License-Identifier: MIT
// What analysers found in a camera's frames, drawn over its picture: the boxes of the frame that is shown.

import { socketUrl } from "./api.js";
import { Backoff } from "./backoff.js";

const REMEMBERED = 200; // results
const OLD = 1000; // ms that the boxes of a frame stay when later ones have none
const NEAR = 1; // ms by which times may differ that are the same: they are rounded
const GONE = 4404;

export class Boxes {
  #name;
  #canvas;
  #captured;
  #missing;
  #on = false;
  #seen = false;
  #socket = null;
  #timer = 0;
  #backoff = new Backoff(400, 10_000);
  #results = [];
  #drawn = null;
  #drawing = false;

  // `captured()`: Unix ms of the frame that is shown, or NaN. `missing(code, reason)`: there are no results.
  constructor(name, canvas, captured, missing) {
    this.#name = name;
    this.#canvas = canvas;
    this.#captured = captured;
    this.#missing = missing;
  }

  get on() {
    return this.#on;
  }

  // Draw them, or don't.
  toggle() {
    this.#on = !this.#on;
    this.#update();
  }

  // Is the picture in view?
  see(seen) {
    this.#seen = seen;
    this.#update();
  }

  close() {
    this.#on = false;
    this.#update();
  }

  #update() {
    const wanted = this.#on && this.#seen;
    if (wanted && !this.#socket && !this.#timer) this.#connect();
    if (wanted && !this.#drawing) this.#draw();
    if (!wanted) this.#leave();
  }

  #connect() {
    const socket = new WebSocket(socketUrl(`/api/cameras/${encodeURIComponent(this.#name)}/boxes`));
    this.#socket = socket;
    socket.onmessage = ({ data }) => this.#told(JSON.parse(data));
    socket.onclose = ({ code }) => {
      this.#socket = null;
      if (code === GONE) return;
      this.#timer = setTimeout(() => {
        this.#timer = 0;
        this.#update();
      }, this.#backoff.next());
    };
  }

  #told(message) {
    this.#backoff.reset();
    if (message.type === "result") {
      this.#results.push(message);
      if (this.#results.length > REMEMBERED) this.#results.shift();
    } else if (message.type === "waiting") {
      this.#results = [];
      this.#missing(message.code, message.reason);
    }
  }

  #leave() {
    clearTimeout(this.#timer);
    this.#timer = 0;
    if (this.#socket) {
      this.#socket.onmessage = this.#socket.onclose = null;
      this.#socket.close();
      this.#socket = null;
    }
    this.#results = [];
    this.#show(null);
  }

  #draw() {
    this.#drawing = this.#on && this.#seen;
    if (!this.#drawing) return;
    const now = this.#captured();
    const result = this.#results.findLast((one) => one.at <= now + NEAR);
    this.#show(result && now - result.at < OLD ? result : null);
    requestAnimationFrame(() => this.#draw());
  }

  #show(result) {
    if (result === this.#drawn) return;
    this.#drawn = result;
    const canvas = this.#canvas;
    canvas.hidden = !result?.size;
    canvas.dataset.boxes = String(result?.boxes.length ?? 0);
    if (canvas.hidden) return;
    [canvas.width, canvas.height] = result.size; // which clears it
    const context = canvas.getContext("2d");
    const line = Math.max(2, canvas.width / 320);
    context.lineWidth = line;
    context.font = `${Math.round(5 * line)}px system-ui, sans-serif`;
    context.textBaseline = "bottom";
    for (const [x1, y1, x2, y2, label, score, track] of result.boxes) {
      const hue = track === null ? 32 : (track * 67) % 360;
      context.strokeStyle = context.fillStyle = `hsl(${hue} 100% 55%)`;
      context.strokeRect(x1, y1, x2 - x1, y2 - y1);
      const percent = score === null ? "" : `${Math.round(100 * score)} %`;
      const number = track === null ? "" : `#${track}`;
      context.fillText([label, number, percent].filter(Boolean).join(" "), x1, Math.max(y1 - line, 6 * line));
    }
  }
}
