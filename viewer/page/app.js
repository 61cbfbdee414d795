// The viewer's page: the list of runs, a run at play, two side by side, and playing against one.

import { drawBoard, sideName, svg } from "./board.js";

const main = document.getElementById("main");
const crumbs = document.getElementById("crumbs");
let leave = []; // what ends the page that is shown
let visit = 0; // counts pages that were opened: what arrives for an earlier one is dropped

// -- small helpers ------------------------------------------------------------------------------

// An element; texts are always text, so that no name of a run is ever read as HTML.
function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

const say = (text) => { document.getElementById("said").textContent = text; };
const link = (page, ...names) => `#/${page}/${names.map(encodeURIComponent).join("/")}`;
const short = (value) => {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  return value.toLocaleString("en", { maximumFractionDigits: size >= 1000 ? 0 : size >= 10 ? 1 : 2 });
};

async function ask(path) {
  const answer = await fetch(path);
  const told = await answer.json().catch(() => ({ error: answer.statusText }));
  if (!answer.ok) throw new Error(told.error ?? answer.statusText);
  return told;
}

function every(seconds, work) {
  const timer = setInterval(() => { if (!document.hidden) work(); }, seconds * 1000);
  leave.push(() => clearInterval(timer));
}

// -- charts -------------------------------------------------------------------------------------

function chart(title, { height = 150 } = {}) {
  const width = 520;
  const [left, right, top, bottom] = [52, 10, 8, 22];
  const picture = svg("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title });
  const draw = (curve, points = []) => {
    const all = [...curve, ...points].filter(([, y]) => y !== null && Number.isFinite(y));
    if (!all.length) {
      const none = svg("text", { x: width / 2, y: height / 2, "text-anchor": "middle" });
      none.textContent = "nothing yet";
      picture.replaceChildren(none);
      return;
    }
    const [xs, ys] = [all.map(([x]) => x), all.map(([, y]) => y)];
    let [x0, x1, y0, y1] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
    if (x0 === x1) x1 = x0 + 1;
    if (y0 === y1) { y0 -= 0.5; y1 += 0.5; }
    const x = (v) => left + ((v - x0) / (x1 - x0)) * (width - left - right);
    const y = (v) => height - bottom - ((v - y0) / (y1 - y0)) * (height - top - bottom);
    const children = [];
    for (const value of [y0, (y0 + y1) / 2, y1]) {
      children.push(svg("line", { class: "grid", x1: left, x2: width - right, y1: y(value), y2: y(value) }));
      const label = svg("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" });
      label.textContent = short(value);
      children.push(label);
    }
    for (const [value, anchor] of [[x0, "start"], [x1, "end"]]) {
      const label = svg("text", { x: x(value), y: height - 5, "text-anchor": anchor });
      label.textContent = short(value);
      children.push(label);
    }
    const line = curve.filter(([, v]) => v !== null).map(([a, b]) => `${x(a).toFixed(1)},${y(b).toFixed(1)}`).join(" ");
    children.push(svg("polyline", { class: "curve", points: line }));
    for (const [a, b] of points) children.push(svg("circle", { class: "points", cx: x(a), cy: y(b), r: 4 }));
    picture.replaceChildren(...children);
    picture.setAttribute("aria-label", `${title}: from ${short(curve[0]?.[1])} to ${short(curve.at(-1)?.[1])}, lowest ${short(y0)}, highest ${short(y1)}`);
  };
  draw([]);
  return { picture, draw };
}

function sparkline(curve) {
  const ys = curve.map(([, y]) => y);
  const [low, high] = [Math.min(...ys), Math.max(...ys)];
  const at = curve.map(([, y], i) => `${((i / Math.max(1, curve.length - 1)) * 100).toFixed(1)},${(28 - ((y - low) / (high - low || 1)) * 26).toFixed(1)}`);
  const label = curve.length ? `return from ${short(ys[0])} to ${short(ys.at(-1))}` : "no games yet";
  return svg("svg", { class: "chart", viewBox: "0 0 100 30", preserveAspectRatio: "none", role: "img", "aria-label": label },
    svg("polyline", { class: "curve", points: at.join(" ") }));
}

// -- the list of runs ---------------------------------------------------------------------------

