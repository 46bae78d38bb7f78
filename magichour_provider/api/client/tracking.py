"""What httpx does not tell of a call: whether a byte of it was sent, and how to end one that drips."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any


class SendTracker:
    """Of one call: listens to httpx's ``trace`` extension, and knows the socket that the call uses."""

    def __init__(self) -> None:
        self.sent = False
        self.expired_after: float | None = None
        self._socket: socket.socket | None = None

    def trace(self, event: str, info: dict[str, Any]) -> None:
        if event.endswith(("connect_tcp.complete", "start_tls.complete")):
            self._socket = info["return_value"].get_extra_info("socket")
        elif event.endswith("send_request_headers.started") and info["request"].method != b"CONNECT":
            if self.expired_after is not None:  # before there was a socket that could be ended
                raise TimeoutError
            self.sent = True

    @contextmanager
    def limit(self, seconds: float) -> Iterator[None]:
        """End the call after so long in all, by closing its socket; for those without an event loop."""

        def end() -> None:
            self.expired_after = seconds
            if self._socket is not None:
                with suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
