// Playing: a board game against an agent, or any other env beside it.

import { drawBoard, evaluationBar, moveList, movesTable, sideName } from "./board.js";
import { connect, fetchJson } from "./connection.js";
import { SPEEDS, el, formatNumber, gameOf, newestOnly, paint, screen, seedInput, select } from "./elements.js";
import { bindKeys, breadcrumb, main, onHeldKeys, onLeave, showError, stillOpen } from "./page.js";

const MAX_SIMULATIONS = 2000;

export async function playPage(name) {
  breadcrumb.replaceChildren(name);
  const isOpen = stillOpen();
  try {
    const run = await fetchJson("api/run", { name });
    if (!isOpen()) return;
    if (run.board) playBoard(name); else playEnv(name);
  } catch (error) { if (isOpen()) showError(error); }
}

function playBoard(name) {
  const board = el("div", { id: "board", class: "fill" });
  const evaluation = evaluationBar();
  const caption = el("figcaption", { role: "status" }, "Connecting…");
  const otherMoves = el("div", { class: "row" }); // moves without a cell, or which of several is meant
  const advice = el("div", {});
  const text = el("pre", {});
  const positions = new Map(); // of this game, by their number of moves
  const played = moveList((step) => lookAt(step));
  let picked = null; // the cell of the piece that is to be moved
  let head = null;
  let shown = null; // the number of moves after which the board is looked at; null for now
  const { send, end } = connect("play", { run: name }, receive, (state) => { caption.textContent = state; });
  const undo = el("button", { onclick: () => send("undo") }, "Undo");
  const hint = el("button", { onclick: () => send("hint") }, "Hint");
  const show = el("button", { "aria-pressed": "false", onclick: () => send("show", !head?.show) }, "Show evaluation");
  const legal = el("button", { "aria-pressed": "false", onclick: toggleLegal }, "Show legal moves");
  const [sideLabel, side] = select("You play", [[0, "first"], [1, "second"]], (value) => send("side", Number(value)), 0);
  const simulations = simulationsInput((count) => send("simulations", count));

  function toggleLegal() {
    legal.setAttribute("aria-pressed", String(board.classList.toggle("hints")));
  }

  function receive(message) {
    if (message.kind === "error") {
      caption.replaceChildren(el("span", { class: "error" }, message.text));
      end();
      return;
    }
    head = message;
    picked = shown = null;
    for (const step of [...positions.keys()]) if (step > head.step) positions.delete(step);
    positions.set(head.step, head.position);
    update();
  }

  // Looks at an earlier position of the game, as far as this page has seen it.
  function lookAt(step) {
    if (!positions.has(step)) return;
    shown = step === head.step ? null : step;
    picked = null;
    update();
  }

  function update() {
    const isNow = shown === null;
    const position = isNow ? head.position : positions.get(shown);
    const myTurn = isNow && !head.over && position.mover === head.side;
    const focused = document.activeElement?.dataset?.cell;
    const onPick = (cell) => { picked = cell; update(); };
    drawBoard(board, position, { game: head.game, advice: isNow ? head.advice : null, picked, onMove: myTurn ? play : null, onPick });
    if (focused) board.querySelector(`[data-cell="${focused}"]`)?.focus();
    evaluation.box.hidden = !head.show;
    evaluation.update(isNow ? head : { position, value: null }, head.game);
    caption.textContent = isNow ? statusText(head, myTurn) : `After ${shown} of ${head.step} moves. Choose the last move to go on.`;
    const withoutCells = myTurn ? position.moves.filter((move) => !position.cells.length || !move.cells.length) : [];
    otherMoves.replaceChildren(...withoutCells.map((move) => el("button", { onclick: () => send("move", move.action) }, move.label)));
    const first = sideName(position, head.game, 0);
    advice.replaceChildren(...(isNow && head.advice ? [el("p", {}, `Value for ${first}: ${formatNumber(head.value)}`), movesTable(head)] : []));
    played.update(head.moves, shown ?? head.step);
    show.setAttribute("aria-pressed", String(head.show));
    show.textContent = head.show ? "Hide evaluation" : "Show evaluation";
    undo.disabled = head.step === 0;
    hint.disabled = !myTurn;
    side.value = String(head.side);
    simulations.update(head.simulations);
    text.textContent = position.text;
  }

  function play(actions) {
    picked = null;
    if (actions.length === 1) { send("move", actions[0]); return; }
    const labels = new Map(head.position.moves.map((move) => [move.action, move.label]));
    otherMoves.replaceChildren(el("span", {}, "Choose a move:"), ...actions.map((action) => el("button", { onclick: () => send("move", action) }, labels.get(action))));
    otherMoves.querySelector("button").focus();
  }

  const newGame = el("button", { class: "main", onclick: () => send("new") }, "New game");
  const keys = bindKeys([
    ["ArrowLeft", "←", "one move back, to look", () => lookAt((shown ?? head?.step) - 1)],
    ["ArrowRight", "→", "one move on", () => lookAt((shown ?? head?.step) + 1)],
    ["u", "U", "take back your last move", () => send("undo")],
    ["h", "H", "hint: what the agent would play", () => send("hint")],
    ["e", "E", "show or hide the evaluation", () => send("show", !head?.show)],
    ["l", "L", "show or hide the legal moves", toggleLegal],
    ["Tab", "Tab, Enter", "choose a square and play there", null],
  ]);
  main.replaceChildren(el("h1", { class: "hidden" }, `Play ${gameOf(name)} against ${name}`),
    el("section", { class: "player", "aria-label": "Game" },
      el("div", { class: "card column" }, el("figure", { class: "stage" }, el("div", { class: "view" }, evaluation.box, board), caption), otherMoves),
      el("div", { class: "card panel" },
        el("div", { class: "row", role: "group", "aria-label": "Game" }, newGame, undo, hint, show, legal, keys),
        el("div", { class: "row" }, sideLabel, simulations.label),
        played.box, advice, el("details", {}, el("summary", {}, "Board as text"), text))));
}

