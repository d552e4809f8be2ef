// The servers that ranges are leased from: one at a time, and another when it fails.

/** For how long a server that failed is left alone: at first, and after it failed again and again. */
const AWAY_MS_MIN = 50;
const AWAY_MS_MAX = 2_000;

/** What a busy server, or one that cannot mint now, answers with. Another may do better. */
const UNAVAILABLE = new Set([408, 429, 500, 502, 503, 504]);

/** Who asks: the service writes it down beside what it gave. */
const HEADERS = { "user-agent": "snowmint-node" };

/** The highest ID: the sign bit is 0. */
const ID_MAX = 2n ** 63n - 1n;

export class SnowmintError extends Error {
  constructor(message) {
    super(message);
    this.name = new.target.name;
  }
}

export class TimeoutError extends SnowmintError {}

export class UnavailableError extends SnowmintError {}

export class RefusedError extends SnowmintError {
  constructor(server, status, code, message) {
    super(`${server} refused: ${message} (${status} ${code})`);
    Object.assign(this, { server, status, code });
  }
}

/** A server gave no IDs, and another may do better. */
class Failed extends Error {
  constructor(message, retryAfterMs = 0) {
    super(message);
    this.retryAfterMs = retryAfterMs;
  }
}

class Server {
  awayUntil = 0;
  #failures = 0;
  #path;

  constructor(url) {
    const parsed = parseUrl(url);
    if (!["http:", "https:"].includes(parsed?.protocol) || parsed.search || parsed.hash) {
      throw new TypeError(`${JSON.stringify(url)} is not the URL of a server, such as http://127.0.0.1:8080`);
    }
    this.url = url;
    this.#path = `${parsed.href.replace(/\/+$/, "")}/api/v1/ranges?count=`;
  }

  async lease(count, timeoutMs) {
    let status, retryAfter, text;
    try {
      const signal = AbortSignal.timeout(Math.max(1, Math.ceil(timeoutMs)));
      const answer = await fetch(this.#path + count, { signal, redirect: "error", headers: HEADERS });
      ({ status } = answer);
      retryAfter = answer.headers.get("retry-after");
      text = await answer.text();
    } catch (error) {
      throw new Failed(error.cause?.message || error.cause?.code || error.message);
    }
    if (status === 200) {
      const ranges = parse(text);
      this.#failures = 0;
      return ranges;
    }
    const { code, message } = explain(text);
    if (UNAVAILABLE.has(status)) {
      throw new Failed(`${message} (${status} ${code})`, 1_000 * (Number(retryAfter) || 0));
    }
    throw new RefusedError(this.url, status, code, message);
  }

  leaveAlone(retryAfterMs) {
    const awayMs = Math.min(Math.max(AWAY_MS_MIN * 2 ** Math.min(this.#failures, 16), retryAfterMs), AWAY_MS_MAX);
    this.#failures += 1;
    this.awayUntil = performance.now() + awayMs;
  }
}

export class Servers {
  requests = 0;
  failedRequests = 0;
  failovers = 0;
  #all;
  #current;

  constructor(urls) {
    if (!Array.isArray(urls) || urls.length === 0) {
      throw new TypeError("give a list of at least one server, such as [\"http://127.0.0.1:8080\"]");
    }
    this.#all = urls.map((url) => new Server(url));
    // Clients begin with a random one, so that the servers share them.
    this.#current = Math.floor(Math.random() * urls.length);
  }

  /** The URL of the one in use. */
  get current() {
    return this.#all[this.#current].url;
  }

  /** Ranges, and a time before which none of their IDs was minted. */
  async lease(count, attemptMs, ends) {
    let last;
    for (;;) {
      const soonest = Math.min(...this.#all.map((server) => server.awayUntil));
      const now = performance.now();
      if (Math.max(now, soonest) >= ends) throw late(last);
      if (soonest > now) {
        await new Promise((resolve) => setTimeout(resolve, soonest - now));
        continue;
      }
      const start = this.#current;
      for (let step = 0; step < this.#all.length; step += 1) {
        const at = (start + step) % this.#all.length;
        const server = this.#all[at];
        const asked = performance.now();
        if (server.awayUntil > asked || asked >= ends) continue;
        this.requests += 1;
        try {
          const ranges = await server.lease(count, Math.min(attemptMs, ends - asked));
          if (at !== this.#current) this.failovers += 1;
          this.#current = at;
          return { ranges, asked };
        } catch (error) {
          this.failedRequests += 1;
          if (!(error instanceof Failed)) throw error;
          server.leaveAlone(error.retryAfterMs);
          last = `${server.url}: ${error.message}`;
        }
      }
    }
  }
}

function parseUrl(url) {
  try {
    return new URL(url);
  } catch {
    return undefined;
  }
}

function late(last) {
  if (last === undefined) return new TimeoutError("no server answered within the deadline");
  return new UnavailableError(`no server gave IDs within the deadline; the last that was tried, ${last}`);
}

function parse(text) {
  let ranges;
  try {
    ranges = JSON.parse(text).ranges.map(({ first_str, count }) => ({ first: BigInt(first_str), count }));
  } catch (error) {
    throw new Failed(`it answered with something else than ranges: ${error.message}`);
  }
  const possible = ({ first, count }) =>
    Number.isSafeInteger(count) && count > 0 && first >= 0n && first + BigInt(count) - 1n <= ID_MAX;
  if (ranges.length === 0 || !ranges.every(possible)) {
    throw new Failed("it answered with a range that has no IDs, or impossible ones");
  }
  return ranges;
}

/** The code and the message of an answer that is none. */
function explain(text) {
  try {
    const { code, message } = JSON.parse(text).error;
    return { code: String(code), message: String(message) };
  } catch {
    return { code: "", message: text.slice(0, 200) };
  }
}
