// Watching: one run with its learning curve, or two runs side by side.

import { drawBoard, sideName } from "./board.js";
import { chart } from "./charts.js";
import { connect, fetchJson } from "./connection.js";
import { SPEEDS, actionBars, addFact, el, formatNumber, formatPercent, formatValue, newestOnly, paint, paintHeat, screen, seedInput, select } from "./elements.js";
import { announce, breadcrumb, main, onKeys, onLeave, repeat } from "./page.js";

const HISTORY = 2000; // values over time that are kept
const GAME_OVER_MILLISECONDS = 1500; // between two games of runs side by side

export const gameOf = (name) => name.split("/")[0];

// Creates the player of one run, with its controls.
//   twin: with a name, the session is not shared with other pages of the run
//   onCommand: is called with each command of this player but the choice of saliency and layer
//   onReady: is called once the agent is loaded; onFrame: with each frame's head
function createPlayer(name, { twin = "", onCommand = null, onReady = null, onFrame = null } = {}) {
  const view = screen(name);
  const board = el("div", {});
  const caption = el("figcaption", {}, "Connecting…");
  const bars = actionBars();
  const factList = el("dl", { class: "facts" });
  const facts = Object.fromEntries(["step", "reward", "return", "value", "seed", "weights at step", "frames per second"].map((fact) => [fact, addFact(factList, fact)]));
  const values = chart("Value over time", { height: 120 });
  const maps = el("canvas", { role: "img", "aria-label": "feature maps" });
  const mapsBox = el("div", { class: "maps", hidden: true }, el("h3", {}, "Feature maps"), maps);
  const moves = el("div", { class: "scroll" });
  let history = [];
  let names = [];
  let current = { paused: false };

  const connection = connect(`/watch?run=${encodeURIComponent(name)}&twin=${encodeURIComponent(twin)}`, receive, (text) => { caption.textContent = text; });
  const send = (command, value) => { connection.send(command, value); onCommand?.(command, value); };
  const togglePause = () => send(current.paused ? "play" : "pause");
  const pause = el("button", { class: "main", onclick: togglePause }, "Pause");
  const seed = seedInput();
  const restart = () => send("seed", seed.value());
  seed.input.addEventListener("change", restart);
  const [speedLabel, speed] = select("Speed", SPEEDS, (value) => send("speed", Number(value)), 1);
  const [saliencyLabel, saliency] = select("Saliency", [["", "none"]], (value) => connection.send("saliency", value));
  const [layerLabel, layer] = select("Feature maps", [["", "none"]], (value) => connection.send("layer", value));
  const controls = el("div", { class: "row", role: "group", "aria-label": "Playback" }, pause,
    el("button", { onclick: () => send("step") }, "Step"), speedLabel,
    seed.label, el("button", { onclick: restart }, "Restart"), saliencyLabel, layerLabel);

  function describe(head) {
    names = head.actions;
    bars.setNames(names);
    for (const [box, label, options] of [[saliency, saliencyLabel, head.saliencies], [layer, layerLabel, head.layers]]) {
      box.replaceChildren(el("option", { value: "" }, "none"), ...options.map((option) => el("option", { value: option }, option)));
      label.hidden = !options.length;
    }
    saliency.value = head.saliency;
    layer.value = head.layer;
    view.box.hidden = head.board;
    board.hidden = !head.board;
    history = head.history.map(([step, value]) => [step, value]);
  }

  function updateControls(head) {
    const text = head.paused ? "Play" : "Pause";
    if (pause.textContent !== text) pause.textContent = text;
    for (const [box, value] of [[speed, head.speed], [saliency, head.saliency], [layer, head.layer], [seed.input, head.seed]]) {
      if (document.activeElement !== box) box.value = String(value);
    }
  }

  function updateFacts(head) {
    facts.step(formatNumber(head.step));
    facts.reward(formatNumber(head.reward));
    facts.return(formatNumber(head.return ?? head.result));
    facts.value(formatNumber(head.value));
    facts.seed(String(head.seed));
    facts["weights at step"](formatNumber(head.weights));
    facts["frames per second"](formatNumber(head.fps));
  }

  function receive(head, pictures) {
    if (head.kind === "error") {
      caption.replaceChildren(el("span", { class: "error" }, head.text));
      announce(head.text);
      connection.end();
      return;
    }
    current = head;
    updateControls(head);
    if (head.kind === "hello") { describe(head); onReady?.(); return; }
    onFrame?.(head);
    if (history.length && head.step < history.at(-1)[0]) history = [];
    history.push([head.step, head.value ?? null]);
    if (history.length > HISTORY) history = history.slice(-HISTORY / 2);
    updateFacts(head);
    draw(head, pictures);
  }

  const draw = newestOnly(async (head, pictures) => {
    if (head.kind === "board") showBoard(head); else await showFrame(head, pictures);
    values.update(history);
  });

  async function showFrame(head, pictures) {
    await paint(view.picture, pictures.picture);
    view.heat.hidden = !pictures.heat;
    if (pictures.heat) await paintHeat(view.heat, pictures.heat);
    mapsBox.hidden = !pictures.maps;
    if (pictures.maps) { await paint(maps, pictures.maps); maps.setAttribute("aria-label", `feature maps of layer ${head.layer}`); }
    bars.update(head.bars, Array.isArray(head.action) ? -1 : head.action, head.bars ? head.bars_are : "");
    const action = names[head.action]?.toLowerCase() ?? [head.action ?? []].flat().map(formatValue).join(", ");
    const seen = pictures.heat ? ` Red marks what the agent attends to (${head.saliency} saliency).` : "";
    caption.textContent = head.over ? `Game over. Return: ${formatNumber(head.return)}.` : `Action: ${action}.${seen}`;
    view.picture.setAttribute("aria-label", `${name}, step ${head.step}, return ${formatNumber(head.return)}${head.over ? "" : `, action ${action}`}`);
  }

  function showBoard(head) {
    const { position } = head;
    drawBoard(board, position, { game: gameOf(name), advice: head.advice });
    moves.replaceChildren(movesTable(head));
    const side = (player) => sideName(position, gameOf(name), player);
    const result = !head.result ? "A draw" : `${side(head.result > 0 ? 0 : 1)} won`;
    caption.textContent = head.over ? `Game over. ${result}.` : `To move: ${side(position.mover)}. The value is that of ${side(0)}.`;
  }

  const box = el("section", { class: "player", "aria-label": name },
    el("div", { class: "card" }, el("figure", {}, view.box, board, caption), controls),
    el("div", { class: "card" }, factList, bars.caption, bars.list, moves, el("h3", {}, "Value over time"), values.picture, mapsBox));
  return { box, send: connection.send, step: () => send("step"), togglePause };
}

