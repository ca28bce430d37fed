// The gallery: images that were selected, dropped or pasted, each with its result or error.

import { RequestError, RetryableError, predict } from "./api.js";
import { cloneTemplate, hasFailed, showFaces, summarize } from "./faces.js";
import { drawBoxes, drawCrop, faceAt } from "./overlay.js";

const MAX_CONCURRENT = 2;
const SMALL_WIDTH = 240;
const TAKE_AS_ONE_FACE = "Take as one face";
const TRY_AGAIN = "Try again";
const NO_PREVIEW = "This browser can't display the image, but the server can read it.";

/** A list of images. Only a few requests run at the same time. */
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
    const images = files.map((file) => new GalleryImage(file));
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

/** One image of the gallery. */
class GalleryImage {
  constructor(file) {
    this.file = file;
    this.article = cloneTemplate("image-template");
    const find = (selector) => this.article.querySelector(selector);
    [this.image, this.stage, this.boxes] = [find("img"), find(".stage"), find(".boxes")];
    [this.message, this.faces, this.retry] = [find(".message"), find(".faces"), find(".retry")];
    find(".name").textContent = this.image.alt = file.name;
    this.addListeners();
  }

  /** Show a preview of the file. Returns false for formats that only the server can read. */
  async showPreview() {
    this.url = URL.createObjectURL(this.file);
    this.image.src = this.url;
    const isShown = await this.image.decode().then(() => true, () => false);
    this.stage.classList.toggle("no-preview", !isShown);
    this.stage.classList.toggle("small", isShown && this.image.naturalWidth < SMALL_WIDTH);
    return isShown;
  }

  /** Highlight a face's card and its box together, and connect the buttons. */
  addListeners() {
    const indexOf = (event) => [...this.faces.children].indexOf(event.target.closest(".face"));
    const highlight = (event) => this.highlight(indexOf(event));
    for (const name of ["mouseover", "focusin"]) this.faces.addEventListener(name, highlight);
    for (const name of ["mouseleave", "focusout"]) this.faces.addEventListener(name, () => this.highlight(-1));
    this.faces.addEventListener("click", (event) => {
      if (event.target.matches(".face-number")) this.stage.scrollIntoView({ block: "nearest" });
    });
    this.boxes.addEventListener("click", (event) => this.focusFace(faceAt(this.boxes, this.result, event)));
    this.retry.firstElementChild.addEventListener("click", () => {
      this.article.focus();
      this.onRetry(this.retryDetector);
    });
    this.resizing = new ResizeObserver(() => this.draw());
    this.resizing.observe(this.boxes);
  }

  /** Request a prediction and show it. Returns the result or the error as a sentence. */
  async predict(detector, signal) {
    this.preview ??= this.showPreview();
    this.showMessage("Processing.", "waiting");
    try {
      const onWait = (seconds) => this.showMessage(`The server is busy. Retrying in ${Math.ceil(seconds)} s.`, "waiting");
      await this.checkReadable();
      return await this.showResult(await predict(this.file, { detector, signal, onWait }));
    } catch (error) {
      if (signal.aborted) return "";
      if (!(error instanceof RequestError)) console.error(error);
      this.showMessage(error.message, "error");
      if (error instanceof RetryableError) this.offerRetry(TRY_AGAIN, detector);
      return error.message;
    }
  }

  async checkReadable() {
    try {
      await this.file.slice(0, 1).arrayBuffer();
    } catch {
      throw new RequestError("The browser can't read this file. If it is a folder, drop the images inside it instead.");
    }
  }

  async showResult(result) {
    this.result = result;
    const sentence = this.showMessage(summarize(result), hasFailed(result) ? "error" : "");
    if (hasFailed(result)) return sentence;
    this.article.querySelector(".size").textContent = `${result.width} × ${result.height}`;
    if (result.status === "no_face") this.offerRetry(TAKE_AS_ONE_FACE, "none");
    showFaces(this.faces, result);
    this.faces.closest(".result").classList.toggle("crowd", result.faces.length > 2);
    await this.showBoxes(result, sentence);
    return sentence;
  }

  async showBoxes(result, sentence) {
    this.image.alt = `${this.file.name}. ${sentence}`;
    this.stage.classList.toggle("has-faces", result.faces.length > 1);
    const isShown = await this.preview;
    const sentences = [result.faces.length === 1 ? result.error ?? "" : sentence, isShown ? "" : NO_PREVIEW];
    this.message.textContent = sentences.join(" ").trim();
    result.faces.forEach((face, index) => {
      const card = this.faces.children[index];
      card.classList.toggle("no-crop", !isShown || !face.box);
      if (isShown) drawCrop(card.querySelector(".crop"), this.image, this.image.naturalWidth, result, face);
    });
    this.draw();
  }

  draw(highlighted = null) {
    if (this.result?.width && this.boxes.clientWidth) drawBoxes(this.boxes, this.result, { highlighted });
  }

  highlight(index) {
    [...this.faces.children].forEach((card, other) => card.classList.toggle("highlighted", other === index));
    this.draw(index < 0 ? null : index);
  }

  focusFace(index) {
    if (index === null) return;
    const card = this.faces.children[index];
    card.querySelector(".face-number").focus({ preventScroll: true });
    card.scrollIntoView({ block: "nearest" });
  }

  showMessage(sentence, kind) {
    this.message.textContent = sentence;
    this.message.className = `message ${kind}`;
    this.retry.hidden = true;
    return sentence;
  }

  offerRetry(text, detector) {
    this.retry.firstElementChild.textContent = text;
    this.retryDetector = detector;
    this.retry.hidden = false;
  }

  /** Free the memory of the preview. */
  release() {
    this.resizing.disconnect();
    URL.revokeObjectURL(this.url);
  }
}
