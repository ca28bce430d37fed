// A face in words and bars, and a picture in a sentence.

/**
 * Round shares to whole percents that sum to 100: the largest remainders are rounded up.
 *
 * @param {number[]} shares From 0 to 1, summing to 1.
 */
export function wholePercents(shares) {
  const percents = shares.map((share) => Math.floor(100 * share));
  const missing = 100 - percents.reduce((sum, percent) => sum + percent, 0);
  const remainder = (index) => 100 * shares[index] - percents[index];
  const order = shares.map((_, index) => index).sort((a, b) => remainder(b) - remainder(a));
  for (const index of order.slice(0, missing)) percents[index] += 1;
  return percents;
}

/** Say what a result holds. */
export function sentenceOf(result) {
  if (result.status === "no_face") return "No face was found.";
  if (result.error) return result.error;
  const names = result.faces.map((face) => face.emotion ?? "uncertain");
  if (names.length === 1) return `One face: ${names[0]} ${Math.round(100 * result.faces[0].confidence)} %.`;
  const counts = [...new Set(names)].map((name) => [names.filter((other) => other === name).length, name]);
  const told = counts.sort((a, b) => b[0] - a[0]).map((pair) => pair.join(" "));
  return `${names.length} faces: ${told.join(", ")}.`;
}

/** Make a card for each face, or bring those that are there up to date. */
export function showFaces(list, result) {
  while (list.children.length > result.faces.length) list.lastElementChild.remove();
  while (list.children.length < result.faces.length) list.append(copyOf("face-template"));
  result.faces.forEach((face, index) => showFace(list.children[index], face, index, result.faces.length));
}

/** Copy what a template of the page holds. */
export function copyOf(template) {
  return document.importNode(document.getElementById(template).content.firstElementChild, true);
}

function showFace(card, face, index, count) {
  const names = Object.keys(face.probabilities);
  const percents = wholePercents(Object.values(face.probabilities));
  const first = names.indexOf(face.emotion);
  card.dataset.emotion = face.emotion ?? "";
  card.querySelector(".emotion").textContent = face.emotion ?? "uncertain";
  card.querySelector(".confidence").textContent = first < 0 ? "" : `${percents[first]} %`;
  const which = card.querySelector(".which");
  which.hidden = count === 1;
  which.textContent = `face ${index + 1} of ${count}`;
  showBars(card.querySelector(".bars"), names, percents, first);
}

function showBars(list, names, percents, first) {
  while (list.children.length > names.length) list.lastElementChild.remove();
  while (list.children.length < names.length) list.append(copyOf("bar-template"));
  names.forEach((name, index) => {
    const bar = list.children[index];
    bar.dataset.emotion = name;
    bar.classList.toggle("first", index === first);
    bar.querySelector(".name").textContent = name;
    bar.querySelector(".percent").textContent = `${percents[index]} %`;
    bar.querySelector(".fill").style.width = `${percents[index]}%`;
  });
}
