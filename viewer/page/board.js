// A board position as SVG, from the data that envs/board/positions/position.py describes.

import { el, formatNumber, formatPercent, formatValue, svg } from "./elements.js";

const BOARD_COLOURS = {
  wood: { light: "#dec58f", dark: "#cbae72", line: "#6b5430" },
  chess: { light: "#eed9b6", dark: "#b58863", line: "#8a6544" },
  columns: { light: "#2b6cb0", dark: "#2b6cb0", line: "#1e4e80" },
  plain: { light: "#e9ecef", dark: "#d5dade", line: "#7d8790" },
};
const PIECE_COLOURS = {
  wood: ["#1d1d22", "#f7f6f1"], chess: ["#fbfaf6", "#26242a"],
  columns: ["#d7263d", "#f6c945"], plain: ["#0072b2", "#d55e00"],
};
const SIDE_NAMES = {
  wood: ["black", "white"], chess: ["white", "black"], columns: ["red", "yellow"], plain: ["blue", "orange"],
};

export function sideName(position, game, player) {
  if (game?.startsWith("tic_tac_toe")) return ["X", "O"][player];
  return SIDE_NAMES[position.style][player] ?? "neither";
}

// Draws a position into `host`.
//   advice: the agent's estimates to draw
//   occlusion: what each piece is worth to the network, see viewer/occluded_board.py
//   onMove: is called with the actions of the clicked cells, several if they share their cells;
//     without it, the board cannot be clicked
//   picked: the cell of the piece that is to be moved; onPick: is called with another
export function drawBoard(host, position, { game = "", advice = null, occlusion = null, onMove = null, picked = null, onPick = null } = {}) {
  if (!position.cells.length) {
    const text = document.createElement("pre");
    text.textContent = position.text;
    host.replaceChildren(text);
    return;
  }
  const colours = BOARD_COLOURS[position.style];
  const board = svg("svg", {
    class: "board", viewBox: `-0.1 -0.1 ${position.width + 0.2} ${position.height + 0.2}`,
    role: onMove ? "group" : "img", "aria-label": `Board of ${game}. ${position.note}`,
  });
  board.append(svg("rect", { x: -0.1, y: -0.1, width: position.width + 0.2, height: position.height + 0.2, rx: 0.15, fill: colours.light }));
  const groups = position.cells.map((cell) => svg("g"));
  position.cells.forEach((cell, at) => { groups[at].append(cellShape(cell, position, colours)); board.append(groups[at]); });
  for (const at of position.last) if (isSquare(position, at)) {
    const { x, y } = position.cells[at];
    board.append(svg("rect", { x: x - 0.5, y: y - 0.5, width: 1, height: 1, class: "last" }));
  }
  for (const line of position.lines) {
    const [a, b] = [position.cells[line.start], position.cells[line.end]];
    const colour = line.player < 0 ? colours.line : PIECE_COLOURS[position.style][line.player];
    board.append(svg("line", { x1: a.x, y1: a.y, x2: b.x, y2: b.y, stroke: colour, "stroke-width": line.player < 0 ? 0.035 : 0.09 }));
  }
  const on = new Map();
  for (const piece of position.pieces) { on.set(piece.cell, piece); board.append(pieceShape(piece, position, game)); }
  for (const at of position.last) if (!isSquare(position, at)) {
    const { x, y } = position.cells[at];
    board.append(svg("circle", { cx: x, cy: y, r: 0.1, fill: "#e69f00", stroke: "#000", "stroke-width": 0.02 }));
  }
  if (onMove) makeClickable(board, position, game, on, { onMove, picked, onPick });
  if (occlusion) drawOcclusion(board, position, occlusion);
  if (advice) drawAdvice(board, position, advice);
  host.replaceChildren(board);
}

// Whether a cell is a square that can be coloured as a whole.
const isSquare = (position, at) => position.cells[at].shape === "square" && position.style !== "columns";

function cellShape(cell, position, colours) {
  if (cell.shape === "point") return svg("circle", { cx: cell.x, cy: cell.y, r: 0.02, fill: colours.line });
  if (cell.shape === "hex") return svg("polygon", { points: hexagon(cell), fill: cell.dark ? colours.dark : colours.light, stroke: colours.line, "stroke-width": 0.03 });
  const square = svg("rect", { x: cell.x - 0.5, y: cell.y - 0.5, width: 1, height: 1, fill: cell.dark ? colours.dark : colours.light, stroke: colours.line, "stroke-width": position.style === "columns" ? 0 : 0.02 });
  if (position.style !== "columns") return square;
  return svg("g", {}, square, svg("circle", { cx: cell.x, cy: cell.y, r: 0.41, fill: "#123a63" }));
}

function hexagon({ x, y }) {
  const r = 1 / Math.sqrt(3);
  return [...Array(6).keys()].map((k) => {
    const angle = Math.PI / 6 + (k * Math.PI) / 3;
    return `${x + r * Math.cos(angle)},${y + r * Math.sin(angle)}`;
  }).join(" ");
}

