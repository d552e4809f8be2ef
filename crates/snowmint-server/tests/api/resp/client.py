"""Talks to a snowmint with Python's Redis client, at the port and with the protocol's version that it is told."""

import sys
from concurrent.futures import ThreadPoolExecutor

import redis

port, version = int(sys.argv[1]), int(sys.argv[2])
client = redis.Redis(port=port, protocol=version, client_name="tester", decode_responses=True)
assert client.ping() is True
assert client.echo("hello") == "hello"
assert client.client_getname() == "tester"
assert client.client_id() > 0
assert client.info("server")["redis_mode"] == "standalone"
assert client.command_count() > 10
assert "incr" in client.command()

one = client.incr("orders")
two = client.execute_command("SNOWMINT.NEXT")
batch = client.execute_command("SNOWMINT.BATCH", 1000)
assert one < two < batch[0] and len(batch) == 1000 and batch == sorted(set(batch))
ranges = client.execute_command("SNOWMINT.RANGES", 10000)
assert sum(count for _, count in ranges) == 10000 and ranges[0][0] > batch[-1]

parsed = client.execute_command("SNOWMINT.PARSE", one)
if version == 2:
    parsed = dict(zip(parsed[::2], parsed[1::2]))
assert parsed["id"] == one and parsed["worker_id"] == 0 and parsed["timestamp_iso"].endswith("Z"), parsed
assert parsed["valid"] == 1 and isinstance(parsed["valid"], bool) == (version == 3), parsed


def refused(error, *command):
    try:
        client.execute_command(*command)
    except error as refusal:
        return str(refusal)
    raise AssertionError(f"{command} was answered")


assert "count is \"0\"" in refused(redis.ResponseError, "SNOWMINT.BATCH", 0)
assert "unknown command 'GET'" in refused(redis.ResponseError, "GET", "key")
assert "without any password configured" in refused(redis.AuthenticationError, "AUTH", "secret")


def pipelined(commands):
    with client.pipeline(transaction=False) as pipeline:
        for _ in range(commands):
            pipeline.incr("orders")
        return pipeline.execute()


with ThreadPoolExecutor(8) as threads:
    answers = list(threads.map(pipelined, [1, 10, 100, 1000] * 8))
assert all(ids == sorted(ids) for ids in answers), "a pipeline is answered in order"
ids = [id for ids in answers for id in ids]
assert len(set(ids)) == len(ids) == 8 * 1111
print("done")
