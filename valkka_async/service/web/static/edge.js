// SPDX-License-Identifier: MIT
// Where in the buffer to play, so that it is live: a little behind the newest frame, so that one
// that comes late does not show. Pure arithmetic, in seconds.

const LEAST = 0.25; // how far behind is aimed at, on a line where frames come evenly
const MOST = 0.55; // on one where they do not
const FAR = 0.9; // from here on it is not caught up with, but jumped
const STEP = 0.1; // per time that the buffer ran empty
const EASE = 0.01; // per second that it did not
const NEAR = 0.06; // close enough

export class LiveEdge {
  #target = LEAST;
  #at = 0;
  #rate = 1;

  // The buffer ran empty while it played.
  late() {
    this.#target = Math.min(MOST, this.#target + STEP);
  }

  // `time` is what is shown, `ranges` what is buffered, `now` any clock. Returns {seek, rate, behind}: where
  // to go on, or null to go on as it is; how fast; how far it then is behind the newest frame.
  steer(time, ranges, now) {
    this.#target = Math.max(LEAST, this.#target - EASE * Math.min(10, Math.max(0, now - this.#at)));
    this.#at = now;
    if (!ranges.length) return { seek: null, rate: 1, behind: 0 };
    const start = ranges.start(ranges.length - 1);
    const end = ranges.end(ranges.length - 1);
    const behind = end - time;
    // What is in an older range lies behind a gap; what is after the end was before a clock was set back.
    if (time < start || behind > FAR || behind < -FAR) {
      this.#rate = 1;
      const seek = Math.max(start, end - this.#target);
      return { seek, rate: 1, behind: end - seek };
    }
    this.#rate = this.#pace(behind - this.#target);
    return { seek: null, rate: this.#rate, behind };
  }

  // A rate is kept until the aim is reached, so that it does not change with each frame.
  #pace(late) {
    if (late > 0.35) return 1.25;
    if (late > 0.12) return Math.max(1.1, this.#rate);
    if (late < -0.15) return 0.95;
    if (this.#rate > 1 && late > NEAR / 2) return this.#rate;
    if (this.#rate < 1 && late < -NEAR) return this.#rate;
    return 1;
  }
}