function listPage() {
  crumbs.replaceChildren();
  const list = el("ul", { class: "runs" });
  const filter = el("input", { type: "search", id: "filter", placeholder: "env, agent or state" });
  const both = el("button", { class: "main", disabled: true, onclick: () => { location.hash = link("two", ...chosen); } }, "Watch two side by side");
  const note = el("p", { class: "soft small" });
  let chosen = [];
  let runs = [];
  const choose = (name, on) => {
    chosen = on ? [...chosen, name].slice(-2) : chosen.filter((other) => other !== name);
    both.disabled = chosen.length !== 2;
    show();
  };
  const show = () => {
    const wanted = filter.value.toLowerCase();
    const shown = runs.filter((run) => `${run.name} ${run.state}`.toLowerCase().includes(wanted)).slice(0, 200);
    const focused = document.activeElement?.dataset?.key;
    list.replaceChildren(...shown.map((run) => line(run, chosen.includes(run.name), choose)));
    if (focused) list.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
    note.textContent = shown.length < runs.length ? `${shown.length} of ${runs.length} runs` : "";
  };
  const mine = visit;
  const load = async () => {
    try {
      const told = await ask("/api/runs");
      if (mine !== visit) return;
      runs = told.runs;
      if (!runs.length) { main.replaceChildren(el("h1", {}, "Runs"), empty(told.root)); return; }
      if (!list.isConnected) main.replaceChildren(el("h1", {}, "Runs"), el("div", { class: "row" }, el("label", { for: "filter" }, "Show"), filter, both), note, list);
      show();
    } catch (error) { if (mine === visit) fail(error); }
  };
  filter.addEventListener("input", show);
  load();
  every(3, load);
}

function empty(root) {
  return el("div", { class: "card notice" },
    el("p", {}, "There are no runs under ", el("code", {}, root), " yet."),
    el("p", {}, "Train an agent, and it appears here while it trains:"),
    el("pre", {}, el("code", {}, "ludus train dqn CartPole-v1\nludus train ppo_small PongNoFrameskip-v4\nludus train alphazero tic_tac_toe --steps 30000")));
}

function line(run, isChosen, choose) {
  const key = (what) => `${what} ${run.name}`;
  const box = el("input", { type: "checkbox", "data-key": key("two"), "aria-label": `choose ${run.name} for two side by side`, onchange: (event) => choose(run.name, event.target.checked) });
  box.checked = isChosen;
  const score = run.score ?? run.mean_return;
  const actions = run.broken
    ? el("p", { class: "error small" }, run.broken)
    : el("div", { class: "row" },
      el("a", { href: link("watch", run.name), "data-key": key("watch") }, "Watch"),
      el("a", { href: link("play", run.name), "data-key": key("play") }, "Play"),
      el("label", {}, box, "two"));
  return el("li", { class: "card run", "data-run": run.name },
    el("div", {},
      el("h2", {}, `${run.agent ?? "?"} on ${run.env ?? "?"}`, " ", el("span", { class: `state ${run.state}` }, run.state)),
      el("div", { class: "soft small where" }, run.name)),
    sparkline(run.curve),
    el("div", { class: "small" },
      el("div", {}, el("strong", {}, short(score)), run.score === null && score !== null ? " in training" : score === null ? "" : " evaluated"),
      el("progress", { max: Math.max(1, run.steps), value: run.env_steps, "aria-label": `${short(run.env_steps)} of ${short(run.steps)} steps` }),
      el("div", { class: "soft" }, `${short(run.env_steps)} of ${short(run.steps)}`)),
    actions);
}

// -- a run at play ------------------------------------------------------------------------------

const SPEEDS = [[0.1, "a tenth"], [0.25, "a quarter"], [0.5, "half"], [1, "usual speed"], [2, "twice"], [4, "four times"], [0, "as fast as it can"]];

// A connection that comes back when the server does, and tells what it is sent.
function connect(path, onMessage, onState) {
  let socket;
  let over = false;
  let wait = 500;
  const open = () => {
    socket = new WebSocket(`ws://${location.host}${path}`);
    socket.binaryType = "arraybuffer";
    socket.onopen = () => { wait = 500; onState("connected"); };
    socket.onmessage = (event) => onMessage(...unpack(event.data));
    socket.onclose = () => {
      if (over) return;
      onState("the connection is gone; trying again");
      setTimeout(() => { if (!over) open(); }, wait);
      wait = Math.min(wait * 2, 8000);
    };
  };
  open();
  const end = () => { over = true; socket.close(); };
  leave.push(end);
  return { end, tell: (what, value) => { if (socket.readyState === 1) socket.send(JSON.stringify({ do: what, value })); } };
}

