// The webcam as the page shows it: the mirrored picture, its boxes, and a card a face.

import { Refused } from "./api.js";
import { sentenceOf, showFaces } from "./faces.js";
import { clear, drawBoxes, drawCrop } from "./picture.js";
import { openWebcam, watch } from "./webcam.js";

const SECONDS_BETWEEN_ANNOUNCEMENTS = 4;

/** The section of the webcam, which runs until it is stopped. */
export class Live {
  /**
   * @param {HTMLElement} section
   * @param {HTMLElement} toggle The button that starts and stops it.
   * @param {() => Promise<string>} detector Which is asked for each frame.
   * @param {(sentence: string) => void} announce Says it aloud, where a screen reader listens.
   */
  constructor(section, toggle, detector, announce) {
    Object.assign(this, { section, toggle, detector, announce });
    const find = (selector) => section.querySelector(selector);
    [this.video, this.boxes, this.view] = [find("video"), find(".boxes"), find(".result")];
    [this.said, this.faces] = [find(".said"), find(".faces")];
    [this.notice, this.rate] = [find("#webcam-notice"), find("#webcam-rate")];
    toggle.addEventListener("click", () => (this.running ? this.stop() : this.start()));
    this.stopper = find("#webcam-stop");
    this.stopper.addEventListener("click", () => this.stop());
  }

  async start() {
    const running = new AbortController();
    this.running = running;
    this.begin();
    let stream = null;
    try {
      stream = await openWebcam();
      running.signal.throwIfAborted();
      await this.play(stream);
      await watch(this.video, {
        detector: this.detector,
        signal: running.signal,
        onResult: (...answer) => this.show(...answer),
        onTrouble: (sentence) => this.warn(sentence),
      });
    } catch (error) {
      if (running.signal.aborted) return;
      this.stop(error instanceof Refused ? error.message : `The webcam can't be used: ${error.message}`);
    } finally {
      for (const track of stream?.getTracks() ?? []) track.stop();
    }
  }

  play(stream) {
    stream.getVideoTracks()[0].addEventListener("ended", () => this.stop("The webcam went away."));
    this.video.srcObject = stream;
    this.view.hidden = false;
    return this.video.play();
  }

  begin() {
    this.toggle.textContent = "Stop the webcam";
    this.section.hidden = this.stopper.hidden = false;
    this.view.hidden = true;
    this.rate.textContent = "";
    this.faces.replaceChildren();
    this.said.textContent = "";
    this.warn("");
    this.spoken = { text: "", at: 0 };
  }

  /** Switch the webcam off, with a sentence that says why where the user did not ask for it. */
  stop(sentence = "") {
    const hadFocus = this.section.contains(document.activeElement);
    this.running?.abort();
    this.running = null;
    this.video.srcObject = null;
    clear(this.boxes);
    this.toggle.textContent = "Use the webcam";
    this.view.hidden = this.stopper.hidden = true;
    this.rate.textContent = "";
    if (!sentence || hadFocus) this.toggle.focus();
    this.section.hidden = !sentence;
    this.warn(sentence);
  }

  warn(sentence) {
    this.notice.textContent = sentence;
    this.notice.hidden = !sentence;
    // Once, however often the same is tried again.
    if (sentence && sentence !== this.warned) this.announce(sentence);
    this.warned = sentence;
  }

  show(result, frame, seconds) {
    // From left to right in the mirror, so that a face keeps its card from frame to frame.
    const faces = result.faces.toSorted((a, b) => (b.box?.x ?? 0) - (a.box?.x ?? 0));
    const shown = { ...result, faces };
    this.notice.hidden = true;
    this.warned = "";
    this.rate.textContent = `an answer in ${Math.round(1000 * seconds)} ms`;
    this.said.textContent = result.status === "no_face" || result.error ? sentenceOf(result) : "";
    showFaces(this.faces, shown);
    faces.forEach((face, index) => {
      const card = this.faces.children[index];
      card.classList.toggle("bare", !face.box);
      drawCrop(card.querySelector(".crop"), frame, frame.width, result, face);
    });
    drawBoxes(this.boxes, shown, { mirrored: true });
    this.speak(shown);
  }

  /** Say what changed, and not too often. */
  speak(result) {
    const text = result.faces.map((face) => face.emotion ?? "uncertain").join(", ") || sentenceOf(result);
    const now = performance.now() / 1000;
    if (text === this.spoken.text || now - this.spoken.at < SECONDS_BETWEEN_ANNOUNCEMENTS) return;
    this.spoken = { text, at: now };
    this.announce(`Webcam: ${text}`);
  }
}
