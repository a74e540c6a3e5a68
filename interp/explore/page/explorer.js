// The explorer: what is chosen, what Python is asked about it, and the page around both.
// The files of this folder before this one are part of the same module (see page.py).

const SETTLED = 150;      // milliseconds without another change before anything is asked
const PATIENCE = 10000;   // milliseconds without an answer before the reader hears what may be wrong
const KINDS = { memorized: "shown in training", control: "shown once", held_out: "never shown", "": "prompts" };

// Draws the explorer into `root`. `send(question)` promises its answer; `drop(id)` says that nobody waits for
// it any more; `silent` is what to say where no answer comes.
export async function explore(root, send, silent, drop = () => {}) {
  root.classList.add("interp", "explorer");
  const tab = `${Math.random()}`.slice(2);
  const status = node("p", { className: "status", role: "status" });
  const say = (text, wrong = false) => {
    status.textContent = text;
    status.classList.toggle("wrong", wrong);
  };
  let asked = 0, round = 0, pending = null;

  const ask = async (name, choice, mine) => {
    const id = pending = `${tab} ${++asked}`;
    const late = setTimeout(() => mine === round && say(silent), PATIENCE);
    try {
      const answer = await send({ ask: name, id, choice });
      return mine === round && !answer.dropped ? answer : null;
    } finally {
      clearTimeout(late);
      if (pending === id) pending = null;
    }
  };

  root.replaceChildren(status);
  say("Reading the model …");
  const model = await ask("start", {}, round).catch((error) => say(`${silent} (${error.message})`, true));
  if (!model) return;
  const first = model.cases[0] ?? { text: "a photo of a cat" };
  const other = model.cases.find((one) => one.kind !== first.kind) ?? { text: "a photo of a dog" };
  const choice = {
    text: first.text, seed: 0, operation: "none", categories: ["pad"], heads: null, steps: null, side: "kv",
    amount: 1, donor: other.text, source: "eot", token: "!",
  };

  const change = (part) => {
    Object.assign(choice, part);
    if (!("text" in part) && !("seed" in part)) form.show(part);
    refresh();
  };
  const form = controls(model, choice, change);
  const toggle = (name) => {
    const now = choice.operation === "none" ? [] : choice.categories;
    const next = model.categories.map((one) => one.name).filter((one) => now.includes(one) !== (one === name));
    if (!next.length) change({ operation: "none" });
    else if (choice.operation === "none") change({ operation: "zero", amount: model.amounts.zero, side: "kv", categories: next });
    else change({ categories: next });
  };

  const text = node("textarea", { rows: 2, maxLength: 10000, spellcheck: false, value: choice.text, "aria-label": "prompt",
    oninput: () => change({ text: text.value }) });
  const option = (one) => node("option", { value: model.cases.indexOf(one) }, one.views > 1 ? `${one.views}× ${one.text}` : one.text);
  const kinds = [...new Set(model.cases.map((one) => one.kind))];
  const pick = node("select", { "aria-label": "pick a prompt", onchange: () => {
    if (pick.value) change({ text: (text.value = model.cases[pick.value].text) });
    pick.value = "";
  } }, node("option", { value: "" }, "pick a prompt …"), ...kinds.map((kind) =>
    node("optgroup", { label: KINDS[kind] ?? kind }, ...model.cases.filter((one) => one.kind === kind).map(option))));
  const seed = node("input", { type: "number", min: 0, step: 1, value: 0,
    oninput: () => seed.value && seed.validity.valid && change({ seed: Number(seed.value) }) });
  const tokens = node("div", { className: "tokens", "aria-hidden": "true" }), cut = node("p", { className: "quiet" });
  const categories = node("div", { className: "row", role: "group", "aria-label": "categories" });
  const images = node("div", { className: "images" });
  const python = node("code"), copy = button("copy", async () => {
    await copied(python.textContent);
    copy.textContent = "copied";
    setTimeout(() => { copy.textContent = "copy"; }, 1500);
  });

  // Answers that take longer are asked for once they are opened, and again only where they would differ.
  const panel = (title, name, about, draw) => {
    const body = node("div", { className: "panel" });
    return { name, about, draw, body, made: node("details", { ontoggle: ({ target }) => target.open && refresh() }, node("summary", {}, title), body) };
  };
  const go = (layer, step) => change({ heads: { [layer]: [...Array(model.layers.find((one) => one.name === layer).heads).keys()] }, steps: [step, step + 1] });
  const panels = [
    panel("Attention", "attend", (now) => now, (body, found) => shownAttention(body, found, model, [...images.querySelectorAll("img")].at(-1).src)),
    panel("Where the patch acts", "map", (now) => ({ ...now, heads: null, steps: null }), (body, found) => shownCauses(body, found, go)),
    panel("Is the prompt memorized?", "judge", ({ text }) => ({ text }), shownVerdict),
  ];

  // One round of questions, from the quickest to the slowest, given up as soon as something else is chosen.
  async function refresh() {
    const mine = ++round, now = structuredClone(choice);
    if (pending !== null) drop(pending);
    await new Promise((settled) => setTimeout(settled, SETTLED));
    try {
      if (mine === round) await questions(now, mine);
    } catch (error) {
      if (mine === round) say(`${silent} (${error.message})`, true);
    }
  }
  async function questions(now, mine) {
    const read = await ask("read", now, mine);
    if (!read || wrong(read.error)) return;
    reading(read);
    if (wrong(read.problem)) return;
    images.classList.add("stale");
    const began = performance.now();
    for (const name of ["quick", "look"]) {
      say(name === "quick" ? "Drawing …" : "A preview; the whole run is under way …");
      const found = await ask(name, now, mine);
      if (!found || wrong(found.error)) return;
      shownImages(images, found, read.training, name === "quick");
      images.classList.remove("stale");
    }
    const seconds = ((performance.now() - began) / 1000).toFixed(1);
    for (const one of panels.filter(({ made }) => made.open)) {
      const about = one.about(now), key = JSON.stringify(about);
      if (one.key === key) continue;
      say("Computing …");
      one.key = null;
      one.body.classList.add("stale");
      const found = await ask(one.name, about, mine);
      if (!found) return;
      one.key = key;
      one.body.classList.remove("stale");
      one.body.replaceChildren();
      if (found.error) one.body.append(node("p", { className: "wrong" }, found.error.join(" ")));
      else one.draw(one.body, found);
    }
    say(`Drawn in ${seconds} s.`);
  }
  const wrong = (error) => {
    if (error) say(error.join(" "), true);
    return Boolean(error);
  };

  // The prompt as the model reads it, and the line of Python.
  function reading(read) {
    const fixed = choice.operation === "repad", chosen = choice.operation === "none" ? [] : fixed ? ["pad"] : choice.categories;
    tokens.replaceChildren(...read.tokens.map(([word, name], place) => node("span", {
      className: `token ${name}${chosen.includes(name) ? " chosen" : ""}`, title: `${place}: ${word} (${name})`, onclick: () => fixed || toggle(name),
    }, name === "pad" ? "" : word)));
    const focused = categories.contains(document.activeElement) && document.activeElement.dataset.name;
    categories.replaceChildren(...model.categories.map(({ name, said }) => button(
      `${said[0]} × ${read.tokens.filter((one) => one[1] === name).length}`, () => toggle(name),
      { className: `category ${name}`, title: said[1], "data-name": name, "aria-pressed": chosen.includes(name), disabled: fixed })));
    [...categories.children].find((one) => one.dataset.name === focused)?.focus();
    cut.textContent = read.truncated && `Too long for the text encoder, which does not see “${read.truncated}”.`;
    python.textContent = read.line === undefined ? "" : [read.setup, read.line].filter(Boolean).join("\n");
  }

  root.replaceChildren(
    node("p", { className: "quiet" }, `${model.model} · ${model.steps} steps`),
    node("div", { className: "ask" }, node("div", { className: "fields" }, pick, field("seed", seed)), text),
    tokens, cut,
    node("div", { className: "desk" },
      node("div", { className: "tools" }, node("p", { className: "hint" }, "which embeddings"), categories, form.form),
      node("div", {}, images, status, node("div", { className: "python" }, node("pre", {}, python), copy))),
    ...panels.map(({ made }) => made));
  refresh();
}

// What anywidget calls in JupyterLab.
export default {
  render({ model, el }) {
    const waiting = new Map();
    const hear = (answer) => { waiting.get(answer.id)?.(answer); waiting.delete(answer.id); };
    const send = (question) => new Promise((answer) => { waiting.set(question.id, answer); model.send(question); });
    model.on("msg:custom", hear);
    // Nothing tells a widget that its kernel was restarted, but that no answer comes.
    explore(el, send, "No answer yet. If the kernel was restarted, run the cell again.");
    return () => model.off("msg:custom", hear);
  },
};
