// Client of the unique-ID service snowmint.

import { Servers, SnowmintError, TimeoutError, UnavailableError, RefusedError } from "./servers.js";

export { SnowmintError, TimeoutError, UnavailableError, RefusedError };

/** The most IDs that a server gives at once. */
const LEASE_IDS_MAX = 1_000_000;

/** A lease lasts for this part of the greatest age at the rate at which IDs are used: more of it would expire. */
const HORIZON_PARTS = 8;

/** The shortest time that a rate is measured over. */
const MEASURED_MS_MIN = 1;

export class Client {
  #servers;
  #maxAgeMs;
  #deadlineMs;
  #attemptTimeoutMs;
  #leaseIds;
  /** `{ first, count, asked }`, the oldest first. */
  #runs = [];
  #left = 0;
  #leased = 0;
  #expired = 0;
  /** Of the last lease: also how many IDs are left when it is time for the next. */
  #size;
  #measuredAt = performance.now();
  #measuredIds = 0;
  /** The lease that is under way. */
  #leasing;

  constructor(servers, options = {}) {
    const { maxAgeMs = 1_000, deadlineMs = 5_000, attemptTimeoutMs = 1_000, leaseIds = [64, 100_000] } = options;
    if (!(maxAgeMs > 0 && deadlineMs > 0 && attemptTimeoutMs > 0)) {
      throw new RangeError("maxAgeMs, deadlineMs and attemptTimeoutMs must be more than 0");
    }
    const [least, most] = leaseIds;
    if (!(isCount(least) && isCount(most) && least <= most)) {
      throw new RangeError(`leaseIds is [${leaseIds}], it must be within 1 to ${LEASE_IDS_MAX}, the lower bound first`);
    }
    this.#servers = new Servers(servers);
    this.#maxAgeMs = maxAgeMs;
    this.#deadlineMs = deadlineMs;
    this.#attemptTimeoutMs = attemptTimeoutMs;
    this.#leaseIds = leaseIds;
    this.#size = least;
  }

  async next() {
    return this.#take(1)?.[0] ?? (await this.#wait(1))[0];
  }

  tryNext() {
    const taken = this.#take(1);
    if (taken === undefined) this.#leaseAhead(1);
    return taken?.[0];
  }

  async nextMany(count) {
    if (!isCount(count)) throw new RangeError(`count is ${count}, it must be an integer from 1 to ${LEASE_IDS_MAX}`);
    return this.#take(count) ?? (await this.#wait(count));
  }

  get server() {
    return this.#servers.current;
  }

  metrics() {
    const { requests, failedRequests, failovers } = this.#servers;
    const counts = { leased: this.#leased, handedOut: this.#handedOut, expired: this.#expired };
    return { ...counts, requests, failedRequests, failovers };
  }

  get #handedOut() {
    return this.#leased - this.#expired - this.#left;
  }

  /** All of them, or `undefined`. Leases ahead when few are left. */
  #take(count) {
    const oldest = performance.now() - this.#maxAgeMs;
    while (this.#runs.length > 0 && this.#runs[0].asked < oldest) {
      const { count: expired } = this.#runs.shift();
      this.#expired += expired;
      this.#left -= expired;
    }
    if (this.#left < count) return undefined;
    const taken = [];
    while (taken.length < count) {
      const run = this.#runs[0];
      const part = Math.min(run.count, count - taken.length);
      for (let offset = 0; offset < part; offset += 1) taken.push(run.first++);
      run.count -= part;
      if (run.count === 0) this.#runs.shift();
    }
    this.#left -= count;
    if (this.#left < this.#size / 2) this.#leaseAhead(1);
    return taken;
  }

  async #wait(count) {
    const ends = performance.now() + this.#deadlineMs;
    let failure;
    for (;;) {
      if (performance.now() >= ends) throw failure ?? new TimeoutError("others were served until the deadline");
      try {
        await within(this.#lease(count), ends);
      } catch (error) {
        if (!(error instanceof UnavailableError || error instanceof TimeoutError)) throw error;
        // What a server said tells more than that there is no time left.
        if (!(failure instanceof UnavailableError)) failure = error;
      }
      // One that was under way already may have leased less, and others may have come first.
      const taken = this.#take(count);
      if (taken !== undefined) return taken;
    }
  }

  #leaseAhead(count) {
    // Whoever has to wait for IDs is told what is wrong; who does not, need not know.
    this.#lease(count).catch(() => {});
  }

  /** Leases, or joins who does: there is one at a time. */
  #lease(count) {
    this.#leasing ??= this.#leaseNow(count).finally(() => {
      this.#leasing = undefined;
    });
    return this.#leasing;
  }

  async #leaseNow(count) {
    const ends = performance.now() + this.#deadlineMs;
    const wanted = Math.max(count, this.#nextSize());
    const { ranges, asked } = await this.#servers.lease(wanted, this.#attemptTimeoutMs, ends);
    for (const { first, count: ids } of ranges) {
      this.#runs.push({ first, count: ids, asked });
      this.#left += ids;
      this.#leased += ids;
    }
  }

  /** As many as last for a while, at the rate since the last lease. */
  #nextSize() {
    const now = performance.now();
    const used = this.#handedOut - this.#measuredIds;
    const passedMs = Math.max(now - this.#measuredAt, MEASURED_MS_MIN);
    this.#measuredAt = now;
    this.#measuredIds = this.#handedOut;
    const lasting = Math.floor(((used / passedMs) * this.#maxAgeMs) / HORIZON_PARTS);
    const [least, most] = this.#leaseIds;
    // A moment without use is not the end of it.
    this.#size = Math.min(Math.max(lasting, Math.floor(this.#size / 2), least), most);
    return this.#size;
  }
}

function isCount(count) {
  return Number.isInteger(count) && count >= 1 && count <= LEASE_IDS_MAX;
}

/** Waits for a promise, up to a time. */
async function within(promise, ends) {
  let timer;
  const late = new Promise((_, reject) => {
    const error = new TimeoutError("no server answered within the deadline");
    timer = setTimeout(reject, Math.max(0, ends - performance.now()), error);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}
