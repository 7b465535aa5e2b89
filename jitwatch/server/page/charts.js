// Bars and lines over time, as SVG.

import { COLORS, bytes, clock, count, element, named, percent, plural, seconds } from "./format.js";

const NS = "http://www.w3.org/2000/svg";
const LEFT = 52;
const BOTTOM = 18;
const SHORTEST_BIN_S = 5;
/** Events that are marked above the bars. */
const MARKED = ["donation.violation", "memory.oom", "jit.steady_violation", "programs.diverged"];

/** Lines of the memory charts: name, column of the timeline, class of its colour. */
export const DEVICE_LINES = [["in use", "device_bytes", "one"], ["live arrays", "live_array_bytes", "two"]];
export const HOST_LINES = [["resident", "host_bytes", "one"]];

function svg(tag, props = {}, ...children) {
  const made = document.createElementNS(NS, tag);
  for (const [name, value] of Object.entries(props)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/**
 * The compiles from `start` to `end` in about `number` bins. Each begins and ends at a point of the timeline: with
 * bins of equal length, one could get the compiles of two points and its neighbour none.
 */
export function bins(moments, start, end, number) {
  const least = (0.75 * (end - start)) / number;
  const found = [];
  let bin = null;
  for (let at = 1; at < moments.length; at += 1) {
    const [before, after] = [moments[at - 1], moments[at]];
    // An interval that lies mostly before the start is left out, not added to the first bin.
    if ((before.time + after.time) / 2 <= start && at < moments.length - 1) continue;
    if (!bin) found.push(bin = { start: before.time, end: after.time, first: 0, busy: 0, lost: 0, causes: {} });
    bin.end = after.time;
    bin.first += Math.max(0, after.compiles - after.recompiles - (before.compiles - before.recompiles));
    bin.busy += Math.max(0, after.busy_seconds - before.busy_seconds);
    bin.lost += Math.max(0, after.lost_seconds - before.lost_seconds);
    for (const [cause, total] of Object.entries(after.causes)) {
      const more = total - (before.causes[cause] ?? 0);
      if (more > 0) bin.causes[cause] = (bin.causes[cause] ?? 0) + more;
    }
    if (bin.end - bin.start >= least) bin = null;
  }
  return found;
}

/** Round numbers from 0 to the largest value. */
function ticks(largest, number = 4) {
  const rough = Math.max(largest, 1e-9) / number;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((one) => one >= rough);
  return Array.from({ length: Math.ceil(largest / step - 1e-9) + 1 }, (_, at) => at * step);
}

/** The same for bytes, round in a binary unit. */
function byteTicks(largest) {
  const unit = 1024 ** Math.floor(Math.log(Math.max(largest, 1)) / Math.log(1024));
  return ticks(largest / unit).map((value) => value * unit);
}

function frame(target, { height, start, end, marks, write, label }) {
  const width = Math.max(280, target.clientWidth || 600);
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  const top = marks.at(-1) || 1;
  const x = (time) => LEFT + ((time - start) / (end - start)) * (width - LEFT - 6);
  const y = (value) => height - BOTTOM - (value / top) * (height - BOTTOM - 8);
  for (const value of marks) {
    picture.append(svg("line", { class: "grid", x1: LEFT, x2: width - 6, y1: y(value), y2: y(value) }));
    const text = svg("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" });
    text.textContent = write(value);
    picture.append(text);
  }
  const labels = width < 420 ? 3 : width < 700 ? 4 : 6;
  for (let at = 0; at <= labels; at += 1) {
    const time = start + ((end - start) * at) / labels;
    const anchor = at === 0 ? "start" : at === labels ? "end" : "middle";
    const text = svg("text", { x: x(time), y: height - 4, "text-anchor": anchor });
    text.textContent = end - start < 900 ? clock(time) : clock(time).slice(0, -3);
    picture.append(text);
  }
  return { picture, x, y };
}

function titled(shape, text) {
  const title = svg("title");
  title.textContent = text;
  shape.append(title);
  return shape;
}

/** Compiles by cause, stacked; storms as bands behind them, violations and out-of-memory errors as marks above. */
export function compiles(target, { moments, events, start, end }) {
  const number = Math.round(Math.min((target.clientWidth || 600) / 12, 90, (end - start) / SHORTEST_BIN_S));
  const found = bins(moments, start, end, Math.max(1, number));
  const heights = found.map((bin) => bin.first + Object.values(bin.causes).reduce((sum, one) => sum + one, 0));
  const all = heights.reduce((sum, one) => sum + one, 0);
  const marks = ticks(Math.max(...heights, 1)).filter((value) => Number.isInteger(value));
  const label = `${plural(all, "compile")} from ${clock(start)} to ${clock(end)}`;
  const { picture, x, y } = frame(target, { height: 190, start, end, marks, write: count, label });
  const bands = storms(events, end).filter(([, to]) => to >= start);
  for (const [from, to, names] of bands) {
    const left = x(Math.max(from, start));
    const band = svg("rect", { class: "storm", x: left, width: Math.max(2, x(to) - left), y: y(marks.at(-1)), height: y(0) - y(marks.at(-1)) });
    picture.append(titled(band, `Recompile storm from ${clock(from)}: ${[...names].join(", ")}`));
  }
  for (const bin of found) {
    let top = 0;
    const left = x(Math.max(bin.start, start));
    for (const [cause, number] of [["first", bin.first], ...Object.entries(bin.causes)]) {
      if (!number) continue;
      const bar = svg("rect", {
        x: left + 0.5, width: Math.max(1, x(bin.end) - left - 1), y: y(top + number), height: y(top) - y(top + number),
        fill: COLORS[cause] ?? COLORS.unknown,
      });
      const share = percent(bin.busy / (bin.end - bin.start));
      picture.append(titled(bar, `${clock(bin.start)}: ${number} × ${named(cause)}; ${seconds(bin.lost)} lost, ${share} of the time compiling`));
      top += number;
    }
  }
  const marked = events.filter((event) => MARKED.includes(event.event) && Date.parse(event.timestamp) / 1000 >= start);
  for (const event of marked) {
    const time = Date.parse(event.timestamp) / 1000;
    const at = x(Math.min(time, end));
    picture.append(titled(svg("path", { class: "mark", d: `M${at - 5} 0h10l-5 8z` }), `${clock(time)}: ${event.event.replace(".", " ").replaceAll("_", " ")}`));
  }
  target.replaceChildren(picture);
  const causes = new Set(found.flatMap((bin) => [...(bin.first ? ["first"] : []), ...Object.keys(bin.causes)]));
  return { causes, storms: bands.length, marks: marked.length };
}

/** Storms as start, end and functions; overlapping ones are merged. */
function storms(events, end) {
  const open = new Map();
  const found = [];
  for (const event of events) {
    const time = Date.parse(event.timestamp) / 1000;
    if (event.event === "jit.storm_started") open.set(event.function, time);
    if (event.event === "jit.storm_ended" && open.has(event.function)) {
      found.push([open.get(event.function), time, event.function]);
      open.delete(event.function);
    }
  }
  for (const [name, from] of open) found.push([from, end, name]);
  found.sort(([one], [other]) => one - other);
  const bands = [];
  for (const [from, to, name] of found) {
    const last = bands.at(-1);
    if (last && from <= last[1]) {
      last[1] = Math.max(last[1], to);
      last[2].add(name);
    } else bands.push([from, to, new Set([name])]);
  }
  return bands;
}

/** Lines of bytes with a legend, and ticks at compiles. */
export function memory(target, { moments, lines, start, end }) {
  const shown = moments.filter((moment) => moment.time >= start);
  const values = lines.flatMap(([, key]) => shown.map((moment) => moment[key]).filter((value) => value !== null));
  if (!values.length) {
    target.replaceChildren(element("p", { class: "empty" }, "No data yet."));
    return;
  }
  const last = lines.map(([name, key]) => `${name} ${bytes(shown.at(-1)?.[key])}`).join(", ");
  const { picture, x, y } = frame(target, { height: 150, start, end, marks: byteTicks(Math.max(...values, 1)), write: bytes, label: last });
  const legend = element("ul", { class: "legend" });
  for (const [name, key, kind] of lines) {
    const points = shown.filter((moment) => moment[key] !== null).map((moment) => `${x(moment.time).toFixed(1)},${y(moment[key]).toFixed(1)}`);
    if (!points.length) continue;
    picture.append(titled(svg("polyline", { points: points.join(" "), class: `line ${kind}` }), name));
    const [cx, cy] = points.at(-1).split(",");
    picture.append(svg("circle", { cx, cy, r: 2.5, class: `dot ${kind}` }));
    legend.append(element("li", {}, element("i", { class: kind }), `${name} ${bytes(shown.findLast((moment) => moment[key] !== null)[key])}`));
  }
  for (let at = 1; at < shown.length; at += 1) {
    const more = shown[at].compiles - shown[at - 1].compiles;
    if (more > 0) picture.append(titled(svg("line", { class: "tick", x1: x(shown[at].time), x2: x(shown[at].time), y1: y(0), y2: y(0) - 7 }), `${clock(shown[at].time)}: ${plural(more, "compile")}`));
  }
  legend.append(element("li", {}, element("i", { class: "tick" }), "compiles"));
  target.replaceChildren(picture, legend);
}
