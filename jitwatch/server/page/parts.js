// The sections of the page besides the charts and the table: each function updates one element.

import { bytes, clock, copyButton, count, duration, element, isNumber, label, named, percent, place, plural, seconds, short, sync } from "./format.js";

const MAX_ADVICE = 6;
const MAX_CALL_SITES = 5;
const SHORTEST_S = 0.3;
const PHASES = { __proto__: null, trace: "tracing", lower: "lowering", compile: "compiling" };
export const VIOLATIONS = {
  __proto__: null,
  use_after_donate: "Used after donation",
  unusable: "Unusable donation",
  double_donation: "Double donation",
};
const EXPLANATIONS = {
  __proto__: null,
  unusable: "No output has its shape and dtype, so its memory is not reused.",
  double_donation: "Two arguments of the call share a buffer. Copy one of them.",
};

/** An entry of `sync` that consists of its text. */
const line = (key, ...children) => ({ key, state: children.map((child) => child?.textContent ?? child), make: () => element("li", {}, children) });

/** The figures at the top; their colours are the job's own levels. */
export function tiles(target, { now, latest, moments }) {
  const { totals, levels: { figures: levels } } = now;
  const lost = now.uptime_seconds > 0 ? totals.lost_seconds / now.uptime_seconds : 0;
  const busy = now.uptime_seconds > 0 ? now.busy_seconds / now.uptime_seconds : 0;
  const memory = memoryNow(now.memory);
  const steady = isNumber(now.steady_seconds) ? `, ${count(totals.steady_violations)} in the steady state` : "";
  const figures = [
    ["Lost to recompiles", percent(lost), `${seconds(totals.lost_seconds)} of ${duration(now.uptime_seconds)}`, levels.lost_seconds],
    ["Time compiling", percent(busy), seconds(now.busy_seconds), levels.busy_seconds],
    ["Compiles", count(totals.compiles), totals.failures ? `${count(totals.failures)} failed` : ""],
    ["Recompiles", count(totals.recompiles), `${seconds(totals.lost_seconds)} lost${steady}`, levels.steady_violations ?? levels.recompiles],
    ["Storms now", count(totals.storms_active), totals.storms ? `${count(totals.storms)} in total` : "none so far", levels.storms_active],
    ["Donation violations", count(totals.donation_violations), totals.donation_violations ? "see below" : "", levels.donation_violations],
    ["Steps", count(now.step), pace(now, latest, moments)],
    ["Memory", memory.figure, memory.of, levels.memory],
  ];
  sync(target, figures.map(([name, figure, more, level]) => ({
    key: name, state: [figure, more, level],
    make: () => element("div", { class: level || null }, element("dt", {}, name), element("dd", {}, figure, more ? element("small", {}, more) : null)),
  })));
}

/** Steps per second over the last ten seconds or more. */
function pace(now, latest, moments) {
  if (!isNumber(now.step)) return "call jitwatch.step()";
  const before = moments.findLast((moment) => isNumber(moment.steps) && latest.time - moment.time >= 10) ?? moments.find((moment) => isNumber(moment.steps));
  if (!before || latest.time - before.time < 1) return "";
  const rate = (latest.steps - before.steps) / (latest.time - before.time);
  return rate >= 1 || rate === 0 ? `${rate.toFixed(rate && rate < 10 ? 1 : 0)} per second` : `one every ${seconds(1 / rate)}`;
}

function memoryNow({ fullest, host }) {
  if (fullest) return { figure: percent(fullest.ratio), of: `of ${fullest.place}, ${bytes(fullest.limit_bytes)}` };
  return host ? { figure: bytes(host.resident_bytes), of: "resident, on the host" } : { figure: "–", of: "" };
}

/** The compiles in progress; those that have just begun are left out, so that the page does not jump. */
export function running(part, target, now) {
  const shown = now.in_progress.filter((one) => one.for_s >= SHORTEST_S);
  part.hidden = !shown.length;
  sync(target, shown.map((one, at) => line(`${at} ${one.function}`, element("span", { class: "code" }, label(one.function)),
    ` ${PHASES[one.phase] ?? one.phase} for ${seconds(one.for_s)}${one.thread && one.thread !== "MainThread" ? `, in thread ${one.thread}` : ""}`)));
}

