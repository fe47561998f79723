// SPDX-License-Identifier: MIT
// In which order the cameras stand. Pure.

export const ORDERS = { trouble: "Trouble first", config: "As in the config", name: "By name", own: "My own" };

const compare = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" }).compare;

// The tiles, which come in the config's order. `own`: names, for somebody's own order; others come after them.
export function arranged(tiles, order, own) {
  const list = [...tiles];
  if (order === "trouble") return [...list.filter((tile) => tile.troubled), ...list.filter((tile) => !tile.troubled)];
  if (order === "name") return list.sort((a, b) => compare(a.title, b.title));
  if (order !== "own") return list;
  const places = new Map(own.map((name, n) => [name, n]));
  const place = (tile) => places.get(tile.name) ?? own.length;
  return list.sort((a, b) => place(a) - place(b));
}

// The names with this one at the place of that one.
export function moved(names, name, to) {
  const at = names.indexOf(to);
  const rest = names.filter((one) => one !== name);
  rest.splice(at < 0 ? rest.length : at, 0, name);
  return rest;
}

// Those elements of `wanted` that can stay where they are among `there` while the others are moved: as many as can be.
export function staying(there, wanted) {
  const places = new Map(there.map((one, n) => [one, n]));
  const runs = []; // of each of them the longest run that ends with it: [length, place, run before]
  let best = null;
  for (const one of wanted) {
    if (!places.has(one)) continue;
    const place = places.get(one);
    const before = runs.filter((run) => run.place < place).reduce((a, b) => (b.length > (a?.length ?? 0) ? b : a), null);
    const run = { one, place, before, length: (before?.length ?? 0) + 1 };
    runs.push(run);
    if (run.length > (best?.length ?? 0)) best = run;
  }
  const stay = new Set();
  for (let run = best; run; run = run.before) stay.add(run.one);
  return stay;
}
