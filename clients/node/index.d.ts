export interface Options {
  /** How old an ID may be when it is handed out, counted from before it was asked for. 1000 by default. */
  maxAgeMs?: number;
  /** How long a call may take, where it has to wait for servers. 5000 by default. */
  deadlineMs?: number;
  /** After how long without an answer another server is asked. 1000 by default. */
  attemptTimeoutMs?: number;
  /** How many IDs are leased at a time, at least and at most. In between it follows the rate. [64, 100000] by default. */
  leaseIds?: readonly [number, number];
}

/** What became of IDs and requests, from the start on. */
export interface Metrics {
  /** IDs that servers gave. */
  leased: number;
  /** IDs that were handed out. */
  handedOut: number;
  /** IDs that grew too old to be handed out. */
  expired: number;
  /** Requests to servers. */
  requests: number;
  /** Those of them that gave no IDs. */
  failedRequests: number;
  /** Changes from one server to another. */
  failovers: number;
}

/** Hands out IDs that it leases ahead. */
export class Client {
  /** `servers` are URLs, such as `http://127.0.0.1:8080`. One is used until it fails. */
  constructor(servers: readonly string[], options?: Options);
  /** An ID. */
  next(): Promise<bigint>;
  /** An ID, if one is leased. If not, some are leased, for the next call. */
  tryNext(): bigint | undefined;
  /** Several IDs, 1 to 1,000,000, all or none. */
  nextMany(count: number): Promise<bigint[]>;
  /** The URL of the server in use. */
  readonly server: string;
  /** What became of IDs and requests, from the start on. */
  metrics(): Metrics;
}

/** No ID was given. */
export class SnowmintError extends Error {}

/** No server answered in time: neither with IDs nor with an error. */
export class TimeoutError extends SnowmintError {}

/** No server gave IDs in time; the message has what the last one that was tried said. */
export class UnavailableError extends SnowmintError {}

/** A server refuses the request, and another would do the same. */
export class RefusedError extends SnowmintError {
  readonly server: string;
  /** The HTTP status. */
  readonly status: number;
  /** The service's stable code, such as `INVALID_PARAMETER`; empty where it gave none. */
  readonly code: string;
}
