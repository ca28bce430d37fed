// The gallery: images and videos that were selected, dropped or pasted, each with its result or error.

import { GalleryImage } from "./gallery_image.js";
import { GalleryVideo, isVideo } from "./gallery_video.js";

const MAX_CONCURRENT = 2;

/** A list of images and videos. Only a few requests run at the same time. */
export class Gallery {
  /**
   * @param {HTMLElement} section
   * @param {(sentence: string) => void} announce Announces a sentence to screen readers.
   */
  constructor(section, announce) {
    this.section = section;
    this.list = section.querySelector("#results");
    this.progress = section.querySelector("#progress");
    this.announce = announce;
    this.clear();
  }

  /**
   * Add files at the top of the list.
   *
   * @param {File[]} files
   * @param {Promise<string>} detector The detector to use.
   */
  add(files, detector) {
    const images = files.map((file) => new (isVideo(file) ? GalleryVideo : GalleryImage)(file));
    this.list.prepend(...images.map((image) => image.article));
    this.section.hidden = false;
    for (const image of images) {
      image.onRetry = (other) => this.enqueue(image, Promise.resolve(other));
      this.enqueue(image, detector);
    }
  }

  /** Remove all images, and cancel their requests. */
  clear() {
    this.cancel?.abort();
    this.cancel = new AbortController();
    for (const image of this.images ?? []) image.release();
    this.images = new Set();
    this.queue = [];
    this.numRunning = this.numDone = this.numTotal = 0;
    this.list.replaceChildren();
    this.section.hidden = true;
  }

  enqueue(image, detector) {
    this.images.add(image);
    this.queue.push({ image, detector });
    this.numTotal += 1;
    image.showMessage("Waiting.", "waiting");
    this.startNext();
  }

  startNext() {
    this.progress.textContent = this.numTotal > 1 ? `${this.numDone} of ${this.numTotal} done` : "";
    while (this.numRunning < MAX_CONCURRENT && this.queue.length) this.process(this.queue.shift(), this.cancel.signal);
  }

  async process({ image, detector }, signal) {
    this.numRunning += 1;
    const sentence = await image.predict(await detector, signal);
    if (signal.aborted) return;
    this.announce(`${image.file.name}: ${sentence}`);
    this.numRunning -= 1;
    this.numDone += 1;
    this.startNext();
  }
}
