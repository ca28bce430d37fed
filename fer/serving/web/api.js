// Requests to this server: with its token, retried while it is busy, with errors as sentences.

const TOKEN_KEY = "fer-token";
const BUSY_STATUSES = [429, 503];
const MAX_TRIES = 20;
const MAX_WAIT_SECONDS = 60;

/** A request failed. The message is a sentence for the user. */
export class RequestError extends Error {}

/** A request failed for a reason that may pass, such as a lost connection. */
export class RetryableError extends RequestError {}

/**
 * Predict the expressions of the faces in one image or video.
 *
 * @param {Blob} image The file, sent as it is.
 * @param {object} options
 * @param {string} options.detector "yunet", or "none" for an image that is one face.
 * @param {number|null} [options.fps] Frames of each second of a video that are used.
 * @param {(seconds: number) => void} [options.onWait] Called before each wait for a busy server.
 * @param {AbortSignal} [options.signal]
 * @returns {Promise<object>} One of the results of POST /v1/predict.
 * @throws {RequestError} The server refused the image or can't be reached.
 */
export async function predict(image, { detector, fps = null, onWait = () => {}, signal }) {
  const options = { method: "POST", body: image, signal };
  // With the type of a form or of JSON, the server would parse the file instead of decoding it.
  const isMedia = /^(image|video)\//.test(image.type);
  options.headers = { "Content-Type": isMedia ? image.type : "application/octet-stream" };
  const query = new URLSearchParams({ detector, ...(fps && { fps }) });
  const response = await requestWithRetries(`v1/predict?${query}`, options, onWait);
  return response.results[0];
}

/** Return the description of the server's network: its id, its class names and its detector. */
export function describeModel() {
  return requestWithRetries("v1/model", {});
}

async function requestWithRetries(path, options, onWait = () => {}) {
  for (let tries = 1; ; tries += 1) {
    const response = await requestWithToken(path, options);
    if (response.ok && response.content) return response.content;
    if (!isBusy(response)) throw new (isTransient(response) ? RetryableError : RequestError)(errorText(response));
    if (tries === MAX_TRIES) throw new RetryableError(errorText(response));
    const seconds = retryAfterSeconds(response.headers);
    onWait(seconds);
    await delay(seconds, options.signal);
  }
}

/** Wait for some seconds, or until the signal aborts. */
export function delay(seconds, signal) {
  return abortable(new Promise((resolve) => { setTimeout(resolve, 1000 * seconds); }), signal);
}

/** Wait for a promise, or until the signal aborts. */
export function abortable(promise, signal) {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const abort = () => reject(signal.reason);
    signal?.addEventListener("abort", abort, { once: true });
    promise.then(resolve, reject).finally(() => signal?.removeEventListener("abort", abort));
  });
}

let askForToken = () => Promise.reject(new RequestError("This server requires an access token."));
let pendingToken = null;
let tokenInMemory = null;

/**
 * Set the function that asks the user for the token.
 *
 * @param {(wasRefused: boolean) => Promise<string>} ask
 */
export function onTokenNeeded(ask) {
  askForToken = ask;
}

async function requestWithToken(path, options) {
  for (;;) {
    const token = readToken();
    const headers = { ...options.headers, ...(token && { Authorization: `Bearer ${token}` }) };
    const response = await fetchJson(path, { ...options, headers });
    if (response.status !== 401) return response;
    await abortable(renewToken(token), options.signal);
  }
}

/** Fetch a complete response; content that is not JSON, such as a proxy's error page, becomes null. */
async function fetchJson(path, options) {
  try {
    const response = await fetch(path, options);
    const { ok, status, statusText, headers } = response;
    return { ok, status, statusText, headers, content: parseJson(await response.text()) };
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new RetryableError("The server can't be reached, or it closed the connection while the image was being sent.");
  }
}

/** Ask for a new token in place of a refused one. Concurrent requests share one question. */
async function renewToken(refused) {
  if (readToken() !== refused) return;
  pendingToken ??= askForToken(refused !== null).finally(() => { pendingToken = null; });
  storeToken(await pendingToken);
}

/** Read the token from the tab's storage, or from memory if the browser blocks storage. */
function readToken() {
  try {
    return sessionStorage.getItem(TOKEN_KEY) ?? tokenInMemory;
  } catch {
    return tokenInMemory;
  }
}

function storeToken(token) {
  tokenInMemory = token;
  try {
    sessionStorage.setItem(TOKEN_KEY, token);
  } catch {
    // The browser blocks storage; the token in memory lasts until the page is closed.
  }
}

function parseJson(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

/** Whether the server asks to retry later. A request that took too long has no Retry-After. */
function isBusy({ status, headers }) {
  return BUSY_STATUSES.includes(status) && headers.has("Retry-After");
}

/** Whether the server or a proxy failed in a way that may pass. */
function isTransient({ status }) {
  return status >= 500 && status !== 503;
}

function retryAfterSeconds(headers) {
  const text = headers.get("Retry-After");
  const number = Number(text);
  const seconds = Number.isNaN(number) ? (Date.parse(text) - Date.now()) / 1000 : number;
  return Math.min(Math.max(seconds || 1, 1), MAX_WAIT_SECONDS);
}

function errorText({ status, statusText, content }) {
  const detail = content?.detail;
  if (typeof detail === "string") return detail;
  if (Array.isArray(detail)) return detail.map((item) => item.msg).join("; ");
  return `The server responded with status ${status} ${statusText}`.trim() + ".";
}
