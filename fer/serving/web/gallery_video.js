// A video of the gallery: it plays with boxes and cards that follow the faces.

import { GalleryImage } from "./gallery_image.js";
import { showFaces } from "./faces.js";
import { drawCrop } from "./overlay.js";

const VIDEO_NAME = /\.(mp4|m4v|mov|mkv|webm|avi|ts|mts|m2ts|mpg|mpeg|3gp)$/i;
const MIN_FPS = 0.1; // the lowest that the server accepts
const MAX_FPS = 5;
const WANTED_FRAMES = 100;
const NO_PREVIEW = "This browser can't play the video, but the server can read it. These are its first faces.";

/** Return whether a file is a video, by its type or its name. */
export function isVideo(file) {
  return file.type.startsWith("video/") || VIDEO_NAME.test(file.name);
}

/** One video of the gallery. */
export class GalleryVideo extends GalleryImage {
  constructor(file) {
    super(file, "video-template");
    for (const name of ["timeupdate", "seeked"]) this.image.addEventListener(name, () => this.showMoment());
    this.follow();
  }

  describe(text) {
    this.image.setAttribute("aria-label", text);
  }

  /** Show the video. Returns false for formats that only the server can read. */
  async showPreview() {
    this.url = URL.createObjectURL(this.file);
    const isShown = await new Promise((resolve) => {
      this.image.addEventListener("loadeddata", () => resolve(true), { once: true });
      this.image.addEventListener("error", () => resolve(false), { once: true });
      this.image.src = this.url;
    });
    this.stage.classList.toggle("no-preview", !isShown);
    return isShown;
  }

  /** As many as make about a hundred frames: five a second of a short video, fewer of a long one. */
  async framesPerSecond() {
    const seconds = (await this.preview) ? this.image.duration : NaN;
    if (!Number.isFinite(seconds) || seconds <= 0) return 1;
    return Number(Math.min(MAX_FPS, Math.max(MIN_FPS, WANTED_FRAMES / seconds)).toPrecision(3));
  }

  async showResult(result) {
    if (!result.frames) return super.showResult(result);
    this.video = result;
    this.article.querySelector(".size").textContent = `${result.width} × ${result.height}`;
    const isShown = await this.preview;
    const sentence = this.showMessage([summarizeVideo(result), result.error, isShown ? "" : NO_PREVIEW].filter(Boolean).join(" "), "");
    this.describe(`${this.file.name}. ${sentence}`);
    const mostFaces = Math.max(...result.frames.map((frame) => frame.faces.length));
    this.faces.closest(".result").classList.toggle("crowd", mostFaces > 2);
    this.showMoment();
    return sentence;
  }

  /** Draw again with each frame that the browser shows while it plays. */
  follow() {
    this.image.requestVideoFrameCallback?.(() => {
      this.showMoment();
      this.follow();
    });
  }

  /** Show the faces of the moment at which the video is. */
  async showMoment() {
    if (!this.video) return;
    const isShown = await this.preview;
    const faces = facesAt(this.video.frames, isShown ? this.image.currentTime : 0);
    this.result = { ...this.video, faces };
    showFaces(this.faces, this.result);
    faces.forEach((face, index) => {
      const card = this.faces.children[index];
      card.classList.toggle("no-crop", !isShown || !face.box);
      if (isShown && this.image.readyState >= HTMLMediaElement.HAVE_CURRENT_DATA) {
        drawCrop(card.querySelector(".crop"), this.image, this.image.videoWidth, this.result, face);
      }
    });
    this.draw();
  }
}

/**
 * The faces at a time: those of the last frame before it, with boxes on their way to the next one.
 *
 * @param {object[]} frames The frames of a result, in the order of their times.
 * @param {number} seconds
 */
export function facesAt(frames, seconds) {
  // A frame is shown until the next one, so its own time belongs to it.
  const later = frames.findIndex((frame) => frame.time_seconds > seconds + 0.001);
  const next = frames[later];
  const last = frames[(later < 0 ? frames.length : Math.max(later, 1)) - 1];
  if (!next || last === next) return last?.faces ?? [];
  const share = (seconds - last.time_seconds) / (next.time_seconds - last.time_seconds);
  return last.faces.map((face) => {
    const other = next.faces.find(({ track }) => track === face.track);
    return other && face.box ? { ...face, box: between(face.box, other.box, Math.max(share, 0)) } : face;
  });
}

function between(box, other, share) {
  const names = ["x", "y", "width", "height"];
  return Object.fromEntries(names.map((name) => [name, box[name] + share * (other[name] - box[name])]));
}

/** Summarize the frames of a video in a sentence. */
export function summarizeVideo(result) {
  const tracks = new Set(result.frames.flatMap((frame) => frame.faces.map((face) => face.track)));
  const numFrames = `${result.frames.length} ${result.frames.length === 1 ? "frame" : "frames"}`;
  if (tracks.size === 0) return `No face was detected in ${numFrames}.`;
  return `${tracks.size === 1 ? "One face" : `${tracks.size} faces`} in ${numFrames}.`;
}