function unpack(data) {
  const length = new DataView(data).getUint32(0);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
  const pictures = {};
  let at = 4 + length;
  for (const [name, size] of Object.entries(head.parts)) {
    pictures[name] = new Blob([new Uint8Array(data, at, size)], { type: "image/png" });
    at += size;
  }
  return [head, pictures];
}

function select(label, options, onChange, value) {
  const made = el("select", { onchange: () => onChange(made.value) }, ...options.map(([v, text]) => el("option", { value: v }, text)));
  if (value !== undefined) made.value = value;
  return [el("label", {}, label, made), made];
}

function fact(list, name) {
  const value = el("dd", {}, "–");
  const box = el("div", {}, el("dt", {}, name), value);
  list.append(box);
  return (text) => { if (value.textContent !== text) value.textContent = text; box.hidden = text === "–"; };
}

async function paint(canvas, blob, { heat = false } = {}) {
  const image = await createImageBitmap(blob);
  if (canvas.width !== image.width || canvas.height !== image.height) {
    canvas.width = image.width;
    canvas.height = image.height;
    if (!heat && canvas.parentElement.className === "screen") canvas.parentElement.style.maxWidth = `${(68 * image.width) / image.height}vh`;
  }
  const pen = canvas.getContext("2d", { willReadFrequently: heat });
  pen.drawImage(image, 0, 0);
  image.close();
  if (!heat) return;
  const data = pen.getImageData(0, 0, canvas.width, canvas.height);
  for (let i = 0; i < data.data.length; i += 4) {
    const weight = data.data[i];
    data.data[i] = 255; data.data[i + 1] = 60; data.data[i + 2] = 30; data.data[i + 3] = (weight * weight) / 255;
  }
  pen.putImageData(data, 0, 0);
}

function screen(name) {
  const picture = el("canvas", { width: 160, height: 210, role: "img", "aria-label": `${name}: no picture yet` });
  const heat = el("canvas", { class: "over", width: 1, height: 1, "aria-hidden": "true" });
  return { picture, heat, box: el("div", { class: "screen" }, picture, heat) };
}

// The bars of one agent's actions: probabilities from 0 to 1, values from the lowest to the highest.
function bars() {
  const list = el("ul", { class: "bars" });
  const caption = el("h3", {}, "Actions");
  let rows = [];
  const start = (names) => {
    rows = names.map((name) => {
      const fill = svg("rect", { class: "fill", x: 0, y: 0, width: 0, height: 1 });
      const track = svg("svg", { class: "track", viewBox: "0 0 100 1", preserveAspectRatio: "none", width: "100%", height: 16, "aria-hidden": "true" }, fill);
      const number = el("span", { class: "number" }, "–");
      return { fill, number, item: el("li", {}, el("span", {}, name.toLowerCase()), track, number) };
    });
    list.replaceChildren(...rows.map((row) => row.item));
  };
  const show = (values, chosen, are) => {
    caption.textContent = are === "values" ? "Value of each action" : are === "probabilities" ? "Probability of each action" : "Actions";
    const known = (values ?? []).filter((value) => value !== null);
    const [low, high] = are === "values" ? [Math.min(...known), Math.max(...known)] : [0, 1];
    rows.forEach((row, i) => {
      const value = values?.[i];
      const share = value === null || value === undefined ? 0 : are === "values" ? 8 + 92 * ((value - low) / (high - low || 1)) : 100 * value;
      row.fill.setAttribute("width", share);
      row.number.textContent = value === null || value === undefined ? "–" : are === "values" ? value.toFixed(2) : `${(100 * value).toFixed(0)}%`;
      row.item.classList.toggle("chosen", i === chosen);
      if (i === chosen) row.item.setAttribute("aria-current", "true"); else row.item.removeAttribute("aria-current");
    });
  };
  return { caption, list, start, show };
}