/** Pitfalls, and call sites that recompile without one, of one function or of all; most lost seconds first. */
export function adviceIn({ pitfalls, sites }, label = null) {
  const others = [...sites.values()].filter((one) => one.advice && !one.pitfall);
  return [...pitfalls.values(), ...others].filter((one) => label === null || one.function === label)
    .sort((one, other) => other.lost_seconds - one.lost_seconds || (one.seq ?? 0) - (other.seq ?? 0));
}

/** The entry of `sync` for a piece of advice. */
export const adviceEntry = (one, open) => ({
  key: [one.function, one.pitfall, one.subject ?? [one.call_site, ...one.causes, ...one.paths]].join("\n"),
  state: [one.message ?? one.reason, one.advice, one.recompiles, seconds(one.lost_seconds)],
  make: () => adviceOf(one, open),
});

/** The list of advice, most lost seconds first. */
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
    // A button takes as much space as one entry.
    const isLong = found.length > MAX_ADVICE + 1;
    this.more.hidden = !isLong;
    this.more.textContent = this.isAll ? "Show fewer" : `Show all ${count(found.length)}`;
    this.more.setAttribute("aria-expanded", this.isAll);
    const shown = this.isAll || !isLong ? found : found.slice(0, MAX_ADVICE);
    sync(this.target, shown.map((one) => adviceEntry(one, this.open)));
  }
}

/** A pitfall or a call site: what happened, where, its lost seconds, and the advice. */
function adviceOf(one, open) {
  const where = one.call_site ?? one.location;
  const name = open
    ? element("button", { type: "button", class: "name", title: one.function, onclick: () => open(one.function) }, short(one.function))
    : null;
  const often = one.recompiles > 1 ? `${plural(one.recompiles, "recompile")}, ` : "";
  const cost = one.lost_seconds ? [" ", element("span", { class: "badge" }, `${often}${seconds(one.lost_seconds)} lost`)] : [];
  const title = one.pitfall?.replaceAll("_", " ") ?? (one.causes.length ? `recompiled: ${one.causes.map(named).join(", ")}` : "recompiled");
  return element("li", {},
    element("div", {}, element("strong", {}, title), ...(name ? [" in ", name] : []),
      where ? element("span", { class: "small code", title: where }, ` ${place(where)}`) : "", cost),
    element("div", {}, sentence(one.message ?? one.reason)),
    element("div", { class: "advice" }, element("span", {}, element("b", {}, "Advice: "), sentence(one.advice)),
      copyButton(`${where ? `${place(where)}: ` : ""}${sentence(one.advice)}`)));
}

const sentence = (text) => (/[.!?]$/.test(text) ? text : `${text}.`);

/** Donation violations: an entry for each function and kind, with the newest of each call site. */
export function donation(part, target, { rows, events }, open) {
  const found = [...rows.values()].flatMap((row) => Object.entries(row.donation_violations).map(([kind, times]) => ({ row, kind, times })));
  part.hidden = !found.length;
  sync(target, found.map(({ row, kind, times }) => {
    const records = events.filter((event) => event.event === "donation.violation" && event.function === row.function && event.kind === kind);
    const newest = [...new Map(records.map((event) => [event.call_site, event])).values()].sort((one, other) => other.seq - one.seq).slice(0, MAX_CALL_SITES);
    return {
      key: `${row.function}\n${kind}`, state: [times, ...newest.map((event) => event.seq)],
      make: () => element("li", {},
        element("div", {}, element("strong", {}, VIOLATIONS[kind] ?? kind), `, ${plural(times, "time")}: `,
          element("button", { type: "button", class: "name", title: row.function, onclick: () => open(row.function) }, label(row.function))),
        newest.map(sidesOf)),
    };
  }));
}

