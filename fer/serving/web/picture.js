// Boxes over a picture, and faces cut out of it. Boxes are in pixels of the upright picture.

const LINE = 2.5;
const HALO = "rgb(0 0 0 / 65%)";
const TAG_INK = "#101114";
const FEW = 6;

/**
 * What was taken as the face: its box, or without a detector the largest centered square.
 *
 * @param {object} result One of the results of POST /v1/predict.
 * @param {object} face One of its faces.
 */
export function areaOf(result, face) {
  if (face.box) return face.box;
  const side = Math.min(result.width, result.height);
  return { x: (result.width - side) / 2, y: (result.height - side) / 2, width: side, height: side };
}

/**
 * Draw the boxes of a result over what shows its picture, which the canvas covers.
 *
 * @param {HTMLCanvasElement} canvas
 * @param {object} result One of the results of POST /v1/predict.
 * @param {object} [options]
 * @param {boolean} [options.mirrored] The picture is shown as in a mirror.
 * @param {number|null} [options.marked] Index of the face that stands out.
 */
export function drawBoxes(canvas, result, { mirrored = false, marked = null } = {}) {
  const context = clear(canvas);
  const scale = canvas.clientWidth / result.width;
  const order = result.faces.map((_, index) => index).sort((a, b) => (a === marked) - (b === marked));
  for (const index of order) {
    const face = result.faces[index];
    if (!face.box && result.width === result.height) continue;
    const area = scaled(areaOf(result, face), scale);
    if (mirrored) area.x = canvas.clientWidth - area.x - area.width;
    const color = colorOf(canvas, face.emotion);
    drawFrame(context, area, color, { dashed: !face.box, strong: index === marked });
    const isNamed = result.faces.length <= FEW || index === marked;
    if (face.box) drawTag(context, area, color, tagOf(result, face, index, isNamed), canvas);
  }
}

/** Wipe a canvas, at the resolution of the screen. */
export function clear(canvas) {
  const ratio = Math.min(window.devicePixelRatio || 1, 2);
  canvas.width = Math.round(canvas.clientWidth * ratio);
  canvas.height = Math.round(canvas.clientHeight * ratio);
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  return context;
}

/**
 * Cut a face out of its picture, with some of what surrounds it.
 *
 * @param {HTMLCanvasElement} canvas Square.
 * @param {CanvasImageSource} source The upright picture.
 * @param {number} sourceWidth Of the source, in its own pixels.
 * @param {object} result
 * @param {object} face
 */
export function drawCrop(canvas, source, sourceWidth, result, face) {
  const area = areaOf(result, face);
  const side = Math.max(area.width, area.height) * (face.box ? 1.15 : 1);
  const x = area.x + (area.width - side) / 2;
  const y = area.y + (area.height - side) / 2;
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.clearRect(0, 0, canvas.width, canvas.height);
  const [left, top, length] = [x, y, side].map((value) => (value * sourceWidth) / result.width);
  context.drawImage(source, left, top, length, length, 0, 0, canvas.width, canvas.height);
}

/** Index of the smallest face under a point of the canvas, or null. */
export function faceAt(canvas, result, event) {
  const scale = result.width / canvas.clientWidth;
  const [x, y] = [event.offsetX * scale, event.offsetY * scale];
  const under = result.faces
    .map((face, index) => ({ index, ...areaOf(result, face) }))
    .filter((area) => x >= area.x && y >= area.y && x <= area.x + area.width && y <= area.y + area.height)
    .sort((a, b) => a.width * a.height - b.width * b.height);
  return under[0]?.index ?? null;
}

function scaled(area, scale) {
  return { x: area.x * scale, y: area.y * scale, width: area.width * scale, height: area.height * scale };
}

/** The accent of an emotion on a picture, which is the one of dark pages whatever the page is. */
function colorOf(canvas, emotion) {
  const style = getComputedStyle(canvas);
  return style.getPropertyValue(`--on-picture-${emotion}`).trim() || style.getPropertyValue("--on-picture").trim();
}

function tagOf(result, face, index, isNamed) {
  const number = result.faces.length > 1 ? `${index + 1}` : "";
  const name = isNamed ? (face.emotion ?? "uncertain") : "";
  return [number, name].filter(Boolean).join("  ");
}

function drawFrame(context, area, color, { dashed, strong }) {
  context.setLineDash(dashed ? [6, 5] : []);
  for (const [style, width] of [[HALO, LINE + 2.5], [color, strong ? LINE + 1.5 : LINE]]) {
    context.strokeStyle = style;
    context.lineWidth = width;
    context.beginPath();
    context.roundRect(area.x, area.y, area.width, area.height, 5);
    context.stroke();
  }
}

function drawTag(context, area, color, text, canvas) {
  context.font = "600 13px system-ui, sans-serif";
  const width = context.measureText(text).width + 12;
  const x = Math.max(0, Math.min(area.x - LINE / 2, canvas.clientWidth - width));
  const y = area.y >= 24 ? area.y - 24 : Math.min(area.y + 4, canvas.clientHeight - 20);
  context.fillStyle = color;
  context.beginPath();
  context.roundRect(x, y, width, 20, 5);
  context.fill();
  context.fillStyle = TAG_INK;
  context.textBaseline = "middle";
  context.fillText(text, x + 6, y + 10.5);
}
