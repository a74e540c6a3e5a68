// Elements of a page. Text is put in as text, never as HTML: prompts are other people's.

const node = (tag, properties = {}, ...children) => {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name.includes("-") || !(name in made)) made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
};

const button = (said, act, properties = {}) =>
  node("button", { type: "button", onclick: act, ...properties }, said);

const field = (said, control, ...more) =>
  node("label", { className: "field" }, node("span", {}, said, ...more), control);

const select = (options, value, act) =>
  node("select", { onchange: (event) => act(event.target.value) },
    ...Object.entries(options).map(([key, said]) =>
      node("option", { value: key, selected: key === value }, said)));

const slider = (said, last, value, act) =>
  node("input", { type: "range", min: 0, max: last, value, "aria-label": said, oninput: act });

// What Python packed: numbers from 0 to 1 as bytes, and where in them an index begins.
const unpacked = ({ shape, bytes }) => ({
  shape,
  values: Uint8Array.from(atob(bytes), (mark) => mark.charCodeAt(0)),
  at: (...index) => {
    const size = shape.slice(index.length).reduce((a, b) => a * b, 1);
    return size * index.reduce((sum, place, axis) => sum * shape[axis] + place, 0);
  },
});

const copied = async (text) => {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  // Pages that are not from this machine or encrypted, as some JupyterLabs, have no clipboard.
  const shown = node("textarea", { value: text });
  document.body.append(shown);
  shown.select();
  document.execCommand("copy");
  shown.remove();
};
