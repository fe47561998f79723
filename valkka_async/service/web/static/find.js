// SPDX-License-Identifier: MIT
// Which cameras are shown: all, or those of a state, a group or a name. And how many there are of each.

import * as words from "./words.js";

const MANY = 6; // cameras from which on one searches
const NORMAL = ["live"];
const FIRST = ["failed", "unrecorded", "stalled", "waiting"]; // what needs a look comes first
const UNRECORDED = "unrecorded";

const element = (id) => document.getElementById(id);

export class Finder {
  #changed;
  #kind = "";
  #group = "";
  #text = "";
  #chips = new Map(); // kind: button

  // `changed()` when other cameras are to be shown; `found()` when those that are searched for were typed.
  constructor(changed, found) {
    this.#changed = changed;
    element("search").oninput = ({ target }) => this.#search(target.value);
    element("search").onkeydown = (event) => {
      if (event.key === "Escape" && this.#text) this.#search("");
      else if (event.key === "Escape") event.target.blur();
      else if (event.key === "Enter") found();
      else return;
      event.preventDefault();
      event.stopPropagation();
    };
    element("group").onchange = ({ target }) => {
      this.#group = target.value;
      changed();
    };
  }

  get active() {
    return Boolean(this.#kind || this.#group || this.#text);
  }

  shows(tile) {
    const text = `${tile.title} ${tile.name} ${tile.group}`.toLowerCase();
    return (
      (!this.#kind || kinds(tile).includes(this.#kind)) &&
      (!this.#group || tile.group === this.#group) &&
      this.#text.toLowerCase().split(/\s+/).every((part) => text.includes(part))
    );
  }

  clear() {
    this.#kind = this.#group = this.#text = "";
    element("search").value = element("group").value = "";
    this.#changed();
  }

  // Returns false where there is nothing to search.
  focus() {
    if (element("search").hidden) return false;
    element("search").focus();
    element("search").select();
    return true;
  }

  // `tiles`: all of them, in the config's order. `known`: there is a connection to the service.
  follow(tiles, known) {
    this.#count(tiles, known);
    element("search").hidden = tiles.length <= MANY && !this.#text;
    const groups = [...new Set(tiles.map((tile) => tile.group).filter(Boolean))];
    const select = element("group");
    select.hidden = !groups.length;
    if (this.#group && !groups.includes(this.#group)) this.#group = "";
    const options = ["", ...groups];
    if (options.join("\n") !== [...select.options].map((option) => option.value).join("\n")) {
      select.replaceChildren(...options.map((group) => new Option(group || "All groups", group)));
      select.value = this.#group;
    }
  }

  #search(text) {
    this.#text = text;
    element("search").value = text;
    this.#changed();
  }

  #count(tiles, known) {
    const counts = new Map(FIRST.map((kind) => [kind, 0]));
    for (const kind of tiles.flatMap(kinds)) counts.set(kind, (counts.get(kind) ?? 0) + 1);
    const plain = tiles.length > 0 && counts.get("live") === tiles.length ? ", all live" : "";
    const text = tiles.length && known ? words.plural(tiles.length, "camera", "cameras") + plain : "";
    const count = element("count");
    if (count.textContent !== text) count.textContent = text;
    for (const [kind, number] of counts) {
      const shown = known && !NORMAL.includes(kind) && (number > 0 || kind === this.#kind);
      const chip = this.#chips.get(kind) ?? (shown ? this.#make(kind) : null);
      if (!chip) continue;
      const word = kind === UNRECORDED ? "not recorded" : (words.STATES[kind] ?? kind).toLowerCase();
      if (chip.textContent !== `${number} ${word}`) chip.textContent = `${number} ${word}`;
      chip.hidden = !shown;
      chip.ariaPressed = String(kind === this.#kind);
    }
    // One whose state no camera has any more has no count.
    for (const [kind, chip] of this.#chips) if (!counts.has(kind)) chip.hidden = kind !== this.#kind || !known;
  }

  #make(kind) {
    const chip = document.createElement("button");
    chip.type = "button";
    chip.className = "count";
    chip.dataset.kind = kind;
    chip.title = "Show these alone, or all";
    chip.onclick = () => {
      this.#kind = this.#kind === kind ? "" : kind;
      this.#changed();
    };
    this.#chips.set(kind, chip);
    // In their order, whichever comes first.
    const place = (one) => (FIRST.includes(one) ? FIRST.indexOf(one) : FIRST.length);
    element("summary").append(...[...this.#chips].sort(([a], [b]) => place(a) - place(b)).map(([, one]) => one));
    return chip;
  }
}

const kinds = (tile) => (tile.unrecorded ? [tile.overall, UNRECORDED] : [tile.overall]);
