"""The client."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from typing import Callable, Deque, List, NamedTuple, Optional, Sequence, Tuple

from ._errors import Timeout
from ._servers import Servers

#: The most IDs that a server gives at once.
LEASE_IDS_MAX = 1_000_000

#: A lease lasts for this part of the greatest age at the rate at which IDs are used: more of it would expire.
HORIZON_PARTS = 4

#: The shortest time that a rate is measured over, in seconds.
MEASURED_S_MIN = 0.001


def _clock() -> Callable[[], float]:
    """Seconds, and where the system can tell, those for which it was suspended among them."""
    boottime: Optional[int] = getattr(time, "CLOCK_BOOTTIME", None)
    if boottime is None:
        return time.monotonic
    clock = boottime
    return lambda: time.clock_gettime(clock)


_now = _clock()


class Metrics(NamedTuple):
    """What became of IDs and requests, from the start of this process on."""

    #: IDs that servers gave.
    leased: int
    #: IDs that were handed out.
    handed_out: int
    #: IDs that grew too old to be handed out.
    expired: int
    #: Requests to servers.
    requests: int
    #: Those of them that gave no IDs.
    failed_requests: int
    #: Changes from one server to another.
    failovers: int


class Client:
    """Hands out IDs that it leases ahead, to any number of threads.

    servers
        URLs, such as ``http://127.0.0.1:8080``. One is used until it fails.
    max_age
        How old an ID may be when it is handed out, in seconds, counted from before it was asked for.
    deadline
        How long a call may take, in seconds, where it has to wait for servers.
    attempt_timeout
        After how many seconds without an answer another server is asked.
    lease_ids
        How many IDs are leased at a time, at least and at most; in between it follows the rate.
    """

    def __init__(
        self,
        servers: Sequence[str],
        *,
        max_age: float = 1.0,
        deadline: float = 5.0,
        attempt_timeout: float = 1.0,
        lease_ids: Tuple[int, int] = (64, 100_000),
    ) -> None:
        if max_age <= 0 or deadline <= 0 or attempt_timeout <= 0:
            raise ValueError("max_age, deadline and attempt_timeout must be more than 0 seconds")
        if not 1 <= lease_ids[0] <= lease_ids[1] <= LEASE_IDS_MAX:
            raise ValueError(f"lease_ids is {lease_ids}, it must be within 1 to {LEASE_IDS_MAX}, the lower bound first")
        self._urls = tuple(servers) if not isinstance(servers, str) else servers
        self._max_age, self._deadline, self._attempt = max_age, deadline, attempt_timeout
        self._least, self._most = lease_ids
        self._reset()
        _clients.add(self)

    def _reset(self) -> None:
        """Begins anew, with nothing leased and nobody inside: also in a child after a fork, which holds what its
        parent held, and locks of threads that it does not have."""
        # Over the store, for moments; over the servers, for as long as one is asked.
        self._lock, self._leasing = threading.Lock(), threading.Lock()
        servers: Optional[Servers] = getattr(self, "_servers", None)
        if servers is not None:
            # The parent's: they stay open there.
            servers.close()
        self._servers = Servers(self._urls, _now, time.sleep)
        # (next ID, end, when it was asked for), the oldest first.
        self._runs: Deque[Tuple[int, int, float]] = deque()
        self._leased = self._handed_out = self._expired = 0
        self._size, self._measured_at, self._measured_ids = self._least, _now(), 0

    def next_id(self) -> int:
        """An ID."""
        taken = self._take(1)
        return taken[0] if taken else self._wait(1)[0]

    def next_ids(self, count: int) -> List[int]:
        """Several IDs, 1 to 1,000,000, all or none."""
        if not 1 <= count <= LEASE_IDS_MAX:
            raise ValueError(f"count is {count}, it must be from 1 to {LEASE_IDS_MAX}")
        return self._take(count) or self._wait(count)

    @property
    def server(self) -> str:
        """The URL of the server in use."""
        return self._servers.current

    def metrics(self) -> Metrics:
        """What became of IDs and requests, from the start of this process on."""
        servers = self._servers
        with self._lock:
            ids = self._leased, self._handed_out, self._expired
        return Metrics(*ids, servers.requests, servers.failed_requests, servers.failovers)

    def close(self) -> None:
        """Ends the connections. A later call makes them again."""
        with self._leasing:
            self._servers.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _take(self, count: int) -> List[int]:
        """All of them, or none."""
        now, runs = _now(), self._runs
        with self._lock:
            while runs and now - runs[0][2] > self._max_age:
                first, end, _ = runs.popleft()
                self._expired += end - first
            if count == 1 and runs:
                first, end, asked = runs[0]
                self._pop(first + 1, end, asked)
                self._handed_out += 1
                return [first]
            if sum(end - first for first, end, _ in runs) < count:
                return []
            taken: List[int] = []
            while len(taken) < count:
                first, end, asked = runs[0]
                upto = min(end, first + count - len(taken))
                self._pop(upto, end, asked)
                taken.extend(range(first, upto))
            self._handed_out += count
            return taken

    def _pop(self, first: int, end: int, asked: float) -> None:
        if first == end:
            self._runs.popleft()
        else:
            self._runs[0] = first, end, asked

    def _wait(self, count: int) -> List[int]:
        """Leases, or waits for the thread that does."""
        ends = _now() + self._deadline
        while True:
            left = ends - _now()
            if left <= 0 or not self._leasing.acquire(timeout=min(left, threading.TIMEOUT_MAX)):
                raise Timeout("other threads were served until the deadline")
            try:
                # The one that was waited for may have leased enough.
                taken = self._take(count)
                if not taken:
                    self._lease(count, ends)
                    taken = self._take(count)
                if taken:
                    return taken
            finally:
                self._leasing.release()

    def _lease(self, count: int, ends: float) -> None:
        asked, ranges = self._servers.lease(max(count, self._next_size()), self._attempt, ends)
        with self._lock:
            for first, ids in ranges:
                self._runs.append((first, first + ids, asked))
                self._leased += ids

    def _next_size(self) -> int:
        """As many as last for a while, at the rate since the last lease."""
        now = _now()
        with self._lock:
            used, self._measured_ids = self._handed_out - self._measured_ids, self._handed_out
        passed, self._measured_at = max(now - self._measured_at, MEASURED_S_MIN), now
        lasting = int(used / passed * self._max_age / HORIZON_PARTS)
        # A moment without use is not the end of it.
        self._size = min(max(lasting, self._size // 2, self._least), self._most)
        return self._size


_clients: weakref.WeakSet[Client] = weakref.WeakSet()


def _forked() -> None:
    for client in list(_clients):
        client._reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
