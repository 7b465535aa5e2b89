// The detail of one function in a dialog: its figures, advice, and each recompile with its changes.

import { eventsOf } from "./api.js";
import { bytes, clock, count, element, fill, isNumber, label, marked, named, nearby, ordinal, percent, place, plural, seconds, stacked, swatch, sync } from "./format.js";
import { badges } from "./functions.js";
import { adviceEntry, adviceIn, sidesOf, VIOLATIONS } from "./parts.js";

const MAX_EVENTS = 200;
const HASH = "#f=";
const JAX_PART = /^JAX: [^:]*$/;
/** Control, invisible and text-direction characters. */
const CONTROLS = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu;

export class Detail {
  constructor(dialog, feed) {
    Object.assign(this, { dialog, feed, label: null, events: new Map() });
    this.title = dialog.querySelector("h2");
    this.facts = element("dl", { class: "facts" });
    this.buffersTitle = element("h3", {}, "Largest buffers at the peak of its largest program");
    this.buffersNote = element("p", { class: "empty" });
    this.buffers = element("tbody");
    this.buffersTable = element("div", { class: "scroll" }, element("table", { class: "buffers" },
      element("thead", {}, element("tr", {}, BUFFERS.map(([title, kind]) => element("th", { scope: "col", class: kind === "number" ? kind : null }, title)))), this.buffers));
    this.badges = element("p");
    this.advice = element("ul", { class: "plain" });
    this.times = element("div", { class: "times" });
    this.list = element("ol", { class: "plain recompiles" });
    this.note = element("p", { class: "empty" });
    dialog.querySelector("#detail-body").append(this.badges, this.facts, this.times, this.advice, this.buffersTitle, this.buffersNote, this.buffersTable,
      element("h3", {}, "Events, newest first"), this.note, this.list);
    dialog.querySelector("#detail-close").addEventListener("click", () => this.close());
    dialog.addEventListener("close", () => this.closed());
    // A click on the backdrop has the dialog itself as its target.
    dialog.addEventListener("click", (event) => { if (event.target === dialog) this.close(); });
    addEventListener("hashchange", () => this.follow());
  }

  /** Opens the function in the address, so that links work and Back closes the dialog. */
  follow() {
    const wanted = inAddress();
    if (wanted === null) this.close();
    else if (wanted !== this.label) this.show(wanted);
  }

  open(wanted) {
    location.hash = HASH + encodeURIComponent(wanted);
  }

  close() {
    this.dialog.close();
    this.closed();
  }

  /** The close event comes later, and is the only one for Escape; by then another function may be open or requested. */
  closed() {
    if (this.label === null || this.dialog.open) return;
    if (inAddress() === this.label) history.replaceState(null, "", location.pathname + location.search);
    this.label = null;
  }

  async show(wanted) {
    this.label = wanted;
    this.events = new Map();
    fill(this.title, label(wanted));
    this.note.textContent = "Loading …";
    this.list.replaceChildren();
    this.list.made = undefined;
    this.update();
    if (!this.dialog.open) this.dialog.showModal();
    this.dialog.scrollTop = 0;
    try {
      const events = await eventsOf(wanted, MAX_EVENTS);
      if (this.label === wanted) this.add(events);
      this.note.textContent = "";
    } catch {
      this.note.textContent = "The job does not respond. Only the events that this page has received are shown.";
    }
    this.update();
  }

  /** The largest buffers of a program, or why they are unknown. */
  showBuffers(program) {
    const rows = program?.peak_buffers ?? [];
    const unknown = program?.buffers_unknown ?? "";
    this.buffersTable.hidden = !rows.length;
    this.buffersTitle.hidden = !rows.length && !unknown;
    this.buffersNote.hidden = !unknown;
    this.buffersNote.textContent = unknown ? `Incomplete: ${unknown}.` : "";
    sync(this.buffers, rows.map((row, at) => ({
      key: at, state: row,
      make: () => element("tr", {}, BUFFERS.map(([, kind, show]) => element("td", { class: kind, title: kind === "code" ? row.call_site : null }, show(row)))),
    })));
  }

  add(events) {
    for (const event of events) this.events.set(event.seq, event);
  }