// One run at play, with its controls; `twin` makes a stage of its own, `board` says what it is.
function stage(name, { twin = "", together = null, onReady = null, onFrame = null } = {}) {
  const shown = screen(name);
  const board = el("div", {});
  const caption = el("figcaption", {}, "connecting");
  const list = bars();
  const facts = el("dl", { class: "facts" });
  const tell = Object.fromEntries(["step", "reward", "return", "value", "game of seed", "weights of step", "pictures a second"].map((n) => [n, fact(facts, n)]));
  const values = chart("Value over time", { height: 120 });
  const maps = el("canvas", { role: "img", "aria-label": "feature maps" });
  const mapsBox = el("div", { class: "maps", hidden: true }, el("h3", {}, "Feature maps"), maps);
  const moves = el("div", { class: "scroll" });
  let history = [];
  let names = [];
  let current = { paused: false, seed: 0 };
  let busy = false;

  const pause = el("button", { class: "main", onclick: () => send(current.paused ? "play" : "pause") }, "Pause");
  const seed = el("input", { type: "number", min: 0, max: 1e9, value: 0, "aria-label": "seed" });
  const [speedLabel, speed] = select("Speed", SPEEDS, (value) => send("speed", Number(value)), 1);
  const [heatLabel, heat] = select("Looks at", [["", "nothing"]], (value) => send("saliency", value));
  const [layerLabel, layer] = select("Feature maps", [["", "none"]], (value) => send("layer", value));
  const go = () => send("seed", Math.max(0, Math.round(Number(seed.value) || 0)));
  seed.addEventListener("change", go);
  const controls = el("div", { class: "row", role: "group", "aria-label": "Playback" }, pause,
    el("button", { onclick: () => send("step") }, "Step"), speedLabel,
    el("label", {}, "Seed", seed), el("button", { onclick: go }, "Start over"), heatLabel, layerLabel);
  const connection = connect(`/watch?run=${encodeURIComponent(name)}&twin=${encodeURIComponent(twin)}`, receive, (text) => { caption.textContent = text; });
  const send = (what, value) => { connection.tell(what, value); together?.(what, value); };

  function reset(head) {
    names = head.actions;
    list.start(names);
    list.caption.hidden = !names.length;
    heat.replaceChildren(el("option", { value: "" }, "nothing"), ...head.saliencies.map((kind) => el("option", { value: kind }, kind)));
    layer.replaceChildren(el("option", { value: "" }, "none"), ...head.layers.map((kind) => el("option", { value: kind }, kind)));
    heatLabel.hidden = !head.saliencies.length;
    layerLabel.hidden = !head.layers.length;
    shown.box.hidden = head.board;
    board.hidden = !head.board;
    history = head.history.map(([step, value]) => [step, value]);
  }

  function receive(head, pictures) {
    if (head.kind === "error") { caption.replaceChildren(el("span", { class: "error" }, head.text)); connection.end(); say(head.text); return; }
    current = head;
    if (pause.textContent !== (head.paused ? "Play" : "Pause")) pause.textContent = head.paused ? "Play" : "Pause";
    for (const [box, value] of [[speed, head.speed], [heat, head.saliency], [layer, head.layer], [seed, head.seed]]) if (document.activeElement !== box) box.value = String(value);
    if (head.kind === "hello") { reset(head); heat.value = head.saliency; layer.value = head.layer; onReady?.(); return; }
    onFrame?.(head);
    if (history.length && head.step < history.at(-1)[0]) history = [];
    history.push([head.step, head.value ?? null]);
    if (history.length > 2000) history = history.slice(-1500);
    tell.step(short(head.step));
    tell.reward(short(head.reward));
    tell.return(short(head.return ?? head.result));
    tell.value(short(head.value));
    tell["game of seed"](String(head.seed));
    tell["weights of step"](short(head.weights));
    tell["pictures a second"](short(head.fps));
    if (busy) return; // the pictures before are still being drawn
    busy = true;
    requestAnimationFrame(async () => {
      try {
        if (head.kind === "board") showBoard(head); else await showFrame(head, pictures);
        values.draw(history);
      } finally { busy = false; }
    });
  }

  async function showFrame(head, pictures) {
    await paint(shown.picture, pictures.picture);
    shown.heat.hidden = !pictures.heat;
    if (pictures.heat) await paint(shown.heat, pictures.heat, { heat: true });
    mapsBox.hidden = !pictures.maps;
    if (pictures.maps) { await paint(maps, pictures.maps); maps.setAttribute("aria-label", `feature maps of layer ${head.layer}`); }
    list.show(head.bars, Array.isArray(head.action) ? -1 : head.action, head.bars ? head.bars_are : "");
    const does = names[head.action] ?? (head.action ?? []).toString();
    caption.textContent = head.over ? `The game is over: return ${short(head.return)}.` : `${does ? `It takes ${does.toLowerCase()}.` : ""} ${head.saliency ? `Red is what it looks at (${head.saliency}).` : ""}`;
    shown.picture.setAttribute("aria-label", `${name}, step ${head.step}, return ${short(head.return)}${does ? `, takes ${does}` : ""}`);
  }

  function showBoard(head) {
    drawBoard(board, head.scene, { game: name, opinion: head.opinion });
    moves.replaceChildren(movesTable(head));
    caption.textContent = head.over ? `The game is over: ${outcome(head, head.scene, name)}.` : `${sideName(head.scene, gameOf(name), head.scene.mover)} moves next; the value is ${sideName(head.scene, gameOf(name), 0)}'s.`;
  }

  const box = el("section", { class: "stage", "aria-label": name },
    el("div", { class: "card" }, el("figure", {}, shown.box, board, caption), controls),
    el("div", { class: "card" }, facts, list.caption, list.list, moves, el("h3", {}, "Value over time"), values.picture, mapsBox));
  return { box, tell: connection.tell, pause, step: () => send("step"), toggle: () => send(current.paused ? "play" : "pause") };
}

