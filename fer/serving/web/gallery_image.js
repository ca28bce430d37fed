// An image of the gallery: its preview with boxes, and one card for each face.

import { RequestError, RetryableError, predict } from "./api.js";
import { cloneTemplate, hasFailed, showFaces, summarize } from "./faces.js";
import { drawBoxes, drawCrop, faceAt } from "./overlay.js";

const SMALL_WIDTH = 240;
const TAKE_AS_ONE_FACE = "Take as one face";
const TRY_AGAIN = "Try again";
const NO_PREVIEW = "This browser can't display the image, but the server can read it.";

/** One image of the gallery. */
export class GalleryImage {
  /**
   * @param {File} file
   * @param {string} [template] Id of the template of its article.
   */
  constructor(file, template = "image-template") {
    this.file = file;
    this.article = cloneTemplate(template);
    const find = (selector) => this.article.querySelector(selector);
    [this.image, this.stage, this.boxes] = [find("img, video"), find(".stage"), find(".boxes")];
    [this.message, this.faces, this.retry] = [find(".message"), find(".faces"), find(".retry")];
    find(".name").textContent = file.name;
    this.describe(file.name);
    this.addListeners();
  }

  /** Describe the picture for those who can't see it. */
  describe(text) {
    this.image.alt = text;
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
      const options = { detector, signal, onWait, fps: await this.framesPerSecond() };
      return await this.showResult(await predict(this.file, options));
    } catch (error) {
      if (signal.aborted) return "";
      if (!(error instanceof RequestError)) console.error(error);
      this.showMessage(error.message, "error");
      if (error instanceof RetryableError) this.offerRetry(TRY_AGAIN, detector);
      return error.message;
    }
  }

  /** Frames of each second that the server shall use; null for what is no video. */
  framesPerSecond() {
    return null;
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
    this.describe(`${this.file.name}. ${sentence}`);
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
