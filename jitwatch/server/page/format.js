// Numbers with units, and elements whose text is never markup.

/** An element; `props` are attributes, `class` and `on…` listeners among them; strings become text. */
export function element(tag, props = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "color") made.style.background = value;
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
  return made;
}

/** Replaces the children of an element. */
export function fill(target, ...children) {
  target.replaceChildren(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
}

/**
 * Updates the children of `target` from `entries`: `{key, state, make}`. A child is made again only when its `state`
 * has changed, and moved only where necessary, so that focus, selection and scroll position stay.
 */
export function sync(target, entries) {
  const focused = document.activeElement;
  const before = target.made ?? new Map();
  target.made = new Map();
  for (const { key, state, make } of entries) {
    const json = JSON.stringify(state);
    const old = before.get(key);
    target.made.set(key, old?.json === json ? old : { json, node: make() });
  }
  const wanted = new Set([...target.made.values()].map(({ node }) => node));
  for (const child of [...target.children]) if (!wanted.has(child)) child.remove();
  let next = target.firstElementChild;
  for (const { node } of target.made.values()) {
    if (node === next) next = next.nextElementSibling;
    else target.insertBefore(node, next);
  }
  keepFocus(focused);
}

/** Restores the focus, which an element loses when it is moved. */
export function keepFocus(focused) {
  if (focused?.isConnected && focused !== document.activeElement) focused.focus({ preventScroll: true });
}

/** A button that copies `text` to the clipboard. */
export function copyButton(text, what = "Copy") {
  const button = element("button", { type: "button", onclick: async () => {
    const done = await copy(text, button);
    button.textContent = done ? "Copied" : "Not copied";
    setTimeout(() => { button.textContent = what; }, 2000);
  } }, what);
  return button;
}

async function copy(text, beside) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Browsers offer the clipboard only to https and loopback addresses; elsewhere use the deprecated command.
    const field = element("textarea", { class: "spoken", "aria-hidden": "true" });
    field.value = text;
    beside.after(field);
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    beside.focus();
    return done;
  }
}

export const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

export function count(value) {
  return isNumber(value) ? value.toLocaleString("en-US", { maximumFractionDigits: 0 }) : "–";
}

/** `1st`, `2nd`, `23rd`. */
export function ordinal(value) {
  const ending = value % 100 >= 10 && value % 100 <= 20 ? "th" : { 1: "st", 2: "nd", 3: "rd" }[value % 10] ?? "th";
  return `${count(value)}${ending}`;
}

export function plural(value, noun) {
  return `${count(value)} ${noun}${value === 1 ? "" : "s"}`;
}

/** `340 ms`, `2.47 s`, `3.2 min`, `1.5 h`. */
export function seconds(value) {
  if (!isNumber(value)) return "–";
  if (value === 0) return "0 s";
  if (value < 0.1) return `${(value * 1000).toFixed(value < 0.01 ? 1 : 0)} ms`;
  if (value < 100) return `${value.toFixed(value < 10 ? 2 : 1)} s`;
  return value < 7200 ? `${(value / 60).toFixed(1)} min` : `${(value / 3600).toFixed(1)} h`;
}

/** A whole time: `3 h 12 min`, `45 s`. */
export function duration(value) {
  if (!isNumber(value)) return "–";
  const parts = [[Math.floor(value / 86400), "d"], [Math.floor(value / 3600) % 24, "h"],
    [Math.floor(value / 60) % 60, "min"], [Math.floor(value) % 60, "s"]];
  return parts.filter(([number]) => number).slice(0, 2).map(([number, unit]) => `${number} ${unit}`).join(" ") || "0 s";
}

export function bytes(value) {
  if (!isNumber(value)) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let power = 0;
  while (Math.abs(value) >= 1024 && power < units.length - 1) { value /= 1024; power += 1; }
  return `${power && Math.abs(value) < 100 ? value.toFixed(1) : Math.round(value)} ${units[power]}`;
}

export function percent(ratio) {
  if (!isNumber(ratio)) return "–";
  if (ratio > 0 && ratio < 0.01) return "under 1 %";
  return `${Math.round(100 * ratio)} %`;
}