function statusText(head, myTurn) {
  if (!head.over) {
    if (!myTurn) return "The agent is thinking.";
    return `Your move. You play ${sideName(head.position, head.game, head.side)}. ${head.position.note}`.trim();
  }
  const result = head.side === 0 ? head.result : -head.result;
  return result > 0 ? "You won." : result < 0 ? "You lost." : "A draw.";
}

// Creates a slider for the number of simulations, in powers of two.
function simulationsInput(onChange) {
  const amount = el("output", {});
  const slider = el("input", { type: "range", min: 0, max: 11, step: 1, "aria-label": "simulations per move of the agent, in powers of two" });
  const label = el("label", { hidden: true }, "Simulations", slider, amount);
  const count = () => Math.min(MAX_SIMULATIONS, 2 ** Number(slider.value));
  slider.addEventListener("input", () => { amount.textContent = String(count()); });
  slider.addEventListener("change", () => onChange(count()));
  const update = (value) => {
    label.hidden = value === null;
    if (value === null || document.activeElement === slider) return;
    slider.value = String(Math.round(Math.log2(value)));
    amount.textContent = String(value);
  };
  return { label, update };
}

const KEYS = { ArrowUp: "UP", ArrowDown: "DOWN", ArrowLeft: "LEFT", ArrowRight: "RIGHT", w: "UP", s: "DOWN", a: "LEFT", d: "RIGHT", " ": "FIRE" };
const PARTS = ["UP", "DOWN", "RIGHT", "LEFT", "FIRE"]; // in the order of Atari's names, as in UPRIGHTFIRE

// Returns the action for the pressed keys: the one with all of them in its name, else with all but
// one, else with any of them, else the one that does nothing.
function actionOf(pressed, names) {
  const upper = names.map((name) => name.toUpperCase());
  const held = PARTS.filter((part) => pressed.has(part));
  const allButOne = held.map((dropped) => held.filter((part) => part !== dropped));
  for (const parts of [held, ...allButOne, ...held.map((part) => [part])]) {
    const action = parts.length ? upper.indexOf(parts.join("")) : -1;
    if (action >= 0) return action;
  }
  return Math.max(0, upper.indexOf("NOOP"));
}

