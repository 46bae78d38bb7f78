"""
The admin routes under ``/_emulator/``, and the page at ``/``. The vendor has neither.

The Python handle uses only these routes, so other programs can do the same. The routes need no key, because
the emulator listens on loopback.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import web

from . import validation
from .models import Progression
from .storage_host import base_url_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .emulation import Emulation
    from .models import Job

PAGE = Path(__file__).with_name("page.html")
MAX_ASSET_BYTES = 64 << 20


def add_admin(app: web.Application, emulation: Emulation) -> None:
    """Add the admin routes to the application."""
    admin = Admin(emulation)
    app.router.add_get("/", admin.page)
    for method, path, handler in (
        ("GET", "state", admin.state),
        ("PATCH", "state", admin.change_state),
        ("POST", "advance", admin.advance),
        ("GET", "jobs", admin.jobs),
        ("GET", "jobs/{id}", admin.job),
        ("POST", "jobs/{id}/{verb}", admin.change_job),
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
        app.router.add_route(method, f"/_emulator/{path}", with_errors(handler))


def with_errors(
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Turn the exceptions of a handler into JSON errors, because they are mistakes in a request."""

    async def call_handler(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except KeyError as error:
            what = error.args[0]
            if what in FIELDS:
                return web.json_response({"message": f"{what} is required"}, status=400)
            return web.json_response({"message": f"{what} does not exist"}, status=404)
        except (ValueError, TypeError, OverflowError) as error:
            return web.json_response({"message": str(error)}, status=400)

    return call_handler


# Fields of a request that have no default.
FIELDS = ("seconds", "to", "code", "extension")


class Admin:
    """The handlers of the admin routes."""

    def __init__(self, emulation: Emulation) -> None:
        self.emulation = emulation

    async def page(self, request: web.Request) -> web.StreamResponse:
        return web.FileResponse(PAGE)

    async def state(self, request: web.Request) -> web.Response:
        emulation = self.emulation
        return web.json_response(
            {
                "url": emulation.base_url,
                "api_key": emulation.settings.api_key,
                "credits": emulation.account.credits,
                "tier": emulation.account.tier,
                "progression": str(emulation.jobs.progression),
                "render": emulation.settings.render,
                "fps": emulation.settings.fps,
                "voices": emulation.settings.engine,
                "clock": emulation.clock.now(),
                "ahead_seconds": emulation.clock.ahead,
                "calls": emulation.calls,
            }
        )

    async def change_state(self, request: web.Request) -> web.Response:
        body = await request.json()
        if unknown := set(body) - {"credits", "progression"}:
            raise ValueError(f"{', '.join(sorted(unknown))} cannot be changed: choose credits, progression")
        if "credits" in body:
            self.emulation.account.credits = int(body["credits"])
        if "progression" in body:
            self.emulation.jobs.progression = Progression.parse(body["progression"])
            await self.emulation.advance_clock(0)
        return await self.state(request)

    async def advance(self, request: web.Request) -> web.Response:
        await self.emulation.advance_clock(float((await request.json())["seconds"]))
        return await self.state(request)

    async def jobs(self, request: web.Request) -> web.Response:
        name, last = request.query.get("name", ""), int(request.query.get("last", 0))
        jobs = [job for job in self.emulation.jobs.all.values() if name in job.name]
        return web.json_response([self._details(job, request) for job in jobs[-last:]])

    async def job(self, request: web.Request) -> web.Response:
        return web.json_response(self._details(self._find(request), request))

    async def change_job(self, request: web.Request) -> web.Response:
        """Change a job, as the vendor can, or a person in the vendor's web app."""
        job, jobs = self._find(request), self.emulation.jobs
        verb = request.match_info["verb"]
        body = await request.json() if request.can_read_body else {}
        if verb != "delete" and not job.active:
            raise ValueError(f"job {job.id} has already ended: its status is {job.status}")
        if verb == "move" and body["to"] == "rendering":
            jobs.start(job)
        elif verb == "move" and body["to"] == "complete":
            jobs.start(job)
            await self.emulation.wait_for_render(job)
            jobs.finish(job)
        elif verb == "fail":
            jobs.start(job)
            jobs.fail(job, str(body["code"]), str(body.get("message", "")))
        elif verb == "cancel":
            jobs.cancel(job)
        elif verb == "delete":
            jobs.delete(job)
        else:
            raise ValueError(f"{verb} {body}: choose move to rendering or complete, fail, cancel or delete")
        return web.json_response(self._details(job, request))

    async def ledger(self, request: web.Request) -> web.Response:
        name = request.query.get("name", "")
        ledger = self.emulation.account.ledger
        return web.json_response([entry for entry in ledger if name in entry["name"]])

    async def requests(self, request: web.Request) -> web.Response:
        call = request.query.get("call")
        records = self.emulation.requests
        return web.json_response([record for record in records if call in (None, record["call"])])

    async def faults(self, request: web.Request) -> web.Response:
        return web.json_response([asdict(rule) for rule in self.emulation.faults.rules.values()])

    async def add_fault(self, request: web.Request) -> web.Response:
        return web.json_response(asdict(self.emulation.faults.add(await request.json())))

    async def clear_faults(self, request: web.Request) -> web.Response:
        self.emulation.faults.rules.clear()
        return web.Response(status=204)

    async def fault(self, request: web.Request) -> web.Response:
        return web.json_response(asdict(self.emulation.faults.rules[request.match_info["id"]]))

    async def remove_fault(self, request: web.Request) -> web.Response:
        del self.emulation.faults.rules[request.match_info["id"]]
        return web.Response(status=204)

    async def add_asset(self, request: web.Request) -> web.Response:
        extension = request.query["extension"].lower().lstrip(".")
        if not any(extension in extensions for extensions in validation.EXTENSIONS.values()):
            raise ValueError(f"{extension!r} is not an extension that Magic Hour accepts")
        request = request.clone(client_max_size=MAX_ASSET_BYTES)
        file_path = await self.emulation.storage.add(extension, await request.read())
        return web.json_response({"file_path": file_path})

    async def webhooks(self, request: web.Request) -> web.Response:
        return web.json_response([asdict(hook) for hook in self.emulation.webhooks.receivers])

    async def add_webhook(self, request: web.Request) -> web.Response:
        return web.json_response(asdict(self.emulation.webhooks.add(**await request.json())))

    async def clear_webhooks(self, request: web.Request) -> web.Response:
        self.emulation.webhooks.receivers.clear()
        return web.Response(status=204)

    async def deliveries(self, request: web.Request) -> web.Response:
        return web.json_response([asdict(delivery) for delivery in self.emulation.webhooks.deliveries])

    def _find(self, request: web.Request) -> Job:
        name = request.match_info["id"]
        if name not in self.emulation.jobs.all:
            raise KeyError(f"job {name}")
        return self.emulation.jobs.all[name]

    def _details(self, job: Job, request: web.Request) -> dict[str, Any]:
        """Return the details of a job, with properties that the API does not show."""
        return self.emulation.details(job, base_url_of(request)) | {
            "id": job.id,
            "job_type": job.job_type,
            "request": job.request,
            "polls": job.polls,
            "ends": job.ends,
            "rendered": bool(job.render and job.render.done()),
            "engine": job.output.engine if job.output else None,
        }