  /** Updates an open dialog; unchanged parts stay. */
  update() {
    if (this.label === null || !this.feed.now) return;
    this.add(this.feed.events.filter((event) => event.function === this.label || event.donated_by === this.label));
    const row = this.feed.rows.get(this.label);
    fill(this.badges, row ? badges(row, this.feed.now) : "The job has no function with this label yet.");
    sync(this.facts, row ? factsOf(row, this.feed.now.uptime_seconds) : []);
    this.showBuffers(row?.executable);
    sync(this.times, row ? timesOf(row) : []);
    const advice = adviceIn(this.feed, this.label);
    sync(this.advice, advice.map((one) => adviceEntry(one, null)));
    // A page that was opened late has the advice of the most expensive call sites only; the others come with each recompile.
    const isAdvised = advice.length > 0;
    const shown = [...this.events.values()].filter((event) => event.event in ENTRIES).sort((one, other) => other.seq - one.seq).slice(0, MAX_EVENTS);
    sync(this.list, shown.map((event) => ({ key: event.seq, state: isAdvised, make: () => element("li", {}, ENTRIES[event.event](event, isAdvised)) })));
    if (!shown.length && !this.note.textContent) this.note.textContent = "No events yet.";
    else if (shown.length && this.note.textContent === "No events yet.") this.note.textContent = "";
  }
}

/** The columns of the table of buffers. */
const BUFFERS = [
  ["Size", "number", (row) => bytes(row.bytes)],
  ["Share", "number", (row) => (isNumber(row.share) ? [element("meter", { min: 0, max: 1, value: row.share, "aria-hidden": "true" }), ` ${percent(row.share)}`] : "–")],
  ["Shape", "code", (row) => row.shape],
  ["Operation", "code", (row) => row.op],
  ["Line", "code", (row) => (row.call_site ? place(row.call_site) : "")],
];

/** The function in the address, or null. */
function inAddress() {
  // Links come from anywhere; labels contain no such characters.
  return location.hash.startsWith(HASH) ? decode(location.hash.slice(HASH.length)).replace(CONTROLS, "?") : null;
}

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** Figures of a function as names and texts. */
function factsOf(row, uptime) {
  const { trace, lower, compile } = row.phases;
  const program = row.executable;
  const causes = Object.entries(row.causes).sort(([, one], [, other]) => other - one);
  const facts = [
    ["Defined at", row.location ? nearby(row.location) : "unknown", null, row.location],
    ["Compiles", `${count(row.compiles)}, ${plural(row.recompiles, "recompile")}${row.failures ? `, ${count(row.failures)} failed` : ""}`],
    ["Time", `${seconds(row.seconds)}: ${seconds(trace)} traced, ${seconds(lower)} lowered, ${seconds(compile)} compiled by XLA`],
    ["Lost to recompiles", row.lost_seconds ? `${seconds(row.lost_seconds)}, ${percent(row.lost_seconds / uptime)} of the run${steps(row)}` : "none"],
    ["Causes", causes.length ? causes.map(([cause, times]) => `${named(cause)} ${count(times)} ×`).join(", ") : null, causes],
    ["Cache entries", isNumber(row.cache_entries) ? count(row.cache_entries) : null],
    ["Calls of jax.jit", row.wrappers > 1 ? count(row.wrappers) : null],
    ["Calls", isNumber(row.calls) ? count(row.calls) : null],
    ["Program’s memory", program ? `${bytes(program.total_bytes)} on each device: arguments ${bytes(program.argument_bytes)}, outputs ${bytes(program.output_bytes)}, temporaries ${bytes(program.temporary_bytes)}, code ${bytes(program.code_bytes)}` : null],
    ["At its peak", isNumber(program?.peak_bytes) ? `${bytes(program.peak_bytes)}, without code` : null],
    ["Captured constants", row.captured_constant_bytes ? bytes(row.captured_constant_bytes) : null],
    ["Donation opportunity", row.donation_opportunity_bytes ? `${bytes(row.donation_opportunity_bytes)} a call` : null],
  ];
  return facts.filter(([, text]) => text !== null).map(([name, text, swatches, title]) => ({
    key: name, state: text,
    make: () => element("div", {}, element("dt", {}, name), element("dd", { title }, swatches?.length
      ? swatches.flatMap(([cause, times]) => [swatch(cause, ` ${count(times)} ×`), " "]) : text)),
  }));
}

