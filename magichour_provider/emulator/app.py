"""The HTTP side: the vendor's routes, and the one way that every request takes through them."""

from __future__ import annotations

import hmac
import json
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from aiohttp import web

from . import rules
from .admin import add_admin
from .faults import ENDS, spoil
from .rules import ApiError
from .storage import PREFIX, StorageError, base_of, xml
from .world import World

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .state import Job, Kind

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

WORLD = web.AppKey("world", World)
LARGEST_JSON = 1 << 20
# Of what is larger, the record keeps only the length: it is long enough as it is.
LARGEST_NOTE = 1 << 14
# The record of the request that is being answered.
NOTE: ContextVar[dict[str, Any] | None] = ContextVar("NOTE")


def make_app(world: World) -> web.Application:
    """The emulator as an aiohttp application."""
    app = web.Application(middlewares=[traffic], client_max_size=LARGEST_JSON)
    app[WORLD] = world
    for method, path, _, handler in ROUTES:
        app.router.add_route(method, path, handler)
    for path in rules.NOT_BUILT:
        app.router.add_route("*", path, not_built)
    add_admin(app, world)
    app.on_response_prepare.append(note_answer)
    return app


@web.middleware
async def traffic(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Record a request, ask the faults, answer, and turn refusals into the vendor's words."""
    world = request.app[WORLD]
    resource = request.match_info.route.resource
    call = CALL_OF.get((request.method, resource.canonical if resource else ""))
    NOTE.set(None)
    if request.path == "/" or request.path.startswith("/_emulator/"):
        return await handler(request)

    note: dict[str, Any] = {
        "call": call,
        "method": request.method,
        "path": request.path,
        "query": dict(request.query),
        "headers": {name.lower(): value for name, value in request.headers.items()},
        "json": None,
        "status": 0,
        "bytes": request.content_length or 0,
    }
    NOTE.set(note)
    world.requests.append(note)
    world.calls[str(call)] += 1

    async def act() -> web.StreamResponse:
        try:
            known = request.match_info.http_exception is None
            if known and not request.path.startswith(PREFIX):
                check_key(request, world)
            return await handler(request)
        except ApiError as refused:
            return refusal(refused.status, refused.message)
        except StorageError as refused:
            return xml(refused)
        except web.HTTPMethodNotAllowed as error:
            allow = {"Allow": ", ".join(sorted(error.allowed_methods))}
            return refusal(405, "Method Not Allowed", allow)
        except web.HTTPNotFound:
            return refusal(404, "Not Found")

    if call is None:
        return await act()
    try:
        names = await names_of(request, world, note)
        rule = world.faults.pick(call, names)
        ENDS.set(rule.ends if rule else None)
        return await (spoil(rule, request, call, act) if rule else act())
    except web.HTTPRequestEntityTooLarge:
        return refusal(413, f"The request body is larger than {LARGEST_JSON} bytes")
    except web.RequestPayloadError:
        # Where the next request would begin is not known any more.
        close = {"Connection": "close"}
        return refusal(400, "The request body is not encoded as its headers say", close)
    except ConnectionError:
        # The client is gone: nobody reads this, and it is no error of ours to log.
        return web.Response(status=499)


async def names_of(request: web.Request, world: World, note: dict[str, Any]) -> list[str]:
    """What a fault's ``name`` may match: the job's name, or the path of an upload."""
    if request.method == "POST":
        content = await request.read()
        try:
            body = json.loads(content)
        except (ValueError, RecursionError):
            return []
        if len(content) <= LARGEST_NOTE:
            note["json"] = body
        name = body.get("name") if isinstance(body, dict) else None
        return [name] if isinstance(name, str) else []
    path = request.match_info.get("id") or request.match_info.get("name", "")
    job = world.jobs.all.get(path.partition("/")[0])
    return [job.name] if job else [path]


async def note_answer(request: web.Request, response: web.StreamResponse) -> None:
    """Complete the record just before the answer leaves."""
    note = NOTE.get()
    if note is not None and response.status != 499:
        note["status"] = response.status
        if note["call"] == "download":
            note["bytes"] = response.content_length or 0


def refusal(status: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response({"message": message}, status=status, headers=headers)


def check_key(request: web.Request, world: World) -> None:
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    expected = world.settings.api_key.encode()
    if scheme.lower() != "bearer" or not hmac.compare_digest(
        key.strip().encode("utf-8", "surrogateescape"), expected
    ):
        raise ApiError(401, "Unauthorized")


async def create(request: web.Request) -> web.Response:
    world = request.app[WORLD]
    body = rules.parse(await request.read())
    job = world.talking_photo(rules.check_talking_photo(body, world.settings.tier), body)
    job.ends = ENDS.get()
    return web.json_response(
        {
            "id": job.id,
            "credits_charged": job.credits_charged,
            # Deprecated by the vendor, and still demanded by its own SDK.
            "estimated_frame_cost": job.credits_charged,
        }
    )


async def create_voice(request: web.Request) -> web.Response:
    world = request.app[WORLD]
    body = rules.parse(await request.read())
    job = world.voice(rules.check_voice(body), body)
    job.ends = ENDS.get()
    return web.json_response({"id": job.id, "credits_charged": job.credits_charged})


async def upload_urls(request: web.Request) -> web.Response:
    world = request.app[WORLD]
    items = []
    for _, extension in rules.check_upload_urls(rules.parse(await request.read())):
        file_path = world.storage.new_upload(extension)
        url, expires_at = world.storage.sign(base_of(request), "PUT", file_path)
        items.append({"upload_url": url, "expires_at": expires_at, "file_path": file_path})
    return web.json_response({"items": items})


async def get_video(request: web.Request) -> web.Response:
    return await get_project(request, "video")


async def get_audio(request: web.Request) -> web.Response:
    return await get_project(request, "audio")


async def get_project(request: web.Request, kind: Kind) -> web.Response:
    world = request.app[WORLD]
    job = find(request, kind)
    await world.look(job)
    return web.json_response(world.details(job, base_of(request)))


async def delete_video(request: web.Request) -> web.Response:
    request.app[WORLD].jobs.delete(find(request, "video"))
    return web.Response(status=204)


async def delete_audio(request: web.Request) -> web.Response:
    request.app[WORLD].jobs.delete(find(request, "audio"))
    return web.Response(status=204)


def find(request: web.Request, kind: Kind) -> Job:
    job = request.app[WORLD].jobs.all.get(request.match_info["id"])
    if job is None or job.kind != kind:
        raise ApiError(404, "Not Found")
    return job


async def account(request: web.Request) -> web.Response:
    world = request.app[WORLD]
    tier = world.account.tier
    subscription = {
        "name": tier.capitalize(),
        "status": "active",
        "billing_interval": "month",
        "price": {"amount": 4900, "currency": "usd"},
        "discount": None,
        "current_period_end": "2099-01-01T00:00:00.000Z",
        "cancel_at_period_end": False,
    }
    return web.json_response(
        {
            "id": "cmemulatedaccount00000001",
            "email": "emulator@example.com",
            "credits": world.account.credits,
            "tier": tier,
            "subscription": None if tier == "free" else subscription,
        }
    )


async def not_built(request: web.Request) -> web.Response:
    return refusal(
        501,
        f"{request.path} exists at Magic Hour but is not built into this emulator, which does"
        " talking photos, voices, uploads, projects and the account",
    )


async def put(request: web.Request) -> web.StreamResponse:
    return await request.app[WORLD].storage.put(request)


async def download(request: web.Request) -> web.StreamResponse:
    return await request.app[WORLD].storage.get(request)


FILE = PREFIX + "{name:.+}"
ROUTES: list[tuple[str, str, str, Handler]] = [
    ("POST", "/v1/ai-talking-photo", "create", create),
    ("GET", "/v1/video-projects/{id}", "get_video", get_video),
    ("DELETE", "/v1/video-projects/{id}", "delete_video", delete_video),
    ("POST", "/v1/ai-voice-generator", "create_voice", create_voice),
    ("GET", "/v1/audio-projects/{id}", "get_audio", get_audio),
    ("DELETE", "/v1/audio-projects/{id}", "delete_audio", delete_audio),
    ("POST", "/v1/files/upload-urls", "upload_urls", upload_urls),
    ("GET", "/v1/account", "account", account),
    ("PUT", FILE, "put", put),
    ("GET", FILE, "download", download),
    ("HEAD", FILE, "download", download),
]
# aiohttp names a route's path without its pattern.
CALL_OF = {(method, path.replace(":.+", "")): call for method, path, call, _ in ROUTES}
