// The faces of a result, as a sentence and as cards with bars.

/**
 * Round shares to whole percents that sum to 100, by the largest remainder method.
 *
 * @param {number[]} shares From 0 to 1, with a sum of 1.
 */
export function wholePercents(shares) {
  const percents = shares.map((share) => Math.floor(100 * share));
  const missing = 100 - percents.reduce((sum, percent) => sum + percent, 0);
  const remainder = (index) => 100 * shares[index] - percents[index];
  const order = shares.map((_, index) => index).sort((a, b) => remainder(b) - remainder(a));
  for (const index of order.slice(0, missing)) percents[index] += 1;
  return percents;
}

/** Return whether an image could not be used; an image that was used may have an error, too. */
export function hasFailed(result) {
  return result.faces.length === 0 && result.status !== "no_face";
}

/** Summarize a result in one sentence, and another one if the file lacks something. */
export function summarize(result) {
  if (hasFailed(result)) return result.error;
  return [countFaces(result), result.error].filter(Boolean).join(" ");
}

function countFaces(result) {
  if (result.status === "no_face") return "No face was detected.";
  const names = result.faces.map((face) => face.emotion ?? "uncertain");
  if (names.length === 1) return `One face: ${names[0]} ${Math.round(100 * result.faces[0].confidence)} %.`;
  const counts = [...new Set(names)].map((name) => [names.filter((other) => other === name).length, name]);
  const phrases = counts.sort((a, b) => b[0] - a[0]).map((pair) => pair.join(" "));
  return `${names.length} faces: ${phrases.join(", ")}.`;
}

/** Show one card for each face. Existing cards are updated. */
export function showFaces(list, result) {
  while (list.children.length > result.faces.length) list.lastElementChild.remove();
  while (list.children.length < result.faces.length) list.append(cloneTemplate("face-template"));
  result.faces.forEach((face, index) => showFace(list.children[index], face, index, result.faces.length));
}

/** Clone the element in a template of the page. */
export function cloneTemplate(id) {
  return document.importNode(document.getElementById(id).content.firstElementChild, true);
}

function showFace(card, face, index, count) {
  const names = Object.keys(face.probabilities);
  const percents = wholePercents(Object.values(face.probabilities));
  const best = names.indexOf(face.emotion);
  card.dataset.emotion = face.emotion ?? "";
  card.querySelector(".emotion").textContent = face.emotion ?? "uncertain";
  card.querySelector(".confidence").textContent = best < 0 ? "" : `${percents[best]} %`;
  const number = card.querySelector(".face-number");
  number.hidden = count === 1;
  number.textContent = face.track === undefined ? `face ${index + 1} of ${count}` : `face ${face.track + 1}`;
  showBars(card.querySelector(".bars"), names, percents, best);
}

function showBars(list, names, percents, best) {
  while (list.children.length > names.length) list.lastElementChild.remove();
  while (list.children.length < names.length) list.append(cloneTemplate("bar-template"));
  names.forEach((name, index) => {
    const bar = list.children[index];
    bar.dataset.emotion = name;
    bar.classList.toggle("best", index === best);
    bar.querySelector(".name").textContent = name;
    bar.querySelector(".percent").textContent = `${percents[index]} %`;
    bar.querySelector(".fill").style.width = `${percents[index]}%`;
  });
}