/** Bars of the longest trace and of the longest profiled compile. */
function timesOf(row) {
  const found = [];
  const share = (one) => `${percent(one.share)}, ${seconds(one.seconds)}`;
  if (row.trace_hot_lines?.length) {
    const lines = row.trace_hot_lines.map((one) => ({ share: one.share, text: share(one),
      name: JAX_PART.test(one.call_site) ? one.call_site : place(one.call_site) + (one.is_in_loop ? " (in a loop)" : "") }));
    found.push(["trace", `Tracing and lowering, ${seconds(row.traced_seconds)}`, lines]);
  }
  if (row.xla_passes?.length) {
    const tuning = row.autotuning_seconds > 0 ? `, ${seconds(row.autotuning_seconds)} of it autotuning` : "";
    const passes = row.xla_passes.map((one) => ({ share: one.share, text: share(one), name: one.name }));
    found.push(["xla", `XLA, ${seconds(row.profiled_seconds)} profiled${tuning}`, passes]);
  }
  return found.map(([key, title, parts]) => ({ key, state: [title, parts],
    make: () => element("section", { class: "time" }, element("h3", {}, title), stacked(parts)) }));
}

function steps(row) {
  const number = Math.round(row.lost_steps ?? 0);
  return number ? `, equivalent to ${plural(number, "step")}` : "";
}

/** The content of an entry, by the kind of event. */
const ENTRIES = {
  __proto__: null,
  "jit.compiled": (event) => [head(event, "First compile", spent(event)), cacheOf(event)],
  "jit.recompiled": (event, isAdvised) => [
    head(event, `${ordinal(event.nth)} compile`, ...(event.causes ?? []).map((cause) => swatch(cause)),
      event.expected ? `expected: ${event.expected}` : spent(event)),
    ...changesOf(event),
    event.advice && !isAdvised ? element("p", { class: "small" }, `Advice: ${event.advice}.`) : null,
    cacheOf(event),
  ],
  "jit.compiling": (event) => [head(event, "Still compiling", `for ${seconds(event.for_s)} so far`)],
  "jit.compile_profiled": (event) => [head(event, "Profiled", `${seconds(event.profiled_s)} of XLA`)],
  "jit.cache_missed": (event) => [head(event, "Not in the persistent cache"), quoted(event.explanation)],
  "jit.compile_failed": (event) => [head(event, "Failed", `${event.error} in ${event.phase} after ${seconds(event.spent_s)}`), quoted(event.message)],
  "jit.storm_started": (event) => [head(event, "Storm started", `${plural(event.recompiles, "recompile")} within ${seconds(event.within_s)}`)],
  "jit.storm_ended": (event) => [head(event, "Storm ended", `${plural(event.recompiles, "recompile")} in ${seconds(event.lasted_s)}, ${seconds(event.lost_s)} lost`)],
  "programs.diverged": (event) => [head(event, "Different program than other processes"), event.message, event.advice],
  "jit.steady_violation": (event) => [head(event, "Compiled in the steady state", seconds(event.spent_s)), quoted(event.reason)],
  "donation.violation": (event) => [head(event, VIOLATIONS[event.kind] ?? event.kind), sidesOf(event)],
  "memory.pressure": (event) => [head(event, "Will not fit"), quoted(event.message)],
  "memory.oom": (event) => [head(event, "Out of memory"), quoted(event.message)],
};

const quoted = (text) => (text ? element("p", { class: "small" }, text) : null);

function head(event, what, ...more) {
  const parts = [element("strong", {}, what), clock(event.timestamp), isNumber(event.step) ? `step ${count(event.step)}` : null,
    event.call_site ? element("span", { class: "code", title: event.call_site }, `at ${place(event.call_site)}`) : null, ...more];
  return element("div", { class: "entry" }, parts.filter(Boolean).map((part) => element("span", {}, part)));
}

function cacheOf(event) {
  const text = event.persistent_cache_explanation;
  return text ? quoted(`Not in the persistent cache: ${text}`) : null;
}

function spent(event) {
  const total = (event.trace_s ?? 0) + (event.lower_s ?? 0) + event.compile_s;
  return event.persistent_cache === "hit" ? `${seconds(total)}, from the persistent cache` : seconds(total);
}

function changesOf(event) {
  const changes = event.changes ?? [];
  if (!changes.length) return [element("p", { class: "small" }, event.explanation ?? "The cause is unknown.")];
  const rows = changes.map((change) => {
    const [before, after] = marked(change.before, change.after);
    return element("div", { class: "change" }, element("span", { class: "code" }, change.path),
      element("span", {}, element("span", { class: "spoken" }, "before: "), before),
      element("span", {}, element("span", { "aria-hidden": "true" }, "→ "), element("span", { class: "spoken" }, "after: "), after));
  });
  if (event.changes_left_out) rows.push(element("p", { class: "small" }, `and ${count(event.changes_left_out)} more`));
  return rows;
}
