// SPDX-License-Identifier: MIT
// What a screen reader says of the cameras by itself: which has failed, and which is back.

const PAUSE = 1500; // ms in which a camera may change its mind

const waiting = new Map();
let timer = 0;

// `text` of one thing; a later one takes its place. "": nothing after all.
export function announce(of, text) {
  if (text) waiting.set(of, text);
  else waiting.delete(of);
  timer ||= setTimeout(() => {
    timer = 0;
    const texts = [...waiting.values()];
    waiting.clear();
    if (texts.length) document.getElementById("said").textContent = texts.slice(0, 5).join(". ");
  }, PAUSE);
}
