"""
Rules by which the emulator misbehaves on purpose.

A rule waits for a call (and a job's name), lets some pass, then strikes a number of times. It may
answer in place of the real thing, or let the real thing happen first and spoil what comes back: a
charge whose answer is lost is ``effect=True`` or ``reset="after"``.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import socket
import struct
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aiohttp import web

from .storage import Result, StorageError, xml

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
)
STORAGE_CALLS = ("put", "download")
SLOW_STEPS = 20
# How a fault wants the job to end that is being created.
ENDS: ContextVar[str | None] = ContextVar("ENDS")

ARGUMENTS: dict[str, type | tuple[type, ...]] = {
    "call": str,
    "status": int,
    "body": object,
    "headers": dict,
    "reset": str,
    "hang": (int, float),
    "slow": (int, float),
    "truncate": int,
    "cut": int,
    "html": bool,
    "effect": bool,
    "ends": str,
    "times": int,
    "skip": int,
    "name": str,
}

AMOUNTS = ("hang", "slow", "truncate", "cut", "times", "skip")

PHRASES = {
    400: "Invalid request",
    401: "Unauthorized",
    402: "Payment required",
    403: "Forbidden",
    404: "Not Found",
    429: "Too many requests",
    500: "Internal server error",
    502: "Bad gateway",
    503: "Service unavailable",
    504: "Gateway timeout",
}
S3_CODES = {
    403: ("AccessDenied", "Request has expired"),
    404: ("NoSuchKey", "The specified key does not exist."),
    429: ("SlowDown", "Please reduce your request rate."),
    503: ("SlowDown", "Please reduce your request rate."),
}
GATEWAY_PAGE = (
    "<html>\r\n<head><title>{status} {phrase}</title></head>\r\n<body>\r\n"
    "<center><h1>{status} {phrase}</h1></center>\r\n<hr><center>cloudflare</center>\r\n"
    "</body>\r\n</html>\r\n"
)


@dataclass
class Fault:
    """One rule. What is not given, does not happen."""

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
    html: bool = False
    effect: bool = False
    ends: str | None = None
    times: int | None = 1
    skip: int = 0
    name: str | None = None
    seen: int = 0
    hits: int = 0

    def strikes(self, call: str, names: list[str]) -> bool:
        """Whether this request is one to spoil; counts it."""
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
    def answers(self) -> bool:
        """Whether it has an answer of its own."""
        return self.status is not None or self.body is not None or self.html


class Faults:
    """The rules in force, oldest first; the first that strikes wins."""

    def __init__(self) -> None:
        self.rules: dict[str, Fault] = {}
        self._ids = itertools.count(1)

    def add(self, given: Any) -> Fault:
        """Check and keep a rule."""
        if not isinstance(given, dict):
            raise TypeError("a fault is an object, with a call")
        for name, value in given.items():
            if name not in ARGUMENTS:
                raise ValueError(f"{name} is unknown in a fault: choose {', '.join(ARGUMENTS)}")
            if value is not None and not fits(value, ARGUMENTS[name]):
                raise ValueError(f"{name} is {value!r}: that is the wrong type")
            if name in AMOUNTS and value is not None and not value >= 0:
                raise ValueError(f"{name} is {value!r}: choose a number that is not negative")
        if given.get("call") not in (*CALLS, "*"):
            raise ValueError(f"call is {given.get('call')!r}: choose {', '.join(CALLS)} or *")
        if given.get("status") is not None and not 200 <= given["status"] <= 599:
            raise ValueError(f"status is {given['status']}: choose 200 to 599")
        for name, value in (given.get("headers") or {}).items():
            if set("\r\n\0") & set(f"{name}{value}"):
                raise ValueError(f"the header {name!r} holds a line break or a null")
        if given.get("reset") not in (None, "before", "after"):
            raise ValueError(f"reset is {given['reset']!r}: choose before or after")
        ends = given.get("ends")
        if ends is not None and ends not in ("canceled", "deleted") and not re.match("error:.", ends):
            raise ValueError(f"ends is {ends!r}: choose error:<code>, canceled or deleted")
        chosen = {name: value for name, value in given.items() if value is not None or name == "times"}
        rule = Fault(id=str(next(self._ids)), **chosen)
        self.rules[rule.id] = rule
        return rule

    def pick(self, call: str, names: list[str]) -> Fault | None:
        """The rule that strikes this request, if any."""
        return next((rule for rule in self.rules.values() if rule.strikes(call, names)), None)


def fits(value: object, wanted: type | tuple[type, ...]) -> bool:
    """Whether a value is of a type; true and false are no numbers here."""
    return isinstance(value, wanted) and (not isinstance(value, bool) or wanted in (bool, object))


async def spoil(
    rule: Fault,
    request: web.Request,
    call: str,
    act: Callable[[], Awaitable[web.StreamResponse]],
) -> web.StreamResponse:
    """Answer one request under a rule."""
    if rule.reset == "before":
        return reset(request)
    acts = rule.effect or rule.reset == "after" or not rule.answers
    if rule.hang is not None and not rule.effect:
        await asyncio.sleep(rule.hang)
        # The client gave up before anything happened: then nothing does.
        if request.transport is None or request.transport.is_closing():
            return web.Response(status=499)
    answer: web.StreamResponse | None = None
    if acts:
        answer = await act()
    if rule.reset == "after":
        return reset(request)
    if rule.hang is not None and rule.effect:
        await asyncio.sleep(rule.hang)
    if rule.answers or answer is None:
        answer = own_answer(rule, call)
    answer.headers.update({name: str(value) for name, value in rule.headers.items()})
    if rule.truncate is None and rule.cut is None and rule.slow is None:
        return answer
    return await send_badly(rule, request, answer)


def own_answer(rule: Fault, call: str) -> web.Response:
    """What the rule says instead of the truth."""
    status = rule.status or (502 if rule.html else 200)
    phrase = PHRASES.get(status, "Error")
    if rule.html:
        page = GATEWAY_PAGE.format(status=status, phrase=phrase)
        return web.Response(status=status, text=page, content_type="text/html")
    if rule.body is not None:
        if isinstance(rule.body, str):
            return web.Response(status=status, text=rule.body, content_type="text/plain")
        return web.json_response(rule.body, status=status)
    if status == 204:
        return web.Response(status=204)
    if call in STORAGE_CALLS:
        code, message = S3_CODES.get(status, ("InternalError", "We encountered an internal error."))
        return xml(StorageError(status, code, message))
    return web.json_response({"message": phrase}, status=status)


def reset(request: web.Request) -> web.Response:
    """Drop the connection with a RST: no answer, no goodbye."""
    if request.transport is not None:
        connection = request.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.transport.abort()
    # Nobody reads it; it tells the record that there was no answer.
    return web.Response(status=499)


async def send_badly(rule: Fault, request: web.Request, answer: web.StreamResponse) -> web.StreamResponse:
    """Send less than there is, or send it slowly."""
    content = await content_of(answer)
    if rule.truncate is not None:
        content = content[: rule.truncate]
    badly = web.StreamResponse(status=answer.status, headers=answer.headers)
    badly.content_length = len(content)
    if rule.cut is not None:
        content = content[: rule.cut]
        badly.force_close()
    await badly.prepare(request)
    step = max(1, -(-len(content) // SLOW_STEPS))
    pause = (rule.slow or 0) / SLOW_STEPS
    for at in range(0, len(content), step):
        await asyncio.sleep(pause)
        await badly.write(content[at : at + step])
    if rule.cut is not None and request.transport is not None:
        # An orderly close, so that all that was sent does arrive: it is just too little.
        request.transport.close()
        return badly
    await badly.write_eof()
    return badly


async def content_of(answer: web.StreamResponse) -> bytes:
    if isinstance(answer, Result):
        return await asyncio.to_thread(answer.source.read_bytes)
    body = answer.body if isinstance(answer, web.Response) else None
    if isinstance(body, bytes | bytearray):
        return bytes(body)
    return b""
