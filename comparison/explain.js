// The map of features and the details of a state, on the page of `ludus explain`.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const sheets = [...document.querySelectorAll("img[data-sheet]")];
  const map = document.querySelector("canvas.map");
  const slider = document.getElementById("number");
  const VIRIDIS = ["#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725"];
  const MARGIN = 14, RADIUS = 3.2, REACH = 24; // pixels of the page
  let points = Object.values(data.maps)[0];
  let kept = 0, shown = -1; // the state that was clicked on, and the one that is shown

  function element(name, text, parent) {
    const made = document.createElement(name);
    made.textContent = text;
    if (parent) parent.append(made);
    return made;
  }

  function colour(value) {
    const [low, high] = data.range;
    const share = Math.min(1, Math.max(0, (value - low) / (high - low || 1)));
    const at = share * (VIRIDIS.length - 1), left = Math.min(Math.floor(at), VIRIDIS.length - 2);
    const part = (text, i) => parseInt(text.slice(1 + 2 * i, 3 + 2 * i), 16);
    const mixed = [0, 1, 2].map((i) => Math.round(
      part(VIRIDIS[left], i) * (1 - at + left) + part(VIRIDIS[left + 1], i) * (at - left)));
    return `rgb(${mixed.join(",")})`;
  }
  const colours = data.value.map(colour);

  function frame(canvas, state) {
    canvas.width = data.width;
    canvas.height = data.height;
    const within = state % data.per_sheet;
    const left = (within % data.columns) * data.width;
    const top = Math.floor(within / data.columns) * data.height;
    canvas.getContext("2d").drawImage(sheets[Math.floor(state / data.per_sheet)],
      left, top, data.width, data.height, 0, 0, data.width, data.height);
  }

  const where = (state) => `game ${data.game[state]}, step ${data.step[state]}`;

  // buttons with the frames of states; a text below each
  function tiles(list, states, texts) {
    list.replaceChildren(...states.map((state, i) => {
      const item = document.createElement("li"), button = element("button", "", item);
      button.type = "button";
      frame(button.appendChild(document.createElement("canvas")), state);
      element("span", texts[i], button);
      button.setAttribute("aria-label", `show the state of ${where(state)}: ${texts[i]}`);
      button.addEventListener("click", () => keep(state));
      return item;
    }));
  }

  function bars(state) {
    const parent = document.getElementById("bars"), scores = data.actions[state];
    const numbers = scores.map(([, score]) => score);
    const low = data.are_values ? Math.min(...numbers) : 0;
    const high = data.are_values ? Math.max(...numbers) : 1;
    parent.replaceChildren();
    for (const [name, score] of scores) {
      element(name === data.chosen[state] ? "b" : "span", data.names[name], parent);
      const share = (score - low) / Math.max(high - low, 1e-9);
      element("i", "", parent).style.width = `${data.are_values ? 8 + 92 * share : 100 * share}%`;
      element("span", data.are_values ? String(score) : `${Math.round(100 * score)}%`, parent);
    }
  }

  function show(state) {
    if (state === shown) return;
    shown = state;
    frame(document.getElementById("frame"), state);
    document.getElementById("where").textContent = where(state);
    document.getElementById("value").textContent = String(data.value[state] ?? "-");
    document.getElementById("chosen").textContent = data.names[data.chosen[state]];
    bars(state);
    const near = data.near[state];
    tiles(document.getElementById("near"), near.map(([other]) => other),
      near.map(([other, cosine]) => `${cosine.toFixed(3)}, ${where(other)}`));
    draw();
  }

  function keep(state) {
    kept = state;
    slider.value = String(state);
    show(state);
  }

  function place(state) {
    const [x, y] = points[state];
    return [MARGIN + x * (map.clientWidth - 2 * MARGIN),
      map.clientHeight - MARGIN - y * (map.clientHeight - 2 * MARGIN)];
  }

  function draw() {
    const ratio = window.devicePixelRatio || 1, pen = map.getContext("2d");
    map.width = Math.round(map.clientWidth * ratio);
    map.height = Math.round(map.clientHeight * ratio);
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    const ink = getComputedStyle(document.body).color;
    const dot = (state, radius, fill, line) => {
      pen.beginPath();
      pen.arc(...place(state), radius, 0, 2 * Math.PI);
      pen.fillStyle = fill;
      pen.fill();
      if (line) {
        pen.strokeStyle = ink;
        pen.lineWidth = line;
        pen.stroke();
      }
    };
    pen.globalAlpha = 0.85;
    for (let state = 0; state < points.length; state++) dot(state, RADIUS, colours[state], 0.4);
    pen.globalAlpha = 1;
    if (shown < 0) return;
    for (const [other] of data.near[shown]) dot(other, RADIUS + 1.5, colours[other], 1.2);
    dot(shown, RADIUS + 4, colours[shown], 2.5);
  }

  // the state nearest to the pointer, or -1
  function nearest(event) {
    const box = map.getBoundingClientRect();
    let best = -1, least = REACH ** 2;
    for (let state = 0; state < points.length; state++) {
      const [x, y] = place(state);
      const distance = (x - event.clientX + box.left) ** 2 + (y - event.clientY + box.top) ** 2;
      if (distance < least) [best, least] = [state, distance];
    }
    return best;
  }

  map.addEventListener("pointermove", (event) => {
    const state = event.pointerType === "mouse" ? nearest(event) : -1;
    if (state >= 0) show(state);
  });
  map.addEventListener("pointerleave", () => show(kept));
  map.addEventListener("click", (event) => {
    const state = nearest(event);
    if (state >= 0) keep(state);
  });
  slider.addEventListener("input", () => keep(Number(slider.value)));
  for (const choice of document.querySelectorAll("input[name=map]")) {
    choice.addEventListener("change", () => {
      points = data.maps[choice.value];
      draw();
    });
  }
  window.addEventListener("resize", draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);

  window.addEventListener("load", () => { // when the sheets of frames are there
    data.units.forEach(([states, outputs], i) => tiles(
      document.getElementById(`unit-${i}`), states,
      states.map((state, j) => `${outputs[j]}`)));
    // first the state of the highest value
    keep(data.value.reduce((best, value, i) => (value > data.value[best] ? i : best), 0));
  });
})();
