// SPDX-License-Identifier: MIT
// What happens to one camera, and before it, as soon as the service tells it: /api/events. Where that cannot be had, the
// recordings' timeline says it later.

const AGAIN = 30_000; // ms after a refusal; a connection that is lost is the browser's affair

export class News {
  #happened;
  #knows;
  #name = null;
  #source = null;
  #refused = -Infinity; // performance.now()

  // `happened(event)`, or of null when there is a connection: something may have happened before. `knows(name)`: is that
  // a camera?
  constructor(happened, knows) {
    this.#happened = happened;
    this.#knows = knows;
    document.addEventListener("visibilitychange", () => this.#connect());
  }

  // Of this camera; null: of none. To be called again and again.
  follow(name) {
    if (name !== this.#name) {
      this.#close();
      this.#refused = -Infinity;
      this.#name = name;
    }
    this.#connect();
  }

  // A browser has six connections for all tabs of a site: those that nobody looks at need none.
  #connect() {
    if (document.hidden || this.#name === null) {
      this.#close();
      return;
    }
    if (this.#source || !globalThis.EventSource || performance.now() - this.#refused < AGAIN) return;
    const name = encodeURIComponent(this.#name);
    const source = new EventSource(`/api/events?camera=${name}&camera=${name}.*`);
    this.#source = source;
    source.onopen = () => this.#happened(null);
    source.onmessage = ({ data }) => {
      const event = JSON.parse(data);
      if (this.#isMine(event.camera)) this.#happened(event);
    };
    source.onerror = () => {
      if (source.readyState !== EventSource.CLOSED) return;
      this.#close();
      this.#refused = performance.now();
    };
  }

  // An analyser's server is called after its camera, such as front.people; front.door may be another camera.
  #isMine(name) {
    let mine = name;
    while (mine !== this.#name && mine.includes(".") && !this.#knows(mine)) mine = mine.slice(0, mine.lastIndexOf("."));
    return mine === this.#name;
  }

  #close() {
    const source = this.#source;
    this.#source = null;
    if (source) {
      source.onopen = source.onmessage = source.onerror = null;
      source.close();
    }
  }
}
