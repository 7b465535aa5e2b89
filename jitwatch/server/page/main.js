// Connects the feed of the job with the sections of the page.

import { Feed } from "./api.js";
import * as charts from "./charts.js";
import { Detail } from "./detail.js";
import { clock, duration, element, sync, swatch } from "./format.js";
import { Functions } from "./functions.js";
import * as parts from "./parts.js";

const RANGES = [["10 min", 600], ["1 h", 3600], ["6 h", 21600], ["All", Infinity]];
const SHORTEST_S = 30;
const SIGNS = { good: "", busy: "", warn: "▲ ", bad: "⚠ " };

const byId = (id) => document.getElementById(id);
let range = 600;
let lostSince = null;
let checked = 0;

const feed = new Feed({ changed, lost, found });
const detail = new Detail(byId("detail"), feed);
const open = (label) => detail.open(label);
const functions = new Functions(byId("functions"), byId("filter"), byId("functions-more"), open);
const advice = new parts.Advice(byId("advice-part"), byId("advice"), open);

function changed() {
  checked = Date.now();
  const { now } = feed;
  showHealth(now);
  byId("run").textContent = now.run;
  byId("about").textContent = [`running for ${duration(now.uptime_seconds)}`, now.url, `process ${now.pid}`].filter(Boolean).join(" · ");
  parts.tiles(byId("tiles"), feed);
  parts.running(byId("running-part"), byId("running"), now);
  advice.update(feed);
  functions.update(feed);
  parts.donation(byId("donation-part"), byId("donation"), feed, open);
  parts.memoryNotes(byId("memory-notes"), feed);
  parts.devices(byId("devices"), now.memory);
  parts.agent(byId("agent"), now, checked);
  draw();
  detail.update();
}

function showHealth({ health, run }) {
  const shown = byId("health");
  shown.textContent = health.sentence;
  // The sentence changes every second; screen readers announce it only when its level changes.
  if (!shown.classList.contains(health.level)) byId("spoken").textContent = health.sentence;
  shown.className = `health ${health.level}`;
  sync(byId("health-more"), health.others.map(({ level, sentence }, at) => ({
    key: at, state: [level, sentence], make: () => element("li", { class: level }, sentence),
  })));
  document.title = `${SIGNS[health.level]}${run} · jitwatch`;
}

function draw() {
  if (!feed.now) return;
  const { time: end, start_time_seconds: started } = feed.now;
  const moments = feed.timeline();
  const start = Math.min(Math.max(end - range, Math.min(started, moments[0].time)), end - SHORTEST_S);
  const seen = charts.compiles(byId("compiles-chart"), { moments, events: feed.events, start, end });
  const entry = (key, make) => ({ key, state: null, make: () => element("li", {}, make()) });
  sync(byId("causes"), [
    ...[...seen.causes].map((cause) => entry(cause, () => swatch(cause))),
    ...(seen.storms ? [entry("storm", () => [element("i", { class: "storm" }), "recompile storm"])] : []),
    ...(seen.marks ? [entry("mark", () => [element("b", {}, "▼"), " violation or out-of-memory error"])] : []),
  ]);
  charts.memory(byId("device-chart"), { moments, start, end, lines: charts.DEVICE_LINES });
  charts.memory(byId("host-chart"), { moments, start, end, lines: charts.HOST_LINES });
}

function lost(error, failures) {
  lostSince ??= new Date();
  // A single late answer is normal while the job is busy.
  if (failures < 2 && feed.now) return;
  const since = clock(lostSince.getTime() / 1000);
  const isAnswer = /^\d{3} /.test(error.message);
  byId("lost").textContent = isAnswer ? `The job has responded with ${error.message} since ${since}.`
    : `The job has not responded since ${since}: it has ended or cannot be reached.${feed.now ? " The page shows its last state." : ""}`;
  byId("lost").hidden = false;
  document.title = `✕ ${feed.now ? `${feed.now.run} · ` : ""}jitwatch`;
}

function found() {
  lostSince = null;
  byId("lost").hidden = true;
}

function choose(seconds) {
  range = seconds;
  [...byId("ranges").children].forEach((button, at) => button.setAttribute("aria-pressed", RANGES[at][1] === range));
  draw();
}

byId("ranges").append(...RANGES.map(([name, seconds]) => element("button", { type: "button", onclick: () => choose(seconds) }, name)));
choose(range);
// Redraw on a change of the width only: the height follows from the drawing.
let width = 0;
new ResizeObserver(([entry]) => {
  if (entry.contentRect.width === width) return;
  width = entry.contentRect.width;
  draw();
}).observe(byId("compiles-chart"));
addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.target.matches("input, textarea") || byId("detail").open) return;
  event.preventDefault();
  byId("filter").focus();
});
feed.start();
detail.follow();
