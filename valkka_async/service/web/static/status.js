// SPDX-License-Identifier: MIT
// What the service says about its cameras, each second and sooner when something changes: /api/status/live.

import { Backoff } from "./backoff.js";
import { socketUrl } from "./api.js";

const SILENT = 5000; // ms without a message after which the connection is taken for dead
const LOOK = 1000;
const SAMPLES = 15;

// The service's clock, told from when its messages come: the quickest of the last ones was delayed least.
export class Clock {
  #offsets = [];
  #offset = 0;

  heard(unixMs) {
    this.#offsets.push(unixMs - Date.now());
    if (this.#offsets.length > SAMPLES) this.#offsets.shift();
    this.#offset = Math.max(...this.#offsets);
  }

  // After a pause either clock may have been set.
  forget() {
    this.#offsets = [];
  }

  now() {
    return Date.now() + this.#offset;
  }
}

// `found(status)` for each message; `lost(at)` when there is no connection, and when (performance.now())
// the next attempt is made. Attempts go on for ever.
export class Events {
  #found;
  #lost;
  #clock;
  #socket = null;
  #heard = 0;
  #timer = 0;
  #backoff = new Backoff(500, 10_000);

  constructor(clock, { found, lost }) {
    this.#clock = clock;
    this.#found = found;
    this.#lost = lost;
  }

  start() {
    this.#connect();
    setInterval(() => this.#look(), LOOK);
    // A laptop that woke up, a network that is back: no reason to wait.
    document.addEventListener("visibilitychange", () => document.hidden || this.#look(true));
    addEventListener("online", () => this.#look(true));
    addEventListener("pageshow", () => this.#look(true));
  }

  retry() {
    this.#backoff.reset();
    this.#connect();
  }

  #look(awake = false) {
    const silent = performance.now() - this.#heard;
    if (this.#socket) {
      if (silent < (awake ? 2 * LOOK : SILENT)) return;
      this.#lost(performance.now());
      this.#connect();
    } else if (awake) {
      this.retry();
    }
  }

  #connect() {
    clearTimeout(this.#timer);
    this.#drop();
    const socket = new WebSocket(socketUrl("/api/status/live"));
    this.#socket = socket;
    this.#heard = performance.now(); // a connection that does not come about is silent as well
    this.#clock.forget();
    let spoke = false;
    socket.onmessage = ({ data }) => {
      this.#heard = performance.now();
      const status = JSON.parse(data);
      this.#clock.heard(status.now_ns / 1e6);
      spoke = true;
      this.#backoff.reset();
      this.#found(status);
    };
    socket.onclose = () => {
      this.#drop();
      const pause = this.#backoff.next();
      this.#timer = setTimeout(() => this.#connect(), pause);
      this.#lost(performance.now() + pause);
      if (!spoke) this.#login();
    };
  }

  #drop() {
    const socket = this.#socket;
    this.#socket = null;
    if (socket) {
      socket.onmessage = socket.onclose = null;
      socket.close();
    }
  }

  // A WebSocket does not tell why it was refused. When it is for want of a token, the form asks for it.
  async #login() {
    try {
      const answer = await fetch("/api/status", { cache: "no-store" });
      if (answer.status === 401) location.assign("/login");
    } catch {
      // there is no service now
    }
  }
}