// Creates a table of the agent's best moves in a board position.
export function movesTable({ advice, position }) {
  if (!advice) return el("p", { class: "soft" }, "");
  const number = (key, move) => advice[key]?.[move.action] ?? null;
  const rank = (move) => number("visits", move) ?? number("probability", move) ?? number("q", move) ?? -1e9;
  const best = [...position.moves].sort((a, b) => rank(b) - rank(a)).slice(0, 8);
  const columns = [["visits", "visits", formatNumber], ["probability", "probability", formatPercent], ["q", "value", formatValue]].filter(([key]) => advice[key]);
  return el("table", {}, el("caption", { class: "hidden" }, "The agent's best moves"),
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "move"), ...columns.map(([, title]) => el("th", { class: "n", scope: "col" }, title)))),
    el("tbody", {}, ...best.map((move) => el("tr", {}, el("th", { scope: "row" }, move.label), ...columns.map(([key, , format]) => el("td", { class: "n" }, format(number(key, move))))))));
}

export function watchPage(name) {
  breadcrumb.replaceChildren(name);
  const player = createPlayer(name);
  const details = el("div", {});
  main.replaceChildren(el("h1", {}, name), player.box, details);
  onKeys((event) => {
    if (event.type !== "keydown") return;
    if (event.key === " ") { event.preventDefault(); player.togglePause(); }
    if (event.key === "ArrowRight") { event.preventDefault(); player.step(); }
  });
  showDetails(name, details);
}

