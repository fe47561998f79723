// SPDX-License-Identifier: MIT
// What can be asked of the service, and asked to be done.

const PATIENCE = 10_000; // ms
const SILENT = 15_000; // ms without a byte of an answer that has begun
const BUTTON = { "X-Requested-With": "valkka-async" }; // which no other site's page can send

export function socketUrl(path) {
  return `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}${path}`;
}

export function liveUrl(camera, format) {
  return socketUrl(`/api/cameras/${encodeURIComponent(camera)}/live?format=${format}`);
}

// The newest frame, as a JPEG. Throws an Error whose message is for people.
export async function snapshot(camera) {
  const answer = await ask(`/api/cameras/${encodeURIComponent(camera)}/snapshot.jpg`, { cache: "no-store" });
  return answer.blob();
}

// The names of other hosts' cameras, HOST/CAMERA.
export async function hostCameras() {
  return (await (await ask("/api/hosts", { cache: "no-store" })).json()).cameras;
}

// A frame of one, as a JPEG. Throws an Error whose message is for people.
export async function hostSnapshot(name) {
  return (await ask(`/api/hosts/${name}/snapshot.jpg`, { cache: "no-store" })).blob();
}

// Start or stop recording. Throws an Error whose message is for people.
export async function setRecording(camera, on) {
  const answer = await ask(`/api/cameras/${encodeURIComponent(camera)}/recording`, {
    method: "POST",
    headers: { ...BUTTON, "Content-Type": "application/json" },
    body: JSON.stringify({ on }),
  });
  return (await answer.json()).recording;
}

// When a camera was recorded, and when something happened, from one moment (Unix ms) to another: as in docs/service.md.
export async function timeline(camera, from, to) {
  return (await ask(`${recordings(camera)}?${range(from, to)}`, { cache: "no-store" })).json();
}

// A picture of that moment, as a JPEG.
export async function still(camera, at, width) {
  return (await ask(`${recordings(camera)}/still.jpg?at=${seconds(at)}&width=${width}`, {})).blob();
}

// A range as one MP4: the response, whose body is still to be read.
export async function clip(camera, from, to, signal, headers = {}) {
  return ask(`${recordings(camera)}/clip.mp4?${range(from, to)}`, { headers, cache: "no-store" }, signal);
}

// The next bytes of its body, {done, value}. Throws Refusal when the connection is lost, or silent.
export async function read(reader, signal) {
  let timer;
  const late = new Promise((_, fail) => {
    timer = setTimeout(() => fail(new Refusal("the service does not answer")), SILENT);
  });
  try {
    return await Promise.race([reader.read(), late]);
  } catch (error) {
    signal.throwIfAborted();
    throw error instanceof Refusal ? error : new Refusal("no connection to the service");
  } finally {
    clearTimeout(timer);
  }
}

// Where a browser itself saves it.
export const clipUrl = (camera, from, to) => `${recordings(camera)}/clip.mp4?${range(from, to)}&download=1`;

// Something happens: a camera that waits for events is recorded, from some seconds ago until some seconds from now.
export async function happened(camera) {
  await ask(`/api/cameras/${encodeURIComponent(camera)}/event`, { method: "POST", headers: BUTTON });
}

const recordings = (camera) => `/api/recordings/${encodeURIComponent(camera)}`;
const seconds = (moment) => (Math.max(0, moment) / 1000).toFixed(6);
const range = (from, to) => `from=${seconds(from)}&to=${seconds(to)}`;

// Forget that this browser knows the token. Throws an Error whose message is for people.
export async function signOut() {
  await ask("/logout", { method: "POST", headers: BUTTON });
}

// Why something cannot be had. The message is for people; `code` is the service's, "" for want of an answer;
// `parts`: ranges that can be had instead.
export class Refusal extends Error {
  constructor(message, code = "", parts = []) {
    super(message);
    this.code = code;
    this.parts = parts;
  }
}

// `signal`: whose body is read for longer, and ends so. Throws Refusal, and what `signal` is aborted with.
async function ask(path, options, signal = null) {
  let answer;
  const late = new AbortController();
  const timer = setTimeout(() => late.abort(), PATIENCE);
  const signals = signal ? [late.signal, signal] : [AbortSignal.timeout(PATIENCE)];
  try {
    answer = await fetch(path, { ...options, signal: AbortSignal.any(signals) });
  } catch (error) {
    signal?.throwIfAborted();
    const silent = late.signal.aborted || error.name === "TimeoutError";
    throw new Refusal(silent ? "the service does not answer" : "no connection to the service");
  } finally {
    clearTimeout(timer);
  }
  if (answer.status === 401) location.assign("/login");
  if (!answer.ok) throw await refusal(answer);
  return answer;
}

async function refusal(answer) {
  const text = await answer.text().catch(() => "");
  try {
    const { detail, code = "", parts = [] } = JSON.parse(text);
    return new Refusal(detail || text, code, parts.map((part) => ({ from: part.from_ns / 1e6, to: part.to_ns / 1e6 })));
  } catch {
    return new Refusal(text.trim().slice(0, 300) || `the service answered ${answer.status}`);
  }
}

export function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000); // the browser has begun to read it by then
}
