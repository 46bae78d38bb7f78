"""
Clients of the API: a blocking one over httpx, and an async one over aiohttp that only polls. No Airflow here.

Three rules apply to both:

- A paid call uses a new connection. (If the server has closed a kept connection, a call on it looks like a
  call with a lost answer.) The call is repeated only if it is proved that no byte of it was sent, or after
  HTTP 429, which makes no job.
- Every API call ends within ``timeout`` seconds in all, even if an answer arrives slowly.
- The key goes only to the API's host: a second httpx client, without the key, uses the signed URLs.

Import the async client from ``asynchronous``: a worker does not need aiohttp and its 70 modules.
"""

from __future__ import annotations

from magichour_provider.api.client.blocking import MagicHourClient
from magichour_provider.api.client.settings import Settings

__all__ = ["MagicHourClient", "Settings"]
