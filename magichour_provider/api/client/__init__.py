"""
Clients of the API: a blocking one over httpx, and an async one over aiohttp that only polls. No Airflow here.

Three rules hold for both:

- A paid call uses a new connection. (On a kept connection that the server has closed, a call looks like one
  whose answer is lost.) It is repeated only if it is proved that no byte of it was sent, or after HTTP 429,
  which makes no job.
- Every API call ends within ``timeout`` seconds in all, however slowly an answer arrives.
- The key goes to the API's host only: signed URLs are used through a second httpx client that holds no key.

The async client is imported from ``asynchronous``, since aiohttp is 70 modules that a worker does not need.
"""

from __future__ import annotations

from magichour_provider.api.client.api import Settings
from magichour_provider.api.client.blocking import MagicHourClient

__all__ = ["MagicHourClient", "Settings"]
