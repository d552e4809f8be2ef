"""Client of the unique-ID service snowmint."""

from ._client import Client, Metrics
from ._errors import Error, Refused, Timeout, Unavailable

__all__ = ["Client", "Error", "Metrics", "Refused", "Timeout", "Unavailable"]
