"use strict";

// Tables sort by a button in each head: upwards, downwards, as they were. A group of methods stays
// together, and so does a row with the rows below it whose first cell is empty.

const NEXT = { none: "ascending", ascending: "descending", descending: "none" };

function sortable(table) {
  const heads = [...table.tHead.rows].at(-1).cells;
  const bodies = [...table.tBodies].map((body) => ({ body, blocks: blocks(body) }));
  [...heads].forEach((head, column) => {
    if (!head.textContent.trim()) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    head.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      const order = NEXT[head.getAttribute("aria-sort")];
      for (const other of table.tHead.querySelectorAll("[aria-sort]")) {
        other.setAttribute("aria-sort", "none");
      }
      head.setAttribute("aria-sort", order);
      const text = (block) => block[0].cells[column].textContent.trim();
      const every = bodies.flatMap(({ blocks }) => blocks.map(text));
      const value = every.some((said) => !Number.isNaN(number(said))) ? number : (said) => said;
      for (const { body, blocks } of bodies) {
        body.append(...ordered(blocks, (block) => value(text(block)), order).flat());
      }
    });
  });
}

function blocks(body) {
  const found = [];
  for (const row of body.rows) {
    if (row.classList.contains("group")) continue;
    if (found.length && !row.cells[0].textContent.trim()) found.at(-1).push(row);
    else found.push([row]);
  }
  return found;
}

function ordered(blocks, key, order) {
  if (order === "none") return blocks;
  const sign = order === "ascending" ? 1 : -1;
  const there = blocks.filter((block) => key(block) || key(block) === 0);
  const absent = blocks.filter((block) => !there.includes(block));
  const compare = (a, b) => (typeof a === "number" ? a - b : a.localeCompare(b));
  there.sort((a, b) => sign * compare(key(a), key(b)));
  return [...there, ...absent]; // what has no value is last either way
}

function number(text) {
  const found = /^[-+−]?[\d,]*\.?\d+/.exec(text);
  return found ? Number(found[0].replace("−", "-").replaceAll(",", "")) : NaN;
}

// What is wider than the page scrolls within it, by the keyboard too, and says so.

function scrolls(box) {
  const hint = document.createElement("p");
  hint.className = "hint";
  hint.textContent = "Wider than the page: scroll sideways →";
  box.before(hint);
  const heading = box.closest("figure, details, main").querySelector("figcaption, summary");
  let before = box.previousElementSibling;
  while (before && !/^H[1-6]$/.test(before.tagName)) before = before.previousElementSibling;
  const label = (before ?? heading)?.textContent.trim().slice(0, 120) ?? "";
  new ResizeObserver(() => {
    const wide = box.scrollWidth > box.clientWidth + 1;
    hint.hidden = !wide;
    const attributes = { tabindex: "0", role: "region", "aria-label": label };
    for (const [name, value] of Object.entries(attributes)) {
      if (wide) box.setAttribute(name, value);
      else box.removeAttribute(name);
    }
  }).observe(box);
}

document.querySelectorAll("table.sort").forEach(sortable);
document.querySelectorAll(".wide").forEach(scrolls);

// Curves and surfaces are drawn when they are first asked for.

for (const details of document.querySelectorAll("details.live")) {
  const draw = () => {
    const { data, layout, config } = JSON.parse(details.querySelector("script").textContent);
    const scene = details.querySelector(".scene");
    const panels = Object.keys(layout).filter((key) => key.startsWith("scene")).length;
    scene.style.setProperty("--across", Math.min(panels, 3)); // curves stand below each other
    Plotly.newPlot(scene, data, layout, config);
  };
  details.addEventListener("toggle", draw, { once: true });
}
