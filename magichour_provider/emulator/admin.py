"""What the vendor does not have: the tester's routes under ``/_emulator/``, and the page at ``/``.

The Python handle uses these routes and no other way in, so a test can do nothing that a shell
cannot. They ask for no key: that is what listening on loopback is for.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import web

from . import rules
from .state import Moves
from .storage import base_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .state import Job
    from .world import World

PAGE = Path(__file__).with_name("page.html")
LARGEST_ASSET = 64 << 20


def add_admin(app: web.Application, world: World) -> None:
    """Mount the tester's routes."""
    admin = Admin(world)
    app.router.add_get("/", admin.page)
    for method, path, handler in (
        ("GET", "state", admin.state),
        ("PATCH", "state", admin.change),
        ("POST", "advance", admin.advance),
        ("GET", "jobs", admin.jobs),
        ("GET", "jobs/{id}", admin.job),
        ("POST", "jobs/{id}/{verb}", admin.steer),
        ("GET", "ledger", admin.ledger),
        ("GET", "requests", admin.requests),
        ("GET", "faults", admin.faults),
        ("POST", "faults", admin.add_fault),
        ("DELETE", "faults", admin.clear_faults),
        ("GET", "faults/{id}", admin.fault),
        ("DELETE", "faults/{id}", admin.remove_fault),
        ("POST", "assets", admin.add_asset),
        ("GET", "webhooks", admin.webhooks),
        ("POST", "webhooks", admin.add_webhook),
        ("DELETE", "webhooks", admin.clear_webhooks),
        ("GET", "webhooks/deliveries", admin.deliveries),
    ):
        app.router.add_route(method, f"/_emulator/{path}", explained(handler))


def explained(
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """A tester's mistake is answered with what is wrong, not with a stack trace."""

    async def explain(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except KeyError as error:
            return web.json_response({"message": f"there is no {error.args[0]}"}, status=404)
        except (ValueError, TypeError, OverflowError) as error:
            return web.json_response({"message": str(error)}, status=400)

    return explain


class Admin:
    """The handlers."""

    def __init__(self, world: World) -> None:
        self.world = world

    async def page(self, request: web.Request) -> web.StreamResponse:
        return web.FileResponse(PAGE)

    async def state(self, request: web.Request) -> web.Response:
        world = self.world
        return web.json_response(
            {
                "url": world.base,
                "api_key": world.settings.api_key,
                "credits": world.account.credits,
                "tier": world.account.tier,
                "moves": str(world.jobs.moves),
                "render": world.settings.render,
                "fps": world.settings.fps,
                "voices": world.settings.engine,
                "clock": world.clock.now(),
                "ahead_seconds": world.clock.ahead,
                "calls": world.calls,
            }
        )

    async def change(self, request: web.Request) -> web.Response:
        given = await request.json()
        if unknown := set(given) - {"credits", "moves"}:
            raise ValueError(f"cannot be changed: {', '.join(sorted(unknown))}")
        if "credits" in given:
            self.world.account.credits = int(given["credits"])
        if "moves" in given:
            self.world.jobs.moves = Moves.parse(given["moves"])
            await self.world.advance(0)
        return await self.state(request)

    async def advance(self, request: web.Request) -> web.Response:
        await self.world.advance(float((await request.json())["seconds"]))
        return await self.state(request)

    async def jobs(self, request: web.Request) -> web.Response:
        name, last = request.query.get("name", ""), int(request.query.get("last", 0))
        jobs = [job for job in self.world.jobs.all.values() if name in job.name]
        return web.json_response([self._shown(job, request) for job in jobs[-last:]])

    async def job(self, request: web.Request) -> web.Response:
        return web.json_response(self._shown(self._find(request), request))

    async def steer(self, request: web.Request) -> web.Response:
        """Do to a job what only the vendor, or a person in its web app, can do."""
        job, jobs = self._find(request), self.world.jobs
        verb = request.match_info["verb"]
        given = await request.json() if request.can_read_body else {}
        if verb != "delete" and not job.active:
            raise ValueError(f"job {job.id} has ended already: it is {job.status}")
        if verb == "move" and given["to"] == "rendering":
            jobs.start(job)
        elif verb == "move" and given["to"] == "complete":
            jobs.start(job)
            await self.world.rendered(job)
            jobs.finish(job)
        elif verb == "fail":
            jobs.start(job)
            jobs.fail(job, str(given["code"]), str(given.get("message", "")))
        elif verb == "cancel":
            jobs.cancel(job)
        elif verb == "delete":
            jobs.delete(job)
        else:
            raise ValueError(f"{verb} {given}: choose move to rendering or complete, fail, cancel or delete")
        return web.json_response(self._shown(job, request))

    async def ledger(self, request: web.Request) -> web.Response:
        name = request.query.get("name", "")
        ledger = self.world.account.ledger
        return web.json_response([entry for entry in ledger if name in entry["name"]])

    async def requests(self, request: web.Request) -> web.Response:
        call = request.query.get("call")
        notes = self.world.requests
        return web.json_response([note for note in notes if call in (None, note["call"])])

    async def faults(self, request: web.Request) -> web.Response:
        return web.json_response([asdict(rule) for rule in self.world.faults.rules.values()])

    async def add_fault(self, request: web.Request) -> web.Response:
        return web.json_response(asdict(self.world.faults.add(await request.json())))

    async def clear_faults(self, request: web.Request) -> web.Response:
        self.world.faults.rules.clear()
        return web.Response(status=204)

    async def fault(self, request: web.Request) -> web.Response:
        return web.json_response(asdict(self.world.faults.rules[request.match_info["id"]]))

    async def remove_fault(self, request: web.Request) -> web.Response:
        del self.world.faults.rules[request.match_info["id"]]
        return web.Response(status=204)

    async def add_asset(self, request: web.Request) -> web.Response:
        extension = request.query["extension"].lower().lstrip(".")
        if not any(extension in extensions for extensions in rules.EXTENSIONS.values()):
            raise ValueError(f"{extension!r} is no extension that Magic Hour takes")
        request = request.clone(client_max_size=LARGEST_ASSET)
        return web.json_response({"file_path": await self.world.storage.add(extension, await request.read())})

    async def webhooks(self, request: web.Request) -> web.Response:
        return web.json_response([asdict(hook) for hook in self.world.webhooks.receivers])

    async def add_webhook(self, request: web.Request) -> web.Response:
        return web.json_response(asdict(self.world.webhooks.add(**await request.json())))

    async def clear_webhooks(self, request: web.Request) -> web.Response:
        self.world.webhooks.receivers.clear()
        return web.Response(status=204)

    async def deliveries(self, request: web.Request) -> web.Response:
        return web.json_response([asdict(one) for one in self.world.webhooks.deliveries])

    def _find(self, request: web.Request) -> Job:
        name = request.match_info["id"]
        if name not in self.world.jobs.all:
            raise KeyError(f"job {name}")
        return self.world.jobs.all[name]

    def _shown(self, job: Job, request: web.Request) -> dict[str, Any]:
        """A job as the tester sees it: the details, and what the vendor keeps to itself."""
        return self.world.details(job, base_of(request)) | {
            "kind": job.kind,
            "request": job.request,
            "looks": job.looks,
            "ends": job.ends,
            "rendered": bool(job.render and job.render.done()),
            "engine": job.output.engine if job.output else None,
        }
