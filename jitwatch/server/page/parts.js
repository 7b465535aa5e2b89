// The parts of the page besides the charts and the table: each brings one element up to date.

import { bytes, clock, copyButton, count, duration, element, isNumber, label, named, percent, place, plural, seconds, short, sync } from "./format.js";

const MAX_ADVICE = 6;
const MAX_LINES = 5;
const SHORTEST_S = 0.3;
const PHASES = { __proto__: null, trace: "tracing", lower: "lowering", compile: "compiling" };
export const VIOLATIONS = {
  __proto__: null,
  use_after_donate: "Used after it was given away",
  unusable: "Given away for nothing",
  double_donation: "Given away twice in one call",
};

/** An entry of `sync` whose text is all there is to it. */
const line = (key, ...children) => ({ key, state: children.map((child) => child?.textContent ?? child), make: () => element("li", {}, children) });

/** The figures at the top. */
export function tiles(target, { now, latest, moments }) {
  const { totals } = now;
  const lost = now.uptime_seconds > 0 ? totals.lost_seconds / now.uptime_seconds : 0;
  const busy = now.uptime_seconds > 0 ? now.busy_seconds / now.uptime_seconds : 0;
  const memory = memoryNow(now.memory);
  const steady = isNumber(now.steady_seconds) ? `, ${count(totals.steady_violations)} after warm-up` : "";
  const figures = [
    ["Lost to recompiles", percent(lost), `${seconds(totals.lost_seconds)} of ${duration(now.uptime_seconds)}`, lost >= 0.05 ? "bad" : lost >= 0.01 ? "warn" : ""],
    ["Time compiling", percent(busy), seconds(now.busy_seconds)],
    ["Compiles", count(totals.compiles), totals.failures ? `${count(totals.failures)} failed` : ""],
    ["Recompiles", count(totals.recompiles), `${seconds(totals.lost_seconds)} lost${steady}`, totals.steady_violations ? "warn" : ""],
    ["Storms now", count(totals.storms_active), totals.storms ? `${count(totals.storms)} in all` : "none so far", totals.storms_active ? "bad" : totals.storms ? "warn" : ""],
    ["Donation violations", count(totals.donation_violations), totals.donation_violations ? "see below" : "", totals.donation_violations ? "bad" : ""],
    ["Steps", count(now.step), pace(now, latest, moments)],
    ["Memory", memory.figure, memory.of, memory.level],
  ];
  sync(target, figures.map(([name, figure, more, level]) => ({
    key: name, state: [figure, more, level],
    make: () => element("div", { class: level || null }, element("dt", {}, name), element("dd", {}, figure, more ? element("small", {}, more) : null)),
  })));
}

/** Steps a second over the last half minute or so. */
function pace(now, latest, moments) {
  if (!isNumber(now.step)) return "call jitwatch.step()";
  const before = moments.findLast((moment) => isNumber(moment.steps) && latest.time - moment.time >= 10) ?? moments.find((moment) => isNumber(moment.steps));
  if (!before || latest.time - before.time < 1) return "";
  const rate = (latest.steps - before.steps) / (latest.time - before.time);
  return rate >= 1 || rate === 0 ? `${rate.toFixed(rate < 10 ? 1 : 0)} a second` : `one in ${seconds(1 / rate)}`;
}

function memoryNow({ devices = [], host }) {
  const fullest = devices.filter((row) => isNumber(row.in_use_ratio)).sort((one, other) => other.in_use_ratio - one.in_use_ratio)[0];
  if (fullest) {
    const level = fullest.in_use_ratio >= 0.95 ? "bad" : fullest.in_use_ratio >= 0.9 ? "warn" : "";
    return { figure: percent(fullest.in_use_ratio), of: `of ${fullest.device}, ${bytes(fullest.limit_bytes)}`, level };
  }
  return host ? { figure: bytes(host.resident_bytes), of: "resident, on the host" } : { figure: "–", of: "" };
}

/** What compiles at this moment, the oldest first; what is over in no time would only make the page jump. */
export function running(part, target, now) {
  const shown = now.in_progress.filter((one) => one.for_s >= SHORTEST_S);
  part.hidden = !shown.length;
  sync(target, shown.map((one, at) => line(`${at} ${one.function}`, element("span", { class: "code" }, label(one.function)),
    ` ${PHASES[one.phase] ?? one.phase} for ${seconds(one.for_s)}${one.thread && one.thread !== "MainThread" ? `, in thread ${one.thread}` : ""}`)));
}

/** Known mistakes, and lines that recompile without one, of one function or of all; the dearest first. */
export function adviceIn({ pitfalls, sites }, label = null) {
  const lines = [...sites.values()].filter((one) => one.advice && !one.pitfall);
  return [...pitfalls.values(), ...lines].filter((one) => label === null || one.function === label)
    .sort((one, other) => other.lost_seconds - one.lost_seconds || (one.seq ?? 0) - (other.seq ?? 0));
}

