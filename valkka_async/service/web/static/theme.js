// SPDX-License-Identifier: MIT
// Light or dark: as the system is, or as somebody has chosen.

import { recall, remember } from "./settings.js";

export const THEMES = { auto: "Auto", light: "Light", dark: "Dark" };

const metas = [...document.querySelectorAll('meta[name="theme-color"]')]; // the light one, and the dark one
const own = metas.map((meta) => meta.content);
let chosen = recall("theme", "auto");
if (!Object.hasOwn(THEMES, chosen)) chosen = "auto";

export const theme = () => chosen;

export function setTheme(name) {
  chosen = name;
  remember("theme", name);
  apply();
}

function apply() {
  const root = document.documentElement;
  if (chosen === "auto") delete root.dataset.theme;
  else root.dataset.theme = chosen;
  metas.forEach((meta, n) => {
    meta.content = chosen === "auto" ? own[n] : own[chosen === "dark" ? 1 : 0];
  });
}

apply();
