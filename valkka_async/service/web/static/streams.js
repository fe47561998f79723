// SPDX-License-Identifier: MIT
// What a report says of the streams of its camera, each a connection of its own.

// The one that the page shows; the main one if it shows none.
export function shown({ camera, live, still }) {
  const ring = camera.outputs.find((output) => output.name === (live ?? still));
  return camera.streams.find((stream) => stream.name === ring?.stream) ?? camera.streams[0];
}

// Whose state, cause, reason and retry_in tell of the live view: those of the stream that is shown, or those of
// the camera if it has but one, or its process is gone.
export function speaker(report) {
  const { camera, worker } = report;
  const current = worker.pid !== null && worker.pid === camera.pid;
  return current && camera.streams.length > 1 ? shown(report) : report;
}

// The others that need a look.
export function troubled(report) {
  if (speaker(report) === report) return [];
  const own = shown(report);
  return report.camera.streams.filter(
    (stream) => stream !== own && (["failed", "waiting", "stalled"].includes(stream.state) || stream.cause !== null),
  );
}

// Reasons begin with the address, as a rule, which is known here.
export const plain = ({ reason, url }) => (reason.startsWith(`${url}: `) ? reason.slice(url.length + 2) : reason);
