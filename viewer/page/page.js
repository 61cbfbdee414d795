// The page that is open: where its content goes, and what must end when it is left.

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

// Passes the keys that no control takes to a handler. The end of a key press is passed always, so
// that a key which is released over a control does not stay pressed.
export function onKeys(handle) {
  const taken = (event) => /^(INPUT|SELECT|TEXTAREA|BUTTON|A|SUMMARY)$/.test(event.target.tagName)
    || event.target.getAttribute?.("role") === "button" || event.ctrlKey || event.metaKey || event.altKey;
  const onKey = (event) => { if (event.type === "keyup" || !taken(event)) handle(event); };
  for (const kind of ["keydown", "keyup"]) {
    document.addEventListener(kind, onKey);
    onLeave(() => document.removeEventListener(kind, onKey));
  }
}

// Announces a text to screen readers.
export const announce = (text) => { document.getElementById("announcement").textContent = text; };

export function showError(error) {
  main.replaceChildren(el("div", { class: "card" },
    el("p", { class: "error" }, error.message), el("p", {}, el("a", { href: "#/" }, "All runs"))));
}
