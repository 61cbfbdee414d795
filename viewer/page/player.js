// The player of one run: its picture, its controls, and what the agent thinks.

import { drawBoard, evaluationBar, moveList, movesTable, sideName } from "./board.js";
import { chart } from "./charts.js";
import { connect, download } from "./connection.js";
import { SPEEDS, actionBars, addFact, el, formatNumber, formatValue, gameOf, newestOnly, paint, paintHeat, screen, seedInput, select } from "./elements.js";
import { featuresMap } from "./features.js";
import { announce, onLeave } from "./page.js";

const PANELS = [["reconstruction", "Reconstruction"], ["similar", "Similar states"], ["features", "Features map"], ["filters", "First layer"], ["units", "Units"], ["occlusion", "Occlusion"]]; // what a frame can include, by its command
const HISTORY = 2000; // values over time that are kept
const RECORDED = 3000; // frames that can be looked at again
const THINKING_MILLISECONDS = 1500; // without a frame, until the page says that the agent thinks

// Creates the player of one run.
//   twin: with a name, the session is not shared with other pages of the run
//   onCommand: is called with each command that a run beside this one follows, too
//   onReady: is called once the agent is loaded; onFrame: with each frame's head
// Returns its stage (the picture), its controls and its panel, to be placed on a page.
export function createPlayer(name, { twin = "", onCommand = null, onReady = null, onFrame = null } = {}) {
  const view = screen(name);
  const board = el("div", { class: "fill" });
  const evaluation = evaluationBar();
  const caption = el("figcaption", {}, "Connecting…");
  const bars = actionBars();
  const factList = el("dl", { class: "facts" });
  const facts = Object.fromEntries(["step", "reward", "return", "value", "seed", "weights at step", "frames/s"].map((fact) => [fact, addFact(factList, fact)]));
  const values = chart("Value over time", { height: 120 });
  const maps = el("canvas", { role: "img", "aria-label": "feature maps" });
  const mapsBox = el("div", { class: "maps", hidden: true }, el("h2", {}, "Feature maps"), maps);
  const similar = el("canvas", { role: "img" });
  const similarNames = el("ol", { class: "similar small" });
  const similarBox = el("div", { class: "alike", hidden: true }, el("h2", {}, "Similar states"), similar, similarNames,
    el("p", { class: "soft small" }, "The most similar of the last states seen here since this was chosen, by the cosine of the network's features; not from within 20 steps of this one."));
  const replayed = el("canvas", { role: "img" });
  const replayedNames = el("ol", { class: "similar small" });
  const replayedBox = el("div", { class: "alike", hidden: true }, el("h2", {}, "Similar states of the replay"), replayed, replayedNames,
    el("p", { class: "soft small" }, "The most similar of up to 1,000 states of the replay that the training has saved last, evenly spaced over its time, as the network sees them."));
  const filters = el("canvas", { role: "img", "aria-label": "weights of the first layer" });
  const filtersBox = el("div", { class: "weights", hidden: true }, el("h2", {}, "First layer"), filters,
    el("p", { class: "soft small" }, "Its weights, blue below 0 and red above. Of a convolution each filter is a row of its slices, one for each plane or frame, scaled by its largest weight; of a linear layer each column is a unit, each row an input."));
  const units = el("canvas", { role: "img" });
  const unitNames = el("ol", { class: "units small" });
  const unitsBox = el("div", { class: "alike", hidden: true }, el("h2", {}, "Units"), units, unitNames,
    el("p", { class: "soft small" }, "The states seen here that excite the four features most that vary most, one row a feature, from the left; 20 steps apart at least."));
  const occlusionNote = el("p", { class: "soft small", hidden: true });
  const decoded = el("canvas", { role: "img" });
  const decodedRows = el("tbody", {});
  const decodedTable = el("div", { class: "scroll" }, el("table", {}, el("thead", {}, el("tr", {},
    ...["number", "seen", "decoded"].map((text) => el("th", { scope: "col", class: "n" }, text)))), decodedRows));
  const decodedNames = el("ol", { class: "columns small" }, ...["as seen", "decoded", "difference"].map((text) => el("li", {}, text)));
  const decodedError = el("p", { class: "soft small" });
  const decodedBox = el("div", { class: "decoded", hidden: true }, el("h2", {}, "Reconstruction"), decoded, decodedNames, decodedTable, decodedError);
  const isShown = (panel) => (head) => head.panels_shown.includes(panel);
  const sections = [[mapsBox, (head) => head.layer], [similarBox, isShown("similar")], [replayedBox, isShown("similar")],
    [filtersBox, isShown("filters")], [unitsBox, isShown("units")], [decodedBox, isShown("reconstruction")]];
  const features = featuresMap((state) => connection.send("state", state), () => connection.send("features", true), (umap) => connection.send("umap", umap));
  const moves = el("div", {});
  const played = moveList((step) => {
    const [first, last] = gameAround(shown ?? recorded.length - 1);
    const at = recorded.findIndex(({ head }, i) => i >= first && i <= last && head.step === step);
    if (at >= 0) lookAt(at); // else this page has not seen it
  });
  let history = [];
  let names = [];
  let current = { paused: false };
  let recorded = []; // of the last games, {head, pictures}
  let shown = null; // the index of the recorded frame that is looked at; null for the newest
  let thinking = null; // a timer

  const connection = connect("watch", { run: name, twin }, receive, (text) => { clearTimeout(thinking); caption.textContent = text; });
  const send = (command, value) => { connection.send(command, value); onCommand?.(command, value); };
  const goLive = () => { if (shown !== null) { shown = null; showNewest(); } };
  const togglePause = () => { if (current.paused) goLive(); send(current.paused ? "play" : "pause"); };
  const step = () => {
    if (shown !== null && shown < recorded.length - 1) lookAt(shown + 1);
    else { goLive(); send("step"); }
  };
  const stepBack = () => lookAt((shown ?? recorded.length - 1) - 1);
  const pause = el("button", { class: "main", onclick: togglePause }, "Pause");
  const seed = seedInput();
  const restart = () => { goLive(); send("seed", seed.value()); };
  seed.input.addEventListener("change", restart);
  const [speedLabel, speed] = select("Speed", SPEEDS, (value) => send("speed", Number(value)), 1);
  const [saliencyLabel, saliency] = select("Saliency", [["", "none"]], (value) => connection.send("saliency", value));
  const [layerLabel, layer] = select("Feature maps", [["", "none"]], (value) => connection.send("layer", value));
  const panels = PANELS.map(([panel, text]) => ({ panel, ...choice(text, (value) => connection.send(panel, value)) }));
  const saveClip = el("button", { onclick: saveGame, title: "Save the game that is shown as an MP4" }, "Save clip");
  const scrubber = el("input", { type: "range", min: 0, max: 0, value: 0, "aria-label": "frame of the last games", oninput: () => lookAt(Number(scrubber.value)) });
  const where = el("output", { class: "small soft" });
  const stage = weightsSlider((steps) => { goLive(); connection.send("weights", steps); });
  const controls = el("div", { class: "row", role: "group", "aria-label": "Playback" }, pause,
    el("button", { onclick: step }, "Step"), speedLabel, seed.label, el("button", { onclick: restart }, "Restart"));

  // Shows a frame again that was received before.
  function lookAt(index) {
    if (!recorded.length) return;
    const last = recorded.length - 1;
    shown = Math.min(Math.max(index, 0), last);
    if (!current.paused) send("pause");
    show(recorded[shown]);
  }

  function showNewest() {
    if (recorded.length) show(recorded.at(-1));
  }

  function show({ head, pictures }) {
    updateFacts(head);
    updateScrubber();
    draw(head, pictures);
  }

  function updateScrubber() {
    const last = recorded.length - 1;
    scrubber.max = last;
    scrubber.value = shown ?? last;
    const { head } = recorded[shown ?? last];
    where.textContent = shown === null ? "" : `step ${formatNumber(head.step)}, seed ${head.seed}`;
    scrubber.setAttribute("aria-valuetext", `step ${head.step} of the game of seed ${head.seed}`);
  }

  // Returns the indices of the first and the last recorded frame of the game that a frame is of.
  function gameAround(at) {
    const isNext = (i) => recorded[i].head.seed !== recorded[i - 1].head.seed || recorded[i].head.step < recorded[i - 1].head.step;
    let [first, last] = [at, at];
    while (first > 0 && !isNext(first)) first -= 1;
    while (last + 1 < recorded.length && !isNext(last + 1)) last += 1;
    return [first, last];
  }

  // Saves the frames of the game that is shown.
  async function saveGame() {
    if (!recorded.length) return;
    const [first, last] = gameAround(shown ?? recorded.length - 1);
    const { frame, seed: game } = recorded[first].head;
    saveClip.disabled = true;
    saveClip.textContent = "Saving…";
    try {
      await download("clip", { run: name, twin, first: frame, last: recorded[last].head.frame }, `${name.replaceAll("/", "-")}-seed-${game}.mp4`);
    } catch (error) { caption.replaceChildren(el("span", { class: "error" }, error.message)); }
    saveClip.disabled = false;
    saveClip.textContent = "Save clip";
  }

  function describe(head) {
    names = head.actions;
    bars.setNames(names);
    for (const [box, label, options] of [[saliency, saliencyLabel, head.saliencies], [layer, layerLabel, head.layers]]) {
      box.replaceChildren(el("option", { value: "" }, "none"), ...options.map((option) => el("option", { value: option }, option)));
      label.hidden = !options.length;
    }
    for (const { panel, label } of panels) label.hidden = !head.panels.includes(panel);
    saliency.value = head.saliency;
    layer.value = head.layer;
    view.box.hidden = head.board;
    board.hidden = evaluation.box.hidden = !head.board;
    history = head.history.map(([at, value]) => [at, value]);
  }

  function updateControls(head) {
    const text = head.paused ? "Play" : "Pause";
    if (pause.textContent !== text) pause.textContent = text;
    for (const [box, value] of [[speed, head.speed], [saliency, head.saliency], [layer, head.layer], [seed.input, head.seed]]) {
      if (document.activeElement !== box) box.value = String(value);
    }
    for (const { panel, update } of panels) update(head.panels_shown.includes(panel), head.kind === "hello");
    features.control(head);
    stage.update(head);
  }

  function updateFacts(head) {
    facts.step(formatNumber(head.step));
    facts.reward(formatNumber(head.reward));
    facts.return(formatNumber(head.return ?? head.result));
    facts.value(formatNumber(head.value));
    facts.seed(String(head.seed));
    facts["weights at step"](formatNumber(head.weights));
    facts["frames/s"](formatNumber(head.fps));
  }

  function receive(head, pictures) {
    clearTimeout(thinking);
    if (head.kind === "error") {
      caption.replaceChildren(el("span", { class: "error" }, head.text));
      announce(head.text);
      connection.end();
      return;
    }
    if (head.kind === "map") { features.update(head); return; }
    if (head.kind === "state") { features.show(head, pictures.picture); return; }
    current = head;
    updateControls(head);
    if (!head.paused && !head.over) thinking = setTimeout(() => { if (shown === null) caption.textContent = "The agent is thinking…"; }, THINKING_MILLISECONDS);
    if (head.kind === "hello") { describe(head); onReady?.(); return; }
    onFrame?.(head);
    if (history.length && head.step < history.at(-1)[0]) history = [];
    history.push([head.step, head.value ?? null]);
    if (history.length > HISTORY) history = history.slice(-HISTORY / 2);
    if (recorded.length && head.frame <= recorded.at(-1).head.frame) { recorded = []; shown = null; } // another session
    recorded.push({ head, pictures });
    if (recorded.length > RECORDED) {
      const dropped = RECORDED / 10;
      recorded = recorded.slice(dropped);
      if (shown !== null) shown = Math.max(0, shown - dropped);
    }
    if (shown === null) showNewest(); else updateScrubber();
  }
  onLeave(() => clearTimeout(thinking));

  const draw = newestOnly(async (head, pictures) => {
    if (head.kind === "board") showBoard(head); else await showFrame(head, pictures);
    values.update(history);
  });

  async function showFrame(head, pictures) {
    await paint(view.picture, pictures.picture);
    view.heat.hidden = !pictures.heat;
    if (pictures.heat) await paintHeat(view.heat, pictures.heat, view.picture);
    for (const [box, chosen] of sections) {
      box.classList.toggle("past", head.over); // what the last state had, so that the panel keeps its height
      if (head.over) box.hidden ||= !chosen(head);
    }
    if (!head.over) await showSections(head, pictures);
    features.mark(head);
    bars.update(head.bars, Array.isArray(head.action) ? -1 : head.action, head.bars ? head.bars_are : "");
    const action = names[head.action]?.toLowerCase() ?? [head.action ?? []].flat().map(formatValue).join(", ");
    const seen = pictures.heat ? ` Red marks where ${head.saliency} saliency is high.` : "";
    caption.textContent = head.over ? `Game over. Return: ${formatNumber(head.return)}.` : `Action: ${action}.${seen}`;
    view.picture.setAttribute("aria-label", `${name}, step ${head.step}, return ${formatNumber(head.return)}${head.over ? "" : `, action ${action}`}`);
  }

  // Shows what was chosen of a state in which the agent acts.
  async function showSections(head, pictures) {
    mapsBox.hidden = !pictures.maps;
    if (pictures.maps) { await paint(maps, pictures.maps); maps.setAttribute("aria-label", `feature maps of layer ${head.layer}`); }
    await showReconstruction(head, pictures);
    await showSimilar(head, pictures);
    await showReplayed(head, pictures);
    await showUnits(head, pictures);
    filtersBox.hidden = !pictures.filters;
    if (!filtersBox.hidden) await paint(filters, pictures.filters);
  }

  // Shows the newest frame that the network sees beside the decoder's: pictures, or numbers.
  async function showReconstruction(head, pictures) {
    const found = head.reconstruction ?? null;
    decodedBox.hidden = !found;
    if (!found) return;
    decoded.hidden = decodedNames.hidden = !pictures.reconstruction;
    decodedTable.hidden = !found.numbers.length;
    const error = found.error === null ? "–" : found.error.toPrecision(3);
    if (pictures.reconstruction) await paint(decoded, pictures.reconstruction);
    decoded.setAttribute("aria-label", `the frame as the network sees it, as its decoder shows it, and the difference; mean squared error ${error}`);
    decodedRows.replaceChildren(...found.numbers.map((pair, i) => el("tr", {}, el("th", { scope: "row", class: "n" }, String(i)),
      ...pair.map((number) => el("td", { class: "n" }, number === null ? "–" : number.toPrecision(3))))));
    decodedError.textContent = `What a decoder shows of the network's features. Mean squared error, on the scale on which the network sees frames: ${error}.`;
  }

  async function showSimilar(head, pictures) {
    similarBox.hidden = !pictures.similar;
    if (!pictures.similar) return;
    await paint(similar, pictures.similar);
    const texts = head.similar_states.map((state) => `${state.similarity.toFixed(3)}, seed ${state.seed}, step ${formatNumber(state.step)}`);
    similarNames.replaceChildren(...texts.map((text) => el("li", {}, text)));
    similar.setAttribute("aria-label", `similar states, from the left: ${texts.join("; ")}`);
  }

  async function showReplayed(head, pictures) {
    const found = head.replayed_states ?? null;
    replayedBox.hidden = !found;
    if (!found) return;
    replayed.hidden = !pictures.replayed;
    if (pictures.replayed) await paint(replayed, pictures.replayed);
    const texts = found.map(({ similarity, age, numbers }) => `${similarity.toFixed(3)}, ${formatNumber(age)} steps before the last${numbers.length ? `: ${numbers.map(formatValue).join(", ")}` : ""}`);
    replayedNames.replaceChildren(...texts.map((text) => el("li", {}, text)));
    replayed.setAttribute("aria-label", `similar states of the replay, from the left: ${texts.join("; ")}`);
  }

  async function showUnits(head, pictures) {
    unitsBox.hidden = !pictures.units;
    if (unitsBox.hidden) return;
    await paint(units, pictures.units);
    const texts = head.units.map(({ unit, present, states }) => `feature ${unit}, now ${formatValue(present)}: ${states.map(({ output }) => formatValue(output)).join(", ")}`);
    unitNames.replaceChildren(...texts.map((text) => el("li", {}, text)));
    units.setAttribute("aria-label", `states that excite features, by row: ${texts.join("; ")}`);
  }

  function showBoard(head) {
    const { position } = head;
    const occlusion = head.occlusion ?? null;
    drawBoard(board, position, { game: gameOf(name), advice: head.advice, occlusion });
    occlusionNote.hidden = !occlusion;
    if (occlusion) occlusionNote.textContent = occlusionText(occlusion, position);
    evaluation.update(head, gameOf(name));
    moves.replaceChildren(movesTable(head));
    const [, last] = gameAround(shown ?? recorded.length - 1);
    played.update(recorded[last].head.moves, head.step);
    const side = (player) => sideName(position, gameOf(name), player);
    const result = !head.result ? "A draw" : `${side(head.result > 0 ? 0 : 1)} won`;
    caption.textContent = head.over ? `Game over. ${result}.` : `To move: ${side(position.mover)}. The value is that of ${side(0)}.`;
  }

  return {
    stage: el("figure", { class: "stage" }, el("div", { class: "view" }, evaluation.box, view.box, board), caption,
      el("div", { class: "row scrub" }, scrubber, where)),
    controls,
    panel: el("div", { class: "card panel" }, el("div", { class: "row" }, saliencyLabel, layerLabel, ...panels.map(({ label }) => label), stage.label, saveClip),
      factList, bars.caption, bars.list, occlusionNote, moves, played.box, el("h2", {}, "Value over time"), values.picture, mapsBox, filtersBox, decodedBox, similarBox, replayedBox, unitsBox, features.box),
    send: connection.send, step, stepBack, togglePause, restart, goLive,
  };
}

