// The page: input of images, the token, and the name of the network.

import { describeModel, onTokenNeeded } from "./api.js";
import { Gallery } from "./gallery.js";
import { WebcamView } from "./webcam_view.js";

const DETECTOR_HINTS = {
  yunet: "Faces are detected in each image.",
  none: "Each image is taken as one face, cropped to its largest centered square.",
};
const MAX_ANNOUNCEMENTS = 8;

const byId = (id) => document.getElementById(id);

/** The detector that is selected now; the promise waits until it is known whether the server has one. */
function selectedDetector() {
  const selected = document.querySelector("input[name=detector]:checked").value;
  return modelShown.then((model) => (model?.detector === "none" ? "none" : selected));
}

/** Announce a sentence to screen readers. */
function announce(sentence) {
  const line = document.createElement("p");
  line.textContent = sentence;
  byId("announcements").append(line);
  while (byId("announcements").children.length > MAX_ANNOUNCEMENTS) byId("announcements").firstElementChild.remove();
}

onTokenNeeded(askForToken);
const modelShown = showModel();
const gallery = new Gallery(byId("gallery"), announce);
const webcamView = new WebcamView(byId("webcam"), byId("webcam-toggle"), selectedDetector, announce);

function addFiles(files) {
  if (!files.length) return;
  document.body.classList.add("busy");
  gallery.add([...files], selectedDetector());
}

function acceptFiles() {
  byId("files").addEventListener("change", (event) => {
    addFiles(event.target.files);
    event.target.value = "";
  });
  document.addEventListener("paste", (event) => addFiles(event.clipboardData.files));
  byId("clear").addEventListener("click", () => {
    gallery.clear();
    byId("files").focus();
  });
}

function acceptDrops() {
  const highlight = (isOver) => byId("intake").classList.toggle("over", isOver);
  document.addEventListener("dragover", (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    highlight(true);
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) highlight(false);
  });
  document.addEventListener("drop", (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    highlight(false);
    addFiles(event.dataTransfer.files);
  });
}

function explainDetector() {
  for (const input of document.querySelectorAll("input[name=detector]")) {
    input.addEventListener("change", () => { byId("detector-hint").textContent = DETECTOR_HINTS[input.value]; });
  }
}

/** Show the form and wait for the token; then return the focus to the previous element. */
function askForToken(wasRefused) {
  const [form, input] = [byId("token-form"), byId("token")];
  const previous = document.activeElement;
  byId("token-hint").textContent = wasRefused
    ? "The server did not accept the last token."
    : "The token is kept for this tab and sent to this server only.";
  form.hidden = false;
  input.focus();
  return new Promise((resolve) => {
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const token = input.value.trim();
      form.reset();
      form.hidden = true;
      (previous && previous !== document.body ? previous : byId("files")).focus();
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
  byId("detector-hint").textContent = `This server can't detect faces. ${DETECTOR_HINTS.none}`;
}

acceptFiles();
acceptDrops();
explainDetector();
window.addEventListener("pagehide", () => webcamView.running && webcamView.stop());
