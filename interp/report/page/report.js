"use strict";
// Without this script the page is complete but static: no sorting, no filter, no slider.
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const one = (selector, root = document) => root.querySelector(selector);

  // The table of prompts: sorted by a key, filtered by words and verdict.
  const table = one("#prompts"), body = table.tBodies[0], rows = [...body.rows];
  const order = { key: "number", down: false };
  const value = (row, key) => one(`td[data-key="${key}"]`, row).dataset.value;
  const compare = (a, b) => {
    const [x, y] = [value(a, order.key), value(b, order.key)];
    const numbers = x !== "" && y !== "" && !isNaN(x) && !isNaN(y);
    const found = numbers ? x - y : x.localeCompare(y);
    // Equal rows keep the order of their numbers in both directions.
    return (order.down ? -found : found) || value(a, "number") - value(b, "number");
  };
  const sort = () => {
    body.append(...rows.sort(compare));
    one("#sort").value = order.key;
    one("#turn").textContent = order.down ? "↓" : "↑";
    for (const head of all("th", table)) {
      const mine = one("button", head).dataset.key === order.key;
      if (mine) head.setAttribute("aria-sort", order.down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    }
  };
  const filter = () => {
    const words = one("#find").value.toLowerCase(), verdict = one("#show").value;
    for (const row of rows) {
      const said = value(row, "text").toLowerCase();
      row.hidden = !said.includes(words) || (verdict !== "" && row.dataset.verdict !== verdict);
    }
    const left = rows.filter((row) => !row.hidden).length;
    one("#count").textContent = `${left} of ${rows.length}`;
    one("#none").hidden = left > 0;
  };
  for (const button of all("th button", table))
    button.addEventListener("click", () => {
      const key = button.dataset.key;
      order.down = key === order.key ? !order.down : false;
      order.key = key;
      sort();
    });
  one("#sort").addEventListener("change", (event) => { order.key = event.target.value; sort(); });
  one("#turn").addEventListener("click", () => { order.down = !order.down; sort(); });
  one("#find").addEventListener("input", filter);
  one("#show").addEventListener("change", filter);
  filter();

  // The maps over the image: one step and category of the sprite, in the category's colour.
  for (const look of all(".look")) {
    const slides = JSON.parse(document.getElementById(look.dataset.slides).textContent);
    const sprite = one(".sprite", look), canvas = one("canvas", look), pen = canvas.getContext("2d");
    const range = one("input", look), choice = one("select", look);
    const draw = () => {
      const step = Number(range.value), name = choice.value;
      const row = slides.categories.indexOf(name);
      pen.clearRect(0, 0, canvas.width, canvas.height);
      pen.globalCompositeOperation = "source-over";
      pen.globalAlpha = 0.85;
      pen.drawImage(sprite, step * slides.columns, row * slides.rows, slides.columns, slides.rows,
        0, 0, canvas.width, canvas.height);
      pen.globalAlpha = 1;
      pen.globalCompositeOperation = "source-in";
      pen.fillStyle = getComputedStyle(look).getPropertyValue(`--${name}`);
      pen.fillRect(0, 0, canvas.width, canvas.height);
      one("output", look).textContent = `${step + 1} of ${slides.steps}`;
      const [low, high] = slides.ranges[name];
      one(".legend", look).textContent =
        `Colour is attention to this category: clear ${low.toFixed(2)}, full ${high.toFixed(2)}.`;
    };
    const numbers = () => {
      const step = Number(range.value);
      one(".when", look).textContent = `at step ${step + 1}`;
      for (const line of all("[data-category]", look)) {
        const at = slides.categories.indexOf(line.dataset.category);
        const mass = slides.mass[step][at], tokens = slides.tokens[at];
        one(".sum", line).textContent = mass.toFixed(2);
        one(".each", line).textContent = tokens ? (mass / tokens).toFixed(4) : "–";
      }
    };
    range.addEventListener("input", () => { draw(); numbers(); });
    choice.addEventListener("change", draw);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
    if (sprite.complete && sprite.naturalWidth) draw();
    else sprite.addEventListener("load", draw);
  }
})();