/** An entry of `sync` for it. */
export const adviceEntry = (one, open) => ({
  key: [one.function, one.pitfall, one.subject ?? [one.call_site, ...one.causes, ...one.paths]].join("\n"),
  state: [one.message ?? one.reason, one.advice, one.recompiles, seconds(one.lost_seconds)],
  make: () => adviceOf(one, open),
});

/** What to change, the dearest first. */
export class Advice {
  constructor(part, target, open) {
    Object.assign(this, { part, target, open, isAll: false });
    this.more = element("button", { type: "button", onclick: () => { this.isAll = !this.isAll; this.update(this.feed); } });
    target.after(this.more);
  }

  update(feed) {
    this.feed = feed;
    const found = adviceIn(feed);
    this.part.hidden = !found.length;
    // A button in place of one entry would save nothing.
    const isLong = found.length > MAX_ADVICE + 1;
    this.more.hidden = !isLong;
    this.more.textContent = this.isAll ? "Show the dearest only" : `Show all ${count(found.length)}`;
    this.more.setAttribute("aria-expanded", this.isAll);
    const shown = this.isAll || !isLong ? found : found.slice(0, MAX_ADVICE);
    sync(this.target, shown.map((one) => adviceEntry(one, this.open)));
  }
}

/** One mistake or line: what happened, where, what it cost, what to change. */
function adviceOf(one, open) {
  const where = one.call_site ?? one.location;
  const name = open
    ? element("button", { type: "button", class: "name", title: one.function, onclick: () => open(one.function) }, short(one.function))
    : null;
  const often = one.recompiles > 1 ? `${plural(one.recompiles, "recompile")}, ` : "";
  const cost = one.lost_seconds ? [" ", element("span", { class: "badge warn" }, `${often}${seconds(one.lost_seconds)} lost`)] : [];
  const title = one.pitfall?.replaceAll("_", " ") ?? (one.causes.length ? `recompiled: ${one.causes.map(named).join(", ")}` : "recompiled");
  return element("li", {},
    element("div", {}, element("strong", {}, title), ...(name ? [" in ", name] : []),
      where ? element("span", { class: "small code", title: where }, ` ${place(where)}`) : "", cost),
    element("div", {}, sentence(one.message ?? one.reason)),
    element("div", { class: "fix" }, element("span", {}, element("b", {}, "Fix: "), sentence(one.advice)),
      copyButton(`${where ? `${place(where)}: ` : ""}${sentence(one.advice)}`)));
}

const sentence = (text) => (/[.!?]$/.test(text) ? text : `${text}.`);

/** Donations that went wrong: an entry for each function and kind, with the newest of each line. */
export function donation(part, target, { rows, events }, open) {
  const found = [...rows.values()].flatMap((row) => Object.entries(row.donation_violations).map(([kind, times]) => ({ row, kind, times })));
  part.hidden = !found.length;
  sync(target, found.map(({ row, kind, times }) => {
    const told = events.filter((event) => event.event === "donation.violation" && event.function === row.function && event.kind === kind);
    const newest = [...new Map(told.map((event) => [event.call_site, event])).values()].sort((one, other) => other.seq - one.seq).slice(0, MAX_LINES);
    return {
      key: `${row.function}\n${kind}`, state: [times, ...newest.map((event) => event.seq)],
      make: () => element("li", {},
        element("div", {}, element("strong", {}, VIOLATIONS[kind] ?? kind), `, ${plural(times, "time")}: `,
          element("button", { type: "button", class: "name", title: row.function, onclick: () => open(row.function) }, label(row.function))),
        newest.map(sidesOf)),
    };
  }));
}

/** The line of the user and that of the donor, side by side. */
export function sidesOf(event) {
  const array = `${event.leaf}: ${event.dtype}[${event.shape.join(",")}], ${bytes(event.bytes)}`;
  const side = (title, where, ...lines) => element("div", {}, element("div", { class: "small" }, title),
    element("div", { class: "code", title: where }, where ? place(where) : "an unknown line"), lines.filter(Boolean).map((text) => element("div", { class: "small" }, text)));
  const user = side(event.kind === "use_after_donate" ? "Used here" : "Called here", event.call_site, array, clock(event.timestamp));
  if (event.kind !== "use_after_donate") {
    return element("div", { class: "sides" }, user, element("div", { class: "small" }, event.kind === "unusable"
      ? "No output has its shape and dtype, so its memory is not used again." : "Two arguments of the call are the same array; copy one of them."));
  }
  const ago = isNumber(event.calls_ago) && event.calls_ago > 1 ? `${count(event.calls_ago)} calls ago` : null;
  const donor = side("Given away here", event.donated_at, event.donated_by ? `to ${event.donated_by}` : null,
    event.donated_leaf ? `as ${event.donated_leaf}` : null, ago);
  return element("div", { class: "sides" }, user, donor);
}

