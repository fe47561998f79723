// SPDX-License-Identifier: MIT
// Pictures and nothing else: on the full screen, or within the window where a browser has none for pages (iPhones).
// What is around them shows while somebody moves.

const AWAKE = 2500; // ms

let timer = 0;

export const isBare = () => "bare" in document.body.dataset;

export function toggleBare() {
  if (isBare()) leaveBare();
  else enter();
}

export function leaveBare() {
  if (document.fullscreenElement) document.exitFullscreen().catch(() => {});
  show(false);
}

function enter() {
  show(true);
  document.documentElement.requestFullscreen?.().catch(() => {}); // then it fills the window
}

function show(bare) {
  if (bare === isBare()) return;
  if (bare) document.body.dataset.bare = "";
  else delete document.body.dataset.bare;
  const button = document.getElementById("bare");
  button.ariaPressed = String(bare);
  button.title = bare ? "Leave full screen (F)" : "Full screen (F)";
  wake();
  dispatchEvent(new Event("resize")); // there is another room for the grid
}

function wake() {
  document.body.dataset.awake = "";
  clearTimeout(timer);
  timer = setTimeout(() => delete document.body.dataset.awake, AWAKE);
}

for (const name of ["pointermove", "pointerdown", "keydown"]) addEventListener(name, () => isBare() && wake(), { passive: true });
// Esc leaves it without asking the page.
document.addEventListener("fullscreenchange", () => document.fullscreenElement || show(false));
