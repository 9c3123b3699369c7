"use strict";

// Makes an element: make("p", {class: "a"}, "words", child).
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// How far an arrow key goes: [right, down]; null for any other key.
function arrow(event) {
  if (event.altKey || event.ctrlKey || event.metaKey) return null;
  return {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key] ?? null;
}

const within = (value, low, high) => Math.min(Math.max(value, low), high);

// Brings a child into view by scrolling its parent sideways, and nothing else.
function reveal(child) {
  const strip = child.parentElement;
  strip.scrollLeft = child.offsetLeft - strip.offsetLeft - (strip.clientWidth - child.offsetWidth) / 2;
}

// ------------------------------------------------------------------------------------------
// Charts: the values at the pointer, or where the arrow keys are
// ------------------------------------------------------------------------------------------

function readChart(figure) {
  const readings = JSON.parse(figure.dataset.readings);
  const svg = figure.querySelector("svg");
  const cursor = svg.querySelector(".cursor");
  const output = figure.querySelector("output");
  let at = readings.length - 1;

  function show(i) {
    at = within(i, 0, readings.length - 1);
    const [x, marks, words] = readings[at];
    cursor.setAttribute("visibility", "visible");
    cursor.firstElementChild.setAttribute("transform", `translate(${x} 0)`);
    cursor.querySelectorAll("circle").forEach((dot, k) => {
      dot.setAttribute("visibility", marks[k] === null ? "hidden" : "inherit");
      dot.setAttribute("cx", x);
      dot.setAttribute("cy", marks[k] ?? 0);
    });
    output.textContent = words;
    svg.setAttribute("aria-valuenow", at + 1);
    svg.setAttribute("aria-valuetext", words);
  }

  svg.setAttribute("role", "slider");
  svg.setAttribute("tabindex", "0");
  svg.setAttribute("aria-valuemin", 1);
  svg.setAttribute("aria-valuemax", readings.length);
  svg.setAttribute("aria-valuenow", at + 1);
  svg.setAttribute("aria-valuetext", readings[at][2]);
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    const off = readings.map((reading) => Math.abs(reading[0] - x));
    show(off.indexOf(Math.min(...off)));
  });
  svg.addEventListener("keydown", (event) => {
    const step = arrow(event);
    const far = {Home: 0, End: readings.length - 1, PageUp: at + 10, PageDown: at - 10}[event.key];
    if (!step && far === undefined) return;
    event.preventDefault();
    show(step ? at + step[0] - step[1] : far);
  });
}

// ------------------------------------------------------------------------------------------
// Ranked galleries: one query at a time, and a strip of all
// ------------------------------------------------------------------------------------------

function leafThrough(section) {
  const rows = [...section.querySelectorAll(".row")];
  const strip = section.querySelector(".strip");
  const output = section.querySelector(".leaf output");
  const marks = {hit: "✓", miss: "✗", none: "–"};
  let shown = rows, at = 0;

  const buttons = rows.map((row) => {
    const picture = row.querySelector("img");
    const title = row.querySelector("h3").textContent.trim().replace(/\s+/g, " ");
    const button = make("button", {type: "button", "aria-label": title},
      make("img", {src: picture.src, alt: ""}), make("span", {"aria-hidden": "true"}, marks[row.dataset.outcome]));
    button.addEventListener("click", () => turn(shown.indexOf(row)));
    return button;
  });
  strip.append(...buttons);

  function turn(i) {
    at = within(i, 0, Math.max(shown.length - 1, 0));
    rows.forEach((row, k) => {
      const here = row === shown[at];
      row.hidden = !here;
      buttons[k].hidden = !shown.includes(row);
      buttons[k].tabIndex = here ? 0 : -1;
      if (here) buttons[k].setAttribute("aria-current", "true");
      else buttons[k].removeAttribute("aria-current");
      if (here) reveal(buttons[k]);
    });
    section.querySelector(".nothing").hidden = shown.length > 0;
    output.textContent = shown.length ? `${at + 1} of ${shown.length}` : "0 of 0";
    for (const button of section.querySelectorAll("[data-turn]")) {
      const to = at + Number(button.dataset.turn);
      button.setAttribute("aria-disabled", String(to < 0 || to >= shown.length));
    }
  }

  for (const button of section.querySelectorAll("[data-turn]")) {
    button.addEventListener("click", () => turn(at + Number(button.dataset.turn)));
  }
  for (const choice of section.querySelectorAll("input[name=outcome]")) {
    choice.addEventListener("change", () => {
      shown = rows.filter((row) => !choice.value || row.dataset.outcome === choice.value);
      turn(0);
    });
  }
  section.addEventListener("keydown", (event) => {
    if (event.target.type === "radio") return; // There the arrows choose.
    const step = arrow(event);
    const far = {Home: 0, End: shown.length - 1}[event.key];
    if ((!step || step[0] === 0) && far === undefined) return;
    event.preventDefault();
    turn(step ? at + step[0] : far);
    const current = strip.querySelector("[aria-current]");
    if (current && strip.contains(document.activeElement)) current.focus({preventScroll: true});
  });

  section.querySelector(".controls").hidden = false;
  strip.hidden = false;
  turn(0);
}

