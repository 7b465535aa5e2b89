// The table of the functions: sorted, filtered, and brought up to date row by row.

import { count, element, fill, keepFocus, label, named, percent, place, plural, seconds, swatch, worst } from "./format.js";

const FEW = 25;
const MANY = 500;
const WORDS = {
  __proto__: null,
  __jax__: "JAX’s own small compiles, outside of jit",
  __other__: "functions past the first 10,000",
  unknown: "functions that JAX did not tell of",
};

const ratio = (row, uptime) => (uptime > 0 ? row.lost_seconds / uptime : 0);

/** `value` is sorted by, `show` makes the cell's content, `sign` says when it has to be made anew. */
const COLUMNS = [
  { key: "function", title: "Function", value: (row) => row.function.toLowerCase() },
  { key: "compiles", title: "Compiles", class: "number", value: (row) => row.compiles, show: (row) => count(row.compiles) },
  { key: "recompiles", title: "Recompiles", class: "number extra", value: (row) => row.recompiles, show: (row) => count(row.recompiles) },
  { key: "seconds", title: "Seconds", class: "number extra", value: (row) => row.seconds, show: (row) => seconds(row.seconds) },
  { key: "lost", title: "Lost", class: "number", value: (row) => row.lost_seconds, show: (row) => (row.lost_seconds ? seconds(row.lost_seconds) : "–") },
  { key: "share", title: "Of run", class: "number extra", value: ratio, show: (row, uptime) => (row.lost_seconds ? percent(ratio(row, uptime)) : "–") },
  { key: "entries", title: "Cache entries", class: "number extra", value: (row) => row.cache_entries ?? -1, show: (row) => count(row.cache_entries) },
  { key: "cause", title: "Worst cause", value: (row) => worst(row.causes) ?? "", show: causeOf },
];

function causeOf(row) {
  const cause = worst(row.causes);
  if (!cause) return "–";
  const others = Object.entries(row.causes).filter(([name]) => name !== cause);
  const more = others.length ? element("small", { title: others.map(([name, times]) => `${named(name)} ${times} ×`).join(", ") }, ` +${others.length}`) : null;
  return swatch(cause, more);
}

/** What is wrong with a function right now or was, as short words with a colour. */
export function marks(row) {
  const found = [];
  if (row.is_in_storm) found.push(["bad", "storm"]);
  const donated = Object.values(row.donation_violations).reduce((sum, one) => sum + one, 0);
  if (donated) found.push(["bad", plural(donated, "donation violation")]);
  if (row.steady_violations) found.push(["warn", `${plural(row.steady_violations, "compile")} after warm-up`]);
  if (row.failures) found.push(["warn", `${count(row.failures)} failed`]);
  if (row.storms && !row.is_in_storm) found.push(["warn", plural(row.storms, "storm")]);
  return found.map(([level, text]) => element("span", { class: `badge ${level}` }, text));
}

export class Functions {
  /** `open` is called with the label of the function that somebody wants to see. */
  constructor(table, filter, more, open) {
    Object.assign(this, { table, filter, more, open, sort: "lost", isDown: true, isAll: false, lines: new Map(), feed: null });
    this.heads = COLUMNS.map((column) => this.head(column));
    this.body = element("tbody");
    table.append(element("thead", {}, element("tr", {}, this.heads)), this.body);
    this.all = element("button", { type: "button", onclick: () => { this.isAll = !this.isAll; this.draw(true); } });
    more.before(this.all);
    filter.addEventListener("input", () => this.draw(true));
    this.body.addEventListener("keydown", (event) => this.move(event));
    this.body.addEventListener("click", (event) => this.clicked(event));
    this.mark();
  }

  head(column) {
    const button = element("button", { type: "button", onclick: () => this.sortBy(column) }, column.title,
      element("span", { class: "arrow", "aria-hidden": "true" }));
    return element("th", { scope: "col", class: column.class }, button);
  }

  sortBy(column) {
    const isText = ["function", "cause"].includes(column.key);
    this.isDown = this.sort === column.key ? !this.isDown : !isText;
    this.sort = column.key;
    this.mark();
    this.draw(true);
  }

