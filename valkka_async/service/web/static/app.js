// SPDX-License-Identifier: MIT
// The page: puts its parts together, and which camera is large.

import { Grid } from "./grid.js";
import { Hosts } from "./hosts.js";
import { Playback } from "./playback.js";
import { Clock, Events } from "./status.js";
import * as words from "./words.js";

const PATIENCE = 800; // ms without a connection before the page says so
const element = (id) => document.getElementById(id);

const clock = new Clock();
const playback = new Playback(clock); // whose keys come first
const grid = new Grid(element("grid"), clock, (name) => go(name));
let service = "";
let lostSince = 0;
let retryAt = 0;
let heard = false;

const events = new Events(clock, {
  found(status) {
    heard = true;
    lostSince = 0;
    service = status.name;
    grid.follow(status.cameras);
    show();
  },
  lost(at) {
    lostSince ||= performance.now();
    retryAt = at;
    grid.lost();
    show();
  },
});

// ------------------------------------------------------------------------- which camera is large

function chosen() {
  const name = new URLSearchParams(location.hash.slice(1)).get("camera");
  return name || null;
}

function go(name) {
  const hash = name === null ? location.pathname + location.search : `#camera=${encodeURIComponent(name)}`;
  // From one camera to the next is one step: back leads to the grid.
  if (name !== null && chosen() !== null) history.replaceState(null, "", hash);
  else history.pushState(null, "", hash);
  route();
}

function route() {
  grid.enlarge(chosen());
  document.body.dataset.view = chosen() === null ? "grid" : "single";
  show();
  if (chosen() !== null) scrollTo(0, 0);
}

function step(by) {
  const { names } = grid;
  if (!names.length) return;
  const at = names.indexOf(chosen());
  go(names[(at + by + names.length) % names.length]);
}

addEventListener("hashchange", route);
addEventListener("popstate", route);
element("back").onclick = () => go(null);
element("previous").onclick = () => step(-1);
element("next").onclick = () => step(1);
element("retry").onclick = () => events.retry();

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.defaultPrevented || chosen() === null) return;
  if (event.key === "Escape" && !document.fullscreenElement) go(null);
  else if (event.key === "ArrowLeft" || event.key === "ArrowUp") step(-1);
  else if (event.key === "ArrowRight" || event.key === "ArrowDown") step(1);
  else if (event.key === "f") grid.tile(chosen())?.fullscreen();
  else if (event.key === "b") grid.tile(chosen())?.toggleBoxes();
  else if (event.key === "m") grid.tile(chosen())?.toggleSound();
  else return;
  event.preventDefault();
});

// ------------------------------------------------------------------------- what is around the tiles

function show() {
  const name = chosen();
  const tile = name === null ? null : grid.tile(name);
  const { tiles } = grid;
  element("service").textContent = tile ? tile.title : (name ?? (service || "Cameras"));
  document.title = [tile ? tile.title : name, service || "Cameras"].filter(Boolean).join(" – ");
  element("summary").textContent = name === null ? summary(tiles) : "";
  element("empty").hidden = !(heard && name === null && !tiles.length);
  element("absent").hidden = !(heard && name !== null && !tile);
  element("loading").hidden = heard || lostSince > 0;
  for (const id of ["previous", "next"]) element(id).disabled = tiles.length < 2;
  showBanner();
  showDetails(tile);
  playback.follow(tile ?? null);
}

function summary(tiles) {
  if (!tiles.length || lostSince) return "";
  const counts = new Map();
  for (const { overall } of tiles) counts.set(overall, (counts.get(overall) ?? 0) + 1);
  const parts = [...counts].map(([state, n]) => `${n} ${(words.STATES[state] ?? state).toLowerCase()}`);
  return `${words.plural(tiles.length, "camera", "cameras")}: ${parts.join(", ")}`;
}

function showBanner() {
  const banner = element("banner");
  const lost = lostSince && performance.now() - lostSince > PATIENCE;
  if (banner.hidden !== !lost) banner.hidden = !lost;
  if (!lost) return;
  const left = Math.ceil((retryAt - performance.now()) / 1000);
  element("retry-time").textContent = left > 0 ? `Trying again in ${left} s.` : "Trying again …";
}

function showDetails(tile) {
  const list = element("details");
  list.hidden = !tile;
  if (!tile) return;
  const details = tile.details();
  while (list.children.length > details.length) list.lastElementChild.remove();
  details.forEach(([term, text], n) => {
    let row = list.children[n];
    if (!row) {
      row = document.createElement("div");
      row.append(document.createElement("dt"), document.createElement("dd"));
      list.append(row);
    }
    if (row.firstChild.textContent !== term) row.firstChild.textContent = term;
    if (row.lastChild.textContent !== text) row.lastChild.textContent = text;
  });
}

setInterval(() => document.hidden || show(), 500);
route();
events.start();
new Hosts(element("hosts")).start();