const gameOf = (name) => name.split("/")[0];

function outcome(head, scene, name) {
  if (!head.result) return "a draw";
  return `${sideName(scene, gameOf(name), head.result > 0 ? 0 : 1)} won`;
}

function movesTable(head) {
  const opinion = head.opinion;
  if (!opinion) return el("p", { class: "soft" }, "");
  const of = (key, move) => opinion[key]?.[move.action] ?? null;
  const rank = (move) => of("visits", move) ?? of("probability", move) ?? of("q", move) ?? -1e9;
  const sorted = [...head.scene.moves].sort((a, b) => rank(b) - rank(a)).slice(0, 8);
  const columns = [["visits", "visits", short], ["probability", "probability", (v) => (v === null ? "–" : `${(100 * v).toFixed(0)}%`)], ["q", "value", (v) => (v === null ? "–" : v.toFixed(2))]].filter(([key]) => opinion[key]);
  return el("table", {}, el("caption", { class: "hidden" }, "The agent's best moves"),
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "move"), ...columns.map(([, title]) => el("th", { class: "n", scope: "col" }, title)))),
    el("tbody", {}, ...sorted.map((move) => el("tr", {}, el("th", { scope: "row" }, move.label), ...columns.map(([key, , show]) => el("td", { class: "n" }, show(of(key, move))))))));
}

function keys(handle) {
  const onKey = (event) => {
    if (event.type === "keyup") { handle(event); return; } // a key that is let go is let go everywhere
    if (/^(INPUT|SELECT|TEXTAREA|BUTTON|A|SUMMARY)$/.test(event.target.tagName) || event.target.getAttribute?.("role") === "button" || event.ctrlKey || event.metaKey || event.altKey) return;
    handle(event);
  };
  for (const kind of ["keydown", "keyup"]) { document.addEventListener(kind, onKey); leave.push(() => document.removeEventListener(kind, onKey)); }
}

function watchPage(name) {
  crumbs.replaceChildren(name);
  const shown = stage(name);
  const details = el("div", {});
  main.replaceChildren(el("h1", {}, name), shown.box, details);
  keys((event) => {
    if (event.type !== "keydown") return;
    if (event.key === " ") { event.preventDefault(); shown.toggle(); }
    if (event.key === "ArrowRight") { event.preventDefault(); shown.step(); }
  });
  describe(name, details);
}