// Shows a run's learning curve and configuration.
function showDetails(name, host) {
  const curve = chart("Learning curve, mean return of 20 episodes", { height: 180 });
  const status = el("p", {});
  const tables = el("div", {});
  host.append(el("h2", {}, "Learning curve"),
    el("div", { class: "card" }, status, curve.picture, el("p", { class: "soft small" }, "Line: mean return of the last 20 training episodes. Dots: evaluations.")),
    tables);
  const load = async () => {
    try {
      const run = await fetchJson(`/api/run?name=${encodeURIComponent(name)}`);
      const progress = `${formatNumber(run.env_steps)} of ${formatNumber(run.steps)} steps`;
      const scores = [[run.score, "in evaluation"], [run.mean_return, "in training"]].filter(([score]) => score !== null);
      const returns = scores.map(([score, where]) => `${formatNumber(score)} ${where}`).join(", ");
      status.replaceChildren(el("span", { class: `state ${run.state}` }, run.state), ` ${progress}${returns ? `. Mean return: ${returns}` : ""}.`);
      curve.update(run.curve, run.evaluations);
      if (!tables.childElementCount) {
        tables.append(configTable("Protocol", run.protocol, true), configTable("Agent", run.agent_config, false),
          configTable("Training", run.train_options, false), configTable("Versions", { ...run.versions, commit: run.commit }, false));
      }
    } catch (error) { status.replaceChildren(el("span", { class: "error" }, error.message)); }
  };
  load();
  repeat(3, load);
}

function configTable(title, values, open) {
  const text = (value) => (typeof value === "string" ? value : JSON.stringify(value));
  const rows = Object.entries(values ?? {}).map(([key, value]) => el("tr", {}, el("th", { scope: "row" }, key.replaceAll("_", " ")), el("td", {}, text(value))));
  return el("details", { open }, el("summary", {}, title), el("div", { class: "scroll" }, el("table", {}, el("tbody", {}, ...rows))));
}

export function sideBySidePage(first, second) {
  breadcrumb.replaceChildren(`${first} and ${second}`);
  const players = [];
  const ready = [false, false];
  const over = [false, false];
  let nextGame = null; // a timer, while both games are over
  const startBoth = (seed) => { for (const player of players) player.send("seed", seed); };
  const cancelNextGame = () => { clearTimeout(nextGame); nextGame = null; };
  onLeave(cancelNextGame);
  const options = (me) => ({
    twin: `two ${first} ${second} ${me}`,
    // Every command goes to both. It also cancels the next game: a person may have chosen a seed.
    onCommand: (command, value) => { cancelNextGame(); players[1 - me].send(command, value); },
    onReady: () => {
      if (ready[me]) return;
      ready[me] = true;
      if (ready[1 - me]) startBoth(0);
    },
    onFrame: (head) => {
      over[me] = head.over;
      if (!over[0] || !over[1] || head.paused) cancelNextGame();
      else if (nextGame === null) nextGame = setTimeout(() => startBoth(head.seed + 1), GAME_OVER_MILLISECONDS);
    },
  });
  players.push(createPlayer(first, options(0)), createPlayer(second, options(1)));
  main.replaceChildren(el("h1", {}, "Two runs on the same seed"),
    el("p", { class: "soft" }, "Pause, step, speed and seed control both runs. The next game starts when both are over."),
    el("div", { class: "pair" }, ...[first, second].map((name, i) => el("div", {}, el("h2", {}, name), players[i].box))));
}