function playEnv(name) {
  const [person, agent] = [screen("you"), screen("the agent")];
  const [personReturn, agentReturn] = [el("strong", {}, "0"), el("strong", {}, "0")];
  const caption = el("p", { role: "status" }, "Connecting…");
  const pressed = new Set();
  let names = [];
  let current = { paused: true };
  const { send, end } = connect("play", { run: name }, receive, (state) => { caption.textContent = state; });
  const pause = el("button", { class: "main", onclick: () => { send(current.paused ? "play" : "pause"); main.focus({ preventScroll: true }); } }, "Play");
  const seed = seedInput();
  const [speedLabel, speed] = select("Speed", SPEEDS.slice(0, 5), (value) => send("speed", Number(value)), 1);
  const restart = el("button", { onclick: () => { send("seed", seed.value()); main.focus({ preventScroll: true }); } }, "Restart");
  const pad = el("div", { class: "row", role: "group", "aria-label": "Actions" });
  const sendKeys = () => send("press", actionOf(pressed, names));

  function describe(head) {
    names = head.actions;
    pad.replaceChildren(...names.map((action, i) => el("button", { onpointerdown: () => send("press", i), onpointerup: sendKeys, onpointerleave: sendKeys }, action.toLowerCase())));
    current = { ...current, ...head };
    if (!names.length) {
      caption.textContent = "A person cannot play this env, because its actions are not discrete.";
      send("pause");
      return;
    }
    if (!head.step) send("pause");
    caption.textContent = "Press Play. Move with the arrow keys or WASD, fire with space, or press a digit for the action of that number. The agent plays the same seed beside you.";
  }

  function receive(head, pictures) {
    if (head.kind === "error") {
      caption.replaceChildren(el("span", { class: "error" }, head.text));
      end();
      return;
    }
    if (head.kind === "hello") { describe(head); return; }
    current = head;
    pause.textContent = head.paused ? "Play" : "Pause";
    if (document.activeElement !== seed.input) seed.input.value = String(head.seed);
    if (document.activeElement !== speed) speed.value = String(head.speed);
    personReturn.textContent = formatNumber(head.person.return);
    agentReturn.textContent = formatNumber(head.return);
    if (head.person.over) caption.textContent = `Game over. Your return: ${formatNumber(head.person.return)}. The agent's: ${formatNumber(head.return)}.`;
    draw(head, pictures);
  }

  const draw = newestOnly(async (head, pictures) => {
    await Promise.all([paint(person.picture, pictures.person), paint(agent.picture, pictures.picture)]);
    person.picture.setAttribute("aria-label", `your game, step ${head.person.step}, return ${formatNumber(head.person.return)}`);
    agent.picture.setAttribute("aria-label", `the agent's game, return ${formatNumber(head.return)}`);
  });

  onHeldKeys((event) => {
    if (/^\d$/.test(event.key) && Number(event.key) < names.length) { // for actions without names
      if (event.type === "keyup") sendKeys(); else if (!event.repeat) send("press", Number(event.key));
      return true;
    }
    const part = KEYS[event.key] ?? KEYS[event.key.toLowerCase()];
    if (!part || (event.type === "keyup" && !pressed.has(part))) return false;
    if (event.type === "keydown") pressed.add(part); else pressed.delete(part);
    if (!event.repeat) sendKeys();
    return true;
  });
  const keys = bindKeys([
    ["p", "P", "pause or play", () => send(current.paused ? "play" : "pause")],
    ["r", "R", "restart the game", () => send("seed", seed.value())],
    ["ArrowUp", "arrows or WASD", "move", null],
    [" ", "Space", "fire", null],
    ["0", "0 to 9", "the action of that number", null],
  ]);
  const releaseAll = () => { pressed.clear(); sendKeys(); };
  window.addEventListener("blur", releaseAll);
  onLeave(() => window.removeEventListener("blur", releaseAll));
  main.replaceChildren(el("h1", { class: "hidden" }, `Play ${gameOf(name)}`), caption,
    el("div", { class: "pair with-pad" },
      el("div", { class: "card column" }, el("h2", {}, "You: ", personReturn), el("div", { class: "stage" }, el("div", { class: "view" }, person.box))),
      el("div", { class: "card column" }, el("h2", {}, "The agent: ", agentReturn), el("div", { class: "stage" }, el("div", { class: "view" }, agent.box)))),
    el("div", { class: "row" }, pause, speedLabel, seed.label, restart, keys), pad);
}
