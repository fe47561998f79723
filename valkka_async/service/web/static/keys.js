// SPDX-License-Identifier: MIT
// The keys, which are the same wherever one is, and their list.

const SHOWN = { escape: "Esc", enter: "Enter", arrowleft: "←", arrowright: "→", arrowup: "↑", arrowdown: "↓", "-": "−", " ": "Space", pageup: "Page Up", pagedown: "Page Down", home: "Home", end: "End" };
const table = [];

// What keys do. `act(event)` may return false: it does nothing now, and what the keys do besides, or the browser, may.
// A `text` of "" is not listed. What has an `about` is listed last, and what comes first here is asked first.
export function key(names, text, act, about = "") {
  table.push({ names, text, act, about });
}

export function showKeys() {
  const dialog = document.getElementById("keys");
  const listed = table.filter(({ text }) => text).sort((a, b) => a.about.localeCompare(b.about));
  const rows = listed.map(({ names, text, about }) => {
    const row = document.createElement("div");
    const term = document.createElement("dt");
    for (const name of names) {
      const cap = document.createElement("kbd");
      cap.textContent = SHOWN[name] ?? name.toUpperCase();
      term.append(cap);
    }
    const meaning = document.createElement("dd");
    meaning.textContent = about ? `${about}: ${text}` : text;
    row.append(term, meaning);
    return row;
  });
  dialog.querySelector("dl").replaceChildren(...rows);
  if (!dialog.open) dialog.showModal();
}

// Keys that belong to what has the focus, or lies over the page.
const taken = (target) =>
  document.querySelector("dialog[open]") !== null || target.closest?.("input, select, textarea, details[open].menu") != null;

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.defaultPrevented || taken(event.target)) return;
  const pressed = event.key.toLowerCase();
  if (table.some(({ names, act }) => names.includes(pressed) && act(event) !== false)) event.preventDefault();
});