// ------------------------------------------------------------------------------------------
// Attention: heat over pictures in grey
// ------------------------------------------------------------------------------------------

const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

function showAttention(section) {
  const looks = JSON.parse(document.getElementById("looks").textContent);
  const colours = bytes(looks.heat);
  const place = section.querySelector(".pairs");
  for (const item of looks.items) item.maps.forEach((map) => { map.data = bytes(map.data); });

  // The map n of an item as a small picture, one pixel a cell: clear at zero.
  function heat(item, k, n) {
    const [h, w] = looks.maps[k].grid;
    const small = make("canvas", {width: w, height: h});
    const context = small.getContext("2d");
    const image = context.createImageData(w, h);
    item.maps[k].data.subarray(n * h * w, (n + 1) * h * w).forEach((share, cell) => {
      image.data.set(colours.subarray(3 * share, 3 * share + 3), 4 * cell);
      image.data[4 * cell + 3] = looks.alpha * share;
    });
    context.putImageData(image, 0, 0);
    return small;
  }

  function draw(canvas, picture, {over = null, outline = null} = {}) {
    const context = canvas.getContext("2d", {willReadFrequently: true});
    const {width, height} = canvas;
    context.drawImage(picture, 0, 0, width, height);
    if (over) {
      const image = context.getImageData(0, 0, width, height);
      const data = image.data;
      for (let i = 0; i < data.length; i += 4) data.fill((data[i] + data[i + 1] + data[i + 2]) / 3, i, i + 3);
      context.putImageData(image, 0, 0);
      context.imageSmoothingEnabled = true;
      context.drawImage(over, 0, 0, width, height);
    }
    if (outline) {
      const [cell, [rows, columns]] = outline;
      const i = Math.floor(cell / columns), j = cell % columns;
      const box = [j * width / columns, i * height / rows, width / columns, height / rows];
      for (const [colour, line] of [["#000", 5], ["#ffe100", 3]]) {
        context.strokeStyle = colour;
        context.lineWidth = line;
        context.strokeRect(box[0] + 2.5, box[1] + 2.5, box[2] - 5, box[3] - 5);
      }
    }
  }

  // A canvas as large as a picture, under a heading.
  function look(picture, head, below) {
    const canvas = make("canvas", {width: picture.naturalWidth, height: picture.naturalHeight, role: "img", "aria-label": `${head}, ${below}`});
    return [canvas, make("figure", {}, canvas, make("figcaption", {}, make("b", {}, head), make("br"), below))];
  }

  // The cell of a grid at the pointer.
  function pointed(canvas, [rows, columns], event) {
    const box = canvas.getBoundingClientRect();
    const i = within(Math.floor(rows * (event.clientY - box.top) / box.height), 0, rows - 1);
    const j = within(Math.floor(columns * (event.clientX - box.left) / box.width), 0, columns - 1);
    return i * columns + j;
  }

  const said = (value) => Number(value.toPrecision(2)).toString();
  const where = (cell, [, columns]) => `row ${Math.floor(cell / columns) + 1}, column ${(cell % columns) + 1}`;

  // An image: for each map a canvas. With a reference, its own picture chooses the map.
  function ofImage(item, partner, picture, partnerPicture) {
    const names = looks.maps.reduce((most, map) => (map.names.length > most.length ? map.names : most), []);
    const box = make("div", {class: "looks"});
    const output = make("output", {"aria-live": "polite"});
    const [own, ownFigure] = look(picture, item.words.split(":")[0], item.words.split(": ")[1] ?? "");
    box.append(ownFigure);
    const others = looks.maps.map((map) => {
      const over = map.over === "self" ? picture : partnerPicture;
      const on = map.over === "self" ? item : partner;
      const [canvas, figure] = look(over, map.name, `over the ${on.words}`);
      box.append(figure);
      return canvas;
    });
    let n = 0;
    function show(to) {
      n = to;
      draw(own, picture, item.cells ? {outline: [item.cells[n], looks.grid]} : {});
      const words = looks.maps.map((map, k) => {
        const m = Math.min(n, map.names.length - 1);
        const over = map.over === "self" ? picture : partnerPicture;
        draw(others[k], over, {over: heat(item, k, m)});
        const {data, peaks} = item.maps[k], size = map.grid[0] * map.grid[1];
        const top = data.subarray(m * size, (m + 1) * size).indexOf(255);
        return `${map.name} peak ${said(peaks[m])}` + (top < 0 ? "" : ` at ${where(top, map.grid)}`);
      });
      const head = item.cells ? `${where(item.cells[n], looks.grid)} of the query: ` : "";
      output.textContent = head + words.join("; ");
    }
    const parts = [box];
    if (item.cells) {
      own.classList.add("live");
      own.tabIndex = 0;
      own.setAttribute("role", "application");
      own.setAttribute("aria-label", `${item.words}; arrow keys move the place that the maps are for`);
      const at = (cell) => item.cells.indexOf(cell);
      own.addEventListener("pointermove", (event) => show(Math.max(at(pointed(own, looks.grid, event)), 0)));
      own.addEventListener("pointerdown", (event) => show(Math.max(at(pointed(own, looks.grid, event)), 0)));
      own.addEventListener("keydown", (event) => {
        const step = arrow(event);
        if (!step) return;
        event.preventDefault();
        const [rows, columns] = looks.grid, cell = item.cells[n];
        const i = within(Math.floor(cell / columns) + step[1], 0, rows - 1);
        const j = within((cell % columns) + step[0], 0, columns - 1);
        show(Math.max(at(i * columns + j), 0));
      });
    } else if (names.length > 1) {
      const group = make("fieldset", {}, make("legend", {}, "Maps of"));
      const id = `maps-${looks.items.indexOf(item)}`;
      names.forEach((name, k) => {
        const choice = make("input", {type: "radio", name: id});
        choice.checked = k === 0;
        choice.addEventListener("change", () => show(k));
        group.append(make("label", {}, choice, ` ${name}`));
      });
      parts.unshift(group);
    }
    others.forEach((canvas, k) => canvas.addEventListener("pointermove", (event) => {
      const map = looks.maps[k], size = map.grid[0] * map.grid[1];
      const m = Math.min(n, map.names.length - 1), cell = pointed(canvas, map.grid, event);
      const {least, peaks, data} = item.maps[k];
      const value = least[m] + (peaks[m] - least[m]) * data[m * size + cell] / 255;
      output.textContent = `${map.name} at ${where(cell, map.grid)}: ${said(value)}`;
    }));
    const middle = item.cells ? item.cells.indexOf(Math.floor(looks.grid[0] / 2) * looks.grid[1] + Math.floor(looks.grid[1] / 2)) : 0;
    show(Math.max(middle, 0));
    return make("article", {"aria-label": item.words}, ...parts, output);
  }

  // A clip: a strip of frames, and the chosen one large under every map.
  function ofClip(item, pictures) {
    const box = make("div", {class: "looks"});
    const output = make("output", {"aria-live": "polite"});
    const strip = make("div", {class: "frames", role: "group", "aria-label": `Frames of the ${item.words}`});
    const one = (map) => map.grid[0] * map.grid[1] === 1;
    const [own, ownFigure] = look(pictures[0], item.words.split(":")[0], item.words.split(": ")[1] ?? "");
    box.append(ownFigure);
    const others = looks.maps.map((map) => {
      if (one(map)) return null;
      const [canvas, figure] = look(pictures[0], map.name, "over the frame");
      box.append(figure);
      return canvas;
    });
    const buttons = pictures.map((picture, t) => {
      const button = make("button", {type: "button", "aria-label": `frame ${looks.frames[t]}`});
      looks.maps.forEach((map, k) => {
        if (!one(map)) return;
        const bar = make("i");
        bar.style.setProperty("--share", item.maps[k].data[t] / 255);
        button.append(make("span", {class: "weight", "aria-hidden": "true"}, bar));
      });
      button.append(make("img", {src: picture.src, alt: ""}), make("span", {"aria-hidden": "true"}, String(looks.frames[t])));
      button.addEventListener("pointerenter", (event) => { if (event.pointerType === "mouse") show(t); });
      button.addEventListener("click", () => show(t));
      return button;
    });
    strip.append(...buttons);
    let at = 0;
    function show(t) {
      at = within(t, 0, pictures.length - 1);
      draw(own, pictures[at]);
      const words = looks.maps.map((map, k) => {
        const {least, peaks} = item.maps[k], value = said(peaks[at]);
        if (one(map)) return `${map.name}: weight ${value}`;
        draw(others[k], pictures[at], {over: heat(item, k, at)});
        return `${map.name}: ${least[at] ? `from ${said(least[at])}` : "up"} to ${value}`;
      });
      buttons.forEach((button, k) => {
        button.tabIndex = k === at ? 0 : -1;
        if (k === at) button.setAttribute("aria-current", "true");
        else button.removeAttribute("aria-current");
      });
      output.textContent = `frame ${looks.frames[at]}: ${words.join("; ")}`;
    }
    strip.addEventListener("keydown", (event) => {
      const step = arrow(event);
      if (!step || step[0] === 0) return;
      event.preventDefault();
      show(at + step[0]);
      buttons[at].focus({preventScroll: true});
      reveal(buttons[at]);
    });
    show(0);
    return make("article", {"aria-label": item.words}, box, strip, output);
  }

  async function load(source) {
    const image = make("img", {src: source, alt: ""});
    await image.decode();
    return image;
  }

  async function all() {
    const pictures = await Promise.all(looks.items.map((item) => Promise.all(item.pictures.map(load))));
    looks.items.forEach((item, i) => {
      if (looks.clips) place.append(ofClip(item, pictures[i]));
      else if (!looks.paired) place.append(ofImage(item, item, pictures[i][0], pictures[i][0]));
      else if (i % 2 === 0) place.append(ofImage(item, looks.items[i + 1], pictures[i][0], pictures[i + 1][0]));
    });
    section.dataset.ready = "true";
  }
  return all();
}

// ------------------------------------------------------------------------------------------
// Tables that can be searched
// ------------------------------------------------------------------------------------------

function filterTable(field) {
  const rows = [...document.getElementById(field.dataset.filters).rows];
  const output = field.parentElement.querySelector("output");
  field.addEventListener("input", () => {
    const words = field.value.trim().toLowerCase();
    for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(words);
    output.textContent = words ? `${rows.filter((row) => !row.hidden).length} of ${rows.length}` : "";
  });
}

document.querySelectorAll(".chart").forEach(readChart);
document.querySelectorAll(".galleries").forEach(leafThrough);
document.querySelectorAll(".attention").forEach(showAttention);
document.querySelectorAll("[data-filters]").forEach(filterTable);
