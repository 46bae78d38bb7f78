"""
The API over httpx: the flows of ``flows.py``, run by two thin drivers. No Airflow here.

Three rules stand above all others:

- A call that pays goes out on a connection of its own (a kept-alive one that the server has closed looks
  like a lost answer) and is repeated only when no byte of it was sent, or after HTTP 429, which makes no job.
- Every API call ends within ``timeout`` seconds in all, however slowly an answer drips.
- The key goes to the API's host alone: signed URLs are used through a second httpx client that holds no key.
"""

from __future__ import annotations

from magichour_provider.api.client.api import Settings
from magichour_provider.api.client.asynchronous import MOST_CONNECTIONS, AsyncMagicHourClient
from magichour_provider.api.client.blocking import MagicHourClient

__all__ = ["MOST_CONNECTIONS", "AsyncMagicHourClient", "MagicHourClient", "Settings"]
