// Boxes drawn over an image, and crops of its faces. Boxes are in pixels of the upright image.

const LINE_WIDTH = 2.5;
const HALO_COLOR = "rgb(0 0 0 / 65%)";
const TAG_TEXT_COLOR = "#101114";
const MAX_NAMED_FACES = 6;

/**
 * The area of a face: its box, or the largest centered square if no detector was used.
 *
 * @param {object} result One of the results of POST /v1/predict.
 * @param {object} face One of its faces.
 */
export function faceArea(result, face) {
  if (face.box) return face.box;
  const side = Math.min(result.width, result.height);
  return { x: (result.width - side) / 2, y: (result.height - side) / 2, width: side, height: side };
}

/**
 * Draw the boxes of a result on a canvas that covers its image.
 *
 * @param {HTMLCanvasElement} canvas
 * @param {object} result One of the results of POST /v1/predict.
 * @param {object} [options]
 * @param {boolean} [options.mirrored] The image is mirrored.
 * @param {number|null} [options.highlighted] Index of the highlighted face.
 */
export function drawBoxes(canvas, result, { mirrored = false, highlighted = null } = {}) {
  const context = clear(canvas);
  const scale = canvas.clientWidth / result.width;
  const order = result.faces.map((_, index) => index).sort((a, b) => (a === highlighted) - (b === highlighted));
  for (const index of order) {
    const face = result.faces[index];
    if (!face.box && result.width === result.height) continue;
    const area = scaleArea(faceArea(result, face), scale);
    if (mirrored) area.x = canvas.clientWidth - area.x - area.width;
    const color = emotionColor(canvas, face.emotion);
    drawFrame(context, area, color, { dashed: !face.box, strong: index === highlighted });
    const isNamed = result.faces.length <= MAX_NAMED_FACES || index === highlighted;
    if (face.box) drawTag(context, area, color, tagText(result, face, index, isNamed), canvas);
  }
}

/** Clear a canvas and set it to the resolution of the screen. */
export function clear(canvas) {
  const ratio = Math.min(window.devicePixelRatio || 1, 2);
  canvas.width = Math.round(canvas.clientWidth * ratio);
  canvas.height = Math.round(canvas.clientHeight * ratio);
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  return context;
}

/**
 * Draw a face with a margin around it.
 *
 * @param {HTMLCanvasElement} canvas A square canvas.
 * @param {CanvasImageSource} source The upright image.
 * @param {number} sourceWidth Width of the source in its own pixels.
 * @param {object} result The result for the image.
 * @param {object} face One of its faces.
 */
export function drawCrop(canvas, source, sourceWidth, result, face) {
  const area = faceArea(result, face);
  const side = Math.max(area.width, area.height) * (face.box ? 1.15 : 1);
  const x = area.x + (area.width - side) / 2;
  const y = area.y + (area.height - side) / 2;
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.clearRect(0, 0, canvas.width, canvas.height);
  const [left, top, length] = [x, y, side].map((value) => (value * sourceWidth) / result.width);
  context.drawImage(source, left, top, length, length, 0, 0, canvas.width, canvas.height);
}

/** Return the index of the smallest face under the pointer, or null. */
export function faceAt(canvas, result, event) {
  const scale = result.width / canvas.clientWidth;
  const [x, y] = [event.offsetX * scale, event.offsetY * scale];
  const candidates = result.faces
    .map((face, index) => ({ index, ...faceArea(result, face) }))
    .filter((area) => x >= area.x && y >= area.y && x <= area.x + area.width && y <= area.y + area.height)
    .sort((a, b) => a.width * a.height - b.width * b.height);
  return candidates[0]?.index ?? null;
}

function scaleArea(area, scale) {
  return { x: area.x * scale, y: area.y * scale, width: area.width * scale, height: area.height * scale };
}

/** Return the color of an emotion over an image. It does not depend on the color scheme of the page. */
function emotionColor(canvas, emotion) {
  const style = getComputedStyle(canvas);
  return style.getPropertyValue(`--on-image-${emotion}`).trim() || style.getPropertyValue("--on-image").trim();
}

function tagText(result, face, index, isNamed) {
  const number = result.faces.length > 1 ? `${(face.track ?? index) + 1}` : "";
  const name = isNamed ? (face.emotion ?? "uncertain") : "";
  return [number, name].filter(Boolean).join("  ");
}

function drawFrame(context, area, color, { dashed, strong }) {
  context.setLineDash(dashed ? [6, 5] : []);
  for (const [style, width] of [[HALO_COLOR, LINE_WIDTH + 2.5], [color, strong ? LINE_WIDTH + 1.5 : LINE_WIDTH]]) {
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
  const x = Math.max(0, Math.min(area.x - LINE_WIDTH / 2, canvas.clientWidth - width));
  const y = area.y >= 24 ? area.y - 24 : Math.min(area.y + 4, canvas.clientHeight - 20);
  context.fillStyle = color;
  context.beginPath();
  context.roundRect(x, y, width, 20, 5);
  context.fill();
  context.fillStyle = TAG_TEXT_COLOR;
  context.textBaseline = "middle";
  context.fillText(text, x + 6, y + 10.5);
}
