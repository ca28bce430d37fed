// The webcam's section: the mirrored video with boxes, and one card for each face.

import { RequestError } from "./api.js";
import { showFaces, summarize } from "./faces.js";
import { clear, drawBoxes, drawCrop } from "./overlay.js";
import { openWebcam, predictFrames } from "./webcam.js";

const SECONDS_BETWEEN_ANNOUNCEMENTS = 4;

/** Runs the webcam until the user stops it. */
export class WebcamView {
  /**
   * @param {HTMLElement} section
   * @param {HTMLElement} toggle The button that starts and stops the webcam.
   * @param {() => Promise<string>} detector Returns the detector for the next frame.
   * @param {(sentence: string) => void} announce Announces a sentence to screen readers.
   */
  constructor(section, toggle, detector, announce) {
    Object.assign(this, { section, toggle, detector, announce });
    const find = (selector) => section.querySelector(selector);
    [this.video, this.boxes, this.view] = [find("video"), find(".boxes"), find(".result")];
    [this.message, this.faces] = [find(".message"), find(".faces")];
    [this.notice, this.latency] = [find("#webcam-notice"), find("#webcam-latency")];
    toggle.addEventListener("click", () => (this.running ? this.stop() : this.start()));
    this.stopButton = find("#webcam-stop");
    this.stopButton.addEventListener("click", () => this.stop());
  }

  async start() {
    const running = new AbortController();
    this.running = running;
    this.reset();
    let stream = null;
    try {
      stream = await openWebcam();
      running.signal.throwIfAborted();
      await this.play(stream);
      await predictFrames(this.video, {
        detector: this.detector,
        signal: running.signal,
        onResult: (...result) => this.show(...result),
        onProblem: (sentence) => this.showNotice(sentence),
      });
    } catch (error) {
      if (running.signal.aborted) return;
      this.stop(error instanceof RequestError ? error.message : `The webcam can't be used: ${error.message}`);
    } finally {
      for (const track of stream?.getTracks() ?? []) track.stop();
    }
  }

  play(stream) {
    stream.getVideoTracks()[0].addEventListener("ended", () => this.stop("The webcam was disconnected."));
    this.video.srcObject = stream;
    this.view.hidden = false;
    return this.video.play();
  }

  reset() {
    this.toggle.textContent = "Stop the webcam";
    this.section.hidden = this.stopButton.hidden = false;
    this.view.hidden = true;
    this.latency.textContent = "";
    this.faces.replaceChildren();
    this.message.textContent = "";
    this.showNotice("");
    this.announced = { text: "", seconds: 0 };
  }

  /** Stop the webcam. The sentence gives the reason if the user did not stop it. */
  stop(sentence = "") {
    const hadFocus = this.section.contains(document.activeElement);
    this.running?.abort();
    this.running = null;
    this.video.srcObject = null;
    clear(this.boxes);
    this.toggle.textContent = "Use the webcam";
    this.view.hidden = this.stopButton.hidden = true;
    this.latency.textContent = "";
    if (!sentence || hadFocus) this.toggle.focus();
    this.section.hidden = !sentence;
    this.showNotice(sentence);
  }

  showNotice(sentence) {
    this.notice.textContent = sentence;
    this.notice.hidden = !sentence;
    // A notice that repeats with every retry is announced only once.
    if (sentence && sentence !== this.lastNotice) this.announce(sentence);
    this.lastNotice = sentence;
  }

  show(result, frame, seconds) {
    // Sorted from left to right in the mirror, so that a face keeps its card from frame to frame.
    const faces = result.faces.toSorted((a, b) => (b.box?.x ?? 0) - (a.box?.x ?? 0));
    const sorted = { ...result, faces };
    this.notice.hidden = true;
    this.lastNotice = "";
    this.latency.textContent = `response in ${Math.round(1000 * seconds)} ms`;
    this.message.textContent = result.status === "no_face" || result.error ? summarize(result) : "";
    showFaces(this.faces, sorted);
    faces.forEach((face, index) => {
      const card = this.faces.children[index];
      card.classList.toggle("no-crop", !face.box);
      drawCrop(card.querySelector(".crop"), frame, frame.width, result, face);
    });
    drawBoxes(this.boxes, sorted, { mirrored: true });
    this.announceChange(sorted);
  }

  /** Announce changed emotions, at most every few seconds. */
  announceChange(result) {
    const text = result.faces.map((face) => face.emotion ?? "uncertain").join(", ") || summarize(result);
    const seconds = performance.now() / 1000;
    if (text === this.announced.text || seconds - this.announced.seconds < SECONDS_BETWEEN_ANNOUNCEMENTS) return;
    this.announced = { text, seconds };
    this.announce(`Webcam: ${text}`);
  }
}
