// The table of functions: sorted, filtered, and updated row by row.

import { count, element, fill, keepFocus, label, mainCause, named, percent, place, plural, seconds, swatch } from "./format.js";

const FEW = 25;
const MANY = 500;
const DESCRIPTIONS = {
  __proto__: null,
  __jax__: "JAX’s own compiles",
  __other__: "functions beyond the first 10,000",
  unknown: "a donor or caller that was not observed",
};

const ratio = (row, uptime) => (uptime > 0 ? row.lost_seconds / uptime : 0);

/** `value` is the sort key, `show` makes the content of the cell, `figure` names the level that colours it. */
const COLUMNS = [
  { key: "function", title: "Function", value: (row) => row.function.toLowerCase() },
  { key: "compiles", title: "Compiles", class: "number", value: (row) => row.compiles, show: (row) => count(row.compiles) },
  { key: "recompiles", title: "Recompiles", class: "number extra", figure: "recompiles", value: (row) => row.recompiles, show: (row) => count(row.recompiles) },
  { key: "seconds", title: "Seconds", class: "number extra", value: (row) => row.seconds, show: (row) => seconds(row.seconds) },
  { key: "lost", title: "Lost", class: "number", figure: "lost_seconds", value: (row) => row.lost_seconds, show: (row) => (row.lost_seconds ? seconds(row.lost_seconds) : "–") },
  { key: "share", title: "Of run", class: "number extra", figure: "lost_seconds", value: ratio, show: (row, uptime) => (row.lost_seconds ? percent(ratio(row, uptime)) : "–") },
  { key: "entries", title: "Cache entries", class: "number extra", value: (row) => row.cache_entries ?? -1, show: (row) => count(row.cache_entries) },
  { key: "cause", title: "Main cause", value: (row) => mainCause(row.causes) ?? "", show: causeOf },
];

function causeOf(row) {
  const cause = mainCause(row.causes);
  if (!cause) return "–";
  const others = Object.entries(row.causes).filter(([name]) => name !== cause);
  const more = others.length ? element("small", { title: others.map(([name, times]) => `${named(name)} ${times} ×`).join(", ") }, ` +${others.length}`) : null;
  return swatch(cause, more);
}

/** Storms, violations and failures of a function as badges; those that the job reports now have its level. */
export function badges(row, now) {
  const found = [];
  if (row.is_in_storm) found.push(["storm", "storms_active"]);
  const donated = Object.values(row.donation_violations).reduce((sum, one) => sum + one, 0);
  if (donated) found.push([plural(donated, "donation violation"), "donation_violations"]);
  if (row.steady_violations) found.push([plural(row.steady_violations, "steady-state violation"), "steady_violations"]);
  if (row.failures) found.push([`${count(row.failures)} failed`, "failures"]);
  if (row.storms && !row.is_in_storm) found.push([plural(row.storms, "storm"), "storms"]);
  const levels = levelsOf(row, now);
  if (levels.memory) found.push(["out of memory", "memory"]);
  return found.map(([text, figure]) => element("span", { class: `badge ${levels[figure] ?? ""}` }, text));
}

/** The levels of a function's figures, from the job. */
const levelsOf = (row, now) => now.levels.functions[row.function] ?? {};

export class Functions {
  /** `open` is called with the label of a function to show its detail. */
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
    // Rows keep their place while the pointer is on the table.
    this.draw(!(matchMedia("(hover: hover)").matches && this.body.matches(":hover")));
  }

  draw(mayMove) {
    if (!this.feed?.now) return;
    const all = this.sorted();
    const terms = this.filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const matching = all.filter((row) => terms.every((term) => searched(row).includes(term)));
    // Functions that were never compiled are shown on demand.
    const few = (terms.length ? matching : matching.filter((row) => row.compiles || row.failures)).slice(0, FEW);
    const shown = this.isAll ? matching.slice(0, MANY) : few;
    const focused = document.activeElement;
    const scrolled = this.table.parentElement.scrollLeft;
    for (const row of shown) this.updateRow(row);
    this.place(shown, mayMove);
    this.table.parentElement.scrollLeft = scrolled;
    keepFocus(focused);
    this.note(all.length, matching.length, shown.length, few.length);
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
  updateRow(row) {
    const uptime = this.feed.now.uptime_seconds;
    const levels = levelsOf(row, this.feed.now);
    let line = this.lines.get(row.function);
    if (!line) {
      line = { shown: [], cells: COLUMNS.map(() => element("td")), place: element("span", { class: "small" }), badges: element("span") };
      line.node = element("tr", { "data-function": row.function }, line.cells);
      line.cells[0].append(element("button", { type: "button", class: "name", title: `${row.function}: every recompile` }, label(row.function)), line.place, line.badges);
      this.lines.set(row.function, line);
    }
    COLUMNS.forEach((column, at) => {
      if (!column.show) return;
      const content = column.show(row, uptime);
      const text = typeof content === "string" ? content : JSON.stringify(row.causes);
      if (line.shown[at] !== text) fill(line.cells[at], content);
      line.shown[at] = text;
    });
    COLUMNS.forEach((column, at) => {
      const classes = [column.class, levels[column.figure]].filter(Boolean).join(" ");
      if (line.cells[at].className !== classes) line.cells[at].className = classes;
    });
    const isInLabel = row.location && row.function.endsWith(`@${place(row.location)}`);
    const where = isInLabel ? "" : row.location ? place(row.location) : DESCRIPTIONS[row.function] ?? "";
    if (line.place.textContent !== where) {
      line.place.textContent = where;
      if (row.location) line.place.setAttribute("title", row.location);
    }
    const found = badges(row, this.feed.now);
    const text = found.map((badge) => `${badge.className} ${badge.textContent}`).join();
    if (line.shown.badges !== text) fill(line.badges, found);
    line.shown.badges = text;
  }

  note(all, matching, shown, few) {
    const parts = [];
    if (matching < all) parts.push(`${count(matching)} of ${plural(all, "function")} match.`);
    if (matching > MANY && this.isAll) parts.push(`The first ${count(shown)} are shown. Filter, or sort by another column.`);
    this.all.hidden = matching <= few;
    this.all.textContent = this.isAll ? "Show fewer" : `Show all ${count(Math.min(matching, MANY))}`;
    this.all.setAttribute("aria-expanded", this.isAll);
    if (this.feed.leftOut) parts.push(`${count(this.feed.leftOut)} more are in the state (JSON).`);
    if (all && !shown && matching === all) parts.push("No function has compiled yet.");
    if (!all) parts.push("No function has been passed to jax.jit yet.");
    const text = parts.join(" ");
    if (this.more.textContent !== text) this.more.textContent = text;
  }

  clicked(event) {
    const line = event.target.closest("tr");
    // A click anywhere in the row opens the detail, unless text is being selected.
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
