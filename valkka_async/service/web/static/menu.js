// SPDX-License-Identifier: MIT
// What is chosen seldom: the order, the theme, the keys' list, and to sign out.

import { signOut } from "./api.js";
import { showKeys } from "./keys.js";
import { ORDERS } from "./order.js";
import { THEMES, setTheme, theme } from "./theme.js";
import { toast } from "./toasts.js";

const element = (id) => document.getElementById(id);

export class Menu {
  #menu = element("menu");

  // `order`: the one that holds. `ordered(order)` for another.
  constructor(order, ordered) {
    choice("order", ORDERS, order, ordered);
    choice("theme", THEMES, theme(), setTheme);
    element("show-keys").onclick = () => {
      this.#menu.open = false;
      showKeys();
    };
    element("sign-out").onclick = () => leave();
    // As any menu, it closes for a click elsewhere, and for Esc.
    addEventListener("pointerdown", ({ target }) => this.#menu.contains(target) || (this.#menu.open = false));
    this.#menu.addEventListener("focusout", ({ relatedTarget: to }) => {
      if (to && !this.#menu.contains(to)) this.#menu.open = false;
    });
    this.#menu.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !this.#menu.open) return;
      this.#menu.open = false;
      this.#menu.querySelector("summary").focus();
      event.preventDefault();
    });
  }

  follow({ name, version, page }) {
    element("about").textContent = `${name}, valkka-async ${version}`;
    element("sign-out").hidden = !page?.token;
  }
}

function choice(name, texts, chosen, changed) {
  const field = element(`choose-${name}`);
  for (const [value, text] of Object.entries(texts)) {
    const label = document.createElement("label");
    const input = Object.assign(document.createElement("input"), { type: "radio", name, value, checked: value === chosen });
    input.onchange = () => changed(value);
    label.append(input, text);
    field.append(label);
  }
}

async function leave() {
  try {
    await signOut();
    location.assign("/login");
  } catch (error) {
    toast(`Not signed out: ${error.message}`, "error");
  }
}
