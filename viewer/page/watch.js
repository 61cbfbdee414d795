// Watching: one run with its learning curve, or two runs side by side.

import { chart } from "./charts.js";
import { fetchJson } from "./connection.js";
import { el, formatNumber, stepsOf } from "./elements.js";
import { bindKeys, breadcrumb, main, onLeave, repeat } from "./page.js";
import { createPlayer } from "./player.js";

const GAME_OVER_MILLISECONDS = 1500; // between two games of runs side by side

const keysOf = ({ togglePause, step, stepBack, restart }) => bindKeys([
  [" ", "Space", "pause or play", togglePause],
  ["ArrowRight", "→", "one step on", step],
  ["ArrowLeft", "←", "one step back, in what was seen", stepBack],
  ["r", "R", "restart the game", restart],
]);

export function watchPage(name) {
  breadcrumb.replaceChildren(name);
  const { stage, controls, panel, ...player } = createPlayer(name);
  controls.append(keysOf(player));
  const details = el("div", {});
  main.replaceChildren(el("h1", { class: "hidden" }, name),
    el("section", { class: "player", "aria-label": name }, el("div", { class: "card column" }, stage, controls), panel), details);
  showDetails(name, details);
}

// Shows a run's learning curve and configuration.
function showDetails(name, host) {
  const curve = chart("Learning curve, mean return of 100 games", { height: 180 });
  const status = el("p", {});
  const legend = el("p", { class: "soft small" });
  const tables = el("div", {});
  host.append(el("h2", {}, "Learning curve"), el("div", { class: "card" }, status, curve.picture, legend), tables);
  const load = async () => {
    try {
      const run = await fetchJson("api/run", { name });
      status.replaceChildren(el("span", { class: `state ${run.state}` }, run.state), ` ${stepsOf(run)}.`);
      legend.textContent = [
        run.mean_return === null ? "" : `Line: mean return of the last 100 training games, now ${formatNumber(run.mean_return)}.`,
        run.score === null ? "" : `Dots: mean return of ${run.games ?? "the"} evaluation games, the last ${formatNumber(run.score)}.`,
      ].join(" ");
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
    onCommand: (command, value) => {
      cancelNextGame();
      if (command !== "pause") players[1 - me].goLive();
      players[1 - me].send(command, value);
    },
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
  const { controls } = players[0]; // for both
  controls.append(keysOf(players[0]));
  const names = [first, second];
  main.replaceChildren(el("h1", { class: "hidden" }, "Two runs on the same seed"),
    el("div", { class: "pair" }, ...players.map(({ stage }, i) => el("section", { class: "card column", "aria-label": names[i] }, el("h2", {}, names[i]), stage))),
    el("div", { class: "card both" }, controls),
    el("div", { class: "pair" }, ...players.map(({ panel }) => panel)));
}