/** What there is to worry about in memory. */
export function memoryNotes(target, { now, events }) {
  const { leaks = [], pressure = [], devices = [] } = now.memory;
  const newest = (kind, test = () => true) => events.findLast((event) => event.event === kind && test(event));
  const notes = [];
  const shortage = newest("memory.oom");
  if (shortage) {
    const where = shortage.function ? ` in ${short(shortage.function)}` : "";
    notes.push(line("oom", element("strong", { class: "bad" }, "Memory ran out"), `${where} at ${clock(shortage.timestamp)}${shortage.call_site ? `, ${place(shortage.call_site)}` : ""}. ${shortage.message}`,
      element("div", { class: "small" }, tookIt(shortage))));
  }
  for (const place of pressure) {
    const row = devices.find((one) => one.device === place);
    notes.push(line(`full ${place}`, element("strong", { class: "bad" }, `${place} is nearly full`), row ? `: ${bytes(row.in_use_bytes)} of ${bytes(row.limit_bytes)}` : ""));
  }
  for (const kind of leaks) {
    const told = newest("memory.leak", (event) => event.growing === kind);
    notes.push(line(`leak ${kind}`, element("strong", { class: "bad" }, "It keeps growing: "), sentence(told?.message ?? kind.replaceAll("_", " "))));
  }
  sync(target, notes);
}

/** What there was when memory ran out. */
function tookIt({ arrays = [], executables = [], live_array_bytes: all }) {
  const largest = arrays.slice(0, 3).map((one) => `${count(one.count)} × ${one.dtype}[${one.shape.join(",")}] (${bytes(one.bytes)})`);
  const programs = executables.slice(0, 3).map((one) => `${short(one.function)} ${bytes(one.total_bytes)}`);
  const found = [isNumber(all) ? `Live arrays then: ${bytes(all)}${largest.length ? `, the largest ${largest.join(", ")}` : ""}.` : "",
    programs.length ? `Programs that need most: ${programs.join(", ")}.` : ""];
  return found.filter(Boolean).join(" ");
}

const DEVICES = [
  ["Device", null, (row) => [element("span", { class: "code" }, row.device), row.device_kind && row.device_kind !== row.device ? element("span", { class: "small" }, ` ${row.device_kind}`) : ""]],
  ["In use", "number", (row) => [bytes(row.in_use_bytes), row.in_use_from === "device" ? "" : element("div", { class: "small" }, "live arrays stand in")]],
  ["Limit", "number", (row) => bytes(row.limit_bytes)],
  ["Full", "number", (row) => percent(row.in_use_ratio)],
  ["Peak", "number extra", (row) => bytes(row.peak_bytes)],
  ["Reserved", "number extra", (row) => bytes(row.reserved_bytes)],
  ["Largest free block", "number extra", (row) => bytes(row.largest_free_block_bytes)],
  ["Live arrays", "number extra", (row) => (isNumber(row.live_arrays) ? `${count(row.live_arrays)}, ${bytes(row.live_array_bytes)}` : "–")],
];

/** A row for each device. */
export function devices(table, { devices: rows = [] }) {
  if (!table.tHead) table.append(element("thead", {}, element("tr", {}, DEVICES.map(([title, kind]) => element("th", { scope: "col", class: kind }, title)))), element("tbody"));
  table.hidden = !rows.length;
  sync(table.tBodies[0], rows.map((row) => ({
    key: row.device, state: row,
    make: () => element("tr", { title: row.problem }, DEVICES.map(([, kind, show]) => element("td", { class: kind }, show(row)))),
  })));
}

/** How jitwatch itself is. */
export function agent(target, now, checked) {
  const sum = (values) => Object.values(values).reduce((total, one) => total + one, 0);
  const { errors, overhead_seconds: overhead, events_dropped: dropped } = now.agent;
  const listed = (values) => Object.entries(values).filter(([, value]) => value).map(([name, value]) => `${name} ${count(value)}`).join(", ") || "none";
  const probes = Object.entries(now.probes).map(([name, probe]) => (probe.up ? `${name}: works` : `${name}: down, ${probe.reason}`));
  const { python, jax, jaxlib } = now.versions;
  const facts = [
    ["Last update", clock(checked / 1000)],
    ["Probes", probes.length ? probes : ["none"], Object.values(now.probes).some((probe) => !probe.up)],
    ["Own errors", listed(errors), sum(errors) > 0],
    ["Dropped events", listed(dropped), sum(dropped) > 0],
    ["Own cost", `${seconds(sum(overhead))}, ${share(sum(overhead) / now.uptime_seconds)} of the run`],
    ["Event log", now.event_log ?? "none; install(event_log=…) or jitwatch run writes one"],
    ["Versions", `jitwatch ${now.version}, jax ${jax ?? "–"}, jaxlib ${jaxlib ?? "–"}, Python ${python}`],
    ["Process", `${now.pid}${isNumber(now.process_index) ? `, number ${now.process_index} of its run` : ""}`],
  ];
  sync(target, facts.map(([name, text, isBad]) => ({
    key: name, state: [text, isBad],
    make: () => element("div", {}, element("dt", {}, name), element("dd", { class: isBad ? "warn" : null },
      Array.isArray(text) ? text.map((one) => element("div", {}, one)) : text)),
  })));
}

const share = (ratio) => (ratio > 0 && ratio < 0.01 ? `${(100 * ratio).toFixed(2)} %` : percent(ratio));
