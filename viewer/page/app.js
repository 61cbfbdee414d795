// Entry point: opens the page that the address names, below "#/".

import { listPage } from "./list.js";
import { leavePage, main, returnFocus } from "./page.js";
import { playPage } from "./play.js";
import { sideBySidePage, watchPage } from "./watch.js";

function decode(part) {
  try { return decodeURIComponent(part); } catch { return part; } // a link that was cut short
}

function openPage() {
  leavePage();
  const [page, ...names] = location.hash.replace(/^#\/?/, "").split("/").map(decode);
  if (page === "watch" && names[0]) watchPage(names[0]);
  else if (page === "two" && names[1]) sideBySidePage(names[0], names[1]);
  else if (page === "play" && names[0]) playPage(names[0]);
  else listPage();
  document.title = names[0] ? `${names[0]} – Ludus` : "Ludus";
  window.scrollTo(0, 0);
}

window.addEventListener("hashchange", () => { openPage(); main.focus({ preventScroll: true }); });
document.querySelector(".skip").addEventListener("click", (event) => { event.preventDefault(); main.focus(); });
returnFocus();
openPage();
