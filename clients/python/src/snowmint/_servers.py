"""The servers that ranges are leased from: one at a time, and another when it fails."""

from __future__ import annotations

import http.client
import json
import random
from typing import Any, Callable, List, Optional, Sequence, Tuple
from urllib.parse import urlsplit

from ._errors import Error, Refused, Timeout, Unavailable

#: For how long a server that failed is left alone, in seconds: at first, and after it failed again and again.
AWAY_S_MIN = 0.05
AWAY_S_MAX = 2.0

#: Who asks: the service writes it down beside what it gave.
USER_AGENT = "snowmint-python"

#: The longest answer that is read, in bytes: a million ranges of one ID.
ANSWER_BYTES_MAX = 80_000_000

#: What a busy server, or one that cannot mint now, answers with. Another may do better.
UNAVAILABLE = frozenset((408, 429, 500, 502, 503, 504))

#: The first ID and how many there are from it on.
Range = Tuple[int, int]


class Failed(Exception):
    """A server gave no IDs, and another may do better."""

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Server:
    """One server, and the connection to it."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
            raise ValueError(f"{url!r} is not the URL of a server, such as http://127.0.0.1:8080")
        self.url = url
        self.away_until = 0.0
        self._failures = 0
        self._secure = parts.scheme == "https"
        self._host, self._port = parts.hostname, parts.port
        self._path = parts.path.rstrip("/") + "/api/v1/ranges?count="
        self._connection: Optional[http.client.HTTPConnection] = None

    def lease(self, count: int, timeout: float) -> List[Range]:
        """Raises Failed or Refused where there is none."""
        # A connection that was idle may have been closed meanwhile, which says nothing of the server.
        idle = self._connection is not None
        try:
            try:
                status, retry_after, body = self._get(count, timeout)
            except (ConnectionError, http.client.BadStatusLine):
                if not idle:
                    raise
                self.close()
                status, retry_after, body = self._get(count, timeout)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise Failed(f"{type(error).__name__}: {error}") from error
        except BaseException:
            # Whatever interrupted it: the rest of an answer would be taken for the next one.
            self.close()
            raise
        if status == 200:
            ranges = _ranges(body)
            self._failures = 0
            return ranges
        code, message = _error(body)
        if status in UNAVAILABLE:
            raise Failed(f"{message} ({status} {code})", retry_after)
        raise Refused(self.url, status, code, message)

    def leave_alone(self, now: float, retry_after: float) -> None:
        """It failed."""
        away = min(max(AWAY_S_MIN * 2.0 ** min(self._failures, 16), retry_after), AWAY_S_MAX)
        self._failures += 1
        self.away_until = now + away

    def close(self) -> None:
        """Ends the connection. The next request makes a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _get(self, count: int, timeout: float) -> Tuple[int, float, bytes]:
        connection = self._connection
        if connection is None:
            kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
            connection = self._connection = kind(self._host, self._port, timeout=timeout)
        connection.timeout = timeout
        if connection.sock is not None:
            connection.sock.settimeout(timeout)
        connection.request("GET", self._path + str(count), headers={"User-Agent": USER_AGENT})
        response = connection.getresponse()
        body = response.read(ANSWER_BYTES_MAX + 1)
        if len(body) > ANSWER_BYTES_MAX:
            raise http.client.HTTPException(f"the answer is longer than {ANSWER_BYTES_MAX} bytes")
        if response.length:
            raise http.client.IncompleteRead(body, response.length)
        return response.status, _seconds(response.getheader("Retry-After")), body


class Servers:
    """Used by one thread at a time."""

    def __init__(self, urls: Sequence[str], clock: Callable[[], float], wait: Callable[[float], None]) -> None:
        if isinstance(urls, str) or not urls:
            raise ValueError("give a list of at least one server, such as ['http://127.0.0.1:8080']")
        self._all = [Server(url) for url in urls]
        self._clock, self._wait = clock, wait
        # Clients begin with a random one, so that the servers share them.
        self._current = random.randrange(len(self._all))
        self.requests = self.failed_requests = self.failovers = 0

    @property
    def current(self) -> str:
        """The URL of the one in use."""
        return self._all[self._current].url

    def lease(self, count: int, attempt: float, ends: float) -> Tuple[float, List[Range]]:
        """Ranges, and a time before which none of their IDs was minted."""
        last: Optional[Tuple[str, Failed]] = None
        while True:
            now = self._clock()
            soonest = min(server.away_until for server in self._all)
            if max(now, soonest) >= ends:
                raise _late(last)
            if soonest > now:
                self._wait(soonest - now)
                continue
            for step in range(len(self._all)):
                at = (self._current + step) % len(self._all)
                server, now = self._all[at], self._clock()
                if server.away_until > now or now >= ends:
                    continue
                self.requests += 1
                try:
                    ranges = server.lease(count, min(attempt, ends - now))
                except Failed as failed:
                    self.failed_requests += 1
                    server.leave_alone(self._clock(), failed.retry_after)
                    last = server.url, failed
                    continue
                except Refused:
                    self.failed_requests += 1
                    raise
                self.failovers += at != self._current
                self._current = at
                return now, ranges

    def close(self) -> None:
        """Ends the connections."""
        for server in self._all:
            server.close()


def _late(last: Optional[Tuple[str, Failed]]) -> Error:
    if last is None:
        return Timeout("no server answered within the deadline")
    return Unavailable(f"no server gave IDs within the deadline; the last that was tried, {last[0]}: {last[1]}")


def _ranges(body: bytes) -> List[Range]:
    try:
        ranges = [(int(one["first"]), int(one["count"])) for one in json.loads(body)["ranges"]]
    except (ValueError, KeyError, TypeError) as error:
        raise Failed(f"it answered with something else than ranges: {error!r}") from error
    if not all(first >= 0 and count > 0 for first, count in ranges):
        raise Failed("it answered with a range that has no IDs, or impossible ones")
    return ranges


def _error(body: bytes) -> Tuple[str, str]:
    """The code and the message of an answer that is none."""
    try:
        error: Any = json.loads(body)["error"]
        return str(error["code"]), str(error["message"])
    except (ValueError, KeyError, TypeError):
        return "", body[:200].decode(errors="replace")


def _seconds(text: Optional[str]) -> float:
    return float(text) if text and text.isdecimal() else 0.0
