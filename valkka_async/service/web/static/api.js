// SPDX-License-Identifier: MIT
// What can be asked of the service, and asked to be done.

const PATIENCE = 10_000; // ms
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

// Where a browser itself saves what was recorded from one moment (Unix ms) to another.
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

async function ask(path, options) {
  let answer;
  try {
    answer = await fetch(path, { ...options, signal: AbortSignal.timeout(PATIENCE) });
  } catch (error) {
    throw new Error(error.name === "TimeoutError" ? "the service does not answer" : "no connection to the service");
  }
  if (answer.status === 401) location.assign("/login");
  if (!answer.ok) throw new Error(await reason(answer));
  return answer;
}

async function reason(answer) {
  const text = await answer.text().catch(() => "");
  try {
    return JSON.parse(text).detail || text;
  } catch {
    return text.trim().slice(0, 300) || `the service answered ${answer.status}`;
  }
}

export function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000); // the browser has begun to read it by then
}
