"""Two facts about a call that httpx does not report: was it possibly sent, and did it take too long?"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

# Names of httpcore's trace events, without their last part: started, complete or failed.
_CONNECT = frozenset({"connection.connect_tcp", "connection.start_tls", "proxy.start_tls"})
_SEND_HEADERS = "http11.send_request_headers"
_RECEIVE_HEADERS = "http11.receive_response_headers"
_EXCHANGE = frozenset({_SEND_HEADERS, "http11.send_request_body", _RECEIVE_HEADERS})
_CLOSED = "http11.response_closed"  # follows a failure, and adds no information


class SendTracker:
    """
    Listens to httpx's ``trace`` extension during one call, and can end the call.

    The call counts as sent unless the trace proves the opposite. The proof is a trace that reports a failure
    to connect (TCP, TLS, or the proxy's CONNECT) and nothing after it. An empty trace is no proof. A trace
    with an unknown event is no proof either: a new version of the transport may use other names.

    :ivar is_expired: ``limit`` has ended the call.
    """

    def __init__(self) -> None:
        self.is_expired = False
        self._not_connected = False
        self._beyond_connecting = False
        self._asks_proxy = False
        self._socket: socket.socket | None = None

    @property
    def sent(self) -> bool:
        """Is it possible that a byte of the request left this machine?"""
        return self._beyond_connecting or not self._not_connected

    def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """
        Receive one event of httpx.

        :raises TimeoutError: the time was up before the first byte of the request. The request is not sent.
        """
        step, _, moment = event.rpartition(".")
        if step == _SEND_HEADERS and moment == "started" and self.is_expired:
            # The time was up when there was no socket to close, for example during a slow name resolution.
            self._not_connected = True
            raise TimeoutError
        if step in _CONNECT:
            self._asks_proxy = False
        elif "request" in info:
            self._asks_proxy = info["request"].method == b"CONNECT"
        if step in _CONNECT or (step in _EXCHANGE and self._asks_proxy):
            self._not_connected = moment == "failed" or (step == _RECEIVE_HEADERS and _refused(info))
            if step in _CONNECT and moment == "complete":
                self._socket = info["return_value"].get_extra_info("socket")
        elif step != _CLOSED:
            self._beyond_connecting = True

    @contextmanager
    def limit(self, seconds: float) -> Iterator[None]:
        """End the call after this number of seconds. Only a closed socket can end a read."""

        def end() -> None:
            self.is_expired = True
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


def _refused(info: Mapping[str, Any]) -> bool:
    """Did the proxy answer with a status other than 2xx?"""
    match info.get("return_value"):
        case (_, int(status), *_):
            return not 200 <= status < 300
    return False
