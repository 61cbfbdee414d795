// HTML elements, numbers as text, and pictures on a canvas.

const SVG = "http://www.w3.org/2000/svg";

// Creates an element. Strings become text nodes, so the name of a run is never parsed as HTML.
export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export function svg(name, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

export const gameOf = (name) => name.split("/")[0]; // of the name of a run

// The steps at the end of a run, which its minutes or a callback may have ended before all were done.
export const lastStep = (run) => (run.state === "finished" ? run.env_steps : run.steps);
export const stepsOf = (run) => (run.state === "finished" ? `${formatNumber(run.env_steps)} steps` : `${formatNumber(run.env_steps)} of ${formatNumber(run.steps)} steps`);

export const link = (page, ...names) => `#/${page}/${names.map(encodeURIComponent).join("/")}`;

export function formatNumber(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  const digits = size >= 1000 ? 0 : size >= 10 ? 1 : 2;
  return value.toLocaleString("en", { maximumFractionDigits: digits });
}

export const formatPercent = (value) => (value === null || value === undefined ? "–" : `${(100 * value).toFixed(0)}%`);
export const formatValue = (value) => (value === null || value === undefined ? "–" : value.toFixed(2).replace(/^-(0\.00)$/, "$1"));

// Creates a labelled list of options, each a value and a text. Returns the label and the select.
export function select(label, options, onChange, value) {
  const box = el("select", { onchange: () => onChange(box.value) }, ...options.map(([v, text]) => el("option", { value: v }, text)));
  if (value !== undefined) box.value = value;
  return [el("label", {}, label, box), box];
}

export const SPEEDS = [[0.1, "0.1×"], [0.25, "0.25×"], [0.5, "0.5×"], [1, "1×"], [2, "2×"], [4, "4×"], [0, "maximum"]];

export function seedInput() {
  const input = el("input", { type: "number", min: 0, max: 1e9, value: 0, "aria-label": "seed" });
  return { input, label: el("label", {}, "Seed", input), value: () => Math.max(0, Math.round(Number(input.value) || 0)) };
}

// Adds a name and a number to a description list. Returns a function that sets the number.
export function addFact(list, name) {
  const value = el("dd", {}, "–");
  const box = el("div", {}, el("dt", {}, name), value);
  list.append(box);
  return (text) => { if (value.textContent !== text) value.textContent = text; box.hidden = text === "–"; };
}

// Creates a canvas for the picture of a game, and one over it for a saliency map.
export function screen(name) {
  const picture = el("canvas", { width: 160, height: 210, role: "img", "aria-label": `${name}: no picture yet` });
  const heat = el("canvas", { class: "over", width: 1, height: 1, "aria-hidden": "true" });
  return { picture, heat, box: el("div", { class: "screen" }, picture, heat) };
}

const LARGE = 300; // pixels; a picture of fewer is enlarged without blur

// Paints an image on a canvas of its size, or of the size of another canvas.
export async function paint(canvas, blob, like = null) {
  const image = await createImageBitmap(blob);
  const { width, height } = like ?? image;
  if (canvas.width !== width || canvas.height !== height) {
    canvas.width = width;
    canvas.height = height;
    canvas.classList.toggle("large", height >= LARGE);
  }
  canvas.getContext("2d", { willReadFrequently: like !== null }).drawImage(image, 0, 0, width, height);
  image.close();
}

// Paints a grey saliency map as transparent red, in the size of the picture that it lies on.
export async function paintHeat(canvas, blob, picture) {
  await paint(canvas, blob, picture);
  const context = canvas.getContext("2d");
  const image = context.getImageData(0, 0, canvas.width, canvas.height);
  for (let i = 0; i < image.data.length; i += 4) {
    const weight = image.data[i];
    image.data.set([255, 60, 30, (weight * weight) / 255], i);
  }
  context.putImageData(image, 0, 0);
}

// Creates a bar for each action: probabilities from 0 to 1, values from the lowest to the highest.
export function actionBars() {
  const list = el("ul", { class: "bars" });
  const caption = el("h2", {}, "Actions");
  let rows = [];
  const setNames = (names) => {
    rows = names.map((name) => {
      const fill = svg("rect", { class: "fill", x: 0, y: 0, width: 0, height: 1 });
      const track = svg("svg", { class: "track", viewBox: "0 0 100 1", preserveAspectRatio: "none", width: "100%", height: 16, "aria-hidden": "true" }, fill);
      const number = el("span", { class: "number" }, "–");
      return { fill, number, item: el("li", {}, el("span", {}, name.toLowerCase()), track, number) };
    });
    list.replaceChildren(...rows.map((row) => row.item));
    caption.hidden = !names.length;
  };
  const update = (numbers, chosen, kind) => {
    const areValues = kind === "values";
    const finite = (numbers ?? []).filter((number) => number !== null);
    const [low, high] = areValues ? [Math.min(...finite), Math.max(...finite)] : [0, 1];
    const range = finite.length ? `; bars from ${formatValue(low)} to ${formatValue(high)}` : "";
    caption.textContent = areValues ? `Action values${range}` : kind === "probabilities" ? "Action probabilities" : "Actions";
    rows.forEach((row, i) => {
      const number = numbers?.[i] ?? null;
      // The lowest value has a short bar, so that it differs from an action without a value.
      const width = number === null ? 0 : areValues ? 8 + 92 * ((number - low) / (high - low || 1)) : 100 * number;
      row.fill.setAttribute("width", width);
      row.number.textContent = areValues ? formatValue(number) : formatPercent(number);
      row.item.classList.toggle("chosen", i === chosen);
      if (i === chosen) row.item.setAttribute("aria-current", "true"); else row.item.removeAttribute("aria-current");
    });
  };
  return { caption, list, setNames, update };
}

// Returns a function that draws at most one frame per animation frame. If frames arrive faster, all
// but the newest are skipped.
export function newestOnly(draw) {
  let drawing = false;
  let pending = null;
  const start = (frame) => {
    drawing = true;
    requestAnimationFrame(async () => {
      try {
        await draw(...frame);
      } finally {
        drawing = false;
        const next = pending;
        pending = null;
        if (next) start(next);
      }
    });
  };
  return (...frame) => { if (drawing) pending = frame; else start(frame); };
}
