// SPDX-License-Identifier: MIT
// What happened to a camera, and before it, as the recordings' timeline says: its words, and the list of a day's.

import * as moments from "./moments.js";
import * as words from "./words.js";

const SAID = {
  "recording.event": "Event recorded",
  "recording.failed": "Recording failed",
  "camera.live": "Camera live",
  "camera.stalled": "Camera stalled",
  "camera.waiting": "Camera lost",
  "camera.failed": "Camera failed",
  "camera.stopped": "Camera stopped",
  "worker.ended": "Camera's process ended",
};
const BAD = ["recording.failed", "camera.stalled", "camera.waiting", "camera.failed", "worker.ended"];
const OURS = /^(camera|reader|recordings?|service|worker)\./;
const MOST = 1000; // rows

// "good", "bad", or "" for what is neither.
export const kind = ({ code }) => (code === "camera.live" ? "good" : BAD.includes(code) ? "bad" : "");

// Is it news where the camera is looked at? How the camera is, is shown there already.
export const isNews = ({ code }) => code === "recording.event" || !OURS.test(code);

// "person: at the door"
export function inWords({ code, text, count }) {
  const said = text ? `${SAID[code] ?? code}: ${text}` : (SAID[code] ?? code);
  return (count ?? 1) > 1 ? `${said} (${words.count(count)} ×)` : said;
}

export class Happenings {
  #dialog = document.getElementById("happened");
  #chosen;

  // `chosen(happening)` when one was pressed.
  constructor(chosen) {
    this.#chosen = chosen;
  }

  // `all`: in their order, {at, code, text, count} each. `title`: of which day.
  show(title, all) {
    const dialog = this.#dialog;
    dialog.querySelector("h2").textContent = title;
    const some = all.slice(-MOST);
    const left = all.length - some.length;
    const none = all.length ? (left ? `The last ${words.count(MOST)} of ${words.count(all.length)}.` : "") : "Nothing happened on this day.";
    const note = dialog.querySelector("p");
    note.textContent = none;
    note.hidden = !none;
    dialog.querySelector("ol").replaceChildren(...some.map((one) => this.#row(one)));
    dialog.showModal();
    dialog.querySelector("ol button")?.focus();
  }

  #row(one) {
    const row = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.kind = kind(one);
    const time = document.createElement("time");
    time.textContent = moments.time(one.at);
    const said = document.createElement("bdi");
    said.textContent = inWords(one);
    button.append(time, said);
    button.onclick = () => {
      this.#dialog.close();
      this.#chosen(one);
    };
    row.append(button);
    return row;
  }
}