function pieceShape(piece, position, game) {
  const { x, y } = position.cells[piece.cell];
  const colour = piece.player < 0 ? "#777" : PIECE_COLOURS[position.style][piece.player];
  const other = piece.player < 0 ? "#eee" : PIECE_COLOURS[position.style][1 - piece.player];
  if (game.startsWith("tic_tac_toe") && !piece.glyph) {
    const stroke = { stroke: colour, "stroke-width": 0.13, "stroke-linecap": "round", fill: "none" };
    if (piece.player === 1) return svg("circle", { cx: x, cy: y, r: 0.29, ...stroke });
    const d = 0.27;
    return svg("path", { d: `M${x - d} ${y - d}L${x + d} ${y + d}M${x + d} ${y - d}L${x - d} ${y + d}`, ...stroke });
  }
  const text = (size, fill, edge) => {
    const made = svg("text", { x, y: y + 0.02, "font-size": size, fill, "text-anchor": "middle", "dominant-baseline": "central", "font-family": "DejaVu Sans, Segoe UI Symbol, Noto Sans Symbols2, sans-serif", "pointer-events": "none" });
    if (edge) { made.setAttribute("stroke", edge); made.setAttribute("stroke-width", 0.025); }
    made.textContent = piece.glyph;
    return made;
  };
  if (/[\u265a-\u265f]/.test(piece.glyph)) return text(0.8, colour, other);
  if (piece.player < 0) return piece.glyph ? text(0.45, "#222") : svg("rect", { x: x - 0.3, y: y - 0.3, width: 0.6, height: 0.6, rx: 0.08, fill: colour });
  const stone = svg("circle", { cx: x, cy: y, r: position.style === "columns" ? 0.41 : 0.38, fill: colour, stroke: "#0008", "stroke-width": 0.025 });
  return piece.glyph ? svg("g", {}, stone, text(0.42, other)) : stone;
}

// Creates the bar beside a board: the share of the first player rises from the bottom.
export function evaluationBar() {
  const share = svg("rect", { x: 0, width: 1, y: 0.5, height: 0.5 });
  const rest = svg("rect", { x: 0, width: 1, y: 0, height: 1 });
  const middle = svg("line", { x1: 0, x2: 1, y1: 0.5, y2: 0.5, class: "middle" });
  const picture = svg("svg", { viewBox: "0 0 1 1", preserveAspectRatio: "none", role: "img", "aria-label": "evaluation" }, rest, share, middle);
  const box = document.createElement("div");
  box.className = "evaluation";
  box.hidden = true;
  box.append(picture);
  const update = ({ position, value, over, result }, game) => {
    const known = over ? result : value;
    box.classList.toggle("unknown", known === null || known === undefined);
    const height = (1 + Math.max(-1, Math.min(1, known ?? 0))) / 2;
    const colours = PIECE_COLOURS[position.style];
    rest.setAttribute("fill", colours[1]);
    share.setAttribute("fill", colours[0]);
    share.setAttribute("y", 1 - height);
    share.setAttribute("height", height);
    const text = `value for ${sideName(position, game, 0)}: ${formatValue(known ?? null)}`;
    picture.setAttribute("aria-label", text);
    box.title = text;
  };
  return { box, update };
}

// Creates a table of the agent's best moves in a board position.
export function movesTable({ advice, position }) {
  if (!advice) return el("p", { class: "soft" }, "");
  const number = (key, move) => advice[key]?.[move.action] ?? null;
  const rank = (move) => number("visits", move) ?? number("probability", move) ?? number("q", move) ?? -1e9;
  const best = [...position.moves].sort((a, b) => rank(b) - rank(a)).slice(0, 8);
  const columns = MOVE_COLUMNS.filter(([key]) => advice[key]);
  return el("div", {},
    el("table", {}, el("caption", { class: "hidden" }, "The agent's best moves"),
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "move"), ...columns.map(([, title]) => el("th", { class: "n", scope: "col" }, title)))),
      el("tbody", {}, ...best.map((move) => el("tr", {}, el("th", { scope: "row" }, move.label), ...columns.map(([key, , format]) => el("td", { class: "n" }, format(number(key, move)))))))),
    el("p", { class: "soft small" }, columns.map(([, , , words]) => words).join(" ")));
}

const MOVE_COLUMNS = [
  ["visits", "visits", formatNumber, "Visits: how often the search tried the move; the agent plays the move that it prefers after the search."],
  ["probability", "policy", formatPercent, "Policy: how likely the move is to the network alone, before any search."],
  ["q", "value", formatValue, "Value: the result that the agent expects for the player to move, from −1 (a loss) to 1 (a win)."],
];

