// SPDX-License-Identifier: MIT
// What this browser remembers of how somebody likes the page.

const PREFIX = "valkka-async.";

export function recall(name, otherwise) {
  try {
    const text = localStorage.getItem(PREFIX + name);
    return text === null ? otherwise : JSON.parse(text);
  } catch {
    return otherwise; // it may not store anything, or somebody else wrote there
  }
}

export function remember(name, value) {
  try {
    localStorage.setItem(PREFIX + name, JSON.stringify(value));
  } catch {
    // it holds until the page is closed
  }
}
