"""
Airflow's API for tasks, at a fraction of the time: in this process, as ``dag.test()`` uses it.

``python -m tools.lean_api api-server`` is ``airflow api-server``, but serves tasks of this version only.
"""

from __future__ import annotations

from contextvars import ContextVar
from functools import cache
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import anyio.to_thread
from fastapi import APIRouter, FastAPI
from pydantic import TypeAdapter

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import Receive, Scope, Send

in_a_thread = anyio.to_thread.run_sync
is_inline = ContextVar("is_inline", default=False)


async def inline(function: Callable[..., Any], *args: Any, **how: Any) -> Any:
    return function(*args) if is_inline.get() else await in_a_thread(function, *args, **how)


class NewestAPI(FastAPI):
    """Airflow's API for tasks in its newest version. To build the older versions takes many seconds."""

    def generate_and_include_versioned_routers(self, router: APIRouter) -> None:
        self.include_router(router)


class LeanAPI(NewestAPI):
    """
    Airflow's API for tasks, without its middleware for tokens that expire, and without threads, because it
    has one task at a time. They take most of each request, and a DAG makes dozens of requests.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_inline.set(True)
        await super().__call__(scope, receive, send)

    def add_middleware(self, *_: Any, **__: Any) -> None:
        """None is needed."""


def use() -> None:
    """From now on, each ``dag.test()`` of this process uses it."""
    from airflow.sdk.execution_time import supervisor

    supervisor.in_process_api_server = lean_api_server


@cache
def lean_api_server() -> Any:
    """One for all tasks, as in a real Airflow: below 3.3, ``dag.test()`` makes one for each, in seconds."""
    from airflow.api_fastapi.execution_api import app
    from airflow.sdk.execution_time import task_runner
    from fastapi.dependencies import utils

    patch.object(anyio.to_thread, "run_sync", inline).start()
    with patch.object(app, "CadwynWithOpenAPICustomization", LeanAPI):
        server = app.InProcessExecutionAPI()
        _ = server.app
    # As this app overrides dependencies, FastAPI would inspect them all again at each request.
    utils.get_dependant = remembered(utils.get_dependant)
    # Airflow makes one for each field of each try.
    patch.object(task_runner, "TypeAdapter", cache(TypeAdapter), create=True).start()
    return server


def remembered(function: Callable[..., Any]) -> Callable[..., Any]:
    """Calls it once for the same keyword arguments, which may be lists."""
    results: dict[Any, Any] = {}

    def call(**given: Any) -> Any:
        key = tuple(
            (name, tuple(value) if isinstance(value, list) else value) for name, value in given.items()
        )
        if key not in results:
            results[key] = function(**given)
        return results[key]

    return call


if __name__ == "__main__":
    from airflow.__main__ import main
    from airflow.api_fastapi.execution_api import app

    with patch.object(app, "CadwynWithOpenAPICustomization", NewestAPI):
        main()
