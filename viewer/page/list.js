// The list of runs.

import { sparkline } from "./charts.js";
import { address, fetchJson } from "./connection.js";
import { el, formatNumber, lastStep, link, stepsOf } from "./elements.js";
import { breadcrumb, main, repeat, showError, stillOpen } from "./page.js";

export function listPage() {
  breadcrumb.replaceChildren();
  const list = el("div", {});
  const filter = el("input", { type: "search", id: "filter", placeholder: "env, agent or state", oninput: () => load() });
  const sideBySide = el("button", { class: "main", disabled: true, onclick: () => { location.hash = link("two", ...selected); } }, "Watch side by side");
  const count = el("p", { class: "soft small" });
  const isOpen = stillOpen();
  let selected = []; // at most two names
  let answer = { runs: [], found: 0, total: 0 };

  const select = (name, on) => {
    selected = on ? [...selected, name].slice(-2) : selected.filter((other) => other !== name);
    sideBySide.disabled = selected.length !== 2;
    update();
  };

  const update = () => {
    const focused = document.activeElement?.dataset?.key;
    const groups = Map.groupBy(answer.runs, (run) => run.env ?? "?");
    list.replaceChildren(...[...groups].map(([env, runs]) => el("section", { "aria-label": env },
      el("h2", {}, env, el("span", { class: "soft small" }, ` ${runs.length === 1 ? "1 run" : `${runs.length} runs`}`)),
      el("ul", { class: "runs" }, ...runs.map((run) => runItem(run, selected.includes(run.name), select))))));
    if (focused) list.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
    const { runs: { length: shown }, found, total } = answer;
    const matching = found < total ? `${formatNumber(found)} of ${formatNumber(total)} runs` : `${formatNumber(total)} runs`;
    const limit = shown < found ? `; the ${shown} that were written last are shown` : "";
    count.textContent = shown < total ? matching + limit : "";
  };

  const load = async () => {
    try {
      const wanted = filter.value;
      const received = await fetchJson("api/runs", { filter: wanted });
      if (!isOpen() || wanted !== filter.value) return; // the page was left, or another filter is set
      answer = received;
      if (!answer.total) { main.replaceChildren(el("h1", {}, "Runs"), noRuns(answer.root)); return; }
      if (!list.isConnected) {
        main.replaceChildren(el("h1", {}, "Runs"),
          el("div", { class: "row" }, el("label", { for: "filter" }, "Filter"), filter, sideBySide), count, list);
      }
      update();
    } catch (error) { if (isOpen()) showError(error); }
  };
  load();
  repeat(3, load);
}

function noRuns(root) {
  return el("div", { class: "card notice" },
    el("p", {}, "There are no runs under ", el("code", {}, root), " yet."),
    el("p", {}, "Train an agent. Its run appears here during training:"),
    el("pre", {}, el("code", {}, "ludus train dqn CartPole-v1\nludus train ppo_small PongNoFrameskip-v4\nludus train alphazero tic_tac_toe --steps 30000")));
}

function runItem(run, isSelected, select) {
  const key = (kind) => `${kind} ${run.name}`; // keeps the focus when the list is updated
  const box = el("input", {
    type: "checkbox", "data-key": key("select"), "aria-label": `select ${run.name} to watch side by side`,
    onchange: (event) => select(run.name, event.target.checked),
  });
  box.checked = isSelected;
  const evaluated = run.score !== null;
  const score = run.score ?? run.mean_return;
  const actions = run.broken
    ? el("p", { class: "error small" }, run.broken)
    : el("div", { class: "row" },
      el("a", { href: link("watch", run.name), "data-key": key("watch") }, "Watch"),
      el("a", { href: link("play", run.name), "data-key": key("play") }, "Play"),
      el("label", {}, box, "select"));
  const picture = run.thumbnail
    ? el("img", { src: address("thumbnail", { run: run.name }), alt: "", loading: "lazy", width: 64, height: 64 })
    : el("div", {});
  return el("li", { class: "card run", "data-run": run.name }, picture,
    el("div", {},
      el("h3", {}, `${run.agent ?? "?"} on ${run.env ?? "?"}`, " ", el("span", { class: `state ${run.state}` }, run.state)),
      el("div", { class: "soft small where" }, run.name),
      run.distinction ? el("div", { class: "small where" }, run.distinction) : ""),
    sparkline(run.curve),
    el("div", { class: "small" },
      el("div", { title: evaluated ? "mean return of the last evaluation" : "mean return of the last 100 training games" },
        el("strong", {}, formatNumber(score)), score === null ? "" : evaluated ? " in evaluation" : " in training, 100 games"),
      el("progress", { max: Math.max(1, lastStep(run)), value: run.env_steps, "aria-label": stepsOf(run) }),
      el("div", { class: "soft" }, stepsOf(run))),
    actions);
}
