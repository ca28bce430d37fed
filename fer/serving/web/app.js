// The page: ways in for pictures, the token, and which network answers.

import { describeModel, onTokenNeeded } from "./api.js";
import { Gallery } from "./gallery.js";
import { Live } from "./live.js";

const HINTS = {
  yunet: "Faces are looked for in each picture.",
  none: "Each picture is one face: the largest square in its middle is what counts.",
};
const MAX_ANNOUNCEMENTS = 8;

const byId = (id) => document.getElementById(id);

/** The detector that is chosen now, told once the server has said whether it has one. */
function detector() {
  const chosen = document.querySelector("input[name=detector]:checked").value;
  return described.then((model) => (model?.detector === "none" ? "none" : chosen));
}

/** Say a sentence to who listens to the page. */
function announce(sentence) {
  const line = document.createElement("p");
  line.textContent = sentence;
  byId("announcements").append(line);
  while (byId("announcements").children.length > MAX_ANNOUNCEMENTS) byId("announcements").firstElementChild.remove();
}

onTokenNeeded(askForToken);
const described = showModel();
const gallery = new Gallery(byId("pictures"), announce);
const live = new Live(byId("webcam"), byId("webcam-toggle"), detector, announce);

function take(files) {
  if (!files.length) return;
  document.body.classList.add("busy");
  gallery.add([...files], detector());
}

function acceptFiles() {
  byId("files").addEventListener("change", (event) => {
    take(event.target.files);
    event.target.value = "";
  });
  document.addEventListener("paste", (event) => take(event.clipboardData.files));
  byId("clear").addEventListener("click", () => {
    gallery.clear();
    byId("files").focus();
  });
}

function acceptDrops() {
  const over = (isOver) => byId("intake").classList.toggle("over", isOver);
  document.addEventListener("dragover", (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    over(true);
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) over(false);
  });
  document.addEventListener("drop", (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    over(false);
    take(event.dataTransfer.files);
  });
}

function explainDetector() {
  for (const choice of document.querySelectorAll("input[name=detector]")) {
    choice.addEventListener("change", () => { byId("detector-hint").textContent = HINTS[choice.value]; });
  }
}

/** Show the form and wait for the token; focus goes back to where it was. */
function askForToken(wasRefused) {
  const [form, input] = [byId("token-form"), byId("token")];
  const before = document.activeElement;
  byId("token-hint").textContent = wasRefused
    ? "The server did not accept the last one."
    : "It is kept for this tab and sent to this server only.";
  form.hidden = false;
  input.focus();
  return new Promise((resolve) => {
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const token = input.value.trim();
      form.reset();
      form.hidden = true;
      (before && before !== document.body ? before : byId("files")).focus();
      resolve(token);
    }, { once: true });
  });
}

async function showModel() {
  try {
    const model = await describeModel();
    byId("model").textContent = model.id;
    for (const item of byId("legend").children) item.hidden = !model.class_names.includes(item.dataset.emotion);
    if (model.detector === "none") allowCropsOnly();
    return model;
  } catch (error) {
    byId("model").textContent = error.message;
    return null;
  }
}

function allowCropsOnly() {
  const [photographs, crops] = document.querySelectorAll("input[name=detector]");
  photographs.disabled = crops.checked = true;
  byId("detector-hint").textContent = `This server finds no faces. ${HINTS.none}`;
}

acceptFiles();
acceptDrops();
explainDetector();
window.addEventListener("pagehide", () => live.running && live.stop());
