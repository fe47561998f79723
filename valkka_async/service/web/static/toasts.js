// SPDX-License-Identifier: MIT
// Short messages at the edge of the page, read out by screen readers.

const STAY = { note: 4000, error: 9000 }; // ms
const WITH_LINK = 9000;
const MOST = 4;

// `link`: {text, url} of a file to save. `title`: what else there is to know.
export function toast(text, kind = "note", { link = null, title = "" } = {}) {
  const list = document.getElementById("toasts");
  for (const one of list.children) if (one.querySelector(".text").textContent === text) one.remove(); // said once
  const item = document.getElementById("toast-template").content.firstElementChild.cloneNode(true);
  item.dataset.kind = kind;
  item.querySelector(".text").textContent = text;
  item.querySelector(".text").title = title;
  const save = item.querySelector("a");
  save.hidden = !link;
  if (link) [save.textContent, save.href, save.title] = [link.text, link.url, "Save (D)"];
  const stay = link ? WITH_LINK : STAY[kind];
  let timer = setTimeout(() => item.remove(), stay);
  item.querySelector("button").onclick = () => item.remove();
  // It stays while somebody reads it.
  for (const name of ["pointerenter", "focusin"]) item.addEventListener(name, () => clearTimeout(timer));
  for (const name of ["pointerleave", "focusout"]) {
    item.addEventListener(name, () => {
      clearTimeout(timer);
      timer = setTimeout(() => item.remove(), stay / 2);
    });
  }
  list.append(item);
  while (list.children.length > MOST) list.firstElementChild.remove();
}

// Save the file that the newest message has. Returns false if none has any.
export function saveNewest() {
  const link = [...document.querySelectorAll("#toasts a:not([hidden])")].at(-1);
  if (!link) return false;
  link.click();
}
