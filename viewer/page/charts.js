// Charts as SVG.

import { formatNumber, svg } from "./elements.js";

const WIDTH = 520;
const MARGIN = { left: 52, right: 10, top: 8, bottom: 22 };

function text(content, attributes) {
  const element = svg("text", attributes);
  element.textContent = content;
  return element;
}

// Returns a value of an axis with so many digits that values a step apart look different.
function formatTick(value, step) {
  const digits = Math.min(8, Math.max(0, 2 - Math.floor(Math.log10(step))));
  return value.toLocaleString("en", { maximumFractionDigits: digits });
}

// Creates a chart of a curve and of single points, both lists of [x, y]. `update` replaces them.
export function chart(title, { height = 150 } = {}) {
  const picture = svg("svg", { class: "chart", viewBox: `0 0 ${WIDTH} ${height}`, role: "img", "aria-label": title });
  const update = (curve, points = []) => {
    const all = [...curve, ...points].filter(([, y]) => y !== null && Number.isFinite(y));
    if (!all.length) {
      picture.replaceChildren(text("No data yet", { x: WIDTH / 2, y: height / 2, "text-anchor": "middle" }));
      return;
    }
    const [xs, ys] = [all.map(([x]) => x), all.map(([, y]) => y)];
    let [x0, x1, y0, y1] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
    if (x0 === x1) x1 = x0 + 1;
    if (y0 === y1) { y0 -= 0.5; y1 += 0.5; }
    const x = (v) => MARGIN.left + ((v - x0) / (x1 - x0)) * (WIDTH - MARGIN.left - MARGIN.right);
    const y = (v) => height - MARGIN.bottom - ((v - y0) / (y1 - y0)) * (height - MARGIN.top - MARGIN.bottom);
    const children = [];
    for (const value of [y0, (y0 + y1) / 2, y1]) {
      children.push(svg("line", { class: "grid", x1: MARGIN.left, x2: WIDTH - MARGIN.right, y1: y(value), y2: y(value) }));
      children.push(text(formatTick(value, (y1 - y0) / 2), { x: MARGIN.left - 6, y: y(value) + 4, "text-anchor": "end" }));
    }
    for (const [value, anchor] of [[x0, "start"], [x1, "end"]]) {
      children.push(text(formatNumber(value), { x: x(value), y: height - 5, "text-anchor": anchor }));
    }
    const line = curve.filter(([, v]) => v !== null).map(([a, b]) => `${x(a).toFixed(1)},${y(b).toFixed(1)}`).join(" ");
    children.push(svg("polyline", { class: "curve", points: line }));
    for (const [a, b] of points) children.push(svg("circle", { class: "points", cx: x(a), cy: y(b), r: 4 }));
    picture.replaceChildren(...children);
    const ends = `from ${formatNumber(curve[0]?.[1])} to ${formatNumber(curve.at(-1)?.[1])}`;
    picture.setAttribute("aria-label", `${title}: ${ends}, lowest ${formatNumber(y0)}, highest ${formatNumber(y1)}`);
  };
  update([]);
  return { picture, update };
}

export function sparkline(curve) {
  const ys = curve.map(([, y]) => y);
  const [low, high] = [Math.min(...ys), Math.max(...ys)];
  const points = ys.map((y, i) => {
    const [x, height] = [(i / Math.max(1, ys.length - 1)) * 100, ((y - low) / (high - low || 1)) * 26];
    return `${x.toFixed(1)},${(28 - height).toFixed(1)}`;
  });
  const label = ys.length ? `return from ${formatNumber(ys[0])} to ${formatNumber(ys.at(-1))}` : "no episodes yet";
  return svg("svg", { class: "chart", viewBox: "0 0 100 30", preserveAspectRatio: "none", role: "img", "aria-label": label },
    svg("polyline", { class: "curve", points: points.join(" ") }));
}
