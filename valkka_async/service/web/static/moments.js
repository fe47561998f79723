// SPDX-License-Identifier: MIT
// Times of day, in this browser's time zone. Pure arithmetic: moments are Unix ms. A day has 23 to 25 hours.

export const MINUTE = 60_000;
export const HOUR = 60 * MINUTE;

const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600].map((s) => 1000 * s);
const DAYS = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

const two = (n) => String(n).padStart(2, "0");

// The day in which a moment is, or the one that many days later.
export function day(at, later = 0) {
  const date = new Date(at);
  const [year, month, number] = [date.getFullYear(), date.getMonth(), date.getDate() + later];
  return { from: new Date(year, month, number).getTime(), to: new Date(year, month, number + 1).getTime() };
}

// "14:02:10"; on a day of which an hour is there twice, with the zone.
export function time(at, seconds = true) {
  const date = new Date(at);
  const text = [date.getHours(), date.getMinutes(), ...(seconds ? [date.getSeconds()] : [])].map(two).join(":");
  const { from, to } = day(at);
  return to - from > 24 * HOUR ? `${text} ${zone(date)}` : text;
}

// "Sun 29 Nov 2026"
export function date(at) {
  const one = new Date(at);
  return `${DAYS[one.getDay()]} ${one.getDate()} ${MONTHS[one.getMonth()]} ${one.getFullYear()}`;
}

// What <input type="date"> and <input type="time" step="1"> have, and with a T between, datetime-local.
export function dateValue(at) {
  const one = new Date(at);
  return `${String(one.getFullYear()).padStart(4, "0")}-${two(one.getMonth() + 1)}-${two(one.getDate())}`;
}

export function timeValue(at) {
  const one = new Date(at);
  return [one.getHours(), one.getMinutes(), one.getSeconds()].map(two).join(":");
}

export const bothValue = (at) => `${dateValue(at)}T${timeValue(at)}`;

// The moment of such values; NaN: they are not complete. Of an hour that is there twice, the first.
export function moment(dateText, timeText) {
  return new Date(`${dateText}T${timeText}`).getTime();
}

// Where a scale from one moment to another has its lines, no nearer than `room` px of `width`: {at, label, midnight}.
export function scale(from, to, width, room) {
  const least = (room / width) * (to - from);
  const step = STEPS.find((one) => one >= least) ?? STEPS.at(-1);
  const lines = [];
  // From midnight on, and not from 1970: zones are whole hours off, or not even that.
  for (let { from: begin, to: end } = day(from); begin < to; { from: begin, to: end } = day(end)) {
    const first = begin + Math.max(0, Math.ceil((from - begin) / step)) * step;
    if (step <= HOUR) {
      for (let at = first; at < Math.min(end, to); at += step) lines.push({ at, ...label(at, step) });
      continue;
    }
    // When the clock is changed, each second hour is no longer two hours after the last one.
    for (let at = begin; at < Math.min(end, to); at += HOUR / 2) {
      const one = new Date(at);
      const hours = step / HOUR;
      if (at >= from && one.getMinutes() === 0 && one.getHours() % hours === 0) lines.push({ at, ...label(at, step) });
    }
  }
  return lines;
}

function label(at, step) {
  const one = new Date(at);
  if (day(at).from === at) return { label: `${one.getDate()} ${MONTHS[one.getMonth()]}`, midnight: true };
  const short = `${two(one.getHours())}:${two(one.getMinutes())}`;
  return { label: step < MINUTE ? `${short}:${two(one.getSeconds())}` : short, midnight: false };
}

function zone(date) {
  const parts = new Intl.DateTimeFormat("en-GB", { timeZoneName: "short" }).formatToParts(date);
  return parts.find((part) => part.type === "timeZoneName").value;
}
