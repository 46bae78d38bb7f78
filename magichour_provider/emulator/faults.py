"""
Faults: rules by which the emulator misbehaves on purpose.

A rule matches a call, and a job's name if one is given. It lets some requests pass, then it applies a number
of times. It answers instead of the call, or after the call has had its effect: a charge whose answer is lost
is ``effect=True`` or ``reset="after"``.
"""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import re
import socket
import struct
from contextvars import ContextVar
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from aiohttp import web

from .exceptions import StorageError
from .storage_host import ResultResponse, error_response

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

CALLS = (
    "create",
    "get_video",
    "delete_video",
    "upload_urls",
    "put",
    "download",
    "account",
    "create_voice",
    "get_audio",
    "delete_audio",
    "create_tool",
    "get_image",
    "delete_image",
)
STORAGE_CALLS = ("put", "download")
SLOW_STEPS = 20
# After JSON, spaces change nothing: only their number shows that something is wrong.
FILLER = b" " * (1 << 16)
# The rule that applies to the request which is being answered.
RULE: ContextVar[FaultRule | None] = ContextVar("RULE")

OPTIONS: dict[str, type | tuple[type, ...]] = {
    "call": str,
    "status": int,
    "body": object,
    "headers": dict,
    "reset": str,
    "hang": (int, float),
    "slow": (int, float),
    "truncate": int,
    "cut": int,
    "gzip": bool,
    "endless": bool,
    "html": bool,
    "effect": bool,
    "ends": str,
    "job_id": (str, int),
    "times": int,
    "skip": int,
    "name": str,
}
NOT_NEGATIVE = ("hang", "slow", "truncate", "cut", "times", "skip")
# In a rule's body, an object with this key stands for a part of the answer that the call gives.
ANSWER = "$answer"
STANDARD = {int(status) for status in HTTPStatus}

# The vendor's messages.
MESSAGES = {
    400: "Invalid request",
    402: "Payment required",
    429: "Too many requests",
    500: "Internal server error",
}
S3_ERRORS = {
    307: ("TemporaryRedirect", "Please re-send this request to the specified temporary endpoint."),
    403: ("AccessDenied", "Request has expired"),
    404: ("NoSuchKey", "The specified key does not exist."),
    429: ("SlowDown", "Please reduce your request rate."),
    503: ("SlowDown", "Please reduce your request rate."),
}
GATEWAY_PAGE = (
    "<html>\r\n<head><title>{status} {message}</title></head>\r\n<body>\r\n"
    "<center><h1>{status} {message}</h1></center>\r\n<hr><center>cloudflare</center>\r\n"
    "</body>\r\n</html>\r\n"
)


@dataclass
class FaultRule:
    """One rule; the options are described in ``Emulator.fault``."""

    id: str
    call: str
    status: int | None = None
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    reset: str | None = None
    hang: float | None = None
    slow: float | None = None
    truncate: int | None = None
    cut: int | None = None
    gzip: bool = False
    endless: bool = False
    html: bool = False
    effect: bool = False
    ends: str | None = None
    job_id: str | int | None = None
    times: int | None = 1
    skip: int = 0
    name: str | None = None
    seen: int = 0
    hits: int = 0

    def applies(self, call: str, names: list[str]) -> bool:
        """Whether the rule applies to this request; counts it."""
        if self.call not in (call, "*"):
            return False
        if self.name is not None and not any(self.name in name for name in names):
            return False
        self.seen += 1
        if self.seen <= self.skip or (self.times is not None and self.hits >= self.times):
            return False
        self.hits += 1
        return True

    @property
    def replaces_answer(self) -> bool:
        return self.status is not None or self.body is not None or self.html

    @property
    def has_effect(self) -> bool:
        """Whether the call has its effect although the client does not learn of it."""
        return self.effect or self.reset == "after" or not self.replaces_answer or refers_to_answer(self.body)

    @property
    def changes_transfer(self) -> bool:
        """Whether the bytes of the body are sent in an unusual way."""
        amounts = (self.truncate, self.cut, self.slow)
        return self.gzip or self.endless or any(amount is not None for amount in amounts)


class Faults:
    """The rules, oldest first. The first one that applies is used."""

    def __init__(self) -> None:
        self.rules: dict[str, FaultRule] = {}
        self._ids = itertools.count(1)

    def add(self, options: Any) -> FaultRule:
        """Check and keep a rule."""
        if not isinstance(options, dict):
            raise TypeError("a fault is an object with a call")
        for name, value in options.items():
            if name not in OPTIONS:
                raise ValueError(f"{name} is unknown in a fault: choose {', '.join(OPTIONS)}")
            if value is not None and not is_a(value, OPTIONS[name]):
                raise ValueError(f"{name} is {value!r}: that is the wrong type")
            if name in NOT_NEGATIVE and value is not None and not value >= 0:
                raise ValueError(f"{name} is {value!r}: choose a number that is not negative")
        if options.get("call") not in (*CALLS, "*"):
            raise ValueError(f"call is {options.get('call')!r}: choose {', '.join(CALLS)} or *")
        if options.get("status") is not None and not 200 <= options["status"] <= 599:
            raise ValueError(f"status is {options['status']}: choose 200 to 599")
        for name, value in (options.get("headers") or {}).items():
            if set("\r\n\0") & set(f"{name}{value}"):
                raise ValueError(f"the header {name!r} holds a line break or a null")
        if options.get("reset") not in (None, "before", "after"):
            raise ValueError(f"reset is {options['reset']!r}: choose before or after")
        ends = options.get("ends")
        if ends is not None and ends not in ("canceled", "deleted") and not re.match("error:.", ends):
            raise ValueError(f"ends is {ends!r}: choose error:<code>, canceled or deleted")
        given = {name: value for name, value in options.items() if value is not None or name == "times"}
        rule = FaultRule(id=str(next(self._ids)), **given)
        self.rules[rule.id] = rule
        return rule

    def pick(self, call: str, names: list[str]) -> FaultRule | None:
        """The rule that applies to this request, if any."""
        return next((rule for rule in self.rules.values() if rule.applies(call, names)), None)