  mark() {
    COLUMNS.forEach((column, at) => {
      const head = this.heads[at];
      const isIt = column.key === this.sort;
      if (isIt) head.setAttribute("aria-sort", this.isDown ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
      head.querySelector(".arrow").textContent = isIt ? (this.isDown ? " ▼" : " ▲") : "";
    });
  }

  update(feed) {
    this.feed = feed;
    // Rows do not run away from under the pointer.
    this.draw(!(matchMedia("(hover: hover)").matches && this.body.matches(":hover")));
  }

  draw(mayMove) {
    if (!this.feed?.now) return;
    const all = this.sorted();
    const words = this.filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const matching = all.filter((row) => words.every((word) => searched(row).includes(word)));
    // Those that were never compiled are looked at when somebody asks for them.
    const few = (words.length ? matching : matching.filter((row) => row.compiles || row.failures)).slice(0, FEW);
    const shown = this.isAll ? matching.slice(0, MANY) : few;
    const focused = document.activeElement;
    const scrolled = this.table.parentElement.scrollLeft;
    for (const row of shown) this.line(row);
    this.place(shown, mayMove);
    this.table.parentElement.scrollLeft = scrolled;
    keepFocus(focused);
    this.tell(all.length, matching.length, shown.length, few.length);
  }

  sorted() {
    const { value } = COLUMNS.find(({ key }) => key === this.sort);
    const uptime = this.feed.now.uptime_seconds;
    const compare = (one, other) => (one < other ? -1 : one > other ? 1 : 0);
    const direction = this.isDown ? -1 : 1;
    return [...this.feed.rows.values()].sort((one, other) => direction * compare(value(one, uptime), value(other, uptime))
      || other.seconds - one.seconds || compare(one.function, other.function));
  }

  place(shown, mayMove) {
    const wanted = new Set(shown.map((row) => this.lines.get(row.function).node));
    const present = [...this.body.children].filter((node) => wanted.has(node) || (node.remove(), false));
    if (!mayMove && present.length === wanted.size) return;
    let next = this.body.firstElementChild;
    for (const row of shown) {
      const { node } = this.lines.get(row.function);
      if (node === next) next = next.nextElementSibling;
      else this.body.insertBefore(node, next);
    }
  }

  /** The row of a function, made once; its cells are written only when they change. */
  line(row) {
    const uptime = this.feed.now.uptime_seconds;
    let line = this.lines.get(row.function);
    if (!line) {
      line = { signs: [], cells: COLUMNS.map((column) => element("td", { class: column.class })), place: element("span", { class: "small" }), marks: element("span") };
      line.node = element("tr", { "data-function": row.function }, line.cells);
      line.cells[0].append(element("button", { type: "button", class: "name", title: `${row.function}: every recompile` }, label(row.function)), line.place, line.marks);
      this.lines.set(row.function, line);
    }
    COLUMNS.forEach((column, at) => {
      if (!column.show) return;
      const content = column.show(row, uptime);
      const sign = typeof content === "string" ? content : JSON.stringify(row.causes);
      if (line.signs[at] !== sign) fill(line.cells[at], content);
      line.signs[at] = sign;
    });
    const isTold = row.location && row.function.endsWith(`@${place(row.location)}`);
    const where = isTold ? "" : row.location ? place(row.location) : WORDS[row.function] ?? "";
    if (line.place.textContent !== where) {
      line.place.textContent = where;
      if (row.location) line.place.setAttribute("title", row.location);
    }
    const badges = marks(row);
    const sign = badges.map((badge) => badge.textContent).join();
    if (line.badges !== sign) fill(line.marks, badges);
    line.badges = sign;
  }

  tell(all, matching, shown, few) {
    const parts = [];
    if (matching < all) parts.push(`${count(matching)} of ${plural(all, "function")} match.`);
    if (matching > MANY && this.isAll) parts.push(`The first ${count(shown)} are shown: filter, or sort by another column.`);
    this.all.hidden = matching <= few;
    this.all.textContent = this.isAll ? "Show the first only" : `Show all ${count(Math.min(matching, MANY))}`;
    this.all.setAttribute("aria-expanded", this.isAll);
    if (this.feed.leftOut) parts.push(`${count(this.feed.leftOut)} more are in the state (JSON), below.`);
    if (all && !shown && matching === all) parts.push("None of them was compiled yet.");
    if (!all) parts.push("No function was passed to jax.jit yet.");
    const text = parts.join(" ");
    if (this.more.textContent !== text) this.more.textContent = text;
  }

  clicked(event) {
    const line = event.target.closest("tr");
    // The whole row is a target for a pointer, unless a text in it is being selected.
    if (line && !String(getSelection())) this.open(line.dataset.function);
  }

  move(event) {
    const step = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
    const button = step && event.target.closest("tr")?.[step]?.querySelector("button.name");
    if (button) {
      event.preventDefault();
      button.focus();
    }
  }
}

function searched(row) {
  const causes = Object.keys(row.causes);
  return [row.function, row.location ?? "", ...causes, ...causes.map(named), ...Object.keys(row.pitfalls)].join("\n").toLowerCase();
}