function describe(name, details) {
  const curve = chart("Learning curve, mean return of 20 games", { height: 180 });
  const status = el("p", {});
  const tables = el("div", {});
  details.append(el("h2", {}, "Learning curve"), el("div", { class: "card" }, status, curve.picture, el("p", { class: "soft small" }, "Line: mean return of the last 20 games of training. Dots: evaluations.")), tables);
  const load = async () => {
    try {
      const told = await ask(`/api/run?name=${encodeURIComponent(name)}`);
      status.replaceChildren(el("span", { class: `state ${told.state}` }, told.state), ` ${short(told.env_steps)} of ${short(told.steps)} steps, score ${short(told.score)} evaluated, ${short(told.mean_return)} in training`);
      curve.draw(told.curve, told.evaluations);
      if (!tables.childElementCount) {
        tables.append(...[["Protocol", told.its_protocol, true], ["Agent", told.its_config, false], ["Training", told.its_train, false], ["Versions", { ...told.its_versions, commit: told.its_commit }, false]].map(([title, values, open]) =>
          el("details", { open }, el("summary", {}, title), el("div", { class: "scroll" }, el("table", {}, el("tbody", {}, ...Object.entries(values ?? {}).map(([key, value]) => el("tr", {}, el("th", { scope: "row" }, key.replaceAll("_", " ")), el("td", {}, typeof value === "string" ? value : JSON.stringify(value))))))))));
      }
    } catch (error) { status.replaceChildren(el("span", { class: "error" }, error.message)); }
  };
  load();
  every(3, load);
}

function twoPage(first, second) {
  crumbs.replaceChildren(`${first} and ${second}`);
  const twin = `two ${first} ${second}`; // both on the same seed, and told the same
  const stages = [];
  const begin = (seed) => { for (const one of stages) one.tell("seed", seed); };
  const ready = [false, false];
  const onReady = (me) => () => {
    if (ready[me]) return;
    ready[me] = true;
    if (ready[1 - me]) begin(0);
  };
  const together = (me) => (what, value) => { if (what !== "saliency" && what !== "layer") stages[1 - me].tell(what, value); };
  const over = [false, false];
  let next = null; // both games are over: a timer to the next one
  const stop = () => { clearTimeout(next); next = null; };
  leave.push(stop);
  const onFrame = (me) => (head) => {
    over[me] = head.over;
    if (!over[0] || !over[1]) stop();
    else if (next === null) next = setTimeout(() => begin(head.seed + 1), 1500);
  };
  const options = (me) => ({ twin: `${twin} ${me}`, together: together(me), onReady: onReady(me), onFrame: onFrame(me) });
  stages.push(stage(first, options(0)), stage(second, options(1)));
  main.replaceChildren(el("h1", {}, "Two runs on the same seed"), el("p", { class: "soft" }, "Pause, step, speed and seed move both; the next game begins when both are over."),
    el("div", { class: "pair" }, ...[first, second].map((name, i) => el("div", {}, el("h2", {}, name), stages[i].box))));
}

// -- playing ------------------------------------------------------------------------------------

async function playPage(name) {
  crumbs.replaceChildren(name);
  const mine = visit;
  try {
    const told = await ask(`/api/run?name=${encodeURIComponent(name)}`);
    if (mine !== visit) return;
    if (told.board) playBoard(name); else playGame(name);
  } catch (error) { if (mine === visit) fail(error); }
}

