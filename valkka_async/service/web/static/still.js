// SPDX-License-Identifier: MIT
// The canvas behind the video: the last frame while there is no video, or each JPEG where there is none at
// all.

const WIDEST = 1920; // a canvas of 4K in each tile would take more memory than it shows

export class Still {
  #canvas;

  constructor(canvas) {
    this.#canvas = canvas;
  }

  // What the video shows now, if it shows anything.
  keep(video) {
    if (video.readyState >= HTMLMediaElement.HAVE_CURRENT_DATA && video.videoWidth) {
      this.#draw(video, video.videoWidth, video.videoHeight);
    }
  }

  draw(bitmap) {
    this.#draw(bitmap, bitmap.width, bitmap.height);
  }

  #draw(image, width, height) {
    const scale = Math.min(1, WIDEST / width);
    const [w, h] = [Math.round(width * scale), Math.round(height * scale)];
    if (this.#canvas.width !== w || this.#canvas.height !== h) {
      this.#canvas.width = w;
      this.#canvas.height = h;
    }
    this.#canvas.getContext("2d", { alpha: false }).drawImage(image, 0, 0, w, h);
  }
}

// JPEGs, one after the other; one that comes while another is decoded replaces those that wait.
export class StillPlayer {
  #still;
  #shown;
  #failed;
  #waiting = null;
  #decoding = false;
  #closed = false;
  #broken = 0;
  captured = NaN; // Unix ms of what is shown

  // `shown()` for each frame; `failed(text)` when none of the last ones could be decoded.
  constructor(still, { shown, failed }) {
    this.#still = still;
    this.#shown = shown;
    this.#failed = failed;
  }

  take(captured, payload) {
    this.#waiting = { captured, payload };
    if (!this.#decoding) this.#decode();
  }

  tick() {}

  close() {
    this.#closed = true;
    this.#waiting = null;
  }

  async #decode() {
    this.#decoding = true;
    while (this.#waiting) {
      const { captured, payload } = this.#waiting;
      this.#waiting = null;
      try {
        const bitmap = await createImageBitmap(new Blob([payload], { type: "image/jpeg" }));
        if (!this.#closed) {
          this.#still.draw(bitmap);
          this.captured = captured;
          this.#shown();
        }
        bitmap.close();
        this.#broken = 0;
      } catch {
        this.#broken += 1;
        if (this.#broken === 5 && !this.#closed) this.#failed("its frames cannot be decoded");
      }
    }
    this.#decoding = false;
  }
}
