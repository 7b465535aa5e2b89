// Follows the job: polls for changes at the pace that the job sets, less often in a hidden tab, and keeps polling when
// the job does not answer.

const POLL_MS = 1700;
const HIDDEN_MS = 15000;
const LONGEST_MS = 15000;
const MAX_EVENTS = 2000;
const MAX_PITFALLS = 200;
const MAX_SITES = 500;
const SIX_HOURS_S = 6 * 3600;

/** The state of the job as the page has it. */
export class Feed {
  constructor({ changed, lost, found }) {
    Object.assign(this, { changed, lost, found });
    this.failures = 0;
    this.timer = 0;
    this.reset();
  }

  reset() {
    this.now = null;
    this.rows = new Map();
    this.leftOut = 0;
    this.events = [];
    this.moments = [];
    this.latest = null;
    this.pitfalls = new Map();
    this.sites = new Map();
  }

  start() {
    document.addEventListener("visibilitychange", () => { if (!document.hidden) this.poll(); });
    this.poll();
  }

  async poll() {
    clearTimeout(this.timer);
    if (this.isAsking) return;
    this.isAsking = true;
    try {
      let answer = await this.ask();
      if (this.isAnother(answer)) {
        // Another job at the same address: drop the state of the previous one.
        this.reset();
        answer = await this.ask();
      }
      this.add(answer);
      if (this.failures) this.found();
      this.failures = 0;
    } catch (error) {
      this.failures += 1;
      this.lost(error, this.failures);
    } finally {
      this.isAsking = false;
    }
    const wait = this.failures ? Math.min(POLL_MS * 2 ** (this.failures - 1), LONGEST_MS) : 1000 * this.now.poll_after_seconds;
    this.timer = setTimeout(() => this.poll(), document.hidden ? HIDDEN_MS : wait);
  }

  async ask() {
    const { revision = 0, last_seq: seq = 0 } = this.now ?? {};
    const since = this.moments.at(-1)?.time ?? 0;
    return getJson(`api/v1/live?revision=${revision}&seq=${seq}&since=${since.toFixed(6)}`);
  }

  isAnother(answer) {
    return this.now !== null
      && (answer.start_time_seconds !== this.now.start_time_seconds || answer.last_seq < this.now.last_seq);
  }

  add(answer) {
    if (this.now === null) this.leftOut = answer.functions_left_out;
    this.now = answer;
    for (const row of answer.functions) this.rows.set(row.function, row);
    this.events.push(...answer.events);
    this.events.splice(0, Math.max(0, this.events.length - MAX_EVENTS));
    keep(this.pitfalls, MAX_PITFALLS, answer.pitfalls, (one) => `${one.function}\n${one.pitfall}\n${one.subject}`);
    keep(this.sites, MAX_SITES, answer.call_sites, (one) => [one.function, one.call_site, ...one.causes, ...one.paths].join("\n"));
    const { columns, rows, now } = answer.timeline;
    const moment = (row) => Object.fromEntries(columns.map((name, at) => [name, row[at]]));
    const known = this.moments.at(-1)?.time ?? 0;
    this.moments.push(...rows.map(moment).filter((one) => one.time > known));
    this.moments = this.moments.filter((one) => one.time > answer.time - SIX_HOURS_S - 600);
    this.latest = moment(now);
    this.changed(this);
  }

  /** The points of the timeline up to now, from the start of the job if they go back that far. */
  timeline() {
    const { start_time_seconds: start } = this.now;
    const first = this.moments[0] ?? this.latest;
    const zero = { time: start, busy_seconds: 0, compiles: 0, recompiles: 0, lost_seconds: 0, steps: null, causes: {},
      device_bytes: null, live_array_bytes: null, host_bytes: null };
    return [...(first.time - start < 300 ? [zero] : []), ...this.moments, this.latest];
  }
}

/** Adds or replaces entries; beyond `most`, the oldest are dropped. */
function keep(known, most, found, keyOf) {
  for (const one of found) {
    // Deleted first, so that it moves to the end.
    known.delete(keyOf(one));
    known.set(keyOf(one), one);
  }
  for (const key of [...known.keys()].slice(0, Math.max(0, known.size - most))) known.delete(key);
}

/** The newest events of one function, newest first. */
export async function eventsOf(label, limit) {
  const answer = await getJson(`api/v1/events?since=0&limit=${limit}&function=${encodeURIComponent(label)}`);
  return answer.events.reverse();
}

async function getJson(address) {
  // fetch() refuses relative addresses on a page whose own address contains a password.
  const whole = new URL(address, location.origin + location.pathname);
  const answer = await fetch(whole, { cache: "no-store", signal: AbortSignal.timeout(10000) });
  if (!answer.ok) throw new Error(`${answer.status} ${(await answer.text()).trim()}`);
  return answer.json();
}