/** The call site of the violation and that of the donation, side by side. */
export function sidesOf(event) {
  const array = `${event.leaf}: ${event.dtype}[${event.shape.join(",")}], ${bytes(event.bytes)}`;
  const side = (title, where, ...lines) => element("div", {}, element("div", { class: "small" }, title),
    element("div", { class: "code", title: where }, where ? place(where) : "unknown call site"), lines.filter(Boolean).map((text) => element("div", { class: "small" }, text)));
  const user = side(event.kind === "use_after_donate" ? "Used here" : "Called here", event.call_site, array, clock(event.timestamp));
  if (event.kind !== "use_after_donate") {
    return element("div", { class: "sides" }, user, element("div", { class: "small" }, EXPLANATIONS[event.kind] ?? ""));
  }
  const ago = isNumber(event.calls_ago) && event.calls_ago > 1 ? `${count(event.calls_ago)} calls ago` : null;
  const donor = side("Donated here", event.donated_at, event.donated_by ? `to ${event.donated_by}` : null,
    event.donated_leaf ? `as ${event.donated_leaf}` : null, ago);
  return element("div", { class: "sides" }, user, donor);
}

/** The job's own notes about memory: out-of-memory errors, what is nearly full, what grows. */
export function memoryNotes(target, { now }) {
  sync(target, (now.memory.notes ?? []).map((note, at) => ({
    key: at, state: note,
    make: () => element("li", {}, element("strong", { class: note.level }, note.title),
      note.timestamp ? ` at ${clock(note.timestamp)}` : "", note.call_site ? `, ${place(note.call_site)}` : "", ": ", note.sentence,
      note.detail ? element("div", { class: "small" }, note.detail) : null),
  })));
}

const DEVICES = [
  ["Device", null, (row) => [element("span", { class: "code" }, row.device), row.device_kind && row.device_kind !== row.device ? element("span", { class: "small" }, ` ${row.device_kind}`) : ""]],
  ["In use", "number", (row) => [bytes(row.in_use_bytes), row.in_use_from === "device" ? "" : element("div", { class: "small" }, "of live arrays")]],
  ["Limit", "number", (row) => bytes(row.limit_bytes)],
  ["Full", "number", (row) => element("span", { class: row.level }, percent(row.in_use_ratio))],
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

/** The agent itself. */
export function agent(target, now, checked) {
  const sum = (values) => Object.values(values).reduce((total, one) => total + one, 0);
  const { errors, overhead_seconds: overhead, events_dropped: dropped } = now.agent;
  const listed = (values) => Object.entries(values).filter(([, value]) => value).map(([name, value]) => `${name} ${count(value)}`).join(", ") || "none";
  const probes = Object.entries(now.probes).map(([name, probe]) => (probe.up ? `${name}: up` : `${name}: down, ${probe.reason}`));
  const { python, jax, jaxlib } = now.versions;
  const facts = [
    ["Last update", clock(checked / 1000)],
    ["Probes", probes.length ? probes : ["none"], now.levels.figures.probes],
    ["Internal errors", listed(errors)],
    ["Dropped events", listed(dropped)],
    ["Overhead", `${seconds(sum(overhead))} of CPU time, ${share(sum(overhead) / now.uptime_seconds)} of a core`],
    ["Event log", now.event_log ?? "none; set install(event_log=…), or use jitwatch run"],
    ["Versions", `jitwatch ${now.version}, jax ${jax ?? "–"}, jaxlib ${jaxlib ?? "–"}, Python ${python}`],
    ["Process", `${now.pid}${isNumber(now.process_index) ? `, index ${now.process_index} in its run` : ""}`],
  ];
  sync(target, facts.map(([name, text, level]) => ({
    key: name, state: [text, level],
    make: () => element("div", {}, element("dt", {}, name), element("dd", { class: level },
      Array.isArray(text) ? text.map((one) => element("div", {}, one)) : text)),
  })));
}

const share = (ratio) => `${(100 * ratio).toLocaleString("en-US", { maximumSignificantDigits: 2 })} %`;
