// SPDX-License-Identifier: MIT
// What can be asked of the service, and asked to be done.

const PATIENCE = 10_000; // ms

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
    headers: { "Content-Type": "application/json", "X-Requested-With": "valkka-async" },
    body: JSON.stringify({ on }),
  });
  return (await answer.json()).recording;
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
