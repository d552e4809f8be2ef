"""The client against real servers, which `cargo xtask test` starts and names in the environment:

SNOWMINT_URL         one that stays
SNOWMINT_VICTIM_URL  one that is killed
SNOWMINT_VICTIM_PID  its process
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
import unittest
from typing import Any, List

from snowmint import Client, Refused, Timeout, Unavailable

EPOCH_MS = 1_609_459_200_000
TIMESTAMP_SHIFT = 22

#: How long anything that has to happen is waited for, in seconds.
PATIENCE_S = 30.0

#: How far two readings of clocks may lie apart: they count in milliseconds.
CLOCKS_MS = 20

#: Where nobody listens.
NOBODY = "http://127.0.0.1:9"


def variable(name: str) -> str:
    value = os.environ.get(name)
    if value is None:
        raise unittest.SkipTest(f"{name} is not set: `cargo xtask test` starts servers")
    return value


def age_ms(id_: int, now_ms: float) -> float:
    return now_ms - (EPOCH_MS + (id_ >> TIMESTAMP_SHIFT))


class ClientTest(unittest.TestCase):
    def setUp(self) -> None:
        self.url = variable("SNOWMINT_URL")

    def client(self, servers: List[str], **options: Any) -> Client:
        client = Client(servers, **options)
        self.addCleanup(client.close)
        return client

    def assert_unique(self, ids: List[int]) -> None:
        self.assertEqual(len(set(ids)), len(ids))

    def test_ids_increase_and_most_cost_no_request(self) -> None:
        with Client([self.url]) as client:
            ids = [client.next_id() for _ in range(20_000)]
            self.assertEqual(ids, sorted(set(ids)))
            metrics = client.metrics()
        self.assertEqual(metrics.handed_out, 20_000)
        self.assertGreaterEqual(metrics.leased, 20_000)
        self.assertLess(metrics.requests, 200)
        self.assertEqual((metrics.failed_requests, metrics.failovers), (0, 0))

    def test_many_at_once(self) -> None:
        client = self.client([self.url])
        batches = [client.next_ids(count) for count in (1, 10, 5_000, 100_000)]
        self.assertEqual([len(batch) for batch in batches], [1, 10, 5_000, 100_000])
        self.assert_unique([id_ for batch in batches for id_ in batch])
        for count in (0, 1_000_001):
            self.assertRaises(ValueError, client.next_ids, count)

    def test_threads_never_share_an_id(self) -> None:
        client = self.client([self.url], max_age=0.1)
        received: List[List[int]] = []

        def work() -> None:
            received.append([client.next_id() for _ in range(5_000)] + client.next_ids(1_000))

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
        self.assertEqual(len(received), 8)
        self.assert_unique([id_ for ids in received for id_ in ids])

    def test_no_id_is_older_than_its_bound(self) -> None:
        client = self.client([self.url], max_age=0.1)
        for pause in (0.0, 0.03, 0.12, 0.06, 0.09, 0.2):
            client.next_id()
            time.sleep(pause)
            before_ms = time.time() * 1_000
            self.assertLess(age_ms(client.next_id(), before_ms), 100 + CLOCKS_MS)
        self.assertGreater(client.metrics().expired, 0)

    @unittest.skipUnless(hasattr(os, "fork"), "this system has no fork")
    def test_a_forked_child_has_ids_of_its_own(self) -> None:
        client = self.client([self.url])
        ids = [client.next_id()]
        read, write = os.pipe()
        # While another thread has the locks.
        with client._lock, client._leasing:
            child = os.fork()
            if child == 0:
                try:
                    os.write(write, " ".join(str(client.next_id()) for _ in range(500)).encode())
                finally:
                    os._exit(0)
        os.close(write)
        ids += [client.next_id() for _ in range(500)]
        with os.fdopen(read) as text:
            of_child = [int(id_) for id_ in text.read().split()]
        os.waitpid(child, 0)
        self.assertEqual(len(of_child), 500)
        self.assert_unique(ids + of_child)

    def test_errors_say_what_is_wrong(self) -> None:
        with self.assertRaisesRegex(Unavailable, "127.0.0.1:9: ConnectionRefusedError"):
            self.client([NOBODY], deadline=0.3).next_id()
        with self.assertRaises(Refused) as refused:
            self.client([self.url + "/elsewhere"]).next_id()
        self.assertEqual((refused.exception.status, refused.exception.code), (404, "NOT_FOUND"))
        for servers in ([], self.url, ["127.0.0.1:8080"]):
            self.assertRaises(ValueError, Client, servers)
        self.assertRaises(ValueError, Client, [self.url], lease_ids=(10, 5))

    def test_a_silent_server_costs_a_deadline_or_a_failover(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = f"http://127.0.0.1:{silent.getsockname()[1]}"
            started = time.monotonic()
            self.assertRaises((Timeout, Unavailable), self.client([url], deadline=0.2).next_id)
            self.assertLess(time.monotonic() - started, PATIENCE_S)
            clients = [self.client([url, self.url], attempt_timeout=0.1) for _ in range(20)]
            self.assert_unique([client.next_id() for client in clients])

    def test_a_server_killed_costs_no_error_and_no_duplicate(self) -> None:
        victim = variable("SNOWMINT_VICTIM_URL")
        client = self.client([self.url, victim], max_age=0.05)
        while client.server != victim:
            client = self.client([self.url, victim], max_age=0.05)
        received: List[List[int]] = []
        dead = threading.Event()

        def work() -> None:
            ids: List[int] = []
            after_death = 0
            while after_death < 2_000:
                after_death += dead.is_set()
                ids.append(client.next_id())
            received.append(ids)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + PATIENCE_S
        while client.metrics().handed_out < 20_000 and time.monotonic() < deadline:
            time.sleep(0.005)
        os.kill(int(variable("SNOWMINT_VICTIM_PID")), signal.SIGKILL)
        dead.set()
        for thread in threads:
            thread.join(PATIENCE_S)
        # A thread that saw an error is not among them.
        self.assertEqual(len(received), 4)
        self.assert_unique([id_ for ids in received for id_ in ids])
        client.next_ids(10_000)
        self.assertEqual((client.metrics().failovers, client.server), (1, self.url))


if __name__ == "__main__":
    unittest.main()
