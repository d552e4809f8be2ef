// The client against real servers, which `cargo xtask test` starts and names in the environment:
//
// SNOWMINT_URL         one that stays
// SNOWMINT_VICTIM_URL  one that is killed
// SNOWMINT_VICTIM_PID  its process

import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:net";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { Client, RefusedError, SnowmintError, TimeoutError, UnavailableError } from "snowmint";

const EPOCH_MS = 1_609_459_200_000n;
const TIMESTAMP_SHIFT = 22n;

/** How far two readings of clocks may lie apart: they count in milliseconds. */
const CLOCKS_MS = 20;

const { SNOWMINT_URL: url, SNOWMINT_VICTIM_URL: victim, SNOWMINT_VICTIM_PID: victimPid } = process.env;
const skip = url && victim && victimPid ? false : "SNOWMINT_… is not set: `cargo xtask test` starts servers";

function assertUnique(ids) {
  assert.equal(new Set(ids).size, ids.length);
}

/** A port where connections are accepted, and nothing is ever said. */
async function silence() {
  const sockets = new Set();
  const server = createServer((socket) => sockets.add(socket.on("error", () => {})));
  await once(server.listen(0, "127.0.0.1"), "listening");
  const close = () => {
    for (const socket of sockets) socket.destroy();
    server.close();
    return once(server, "close");
  };
  return { url: `http://127.0.0.1:${server.address().port}`, close };
}

test("IDs increase, and most cost no request", { skip }, async () => {
  const client = new Client([url]);
  const ids = [];
  for (let i = 0; i < 20_000; i += 1) ids.push(await client.next());
  assert.ok(ids.every((id, at) => at === 0 || ids[at - 1] < id));
  const { handedOut, leased, requests, failedRequests, failovers } = client.metrics();
  assert.equal(handedOut, 20_000);
  assert.ok(leased >= 20_000 && requests < 400, `${leased} leased with ${requests} requests`);
  assert.deepEqual([failedRequests, failovers], [0, 0]);
});

test("many at once, and calls at the same time, never share an ID", { skip }, async () => {
  const client = new Client([url]);
  const counts = [1, 10, 5_000, 100_000];
  const batches = await Promise.all(counts.map((count) => client.nextMany(count)));
  assert.deepEqual(batches.map((batch) => batch.length), counts);
  const singles = await Promise.all(Array.from({ length: 1_000 }, () => client.next()));
  assertUnique([...batches.flat(), ...singles]);
  for (const count of [0, 1.5, 1_000_001]) await assert.rejects(client.nextMany(count), RangeError);
});

test("without waiting", { skip }, async () => {
  const client = new Client([url]);
  assert.equal(client.tryNext(), undefined);
  const first = await client.next();
  assert.ok(client.tryNext() > first);
});

test("no ID is older than its bound", { skip }, async () => {
  const client = new Client([url], { maxAgeMs: 100 });
  for (const pauseMs of [0, 30, 120, 60, 90, 200]) {
    await client.next();
    await sleep(pauseMs);
    const before = Date.now();
    const minted = Number(EPOCH_MS + ((await client.next()) >> TIMESTAMP_SHIFT));
    assert.ok(before - minted < 100 + CLOCKS_MS, `${before - minted} ms old`);
  }
  assert.ok(client.metrics().expired > 0);
});

test("errors say what is wrong", { skip }, async () => {
  const gone = await silence();
  await gone.close();
  const unavailable = await new Client([gone.url], { deadlineMs: 300 }).next().catch((error) => error);
  assert.ok(unavailable instanceof UnavailableError && unavailable instanceof SnowmintError, unavailable);
  assert.match(unavailable.message, /ECONNREFUSED/);
  const refused = await new Client([`${url}/elsewhere`]).next().catch((error) => error);
  assert.ok(refused instanceof RefusedError, refused);
  assert.deepEqual([refused.status, refused.code], [404, "NOT_FOUND"]);
  for (const servers of [[], url, ["127.0.0.1:8080"]]) assert.throws(() => new Client(servers), TypeError);
  assert.throws(() => new Client([url], { leaseIds: [10, 5] }), RangeError);
});

test("a silent server costs a deadline or a failover", { skip }, async () => {
  const silent = await silence();
  const late = await new Client([silent.url], { deadlineMs: 200 }).next().catch((error) => error);
  assert.ok(late instanceof TimeoutError || late instanceof UnavailableError, late);
  const clients = Array.from({ length: 20 }, () => new Client([silent.url, url], { attemptTimeoutMs: 100 }));
  assertUnique(await Promise.all(clients.map((client) => client.next())));
  await silent.close();
});

test("a server killed costs no error and no duplicate", { skip }, async () => {
  let client;
  do client = new Client([url, victim], { maxAgeMs: 50 });
  while (client.server !== victim);
  const ids = [];
  let dead = false;
  const work = async () => {
    for (let afterDeath = 0; afterDeath < 2_000; afterDeath += dead ? 1 : 0) {
      ids.push(await client.next());
      // What is leased comes without a turn of the event loop, which would have nobody killed.
      if (ids.length % 50 === 0) await new Promise(setImmediate);
    }
  };
  const kill = async () => {
    while (client.metrics().handedOut < 20_000) await new Promise(setImmediate);
    process.kill(Number(victimPid), "SIGKILL");
    dead = true;
  };
  await Promise.all([kill(), work(), work(), work(), work()]);
  ids.push(...(await client.nextMany(10_000)));
  assertUnique(ids);
  assert.deepEqual([client.metrics().failovers, client.server], [1, url]);
});