function playBoard(name) {
  const game = gameOf(name);
  const board = el("div", { id: "board" });
  const caption = el("figcaption", { role: "status" }, "connecting");
  const others = el("div", { class: "row" });
  const opinion = el("div", { class: "scroll" });
  const text = el("pre", {});
  let picked = null;
  let head = null;
  const connection = connect(`/play?run=${encodeURIComponent(name)}`, receive, (word) => { caption.textContent = word; });
  const tell = connection.tell;
  const undo = el("button", { onclick: () => tell("undo") }, "Undo");
  const hint = el("button", { onclick: () => tell("hint") }, "Hint");
  const show = el("button", { "aria-pressed": "false", onclick: () => tell("show", !head?.show) }, "Show what it thinks");
  const [sideLabel, side] = select("You play", [[0, "first"], [1, "second"]], (value) => tell("side", Number(value)), 0);
  const amount = el("output", {});
  const simulations = el("input", { type: "range", min: 0, max: 11, step: 1, "aria-label": "simulations of the agent, powers of two" });
  const simulationsLabel = el("label", { hidden: true }, "Simulations", simulations, amount);
  simulations.addEventListener("input", () => { amount.textContent = String(Math.min(2000, 2 ** Number(simulations.value))); });
  simulations.addEventListener("change", () => tell("simulations", Math.min(2000, 2 ** Number(simulations.value))));

  function receive(next) {
    if (next.kind === "error") { caption.replaceChildren(el("span", { class: "error" }, next.text)); connection.end(); return; }
    head = next;
    picked = null;
    draw();
  }

  function draw() {
    const { scene } = head;
    const mine = !head.over && scene.mover === head.side;
    const focused = document.activeElement?.dataset?.cell;
    drawBoard(board, scene, { game: head.game, opinion: head.opinion, picked, onMove: mine ? move : null, onPick: (cell) => { picked = cell; draw(); } });
    if (focused) board.querySelector(`[data-cell="${focused}"]`)?.focus();
    const own = head.result === null ? 0 : head.side === 0 ? head.result : -head.result;
    const names = [0, 1].map((player) => sideName(scene, head.game, player));
    caption.textContent = head.over ? `${own > 0 ? "You won." : own < 0 ? "You lost." : "A draw."}` : mine ? `Your move: you are ${names[head.side]}. ${scene.note}` : "The agent thinks.";
    const placeless = mine ? scene.moves.filter((m) => !scene.cells.length || !m.cells.length) : [];
    others.replaceChildren(...placeless.map((m) => el("button", { onclick: () => tell("move", m.action) }, m.label)));
    opinion.replaceChildren(...(head.opinion ? [el("p", {}, `Value for ${names[0]}: ${short(head.value)}`), movesTable(head)] : []));
    show.setAttribute("aria-pressed", String(head.show));
    show.textContent = head.show ? "Hide what it thinks" : "Show what it thinks";
    undo.disabled = head.step === 0;
    hint.disabled = !mine;
    side.value = String(head.side);
    simulationsLabel.hidden = head.simulations === null;
    if (head.simulations !== null && document.activeElement !== simulations) { simulations.value = String(Math.round(Math.log2(head.simulations))); amount.textContent = String(head.simulations); }
    text.textContent = scene.text;
  }

  function move(actions) {
    picked = null;
    if (actions.length === 1) { tell("move", actions[0]); return; }
    const labels = new Map(head.scene.moves.map((m) => [m.action, m.label]));
    others.replaceChildren(el("span", {}, "Which of them?"), ...actions.map((action) => el("button", { onclick: () => tell("move", action) }, labels.get(action))));
    others.querySelector("button").focus();
  }

  main.replaceChildren(el("h1", {}, `Play ${game}`), el("p", { class: "soft small" }, `against ${name}`),
    el("section", { class: "stage" },
      el("div", { class: "card" }, el("figure", {}, board, caption), others),
      el("div", { class: "card" },
        el("div", { class: "row", role: "group", "aria-label": "Game" }, el("button", { class: "main", onclick: () => tell("new") }, "New game"), undo, hint, show, sideLabel, simulationsLabel),
        opinion, el("details", {}, el("summary", {}, "The board as text"), text))));
}

const KEYS = { ArrowUp: "UP", ArrowDown: "DOWN", ArrowLeft: "LEFT", ArrowRight: "RIGHT", w: "UP", s: "DOWN", a: "LEFT", d: "RIGHT", " ": "FIRE" };

// The action whose name has all that is pressed in it, as UPRIGHTFIRE has; else as much as there is.
export function actionOf(pressed, names) {
  const upper = names.map((name) => name.toUpperCase());
  const order = ["UP", "DOWN", "RIGHT", "LEFT", "FIRE"];
  const held = order.filter((part) => pressed.has(part));
  for (let drop = 0; drop <= held.length; drop += 1) {
    for (const parts of drop ? held.map((_, i) => held.filter((__, j) => j !== i)) : [held]) {
      const found = upper.indexOf(parts.join(""));
      if (parts.length && found >= 0) return found;
    }
  }
  for (const part of held) if (upper.includes(part)) return upper.indexOf(part);
  return Math.max(0, upper.indexOf("NOOP"));
}

