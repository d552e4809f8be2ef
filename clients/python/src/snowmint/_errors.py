"""Why a call gave no ID."""

from __future__ import annotations


class Error(Exception):
    """No ID was given."""


class Timeout(Error):
    """No server answered in time: neither with IDs nor with an error."""


class Unavailable(Error):
    """No server gave IDs in time; the message has what the last one that was tried said."""


class Refused(Error):
    """A server refuses the request, and another would do the same."""

    def __init__(self, server: str, status: int, code: str, message: str) -> None:
        super().__init__(f"{server} refused: {message} ({status} {code})")
        self.server = server
        #: The HTTP status.
        self.status = status
        #: The service's stable code, such as ``INVALID_PARAMETER``; empty where it gave none.
        self.code = code
