// SPDX-License-Identifier: MIT
// Short messages at the edge of the page, read out by screen readers.

const STAY = { note: 4000, error: 9000 }; // ms
const MOST = 4;

export function toast(text, kind = "note") {
  const list = document.getElementById("toasts");
  const item = document.getElementById("toast-template").content.firstElementChild.cloneNode(true);
  item.dataset.kind = kind;
  item.querySelector(".text").textContent = text;
  let timer = setTimeout(() => item.remove(), STAY[kind]);
  item.querySelector("button").onclick = () => item.remove();
  // It stays while somebody reads it.
  item.onpointerenter = () => clearTimeout(timer);
  item.onpointerleave = () => (timer = setTimeout(() => item.remove(), STAY[kind] / 2));
  list.append(item);
  while (list.children.length > MOST) list.firstElementChild.remove();
}
