// SPDX-License-Identifier: MIT
// Figures as people read them.

export const STATES = {
  connecting: "Connecting",
  live: "Live",
  stalled: "Stalled",
  waiting: "Waiting",
  idle: "Idle",
  stopped: "Stopped",
  failed: "Failed",
  lost: "No connection",
};

// What needs a look.
export const TROUBLE = ["failed", "waiting", "stalled"];

const CODECS = { h264: "H.264", hevc: "H.265", mjpeg: "MJPEG", av1: "AV1", vp9: "VP9", vp8: "VP8", mpeg4: "MPEG-4", "raw video": "uncompressed" };

export const codec = (name) => CODECS[name] ?? name.toUpperCase();

const SOUNDS = { aac: "AAC", opus: "Opus", pcm_alaw: "G.711 A-law", pcm_mulaw: "G.711 µ-law", adpcm_g722: "G.722" };
const SILENCES = {
  off: "not asked for",
  none: "none",
  refused: "the camera sends its picture only without it",
  unsupported: "coded in a way that is not known here",
  broken: "cannot be decoded",
  silent: "none comes now",
};

// Why a camera that should be heard is not; "": it is, or it has no sound.
export const silence = (state) => (["refused", "unsupported", "broken", "silent"].includes(state) ? SILENCES[state] : "");

// What there is of a camera's sound.
export function sound({ state, codec: name, rate, channels }) {
  const about = [
    name && (SOUNDS[name] ?? name.toUpperCase()),
    rate && `${rate / 1000} kHz`,
    channels && (channels === 1 ? "mono" : channels === 2 ? "stereo" : `${channels} channels`),
  ].filter(Boolean);
  return [...about, SILENCES[state]].filter(Boolean).join(" · ") || "not known yet";
}

const WARNINGS = {
  slow_pixels: "pixels are converted the long way: valkka-async doctor says why",
  no_key_frame: "the camera sends no key frame: set its key-frame interval (I-frame, GOP) to some seconds",
  behind: "decoding is slower than the camera, so frames are left out",
};

export const warning = (code) => WARNINGS[code] ?? code;

const RECORDING_CAUSES = {
  disk_full: "disk full",
  permission: "not allowed",
  disk: "disk error",
  format: "format",
  ring: "no frames",
  stuck: "nothing written",
  internal: "error",
};

// Why nothing is recorded, in a word or two.
export const recordingCause = (code) => RECORDING_CAUSES[code] ?? code;

// No text turns the one around it, whatever it is written in.
export const isolated = (text) => `\u2068${text}\u2069`;

// Until the next attempt, in s.
export const countdown = (seconds) => (seconds > 0.5 ? `next attempt in ${about(seconds)}` : "trying again …");

export const NO_SERVICE = "There is no connection to the service";

// How old something is: "0.3 s", "12 s", "5 min", "3 h", "2 d".
export function age(seconds) {
  const s = Math.max(0, seconds);
  if (s < 9.95) return `${s.toFixed(1)} s`;
  if (s < 99.5) return `${Math.round(s)} s`;
  if (s < 5400) return `${Math.round(s / 60)} min`;
  if (s < 129_600) return `${Math.round(s / 3600)} h`;
  return `${Math.round(s / 86_400)} d`;
}

// The same without tenths, for what is counted up or down: "4 s".
export const about = (seconds) => (seconds < 9.95 ? `${Math.round(Math.max(0, seconds))} s` : age(seconds));

// How long something lasts: "0:07", "1:02:03".
export function lasting(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  const two = (n) => String(n).padStart(2, "0");
  const minutes = `${Math.floor(s / 60) % 60}`;
  return s < 3600 ? `${minutes}:${two(s % 60)}` : `${Math.floor(s / 3600)}:${two(minutes)}:${two(s % 60)}`;
}

export function fps(rate) {
  return rate >= 9.95 || Number.isInteger(rate) ? String(Math.round(rate)) : rate.toFixed(1);
}

// "1920 × 1080 · H.264 · 25 fps"
export function video({ codec: name, width, height, fps: rate }) {
  const known = [width && `${width} × ${height}`, name && codec(name), rate > 0 && `${fps(rate)} fps`];
  return known.filter(Boolean).join(" · ");
}

export function bytes(n) {
  if (n < 1e6) return `${Math.round(n / 1e3)} kB`;
  return n < 1e9 ? `${(n / 1e6).toFixed(n < 1e7 ? 1 : 0)} MB` : `${(n / 1e9).toFixed(1)} GB`;
}

export const count = (n) => n.toLocaleString("en").replaceAll(",", "\u202f");

export const plural = (n, one, many) => `${count(n)} ${n === 1 ? one : many}`;

// For a file's name: 2026-11-22_17-03-21.
export function stamp(date) {
  const two = (n) => String(n).padStart(2, "0");
  const day = [date.getFullYear(), two(date.getMonth() + 1), two(date.getDate())].join("-");
  return `${day}_${[date.getHours(), date.getMinutes(), date.getSeconds()].map(two).join("-")}`;
}

// The first letter large, and no full stop: reasons come as halves of sentences.
export function sentence(text) {
  return text && text[0].toUpperCase() + text.slice(1);
}
