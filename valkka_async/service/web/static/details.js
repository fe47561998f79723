// SPDX-License-Identifier: MIT
// What there is to know of the camera that is large: what people ask for, and folded away what those ask for who mend it.

import { recall, remember } from "./settings.js";
import * as streams from "./streams.js";
import { toast } from "./toasts.js";
import * as words from "./words.js";

export class Details {
  #panel;
  #button;
  #open;

  constructor(panel, button) {
    this.#panel = panel;
    this.#button = button;
    // On small screens that lie on their side it would leave no room for the picture.
    const roomy = matchMedia("(min-width: 1000px) and (min-height: 561px), (orientation: portrait)");
    this.#open = recall("details", roomy.matches);
    roomy.onchange = () => {
      this.#open = recall("details", roomy.matches);
      this.#show();
    };
    button.onclick = () => this.toggle();
    panel.addEventListener("click", ({ target }) => copy(target.closest("button[data-copy]")));
    this.#show();
  }

  toggle() {
    this.#open = !this.#open;
    remember("details", this.#open);
    this.#show();
  }

  // `tile`: the one that is large; null: there is none.
  follow(tile) {
    if (this.#panel.hidden !== !tile) this.#panel.hidden = !tile;
    if (!tile || !this.#open) return;
    const [first, more] = this.#panel.querySelectorAll("dl");
    fill(first, plain(tile));
    fill(more, technical(tile));
  }

  #show() {
    document.body.toggleAttribute("data-details", this.#open);
    this.#button.ariaExpanded = String(this.#open);
  }
}

// [term, text, whether it may be copied] each.
function plain(tile) {
  const { camera, recording } = tile.report;
  const several = camera.streams.length > 1;
  const rows = several ? camera.streams.map((stream) => inShort(stream, streams.shown(tile.report))) : inFull(camera.streams[0]);
  if (recording) rows.push(["Recording", tile.recordingText, recording.path ?? ""]);
  for (const code of camera.warnings) rows.push(["Warning", words.warning(code)]);
  return rows;
}

function technical(tile) {
  const { name, camera, cpu, worker } = tile.report;
  const rows = [["Name, for programs", name, name]];
  if (camera.streams.length === 1) rows.push(...counted(camera.streams[0]));
  const readers = camera.outputs.reduce((sum, output) => sum + output.readers, 0);
  return [
    ...rows,
    ["This browser", tile.here],
    ["Readers", `${words.count(readers)} (${words.plural(camera.outputs.length, "ring", "rings")})`],
    ["CPU", `${Math.round(cpu * 100)} % of a core`],
    ["Worker", worker.pid ? `process ${worker.pid}, ${words.bytes(worker.rss)}` : "not running"],
    ["Restarts", worker.restarts ? `${worker.restarts}; the last time it ${worker.last_exit}` : "none"],
  ];
}

function inFull(stream) {
  const rows = [["Video", words.video(stream) || "not known yet"]];
  if (stream.sound.codec || words.silence(stream.sound.state)) rows.push(["Sound", words.sound(stream.sound)]);
  return [...rows, ["Address", stream.url, stream.url]];
}

function counted(stream) {
  return [
    ["Key frames", stream.key_interval ? `every ${words.age(stream.key_interval)}` : "not known yet"],
    ["Received", `${words.count(stream.packets)} frames, ${words.plural(stream.errors, "error", "errors")}`],
    ["Connected again", stream.reconnects ? words.plural(stream.reconnects, "time", "times") : "never"],
  ];
}

// One of several, in a few lines.
function inShort(stream, shown) {
  const name = stream === shown ? `Stream ${stream.name}, shown here` : `Stream ${stream.name}`;
  const said = [words.STATES[stream.state] ?? stream.state, streams.plain(stream)].filter(Boolean).join(": ");
  const texts = [words.video(stream)];
  if (stream.key_interval) texts.push(`key frames every ${words.age(stream.key_interval)}`);
  if (stream.sound.carried) texts.push(words.sound(stream.sound));
  const counts = [];
  if (stream.errors) counts.push(words.plural(stream.errors, "error", "errors"));
  if (stream.reconnects) counts.push(`connected again ${words.plural(stream.reconnects, "time", "times")}`);
  const how = stream.state === "live" ? texts.filter(Boolean).join(", ") : said;
  return [name, [stream.url, how, counts.join(", ")].filter(Boolean).join("\n"), stream.url];
}

function fill(list, rows) {
  while (list.children.length > rows.length) list.lastElementChild.remove();
  rows.forEach(([term, text, copied = ""], n) => {
    let row = list.children[n];
    if (!row) {
      row = document.getElementById("row-template").content.firstElementChild.cloneNode(true);
      list.append(row);
    }
    const [dt, dd, button] = [row.querySelector("dt"), row.querySelector("bdi"), row.querySelector("button")];
    if (dt.textContent !== term) dt.textContent = term;
    if (dd.textContent !== text) dd.textContent = text;
    if (button.hidden !== !copied) button.hidden = !copied;
    if (button.dataset.copy !== copied) button.dataset.copy = copied;
    if (button.ariaLabel !== `Copy: ${term}`) button.ariaLabel = `Copy: ${term}`;
  });
}

async function copy(button) {
  if (!button) return;
  const text = button.dataset.copy;
  try {
    if (navigator.clipboard) await navigator.clipboard.writeText(text);
    else copyOld(text); // over plain HTTP there is no clipboard
    toast("Copied");
  } catch {
    toast("The browser does not let this page copy", "error");
  }
}

function copyOld(text) {
  const field = Object.assign(document.createElement("textarea"), { value: text });
  document.body.append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  if (!done) throw new Error();
}
