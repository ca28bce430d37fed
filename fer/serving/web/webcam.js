// The webcam: one frame at a time, the next when the answer to the last has come.

import { Refused, Unreachable, pause, predict, unlessAborted } from "./api.js";

const FRAME_WIDTH = 640;
const QUALITY = 0.85;
const SECONDS_TO_NEXT_TRY = 2;

const REASONS = {
  NotAllowedError: "The browser did not permit the webcam. Allow it for this page, then try again.",
  NotFoundError: "No webcam was found.",
  NotReadableError: "The webcam can't be read: another program may be using it.",
};

/**
 * Open the webcam.
 *
 * @returns {Promise<MediaStream>}
 * @throws {Refused} There is none, or none for this page.
 */
export async function openWebcam() {
  if (!navigator.mediaDevices) {
    throw new Refused("Browsers give a page the webcam only over HTTPS or on localhost.");
  }
  try {
    const wanted = { facingMode: "user", width: { ideal: 1280 } };
    return await navigator.mediaDevices.getUserMedia({ video: wanted });
  } catch (error) {
    throw new Refused(REASONS[error.name] ?? `The webcam can't be used: ${error.message}`);
  }
}

/**
 * Ask about frame after frame until the signal ends it.
 *
 * @param {HTMLVideoElement} video
 * @param {object} options
 * @param {() => Promise<string>} options.detector Which is asked for each frame.
 * @param {AbortSignal} options.signal
 * @param {(result: object, frame: HTMLCanvasElement, seconds: number) => void} options.onResult
 * @param {(sentence: string) => void} options.onTrouble Told what the next try waits for.
 * @throws {Refused} The server gives a reason that the next frame would not change.
 */
export async function watch(video, { detector, signal, onResult, onTrouble }) {
  const frame = document.createElement("canvas");
  while (!signal.aborted) {
    await untilVisible(signal);
    const start = performance.now();
    try {
      const picture = await grab(video, frame);
      const onWait = (seconds) => onTrouble(`The server is busy. Next try in ${Math.ceil(seconds)} s.`);
      const result = await predict(picture, { detector: await unlessAborted(detector(), signal), signal, onWait });
      onResult(result, frame, (performance.now() - start) / 1000);
    } catch (error) {
      if (!(error instanceof Unreachable)) throw error;
      onTrouble(`${error.message} Next try in ${SECONDS_TO_NEXT_TRY} s.`);
      await pause(SECONDS_TO_NEXT_TRY, signal);
    }
  }
}

function grab(video, frame) {
  frame.width = FRAME_WIDTH;
  frame.height = Math.round((FRAME_WIDTH * video.videoHeight) / video.videoWidth);
  frame.getContext("2d").drawImage(video, 0, 0, frame.width, frame.height);
  return new Promise((resolve) => { frame.toBlob(resolve, "image/jpeg", QUALITY); });
}

/** Nobody looks at a hidden page: the server is spared. */
function untilVisible(signal) {
  if (!document.hidden) return Promise.resolve();
  return new Promise((resolve) => {
    document.addEventListener("visibilitychange", resolve, { once: true, signal });
    signal.addEventListener("abort", resolve, { once: true });
  });
}