// Creates a checkbox with a label. Frames that were sent before the server had a choice do not undo
// it; a session that is described again does, since a lost connection may have lost the choice.
function choice(name, onChange) {
  let wanted = null; // a choice that no frame has shown yet
  const box = el("input", { type: "checkbox", onchange: () => { wanted = box.checked; onChange(wanted); } });
  const update = (shown, again) => {
    if (!again && wanted !== null && shown !== wanted) return;
    wanted = null;
    box.checked = shown;
  };
  return { label: el("label", { hidden: true }, box, name), update };
}

// Creates a slider over the stages of the training whose weights are kept; its end is the newest.
function weightsSlider(onChange) {
  const slider = el("input", { type: "range", min: 0, step: 1, "aria-label": "stage of the training" });
  const text = el("output", {});
  const label = el("label", { hidden: true, title: "Watch how the agent played earlier in its training" }, "Weights", slider, text);
  let saved = [];
  const chosen = () => (Number(slider.value) >= saved.length - 1 ? null : saved[Number(slider.value)]);
  const describe = (steps) => { text.textContent = steps === null ? `newest (${formatNumber(saved.at(-1))} steps)` : `${formatNumber(steps)} steps`; };
  slider.addEventListener("input", () => describe(chosen()));
  slider.addEventListener("change", () => onChange(chosen()));
  const update = (head) => {
    label.hidden = head.saved.length < 2;
    if (document.activeElement === slider && slider.matches(":active")) return;
    saved = head.saved;
    slider.max = saved.length - 1;
    slider.value = head.newest ? saved.length - 1 : saved.indexOf(head.weights);
    if (saved.length) describe(head.newest ? null : head.weights);
    slider.setAttribute("aria-valuetext", text.textContent);
  };
  return { label, update };
}

// What a person reads of the occlusion of a board.
function occlusionText(occlusion, position) {
  const most = occlusion.filter((piece) => piece.share).sort((a, b) => b.share - a.share).slice(0, 3);
  const named = most.map(({ cell, policy }) => `${position.cells[cell].label} (${formatValue(policy)})`).join(", ");
  const how = "Occlusion: each piece is removed from what the network sees, without a search; a ring is the more opaque, the more its policy changes (full at 1), or its action values (full at the largest change).";
  return most.length ? `${how} Most: ${named}.` : how;
}
