// What is done to which embeddings, and where: the form that makes a choice.

const OPERATIONS = {
  none: "nothing", zero: "set to zero", mask: "hide from attention", swap: "take another prompt's",
  copy: "copy from another position", repad: "pad with another token", scale: "scale", noise: "add noise",
};
const AMOUNTS = { zero: "fraction", scale: "factor", noise: "standard deviation" };
const SIDES = { kv: "keys and values", k: "keys (where to look)", v: "values (what is read)" };

// `change(part)` is called with what was changed; the answer's `show(part)` shows a change made anywhere.
function controls(model, choice, change) {
  const what = node("div", { className: "fields" }), where = node("div", { className: "fields" });
  const grid = node("div", { className: "layers" }), summary = node("summary");
  const heads = node("details", {}, summary, grid);
  const verb = select(OPERATIONS, choice.operation, (operation) => change({
    operation, amount: model.amounts[operation] ?? 1, side: operation === "scale" ? "k" : "kv",
  }));
  const last = model.steps - 1, steps = node("output");
  const ends = ["first step", "last step"].map((said) => slider(said, last, 0, () => {
    const [from, to] = ends.map((one) => Number(one.value)).sort((a, b) => a - b);
    change({ steps: from === 0 && to === last ? null : [from, to + 1] });
  }));
  const track = node("div", { className: "ends" }, ...ends);

  const amount = (name) => field(name, node("input", {
    type: "number", step: 0.05, value: choice.amount,
    oninput: (event) => event.target.value && change({ amount: Number(event.target.value) }),
  }));
  const written = (said, name) => field(said, node("input", {
    type: "text", value: choice[name], onchange: (event) => change({ [name]: event.target.value }),
  }));
  const names = Object.fromEntries(model.categories.map(({ name, said }) => [name, said[0]]));
  const details = {
    zero: () => amount(AMOUNTS.zero), scale: () => amount(AMOUNTS.scale), noise: () => amount(AMOUNTS.noise),
    swap: () => written("from the prompt", "donor"), repad: () => written("token", "token"),
    copy: () => field("from", select(names, choice.source, (source) => change({ source }))),
  };

  // Layers and heads: all heads of all layers is `null`, which new layers would be part of.
  const every = (layer) => Array.from({ length: layer.heads }, (_, head) => head);
  const held = (layer) => (choice.heads ? choice.heads[layer.name] ?? [] : every(layer));
  const hold = (layer, numbers) => {
    const now = (one) => (one === layer ? numbers : held(one));
    const whole = model.layers.every((one) => now(one).length === one.heads);
    const some = model.layers.filter((one) => now(one).length);
    change({ heads: whole ? null : Object.fromEntries(some.map((one) => [one.name, now(one)])) });
  };
  const row = (layer) => {
    const mine = held(layer), all = mine.length === layer.heads;
    const without = (head) => mine.filter((one) => one !== head);
    const heads = every(layer).map((head) => button(`${head}`, () =>
      hold(layer, mine.includes(head) ? without(head) : [...mine, head].sort((a, b) => a - b)), {
      className: "head", "aria-label": `${layer.name} head ${head}`, "aria-pressed": mine.includes(head),
    }));
    const name = button(layer.name, () => hold(layer, all ? [] : every(layer)), {
      className: "layer", "aria-label": `${layer.name} all heads`,
      "aria-pressed": all ? "true" : mine.length ? "mixed" : "false",
    });
    return node("div", { className: "row" }, name, ...heads);
  };

  const show = (part) => {
    const idle = choice.operation === "none";
    verb.value = choice.operation;
    where.hidden = heads.hidden = idle;
    if ("operation" in part) {
      what.replaceChildren(...[details[choice.operation]?.()].filter(Boolean));
      const side = field("side", select(SIDES, choice.side, (value) => change({ side: value })));
      where.replaceChildren(
        node("div", { className: "field" }, node("span", {}, "steps ", steps), track),
        ...(choice.operation === "mask" ? [] : [side]));
    }
    const [from, after] = choice.steps ?? [0, model.steps];
    track.style.setProperty("--from", `${(100 * from) / last}%`);
    track.style.setProperty("--to", `${100 - (100 * (after - 1)) / last}%`);
    steps.textContent = choice.steps ? `${from} to ${after - 1} of 0 to ${last}` : `all, 0 to ${last}`;
    // While one end is dragged past the other they may stand in either order.
    const shown = ends.map((one) => Number(one.value)).sort((a, b) => a - b);
    if (shown[0] !== from || shown[1] !== after - 1) [ends[0].value, ends[1].value] = [from, after - 1];
    const some = model.layers.filter((layer) => held(layer).length).length;
    summary.textContent = `layers and heads: ${choice.heads ? `${some} of ${model.layers.length} layers` : "everywhere"}`;
    // Buttons are made anew; the keyboard stays where it was.
    const focused = grid.contains(document.activeElement) && document.activeElement.getAttribute("aria-label");
    grid.replaceChildren(
      node("div", { className: "row" },
        button("all", () => change({ heads: null }), { "aria-label": "all layers" }),
        button("none", () => change({ heads: {} }), { "aria-label": "no layers" })),
      ...model.layers.map(row));
    [...grid.querySelectorAll("button")].find((one) => one.getAttribute("aria-label") === focused)?.focus();
  };
  show({ operation: choice.operation });
  const form = node("div", { className: "patch" }, node("div", { className: "fields" }, field("do", verb)), what, where, heads);
  return { form, show };
}