/** `12:03:22` from Unix seconds or a record's timestamp, with the date unless it is today. */
export function clock(when) {
  const date = new Date(typeof when === "string" ? when : when * 1000);
  const time = date.toLocaleTimeString("en-GB");
  return date.toDateString() === new Date().toDateString() ? time : `${date.toLocaleDateString("en-CA")} ${time}`;
}

/** `train.py:88` of a whole path. */
export const place = (location) => (location ? location.split(/[\\/]/).pop() : "unknown location");

/** `…/demo/train.py:88` of a whole path: enough to tell files of one name apart. */
export function nearby(location) {
  const parts = location.split(/[\\/]/);
  return parts.length > 3 ? `…/${parts.slice(-3).join("/")}` : location;
}

/** The bare name of a function: `train_step`, `<lambda>@train.py:88`. */
export function short(label) {
  if (!label) return "a function";
  const at = label.indexOf("@");
  const head = at < 0 ? label : label.slice(0, at);
  return head.slice(head.lastIndexOf(".") + 1) + (at < 0 ? "" : label.slice(at));
}

/** A label whose module prefix is set apart from the bare name. */
export function label(text) {
  const name = short(text);
  const prefix = text.endsWith(name) ? text.slice(0, text.length - name.length) : "";
  return prefix ? [element("span", { class: "prefix" }, prefix), name] : [text];
}

/** The most frequent cause of a function's recompiles. */
export function mainCause(causes) {
  return Object.entries(causes).sort(([, one], [, other]) => other - one)[0]?.[0];
}

/** A cause with its colour. */
export function swatch(cause, ...more) {
  return element("span", { class: "cause" }, element("i", { color: COLORS[cause] ?? COLORS.unknown }), named(cause), ...more);
}

/** A bar of parts `{name, share, text}` with a legend; the remaining share stays empty. */
export function stacked(parts) {
  const shown = parts.map((part, at) => ({ ...part, color: PARTS[at % PARTS.length] }));
  const bar = element("div", { class: "stacked", "aria-hidden": "true" }, shown.map((part) => {
    const piece = element("i", { color: part.color, title: `${part.name}: ${part.text}` });
    piece.style.width = `${Math.min(100, Math.max(0, 100 * part.share))}%`;
    return piece;
  }));
  return [bar, element("ul", { class: "legend parts" }, shown.map((part) => element("li", {},
    element("i", { color: part.color }), element("span", { class: "code" }, part.name), ` ${part.text}`)))];
}

/** Two texts as elements in which the difference is marked. */
export function marked(before, after) {
  const pieces = (text) => String(text).split(/([[\](),=\s{}]+)/).filter(Boolean);
  const [old, now] = [pieces(before), pieces(after)];
  let start = 0;
  while (start < Math.min(old.length, now.length) && old[start] === now[start]) start += 1;
  let end = 0;
  while (end < Math.min(old.length, now.length) - start && old[old.length - 1 - end] === now[now.length - 1 - end]) end += 1;
  const side = (all, tag) => {
    const middle = all.slice(start, all.length - end).join("");
    return element("span", { class: "code" }, all.slice(0, start).join(""), middle ? element(tag, {}, middle) : null,
      all.slice(all.length - end).join(""));
  };
  return [side(old, "del"), side(now, "ins")];
}

/** The colour of each cause; they differ in lightness as well as in hue. */
export const COLORS = {
  __proto__: null,
  shape: "#d55e00", dtype: "#0072b2", weak_type: "#56b4e9", tree_structure: "#009e73", static_arg: "#e69f00",
  sharding: "#cc79a7", device: "#8c5a9e", committed: "#b45f8a", layout: "#7a4e8a", new_function: "#c9b800",
  config: "#6b8e23", transform: "#8aa0b8", cache_cleared: "#a0522d", aot: "#5f7d95", unknown: "#888888",
  first: "#9aa7b8",
};
/** The colours of the parts of a bar. */
const PARTS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c5a9e", "#6b8e23", "#a0522d", "#5f7d95", "#c9b800", "#b45f8a", "#888888"];
export const NAMES = { __proto__: null, first: "first compile" };
export const named = (cause) => NAMES[cause] ?? cause.replaceAll("_", " ");
