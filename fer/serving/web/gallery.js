// The pictures that were chosen, dropped or pasted: each with its result, or with what went wrong.

import { Refused, Unreachable, predict } from "./api.js";
import { copyOf, sentenceOf, showFaces } from "./faces.js";
import { drawBoxes, drawCrop, faceAt } from "./picture.js";

const AT_ONCE = 2;
const SMALL_WIDTH = 240;
const AS_ONE_FACE = "Take it as one face";
const AGAIN = "Try again";
const UNSHOWN = "This browser can't show this kind of picture; the server can read it.";

/** The list of pictures, which asks about a few of them at a time. */
export class Gallery {
  /**
   * @param {HTMLElement} section
   * @param {(sentence: string) => void} announce Says it aloud, where a screen reader listens.
   */
  constructor(section, announce) {
    this.section = section;
    this.list = section.querySelector("#results");
    this.progress = section.querySelector("#progress");
    this.announce = announce;
    this.clear();
  }

  /**
   * Take in files, above those that are there.
   *
   * @param {File[]} files
   * @param {Promise<string>} detector Which is asked for.
   */
  add(files, detector) {
    const pictures = files.map((file) => new Picture(file));
    this.list.prepend(...pictures.map((picture) => picture.article));
    this.section.hidden = false;
    for (const picture of pictures) {
      picture.onRemedy = (other) => this.enqueue(picture, Promise.resolve(other));
      this.enqueue(picture, detector);
    }
  }

  /** Drop all pictures, also those that are being asked about. */
  clear() {
    this.cancel?.abort();
    this.cancel = new AbortController();
    for (const picture of this.pictures ?? []) picture.forget();
    this.pictures = new Set();
    this.queue = [];
    this.running = this.done = this.asked = 0;
    this.list.replaceChildren();
    this.section.hidden = true;
  }

  enqueue(picture, detector) {
    this.pictures.add(picture);
    this.queue.push({ picture, detector });
    this.asked += 1;
    picture.say("Waits for its turn.", "waiting");
    this.work();
  }

  work() {
    this.progress.textContent = this.asked > 1 ? `${this.done} of ${this.asked} done` : "";
    while (this.running < AT_ONCE && this.queue.length) this.look(this.queue.shift(), this.cancel.signal);
  }

  async look({ picture, detector }, signal) {
    this.running += 1;
    const sentence = await picture.look(await detector, signal);
    if (signal.aborted) return;
    this.announce(`${picture.file.name}: ${sentence}`);
    this.running -= 1;
    this.done += 1;
    this.work();
  }
}

/** One picture of the list. */
class Picture {
  constructor(file) {
    this.file = file;
    this.article = copyOf("picture-template");
    const find = (selector) => this.article.querySelector(selector);
    [this.image, this.stage, this.boxes] = [find("img"), find(".stage"), find(".boxes")];
    [this.said, this.faces, this.remedy] = [find(".said"), find(".faces"), find(".remedy")];
    find(".name").textContent = this.image.alt = file.name;
    this.link();
  }

  /** Show the file itself. Returns whether this browser can: some can't show all that the server reads. */
  async show() {
    this.address = URL.createObjectURL(this.file);
    this.image.src = this.address;
    const isShown = await this.image.decode().then(() => true, () => false);
    this.stage.classList.toggle("unshown", !isShown);
    this.stage.classList.toggle("small", isShown && this.image.naturalWidth < SMALL_WIDTH);
    return isShown;
  }

  /** A face and its box stand out together. */
  link() {
    const indexOf = (event) => [...this.faces.children].indexOf(event.target.closest(".face"));
    const mark = (event) => this.mark(indexOf(event));
    for (const name of ["mouseover", "focusin"]) this.faces.addEventListener(name, mark);
    for (const name of ["mouseleave", "focusout"]) this.faces.addEventListener(name, () => this.mark(-1));
    this.faces.addEventListener("click", (event) => {
      if (event.target.matches(".which")) this.stage.scrollIntoView({ block: "nearest" });
    });
    this.boxes.addEventListener("click", (event) => this.choose(faceAt(this.boxes, this.result, event)));
    this.remedy.firstElementChild.addEventListener("click", () => {
      this.article.focus();
      this.onRemedy(this.remedyDetector);
    });
    this.resizing = new ResizeObserver(() => this.draw());
    this.resizing.observe(this.boxes);
  }

  /** Ask about the picture and show the answer; returns it as a sentence. */
  async look(detector, signal) {
    this.shown ??= this.show();
    this.say("Is being looked at.", "waiting");
    try {
      const onWait = (seconds) => this.say(`The server is busy. Next try in ${Math.ceil(seconds)} s.`, "waiting");
      await this.checkReadable();
      return await this.present(await predict(this.file, { detector, signal, onWait }));
    } catch (error) {
      if (signal.aborted) return "";
      if (!(error instanceof Refused)) console.error(error);
      this.say(error.message, "alarm");
      if (error instanceof Unreachable) this.offer(AGAIN, detector);
      return error.message;
    }
  }

  async checkReadable() {
    try {
      await this.file.slice(0, 1).arrayBuffer();
    } catch {
      throw new Refused("The browser can't read it. If it is a folder, drop the pictures in it.");
    }
  }

  async present(result) {
    this.result = result;
    const failed = result.status !== "no_face" && result.error;
    const sentence = this.say(sentenceOf(result), failed ? "alarm" : "");
    if (failed) return sentence;
    this.article.querySelector(".size").textContent = `${result.width} × ${result.height}`;
    if (result.status === "no_face") this.offer(AS_ONE_FACE, "none");
    showFaces(this.faces, result);
    this.faces.closest(".result").classList.toggle("crowd", result.faces.length > 2);
    await this.illustrate(result, sentence);
    return sentence;
  }

  async illustrate(result, sentence) {
    this.image.alt = `${this.file.name}. ${sentence}`;
    this.stage.classList.toggle("has-faces", result.faces.length > 1);
    const isShown = await this.shown;
    const told = [result.faces.length === 1 ? "" : sentence, isShown ? "" : UNSHOWN];
    this.said.textContent = told.join(" ").trim();
    result.faces.forEach((face, index) => {
      const card = this.faces.children[index];
      card.classList.toggle("bare", !isShown || !face.box);
      if (isShown) drawCrop(card.querySelector(".crop"), this.image, this.image.naturalWidth, result, face);
    });
    this.draw();
  }

  draw(marked = null) {
    if (this.result?.width && this.boxes.clientWidth) drawBoxes(this.boxes, this.result, { marked });
  }

  mark(index) {
    [...this.faces.children].forEach((card, other) => card.classList.toggle("marked", other === index));
    this.draw(index < 0 ? null : index);
  }

  choose(index) {
    if (index === null) return;
    const card = this.faces.children[index];
    card.querySelector(".which").focus({ preventScroll: true });
    card.scrollIntoView({ block: "nearest" });
  }

  say(sentence, kind) {
    this.said.textContent = sentence;
    this.said.className = `said ${kind}`;
    this.remedy.hidden = true;
    return sentence;
  }

  offer(remedy, detector) {
    this.remedy.firstElementChild.textContent = remedy;
    this.remedyDetector = detector;
    this.remedy.hidden = false;
  }

  forget() {
    this.resizing.disconnect();
    URL.revokeObjectURL(this.address);
  }
}
