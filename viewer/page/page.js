// The page that is open: where its content goes, its keys, and what must end when it is left.

import { el } from "./elements.js";

export const main = document.getElementById("main");
export const breadcrumb = document.getElementById("breadcrumb");
let cleanups = [];
let visit = 0;

export const onLeave = (cleanup) => cleanups.push(cleanup);

export function leavePage() {
  for (const cleanup of cleanups) cleanup();
  cleanups = [];
  visit += 1;
}

// Returns a function that is true while the current page stays open. An answer that arrives after
// its page was left must be dropped.
export function stillOpen() {
  const mine = visit;
  return () => mine === visit;
}

// Calls a function every few seconds while the page is open and visible.
export function repeat(seconds, action) {
  const timer = setInterval(() => { if (!document.hidden) action(); }, seconds * 1000);
  onLeave(() => clearInterval(timer));
}

function listen(target, kind, handle) {
  target.addEventListener(kind, handle);
  onLeave(() => target.removeEventListener(kind, handle));
}

// Whether the focused control does something of its own with a key.
function isTaken({ key, target, ctrlKey, metaKey, altKey }) {
  if (ctrlKey || metaKey || altKey) return true;
  const { tagName, type } = target;
  if (tagName === "INPUT" && type === "range") return /^(Arrow|Home|End|Page)/.test(key);
  if (tagName === "INPUT" && type === "checkbox") return key === " ";
  if (/^(INPUT|SELECT|TEXTAREA)$/.test(tagName)) return true;
  if (/^(BUTTON|A|SUMMARY)$/.test(tagName) || target.getAttribute?.("role") === "button") return key === " " || key === "Enter";
  return false;
}

// Passes keys to a handler, which returns true for those that it takes. The end of a key press is
// passed always, so that a key which is released over a control does not stay pressed.
export function onHeldKeys(handle) {
  const onKey = (event) => { if ((event.type === "keyup" || !isTaken(event)) && handle(event)) event.preventDefault(); };
  for (const kind of ["keydown", "keyup"]) listen(document, kind, onKey);
}

// Gives the page its keys: a list of [key, its name, what it does in words, function]. A function of
// null is for a key that only is explained. The key "?" shows them all. Returns a button that does, too.
export function bindKeys(keys) {
  const close = el("button", { class: "main", onclick: () => help.close() }, "Close");
  const help = el("dialog", { "aria-label": "Keys" }, el("h2", {}, "Keys"),
    el("table", {}, el("tbody", {}, ...[...keys, ["?", "?", "show the keys", null]].map(([, name, text]) => el("tr", {}, el("th", { scope: "row" }, el("kbd", {}, name)), el("td", {}, text))))), close);
  document.body.append(help);
  onLeave(() => help.remove());
  const actions = new Map(keys.filter(([, , , act]) => act).map(([key, , , act]) => [key, act]));
  actions.set("?", () => help.showModal());
  onHeldKeys((event) => {
    const act = event.type === "keydown" && !help.open && actions.get(event.key);
    if (act && !(event.repeat && !event.key.startsWith("Arrow"))) act(event);
    return Boolean(act);
  });
  return el("button", { class: "quiet", onclick: () => help.showModal(), title: "Keys (?)", "aria-label": "Keys" }, "?");
}

// A control that was used with the mouse gives the focus back, so that the page's keys work next.
export function returnFocus() {
  for (const kind of ["click", "change"]) {
    document.addEventListener(kind, ({ target }) => {
      const used = kind === "click" ? "button" : "select, input[type=range]"; // a click opens a select
      if (target.matches?.(used) && !target.matches(":focus-visible") && main.contains(target)) main.focus({ preventScroll: true });
    });
  }
}

// Announces a text to screen readers.
export const announce = (text) => { document.getElementById("announcement").textContent = text; };

export function showError(error) {
  main.replaceChildren(el("div", { class: "card" },
    el("p", { class: "error" }, error.message), el("p", {}, el("a", { href: "#/" }, "All runs"))));
}
