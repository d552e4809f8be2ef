// Talks to a snowmint with Node's Redis client, at the port and with the protocol's version that it is told.
const assert = require("node:assert");
const { RESP_TYPES, createClient } = require("redis");

const [port, version] = process.argv.slice(2).map(Number);

async function main() {
  const client = createClient({ socket: { port }, RESP: version, name: "tester", pingInterval: 100 });
  client.on("error", (error) => { throw error; });
  await client.connect();
  assert.equal(await client.ping(), "PONG");
  assert.equal(await client.echo("hello"), "hello");
  assert.equal(await client.clientGetName(), "tester");
  assert.match(await client.info("server"), /redis_mode:standalone/);

  // An ID has more digits than a JavaScript number.
  const exact = client.withTypeMapping({ [RESP_TYPES.NUMBER]: String });
  const one = await exact.incr("orders");
  assert.match(one, /^\d{15,19}$/);
  const batch = await exact.sendCommand(["SNOWMINT.BATCH", "1000"]);
  assert.equal(new Set(batch).size, 1000);
  const ranges = await exact.sendCommand(["SNOWMINT.RANGES", "10000"]);
  assert.equal(ranges.reduce((total, [, count]) => total + Number(count), 0), 10000);
  const parsed = await exact.sendCommand(["SNOWMINT.PARSE", one]);
  assert.equal(version === 2 ? parsed[1] : parsed.id, one);
  await assert.rejects(client.get("key"), /unknown command 'GET', with args beginning with: 'key'/);

  // Commands of one turn of the event loop are one pipeline.
  const pipeline = Array.from({ length: 5000 }, () => exact.incr("orders"));
  const ids = (await Promise.all(pipeline)).map(BigInt);
  assert.ok(ids.every((id, at) => at === 0 || ids[at - 1] < id), "a pipeline is answered in order");
  const explicit = exact.multi();
  for (let at = 0; at < 1000; at += 1) explicit.incr("orders");
  const more = (await explicit.execAsPipeline()).map(BigInt);
  assert.equal(new Set([...ids, ...more, ...batch.map(BigInt), BigInt(one)]).size, 7001);
  await client.close();
  console.log("done");
}

main();
