// SPDX-License-Identifier: MIT
// The page: puts its parts together, and which camera is large.

import { isBare, leaveBare, toggleBare } from "./bare.js";
import { Details } from "./details.js";
import { Finder } from "./find.js";
import { Grid } from "./grid.js";
import { Hosts } from "./hosts.js";
import { key, showKeys } from "./keys.js";
import { Menu } from "./menu.js";
import { hearInstead } from "./sound.js";
import { Playback } from "./playback.js";
import { Clock, Events } from "./status.js";
import { saveNewest } from "./toasts.js";

const PATIENCE = 800; // ms without a connection before the page says so
const element = (id) => document.getElementById(id);

const clock = new Clock();
const finder = new Finder(
  () => {
    grid.arrange();
    show();
  },
  () => grid.step(0, 0), // the first of them has the focus
);
const told = { opened: (name) => go(name), swiped: (by) => step(by) };
const playback = new Playback(clock, element("below"), (name) => Boolean(grid.tile(name))); // whose keys come before the others
const grid = new Grid(element("grid"), clock, told, (tile) => finder.shows(tile));
const details = new Details(element("details"), element("show-details"));
const menu = new Menu(grid.order, (order) => (grid.order = order));
let service = "";
let lostSince = 0;
let retryAt = 0;
let heard = false;

const events = new Events(clock, {
  found(status) {
    heard = true;
    lostSince = 0;
    service = status.name;
    menu.follow(status);
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

// From all cameras to one is a step of the browser's history, and from one to the next is none. So "back" leads to
// all of them, and what closes a camera goes back, too.
function go(name) {
  if (name === chosen()) return;
  const hash = name === null ? location.pathname + location.search : `#camera=${encodeURIComponent(name)}`;
  if (name === null && history.state?.opened) {
    history.back();
    return;
  }
  if (name !== null && chosen() === null) history.pushState({ opened: true }, "", hash);
  else history.replaceState(name === null ? null : history.state, "", hash);
  route();
}

function route() {
  const name = chosen();
  const before = document.body.dataset.view;
  document.body.dataset.view = name === null ? "grid" : "single";
  grid.enlarge(name);
  show();
  if (name === null) return;
  scrollTo(0, 0);
  if (before === "grid") element("service").focus({ preventScroll: true });
}

function step(by) {
  const { names } = grid;
  if (!names.length) return;
  const at = names.indexOf(chosen());
  const to = at < 0 ? (by > 0 ? 0 : names.length - 1) : (at + by + names.length) % names.length;
  go(names[to]);
  const tile = grid.tile(names[to]);
  if (tile) hearInstead(tile.sound);
}

addEventListener("hashchange", route);
addEventListener("popstate", route);
element("back").onclick = () => go(null);
element("previous").onclick = () => step(-1);
element("next").onclick = () => step(1);
element("retry").onclick = () => events.retry();
element("bare").onclick = toggleBare;
document.querySelector("main").ondblclick = ({ target, currentTarget }) => {
  if (target === element("grid") || target === currentTarget) toggleBare(); // beside the tiles
};
element("show-all").onclick = () => finder.clear();

// ------------------------------------------------------------------------- keys

// Of the camera that is large, or else that has the focus or the pointer.
const meant = () => (chosen() === null ? grid.pointed : grid.tile(chosen()));
const of = (act) => () => {
  const tile = meant();
  if (!tile) return false;
  return act(tile);
};

function leave() {
  if (isBare()) leaveBare();
  else if (chosen() !== null) go(null);
  else if (finder.active) finder.clear();
  else return false;
}

key(["escape"], "Back: from full screen, a camera, a search", leave);
key(["enter"], "Open the camera", (event) => {
  if (chosen() !== null || event.target !== document.body || !grid.pointed) return false; // else it is a button's
  go(grid.pointed.name);
});
key(["arrowleft", "arrowright"], "Previous camera, next camera", (event) => {
  const by = event.key === "ArrowLeft" ? -1 : 1;
  return chosen() === null ? grid.step(by, 0) : step(by);
});
key(["arrowup", "arrowdown"], "Camera above, camera below", (event) => {
  const by = event.key === "ArrowUp" ? -1 : 1;
  return chosen() === null ? grid.step(0, by) : step(by);
});
key(["f"], "Full screen", toggleBare);
key(["m"], "Sound", of((tile) => tile.sound.toggle()));
key(["s"], "Snapshot", of((tile) => void tile.snap()));
key(["r"], "Record", of((tile) => tile.record()));
key(["d"], "Save what was just recorded", saveNewest);
key(["b"], "Boxes around what programs found", of((tile) => tile.toggleBoxes()));
key(["p"], "Picture-in-picture", of((tile) => void tile.float()));
key(["+", "-", "0"], "Zoom in, zoom out, whole picture (large view)", (event) => {
  const zoom = chosen() === null ? null : grid.tile(chosen())?.zoom;
  if (!zoom) return false;
  if (event.key === "0") zoom.reset();
  else zoom.step(event.key === "+" ? 1 : -1);
});
key(["="], "", () => (chosen() === null ? false : grid.tile(chosen())?.zoom.step(1)));
key(["i"], "Details (large view)", () => (chosen() === null ? false : details.toggle()));
key(["/"], "Search", () => (chosen() === null ? finder.focus() : false));
key(["?"], "These keys", showKeys);

// ------------------------------------------------------------------------- what is around the tiles

function show() {
  const name = chosen();
  const tile = name === null ? null : grid.tile(name);
  const { tiles } = grid;
  const title = tile ? tile.title : (name ?? (service || "Cameras"));
  if (element("service").textContent !== title) element("service").textContent = title;
  document.title = [tile ? tile.title : name, service || "Cameras"].filter(Boolean).join(" – ");
  finder.follow(tiles, heard && !lostSince);
  element("empty").hidden = !(heard && name === null && !tiles.length);
  element("absent").hidden = !(heard && name !== null && !tile);
  element("loading").hidden = heard || lostSince > 0;
  element("unmatched").hidden = !(name === null && tiles.length && !grid.names.length);
  for (const id of ["previous", "next"]) element(id).hidden = tiles.length < 2;
  showBanner();
  details.follow(tile);
  playback.follow(tile ?? null);
}

function showBanner() {
  const banner = element("banner");
  const lost = lostSince && performance.now() - lostSince > PATIENCE;
  if (banner.hidden !== !lost) banner.hidden = !lost;
  if (!lost) return;
  const left = Math.ceil((retryAt - performance.now()) / 1000);
  element("retry-time").textContent = left > 0 ? `Trying again in ${left} s.` : "Trying again …";
}

setInterval(() => document.hidden || show(), 500);
route();
events.start();
new Hosts(element("hosts")).start();
