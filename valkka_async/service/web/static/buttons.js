// SPDX-License-Identifier: MIT
// Buttons that say what they do, and why they do not.

import { toast } from "./toasts.js";

const reasons = new WeakMap();

export function onPress(button, act) {
  button.onclick = () => (reasons.get(button) ? toast(reasons.get(button)) : act());
}

// What it does, in `label` for screen readers and `title` for a pointer. `reason`: why it does nothing now; "": it does.
// A button that is disabled would keep that for itself.
export function describe(button, label, title, reason = "") {
  reasons.set(button, reason);
  put(button, "ariaLabel", label);
  put(button, "title", reason || title);
  put(button, "ariaDisabled", reason ? "true" : null);
}

// Only what differs is written: these run a few times per second for each camera.
export function put(target, key, value) {
  if (target[key] !== value) target[key] = value;
}

export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
