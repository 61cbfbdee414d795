// The map of a session's features: a dot for each state that is remembered.

import { el, formatNumber, formatValue, paint } from "./elements.js";

const VIRIDIS = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
const MARGIN = 18, RADIUS = 3, REACH = 24; // pixels of the page; the margin has space for the circle of a state beyond the map
const HEIGHT = 260;
let groups = 0; // of radio buttons, each of which needs a name

// Creates the map. open(state) is called with the number of a state whose picture is wanted,
// again() when a new map is wanted, and chooseKind(umap) when it shall be UMAP's, or not.
export function featuresMap(open, again, chooseKind) {
  const canvas = el("canvas", { role: "img", "aria-label": "map of features: no states yet", onclick: (event) => choose(nearest(event)) });
  const slider = el("input", { type: "range", min: 0, max: 0, value: 0, "aria-label": "state of the map", oninput: () => choose(Number(slider.value)) });
  const picture = el("canvas", { role: "img", hidden: true });
  const name = el("output", { class: "small" });
  const about = el("p", { class: "soft small" });
  const group = `axes-${++groups}`;
  const kind = (umap, text) => el("label", {}, el("input", { type: "radio", name: group, value: text, onchange: () => {
    chooseKind(umap);
    if (umap) about.textContent = "The map of UMAP is being made. This takes seconds, the first time up to a minute.";
  } }), ` ${text} `);
  const kinds = el("div", { class: "row", role: "radiogroup", "aria-label": "axes of the map", hidden: true }, kind(false, "PCA"), kind(true, "UMAP"));
  const box = el("div", { class: "places", hidden: true }, el("h2", {}, "Features map"), kinds, canvas,
    el("div", { class: "row slide" }, slider, el("button", { onclick: again }, "Update map")), name, picture, about);
  let map = null;
  let place = null; // of the present state
  let chosen = -1; // the index of the state that was opened

  // Returns where a point is, in pixels of the page.
  function at([x, y]) {
    const [left, bottom, right, top] = map.bounds;
    const share = (value, low, high) => Math.min(1.02, Math.max(-0.02, (value - low) / (high - low || 1)));
    return [MARGIN + share(x, left, right) * (canvas.clientWidth - 2 * MARGIN), HEIGHT - MARGIN - share(y, bottom, top) * (HEIGHT - 2 * MARGIN)];
  }

  function colour(value) {
    if (value === null) return "#888";
    const [low, high] = map.range;
    const where = Math.min(1, Math.max(0, (value - low) / (high - low || 1))) * (VIRIDIS.length - 1);
    const from = Math.min(Math.floor(where), VIRIDIS.length - 2);
    return `rgb(${VIRIDIS[from].map((part, i) => Math.round(part + (VIRIDIS[from + 1][i] - part) * (where - from))).join(",")})`;
  }

  function dot(pen, point, radius, fill, line) {
    pen.beginPath();
    pen.arc(...at(point), radius, 0, 2 * Math.PI);
    pen.fillStyle = fill;
    if (fill) pen.fill();
    pen.lineWidth = line;
    if (line) pen.stroke();
  }

  function draw() {
    if (!map || box.hidden) return;
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.round(canvas.clientWidth * ratio);
    canvas.height = Math.round(HEIGHT * ratio);
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    pen.strokeStyle = getComputedStyle(canvas).color;
    map.points.forEach((point, i) => dot(pen, point, RADIUS, colour(map.values[i]), 0.5)); // with a rim, since the ground may be as dark
    if (chosen >= 0) dot(pen, map.points[chosen], RADIUS + 3, colour(map.values[chosen]), 2);
    if (place?.map === map.map) { // of an earlier map, the axes are others
      dot(pen, place.point, RADIUS + 6, null, 2.5);
      dot(pen, place.point, 1.5, pen.strokeStyle, 0);
    }
  }

  // Returns the index of the state nearest to the pointer, or -1.
  function nearest(event) {
    if (!map) return -1;
    const frame = canvas.getBoundingClientRect();
    const distances = map.points.map((point) => Math.hypot(at(point)[0] - event.clientX + frame.left, at(point)[1] - event.clientY + frame.top));
    const least = Math.min(...distances);
    return least < REACH ? distances.indexOf(least) : -1;
  }

  function choose(index) {
    if (!map || index < 0) return;
    chosen = index;
    slider.value = String(index);
    name.textContent = `seed ${map.games[index]}, step ${formatNumber(map.steps[index])}, value ${formatValue(map.values[index])}`;
    slider.setAttribute("aria-valuetext", name.textContent);
    draw();
    open(map.states[index]);
  }

  // Takes a new map; the state that was opened stays, if it is still there.
  function update(head) {
    const before = chosen >= 0 ? map.states[chosen] : -1;
    const [xs, ys] = [0, 1].map((axis) => head.points.map((point) => point[axis]));
    const values = head.values.filter((value) => value !== null);
    map = { ...head, bounds: [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)], range: [Math.min(...values), Math.max(...values)] };
    chosen = map.states.indexOf(before);
    picture.hidden = chosen < 0;
    if (chosen < 0) name.textContent = "";
    slider.max = map.states.length - 1;
    if (chosen >= 0) slider.value = String(chosen);
    const shares = map.share?.map((share) => `${Math.round(100 * share)}%`);
    const axes = shares ? `The axes are the first two principal components of the network's features, with ${shares[0]} and ${shares[1]} of their variance. The circle is the present state; a dot opens its frame.`
      : "UMAP keeps neighbours together by the cosine of the network's features; its distances between groups mean little. Update map makes it anew, from all states up to then. A dot opens its frame; the present state has no place.";
    const range = values.length ? `, from dark for ${formatValue(map.range[0])} to yellow for ${formatValue(map.range[1])}` : "";
    canvas.setAttribute("aria-label", `map of the features of ${map.states.length} states`);
    about.textContent = `${formatNumber(map.states.length)} of the last states seen here, one frame in four since the map or similar states were chosen. Coloured by value${range}. ${axes}`;
    draw();
  }

  // Shows the picture of the state that was opened.
  async function show(head, image) {
    if (!map || map.states[chosen] !== head.state) return;
    picture.hidden = !image;
    if (!image) { name.textContent = "This state is not remembered any more; update the map."; return; }
    picture.setAttribute("aria-label", `frame of ${name.textContent}`);
    await paint(picture, image);
  }

  function mark(head) {
    box.hidden = !head.panels_shown.includes("features");
    if (box.hidden) return;
    if (!map) about.textContent = "The map begins with three states, one frame in four.";
    canvas.classList.toggle("old", map !== null && map.weights !== head.weights);
    place = head.place ?? null;
    draw();
  }

  // Takes the state of the controls.
  function control(head) {
    if (head.kind === "hello") kinds.hidden = !head.has_umap;
    for (const input of kinds.querySelectorAll("input")) input.checked = (input.value === "UMAP") === head.umap;
  }

  return { box, update, show, mark, control };
}
