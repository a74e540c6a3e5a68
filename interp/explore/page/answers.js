// Answers as they are shown: images, attention, where the patch acts, the verdict.

const TITLES = { training: "training image", without: "without the patch", with: "with the patch" };
const number = (value) => value.toFixed(2).replace(/^-(0\.00)$/, "$1");

function shownImages(place, found, training, preview) {
  const pictures = { ...(training && { training }), without: found.without, ...(found.with && { with: found.with }) };
  place.replaceChildren(...Object.entries(pictures).map(([name, source]) => {
    const said = node("figcaption", {}, node("b", {}, TITLES[name]));
    const alike = name !== "training" && found.training?.[name];
    if (alike && alike.copy) said.append(" ", node("span", { className: "badge memorized" }, "a copy"));
    const facts = [];
    if (alike) facts.push(`${number(alike.similarity)} to the training image`);
    if (name === "with") facts.push(`${number(found.kept)} to the image without`);
    if (preview && name !== "training") facts.push("preview");
    said.append(...facts.map((fact) => node("span", { className: "facts" }, fact)));
    return node("figure", { className: name, "data-preview": preview },
      node("img", { src: source, alt: TITLES[name] }), said);
  }));
}

// Attention: a map over the image for one category, and all categories' shares, at one step.
function shownAttention(place, found, model, picture) {
  const mass = unpacked(found.mass), maps = unpacked(found.maps);
  const [steps, , , high, wide] = maps.shape;
  const canvas = node("canvas", { width: wide, height: high }), pen = canvas.getContext("2d");
  const names = Object.fromEntries(model.categories.map(({ name, said }) => [name, said[0]]));
  const step = slider("step", steps - 1, steps - 1, () => draw()), shown = node("output"), note = node("p", { className: "quiet" });
  const layer = select(Object.fromEntries(found.layers.map((name, index) => [index, name])), "0", () => draw());
  const category = select(names, "pad", () => draw());
  const bars = model.categories.map(({ name }) => {
    const value = node("output"), bar = node("span", { className: `bar ${name}` });
    return { value, bar, row: node("div", { className: "share" }, node("span", {}, names[name]), bar, value) };
  });
  const stage = node("div", { className: `stage ${category.value}` }, node("img", { src: picture, alt: "" }), canvas);
  const draw = () => {
    const at = [Number(step.value), Number(layer.value)], chosen = model.categories.findIndex(({ name }) => name === category.value);
    shown.textContent = `${at[0]} of 0 to ${steps - 1}`;
    stage.className = `stage ${category.value}`;
    bars.forEach(({ value, bar }, index) => {
      const share = mass.values[mass.at(...at, index)] / 255;
      value.textContent = number(share);
      bar.style.setProperty("--share", share);
    });
    const start = maps.at(...at, chosen), cells = maps.values.subarray(start, start + high * wide);
    const most = Math.max(...cells), least = Math.min(...cells), pixels = pen.createImageData(wide, high);
    const colour = getComputedStyle(stage).getPropertyValue("color").match(/[\d.]+/g).slice(0, 3).map(Number);
    cells.forEach((cell, index) => pixels.data.set([...colour, (230 * (cell - least)) / (most - least || 1)], 4 * index));
    pen.putImageData(pixels, 0, 0);
    note.textContent = `How much of its attention each place gives to the ${names[category.value]}: from ${number(least / 255)} to ${number(most / 255)}.`;
  };
  place.append(stage, node("div", { className: "reading" },
    node("div", { className: "fields" }, field("map of", category), field("layer", layer), field("step ", step, shown)),
    ...bars.map(({ row }) => row), note));
  draw();
}

// The causal map: a cell is a layer and a step, and a click patches there alone.
function shownCauses(place, found, go) {
  if (!found.layers) {
    place.append(node("p", { className: "quiet" }, "Choose a patch first."));
    return;
  }
  const most = Math.max(...found.change.flat().map(Math.abs), 1e-9);
  const note = node("p", { className: "quiet" },
    "How much the patch changes the pull of the text (|eps_c - eps_u|) when it acts in one layer and step alone: " +
    `blue less, red more, at most ${(100 * most).toFixed(most < 0.1 ? 1 : 0)} %. Steps go from left to right. Choose a cell to see its image.`);
  const rows = found.layers.map((layer, row) => node("div", { className: "row" }, node("span", { className: "layer" }, layer),
    ...found.change[row].map((change, step) => {
      const said = `${layer}, step ${step}: ${change < 0 ? "−" : "+"}${Math.abs(100 * change).toFixed(1)} %`;
      const cell = button("", () => go(layer, step), { className: change < 0 ? "cell less" : "cell more", title: said, "aria-label": said });
      cell.style.setProperty("--share", Math.abs(change) / most);
      // One stop of the keyboard for the whole map; arrows move in it.
      cell.tabIndex = row || step ? -1 : 0;
      return cell;
    })));
  const map = node("div", { className: "map", onkeydown: (event) => {
    const move = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    const row = rows.findIndex((one) => one.contains(event.target));
    if (!move || row < 0) return;
    const next = rows[row + move[0]]?.children[[...rows[row].children].indexOf(event.target) + move[1]];
    if (next?.tabIndex === undefined || !next.matches("button")) return;
    event.preventDefault();
    event.target.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  } }, ...rows);
  place.append(note, map);
}

function shownVerdict(place, found) {
  const kind = { memorized: "memorized", unclear: "unclear" }[found.answer] ?? "";
  place.append(node("p", {}, node("span", { className: `badge ${kind}` }, found.answer)), node("p", { className: "quiet" }, found.reason));
}
