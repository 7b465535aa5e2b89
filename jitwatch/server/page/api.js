// Follows the job: asks for what is new, less often while nobody looks, and goes on asking when it is gone.

const POLL_MS = 1500;
const HIDDEN_MS = 15000;
const LONGEST_MS = 15000;
const MAX_EVENTS = 2000;

/** What the page knows of the job. */
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
    this.events = [];
    this.moments = [];
    this.pitfalls = [];
    this.executables = [];
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
      this.take(await this.ask());
      if (this.failures) this.found();
      this.failures = 0;
    } catch (error) {
      this.failures += 1;
      this.lost(error);
    } finally {
      this.isAsking = false;
    }
    const wait = this.failures ? Math.min(POLL_MS * 2 ** (this.failures - 1), LONGEST_MS) : POLL_MS;
    this.timer = setTimeout(() => this.poll(), document.hidden ? HIDDEN_MS : wait);
  }

  async ask() {
    const { revision = 0, last_seq: seq = 0 } = this.now ?? {};
    const since = this.moments.at(-1)?.time ?? 0;
    return getJson(`api/v1/live?revision=${revision}&seq=${seq}&since=${since.toFixed(3)}`);
  }

  take(answer) {
    if (this.now && (answer.start_time_seconds !== this.now.start_time_seconds || answer.last_seq < this.now.last_seq)) {
      // Another job at the same address: nothing of the one before holds.
      this.reset();
      this.failures = 0;
      this.found();
      this.poll();
      return;
    }
    this.now = answer;
    for (const row of answer.functions) this.rows.set(row.function, row);
    this.events.push(...answer.events);
    this.events.splice(0, Math.max(0, this.events.length - MAX_EVENTS));
    const { columns, rows } = answer.timeline;
    const known = this.moments.at(-1)?.time ?? 0;
    for (const row of rows) {
      const moment = Object.fromEntries(columns.map((name, at) => [name, row[at]]));
      if (moment.time > known) this.moments.push(moment);
    }
    this.pitfalls = answer.pitfalls ?? this.pitfalls;
    this.executables = answer.executables ?? this.executables;
    this.changed(this);
  }
}

/** The newest records of one function. */
export async function eventsOf(label, limit) {
  const answer = await getJson(`api/v1/events?since=0&limit=${limit}&function=${encodeURIComponent(label)}`);
  return answer.events.reverse();
}

async function getJson(address) {
  const answer = await fetch(address, { cache: "no-store", signal: AbortSignal.timeout(10000) });
  if (!answer.ok) throw new Error(`${answer.status} ${await answer.text()}`);
  return answer.json();
}