// Creates the list of a game's moves; `onPick` is called with the number of moves after which to look.
export function moveList(onPick) {
  const list = el("ol", { class: "played" });
  const box = el("div", { hidden: true }, el("h2", {}, "Moves"), list);
  let [shown, at] = ["", -1];
  const update = (moves, step) => {
    box.hidden = !moves.length;
    const key = moves.map(([, name]) => name).join(" ");
    if (key === shown && at === step) return;
    [shown, at] = [key, step];
    list.replaceChildren(...moves.map(([side, name], i) => el("li", { class: `side-${side}` },
      el("button", { onclick: () => onPick(i + 1), "aria-current": i + 1 === step ? "true" : null }, `${i + 1}. ${name}`))));
    const now = list.querySelector("[aria-current]");
    if (now) list.scrollTop = now.offsetTop - list.offsetTop - list.clientHeight / 2;
  };
  return { box, update };
}

// Draws the visits of the search, or the probabilities of the policy: a disc on the target of each
// move, with an arrow from its start.
// A ring around each piece, the more opaque the more the policy changes without it.
function drawOcclusion(board, position, occlusion) {
  for (const { cell, policy, share } of occlusion) {
    if (!share) continue;
    const { x, y, label } = position.cells[cell];
    const ring = svg("circle", { cx: x, cy: y, r: 0.44, class: "occluded", opacity: share });
    const title = svg("title");
    title.textContent = `${label}: ${formatValue(policy)}`;
    ring.append(title);
    board.append(ring);
  }
}

function drawAdvice(board, position, advice) {
  const weights = advice.visits ?? advice.probability;
  if (!weights) return;
  const total = Object.values(weights).reduce((sum, w) => sum + (w ?? 0), 0) || 1;
  const best = Math.max(...Object.values(weights).map((w) => w ?? 0), 1e-9);
  for (const move of position.moves) {
    const weight = weights[move.action] ?? 0;
    if (weight / total < 0.01 || !move.cells.length) continue;
    const to = position.cells[move.cells.at(-1)];
    if (move.cells.length > 1) {
      const from = position.cells[move.cells[0]];
      board.append(svg("line", { x1: from.x, y1: from.y, x2: to.x, y2: to.y, stroke: "#0072b2", "stroke-width": 0.05 + (0.12 * weight) / best, opacity: 0.25 + (0.6 * weight) / best, "stroke-linecap": "round", "pointer-events": "none" }));
    }
    if (move.cells.length === 1 || weight === best) {
      const radius = 0.2 + (0.14 * weight) / best; // the text of two digits fits in the disc
      const label = svg("text", { x: to.x, y: to.y, "font-size": 0.7 * radius, class: "visit-text", "pointer-events": "none" });
      label.textContent = advice.visits ? Math.round(weight) : `${Math.round((100 * weight) / total)}%`;
      board.append(svg("circle", { cx: to.x, cy: to.y, r: radius, class: "visit", "pointer-events": "none" }), label);
    }
  }
}

// Makes cells buttons. Where a move would end is marked while it is pointed at, once its piece is
// picked, and everywhere on a board of class "hints".
function makeClickable(board, position, game, on, { onMove, picked, onPick }) {
  const targets = new Map(); // cell -> what a click on it does
  const add = (cell, action, words, end = cell) => {
    if (!targets.has(cell)) targets.set(cell, { actions: [], pick: false, words, end });
    if (action !== null) targets.get(cell).actions.push(action);
  };
  for (const move of position.moves) {
    if (move.area.length) for (const cell of move.area) add(cell, move.action, "play here", move.cells.at(-1));
    else if (move.cells.length > 1) {
      const [from, to] = [move.cells[0], move.cells.at(-1)];
      if (picked === from) add(to, move.action, `move here from ${position.cells[from].label}`);
      add(from, null, "choose this piece");
      targets.get(from).pick = true;
    }
  }
  for (const [at, target] of targets) {
    const cell = position.cells[at];
    const piece = on.get(at);
    const there = piece ? `, ${piece.player < 0 ? "" : sideName(position, game, piece.player)} ${piece.glyph}` : "";
    const spot = svg("g", { role: "button", tabindex: 0, "aria-label": `${cell.label}${there}: ${target.words}`, "data-cell": at });
    if (picked === at) spot.classList.add("picked");
    spot.append(
      svg("rect", { x: cell.x - 0.5, y: cell.y - 0.5, width: 1, height: 1, fill: "transparent" }),
      svg("rect", { x: cell.x - 0.45, y: cell.y - 0.45, width: 0.9, height: 0.9, rx: 0.08, class: "mark" }),
    );
    if (target.actions.length) {
      const { x, y } = position.cells[target.end ?? at];
      spot.append(svg("circle", { cx: x, cy: y, r: on.has(target.end) ? 0.44 : 0.15, class: `legal${on.has(target.end) ? " capture" : ""}${picked === null ? "" : " shown"}` }));
    }
    const act = () => (target.actions.length ? onMove(target.actions) : onPick(picked === at ? null : at));
    spot.addEventListener("click", act);
    spot.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); event.stopPropagation(); act(); }
    });
    board.append(spot);
  }
}