def is_a(value: object, wanted: type | tuple[type, ...]) -> bool:
    """As ``isinstance``, but a bool is not a number."""
    return isinstance(value, wanted) and (not isinstance(value, bool) or wanted in (bool, object))


async def apply_fault(
    rule: FaultRule,
    request: web.Request,
    call: str,
    act: Callable[[], Awaitable[web.StreamResponse]],
) -> web.StreamResponse:
    """
    Answer one request under a rule.

    :param act: has the call's effect and returns its true answer.
    """
    if rule.reset == "before":
        return reset(request)
    if rule.hang is not None and not rule.effect:
        await asyncio.sleep(rule.hang)
        # The client gave up before the effect, so there is none.
        if request.transport is None or request.transport.is_closing():
            return web.Response(status=499)
    true_answer = await act() if rule.has_effect else None
    if rule.reset == "after":
        return reset(request)
    if rule.hang is not None and rule.effect:
        await asyncio.sleep(rule.hang)
    if rule.replaces_answer or true_answer is None:
        answer: web.StreamResponse = await false_answer(rule, call, true_answer)
    else:
        answer = true_answer
    for name, value in rule.headers.items():
        answer.headers[name] = str(value).replace("{path}", request.path_qs)
    return await transfer(rule, request, answer) if rule.changes_transfer else answer


async def false_answer(rule: FaultRule, call: str, true_answer: web.StreamResponse | None) -> web.Response:
    """The answer that the rule gives instead of the true one."""
    body = rule.body
    status = rule.status or (502 if rule.html else 200)
    if true_answer is not None and refers_to_answer(body):
        status = rule.status or true_answer.status
        body = filled(body, await json_of(true_answer))
    message = MESSAGES.get(status) or (HTTPStatus(status).phrase if status in STANDARD else "Error")
    if rule.html:
        page = GATEWAY_PAGE.format(status=status, message=message)
        return web.Response(status=status, text=page, content_type="text/html")
    if isinstance(body, str):
        return web.Response(status=status, text=body, content_type="text/plain")
    if body is not None:
        return web.json_response(body, status=status)
    if status == 204:
        return web.Response(status=204)
    if call in STORAGE_CALLS:
        code, message = S3_ERRORS.get(status, ("InternalError", "We encountered an internal error."))
        return error_response(StorageError(status, code, message))
    return web.json_response({"message": message}, status=status)


def refers_to_answer(body: Any) -> bool:
    """Whether a rule's body has a part that stands for a part of the true answer."""
    if isinstance(body, dict):
        return ANSWER in body or any(refers_to_answer(value) for value in body.values())
    return isinstance(body, list) and any(refers_to_answer(value) for value in body)


def filled(body: Any, answer: Any) -> Any:
    """
    A rule's body, with parts of the true answer filled in.

    ``{"$answer": "/downloads/0"}`` stands for the part at that JSON pointer (RFC 6901), or null if there is
    none. Further members of such an object replace those of the part.
    """
    if isinstance(body, list):
        return [filled(value, answer) for value in body]
    if not isinstance(body, dict):
        return body
    members = {name: filled(value, answer) for name, value in body.items() if name != ANSWER}
    if ANSWER not in body:
        return members
    part = answer
    for step in str(body[ANSWER]).split("/")[1:]:
        try:
            part = part[int(step)] if isinstance(part, list) else part[step]
        except (LookupError, TypeError, ValueError):
            part = None
    return part | members if isinstance(part, dict) else part


def reset(request: web.Request) -> web.Response:
    """Drop the connection with a TCP reset instead of an answer."""
    if request.transport is not None:
        connection = request.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.transport.abort()
    # Never sent; its status tells the record of requests that there was no answer.
    return web.Response(status=499)


async def transfer(rule: FaultRule, request: web.Request, answer: web.StreamResponse) -> web.StreamResponse:
    """Send an answer compressed, shortened, slowly or without end."""
    content = await content_of(answer)
    sent = web.StreamResponse(status=answer.status, headers=answer.headers)
    if rule.gzip:
        content = gzip.compress(content)
        sent.headers["Content-Encoding"] = "gzip"
    content = content[: rule.truncate]
    sent.content_length = None if rule.endless else len(content)
    if rule.cut is not None:
        content = content[: rule.cut]
        sent.force_close()
    await sent.prepare(request)
    step = max(1, -(-len(content) // SLOW_STEPS))
    for at in range(0, len(content), step):
        await asyncio.sleep((rule.slow or 0) / SLOW_STEPS)
        await sent.write(content[at : at + step])
    while rule.endless:
        # Until the client closes the connection: then this raises ConnectionError.
        await sent.write(FILLER)
    if rule.cut is not None and request.transport is not None:
        # An orderly close: all that was sent arrives, but it is less than announced.
        request.transport.close()
        return sent
    await sent.write_eof()
    return sent


async def content_of(answer: web.StreamResponse) -> bytes:
    if isinstance(answer, ResultResponse):
        return await asyncio.to_thread(answer.source.read_bytes)
    body = answer.body if isinstance(answer, web.Response) else None
    return bytes(body) if isinstance(body, bytes | bytearray) else b""


async def json_of(answer: web.StreamResponse) -> Any:
    try:
        return json.loads(await content_of(answer))
    except ValueError:
        return None
