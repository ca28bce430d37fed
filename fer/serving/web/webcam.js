// The webcam: one frame at a time. The next frame is sent after the response to the last one.

import { RequestError, RetryableError, abortable, delay, predict } from "./api.js";

const FRAME_WIDTH = 640;
const JPEG_QUALITY = 0.85;
const RETRY_SECONDS = 2;

const ERROR_TEXTS = {
  NotAllowedError: "The browser denied access to the webcam. Allow it for this page and try again.",
  NotFoundError: "No webcam was found.",
  NotReadableError: "The webcam can't be used. Another program may be using it.",
};

/**
 * Open the webcam.
 *
 * @returns {Promise<MediaStream>}
 * @throws {RequestError} There is no webcam, or the page may not use it.
 */
export async function openWebcam() {
  if (!navigator.mediaDevices) {
    throw new RequestError("Browsers allow webcam access only over HTTPS or on localhost.");
  }
  try {
    const constraints = { facingMode: "user", width: { ideal: 1280 } };
    return await navigator.mediaDevices.getUserMedia({ video: constraints });
  } catch (error) {
    throw new RequestError(ERROR_TEXTS[error.name] ?? `The webcam can't be used: ${error.message}`);
  }
}

/**
 * Predict one frame after the other until the signal aborts.
 *
 * @param {HTMLVideoElement} video
 * @param {object} options
 * @param {() => Promise<string>} options.detector Returns the detector for the next frame.
 * @param {AbortSignal} options.signal
 * @param {(result: object, frame: HTMLCanvasElement, seconds: number) => void} options.onResult
 * @param {(sentence: string) => void} options.onProblem Called before each wait, with the reason.
 * @throws {RequestError} The server refuses frames for a reason that will not pass.
 */
export async function predictFrames(video, { detector, signal, onResult, onProblem }) {
  const frame = document.createElement("canvas");
  while (!signal.aborted) {
    await waitUntilVisible(signal);
    const start = performance.now();
    try {
      const image = await captureFrame(video, frame);
      const onWait = (seconds) => onProblem(`The server is busy. Retrying in ${Math.ceil(seconds)} s.`);
      const result = await predict(image, { detector: await abortable(detector(), signal), signal, onWait });
      onResult(result, frame, (performance.now() - start) / 1000);
    } catch (error) {
      if (!(error instanceof RetryableError)) throw error;
      onProblem(`${error.message} Retrying in ${RETRY_SECONDS} s.`);
      await delay(RETRY_SECONDS, signal);
    }
  }
}

function captureFrame(video, frame) {
  frame.width = FRAME_WIDTH;
  frame.height = Math.round((FRAME_WIDTH * video.videoHeight) / video.videoWidth);
  frame.getContext("2d").drawImage(video, 0, 0, frame.width, frame.height);
  return new Promise((resolve) => { frame.toBlob(resolve, "image/jpeg", JPEG_QUALITY); });
}

/** Wait while the page is in the background, so that it does not load the server. */
function waitUntilVisible(signal) {
  if (!document.hidden) return Promise.resolve();
  return new Promise((resolve) => {
    document.addEventListener("visibilitychange", resolve, { once: true, signal });
    signal.addEventListener("abort", resolve, { once: true });
  });
}