function playGame(name) {
  const [own, agent] = [screen("you"), screen("the agent")];
  const [ownScore, agentScore] = [el("strong", {}, "0"), el("strong", {}, "0")];
  const caption = el("p", { role: "status" }, "connecting");
  const pressed = new Set();
  let names = [];
  let current = { paused: true, seed: 0 };
  let busy = false;
  const connection = connect(`/play?run=${encodeURIComponent(name)}`, receive, (text) => { caption.textContent = text; });
  const tell = connection.tell;
  const pause = el("button", { class: "main", onclick: () => tell(current.paused ? "play" : "pause") }, "Play");
  const seed = el("input", { type: "number", min: 0, value: 0, "aria-label": "seed" });
  const [speedLabel, speed] = select("Speed", SPEEDS.slice(0, 5), (value) => tell("speed", Number(value)), 1);
  const press = () => tell("press", actionOf(pressed, names));
  const pad = el("div", { class: "row", role: "group", "aria-label": "Actions" });

  function receive(head, pictures) {
    if (head.kind === "error") { caption.replaceChildren(el("span", { class: "error" }, head.text)); connection.end(); return; }
    if (head.kind === "hello") {
      names = head.actions;
      pad.replaceChildren(...names.map((action, i) => el("button", { onpointerdown: () => tell("press", i), onpointerup: press, onpointerleave: press }, action.toLowerCase())));
      if (!head.actions.length) { caption.textContent = "A person cannot play this env: its actions are not discrete."; tell("pause"); return; }
      if (!head.step) tell("pause");
      caption.textContent = "Press Play. Arrow keys or WASD move, space fires, digits are the actions by number; the agent plays the same seed beside you.";
      current = { ...current, ...head };
      return;
    }
    current = head;
    pause.textContent = head.paused ? "Play" : "Pause";
    if (document.activeElement !== seed) seed.value = String(head.seed);
    if (document.activeElement !== speed) speed.value = String(head.speed);
    ownScore.textContent = short(head.own.return);
    agentScore.textContent = short(head.return);
    if (head.own.over) caption.textContent = `Your game is over: ${short(head.own.return)}. The agent has ${short(head.return)}.`;
    if (busy) return;
    busy = true;
    requestAnimationFrame(async () => {
      try {
        await Promise.all([paint(own.picture, pictures.own), paint(agent.picture, pictures.picture)]);
        own.picture.setAttribute("aria-label", `your game, step ${head.own.step}, return ${short(head.own.return)}`);
        agent.picture.setAttribute("aria-label", `the agent's game, return ${short(head.return)}`);
      } finally { busy = false; }
    });
  }

  keys((event) => {
    if (/^\d$/.test(event.key) && Number(event.key) < names.length) { // for actions without names
      if (event.type === "keyup") press(); else if (!event.repeat) tell("press", Number(event.key));
      return;
    }
    const part = KEYS[event.key] ?? KEYS[event.key.toLowerCase()];
    if (!part || (event.type === "keyup" && !pressed.has(part))) return;
    event.preventDefault();
    if (event.type === "keydown") pressed.add(part); else pressed.delete(part);
    if (!event.repeat) press();
  });
  const letGo = () => { pressed.clear(); press(); };
  window.addEventListener("blur", letGo);
  leave.push(() => window.removeEventListener("blur", letGo));
  const start = () => { tell("seed", Math.max(0, Math.round(Number(seed.value) || 0))); main.focus(); };
  pause.addEventListener("click", () => main.focus());
  main.replaceChildren(el("h1", {}, `Play ${name.split("/")[0]}`), caption,
    el("div", { class: "row" }, pause, speedLabel, el("label", {}, "Seed", seed), el("button", { onclick: start }, "Start over")),
    el("div", { class: "pair" },
      el("div", { class: "card" }, el("h2", {}, "You: ", ownScore), own.box, pad),
      el("div", { class: "card" }, el("h2", {}, "The agent: ", agentScore), agent.box, el("p", { class: "soft small" }, name))));
}

// -- pages --------------------------------------------------------------------------------------

function fail(error) { main.replaceChildren(el("div", { class: "card" }, el("p", { class: "error" }, error.message), el("p", {}, el("a", { href: "#/" }, "All runs")))); }

function decoded(part) {
  try { return decodeURIComponent(part); } catch { return part; } // a link that somebody has cut short
}

function route() {
  for (const end of leave) end();
  leave = [];
  visit += 1;
  const [page, ...names] = location.hash.replace(/^#\/?/, "").split("/").map(decoded);
  if (page === "watch" && names[0]) watchPage(names[0]);
  else if (page === "two" && names[1]) twoPage(names[0], names[1]);
  else if (page === "play" && names[0]) playPage(names[0]);
  else listPage();
  document.title = names[0] ? `${names[0]} – Ludus` : "Ludus";
  window.scrollTo(0, 0);
}

window.addEventListener("hashchange", () => { route(); main.focus(); });
route();
