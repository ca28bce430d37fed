// What is asked of this server: with its token, patiently while it is busy, its reasons as sentences.

const TOKEN = "fer-token";
const BUSY = [429, 503];
const MAX_TRIES = 20;
const MAX_WAIT_SECONDS = 60;

/** An answer that is not a result. Its message is a sentence for people. */
export class Refused extends Error {}

/** No answer, or none of the server's own: worth another try. */
export class Unreachable extends Refused {}

/**
 * Ask what one picture shows.
 *
 * @param {Blob} picture Sent as it is.
 * @param {object} options
 * @param {string} options.detector "yunet", or "none" for a picture that is one face.
 * @param {(seconds: number) => void} [options.onWait] Told how long a busy server wants to be left alone.
 * @param {AbortSignal} [options.signal]
 * @returns {Promise<object>} One of the results of POST /v1/predict.
 * @throws {Refused} The server gives a reason, or can't be reached.
 */
export async function predict(picture, { detector, onWait = () => {}, signal }) {
  const options = { method: "POST", body: picture, signal };
  // By any other name the server would look for pictures within the file.
  const isPicture = picture.type.startsWith("image/");
  options.headers = { "Content-Type": isPicture ? picture.type : "application/octet-stream" };
  const answer = await askPatiently(`v1/predict?detector=${detector}`, options, onWait);
  return answer.results[0];
}

/** Ask which network answers: its id, its class names, and whether there is a detector. */
export function describeModel() {
  return askPatiently("v1/model", {});
}

async function askPatiently(address, options, onWait = () => {}) {
  for (let tries = 1; ; tries += 1) {
    const response = await send(address, options);
    if (response.ok && response.answer) return response.answer;
    if (!isBusy(response)) throw new (mayPass(response) ? Unreachable : Refused)(reason(response));
    if (tries === MAX_TRIES) throw new Unreachable(reason(response));
    const seconds = retryAfter(response.headers);
    onWait(seconds);
    await pause(seconds, options.signal);
  }
}

/** Wait, unless a signal ends it. */
export function pause(seconds, signal) {
  return unlessAborted(new Promise((resolve) => { setTimeout(resolve, 1000 * seconds); }), signal);
}

/** Wait for a promise, unless a signal ends it. */
export function unlessAborted(promise, signal) {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const abort = () => reject(signal.reason);
    signal?.addEventListener("abort", abort, { once: true });
    promise.then(resolve, reject).finally(() => signal?.removeEventListener("abort", abort));
  });
}

let askForToken = () => Promise.reject(new Refused("This server asks for an access token."));
let answer = null;
let kept = null;

/**
 * Name who asks for the token.
 *
 * @param {(wasRefused: boolean) => Promise<string>} ask
 */
export function onTokenNeeded(ask) {
  askForToken = ask;
}

async function send(address, options) {
  for (;;) {
    const token = readToken();
    const headers = { ...options.headers, ...(token && { Authorization: `Bearer ${token}` }) };
    const response = await reach(address, { ...options, headers });
    if (response.status !== 401) return response;
    await unlessAborted(renewToken(token), options.signal);
  }
}

/** Fetch an answer to its end; what is no JSON, as of a proxy, counts as none. */
async function reach(address, options) {
  try {
    const response = await fetch(address, options);
    const { ok, status, statusText, headers } = response;
    return { ok, status, statusText, headers, answer: parse(await response.text()) };
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Unreachable("The server can't be reached, or closed the connection while the picture was sent.");
  }
}

/** Ask for another token than the one that was refused: once, whoever else waits for it. */
async function renewToken(refused) {
  if (readToken() !== refused) return;
  answer ??= askForToken(refused !== null).finally(() => { answer = null; });
  keepToken(await answer);
}

/** Where the browser keeps nothing for a page, the page itself does while it is open. */
function readToken() {
  try {
    return sessionStorage.getItem(TOKEN) ?? kept;
  } catch {
    return kept;
  }
}

function keepToken(token) {
  kept = token;
  try {
    sessionStorage.setItem(TOKEN, token);
  } catch {
    // Kept above.
  }
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

/** Whether the same picture may do better later; one that took too long would so again. */
function isBusy({ status, headers }) {
  return BUSY.includes(status) && headers.has("Retry-After");
}

/** Whether something before or in the server broke, which another try may find mended. */
function mayPass({ status }) {
  return status >= 500 && status !== 503;
}

function retryAfter(headers) {
  const text = headers.get("Retry-After");
  const seconds = Number(text);
  const wanted = Number.isNaN(seconds) ? (Date.parse(text) - Date.now()) / 1000 : seconds;
  return Math.min(Math.max(wanted || 1, 1), MAX_WAIT_SECONDS);
}

function reason({ status, statusText, answer }) {
  const detail = answer?.detail;
  if (typeof detail === "string") return detail;
  if (Array.isArray(detail)) return detail.map((item) => item.msg).join("; ");
  return `The server answered ${status} ${statusText}`.trim() + ".";
}
