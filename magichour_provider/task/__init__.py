"""
What a task does in Airflow: pay once, wait, collect the result.

The modules that a task needs are attributes of this package. Each is imported when it is first used. So a DAG
file loads the checks of its operators' arguments, but not the HTTP client, the journal or the trigger.
"""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # mypy reads these as exports: see pyproject.toml
    from magichour_provider import exceptions, hooks, lineage, telemetry, text, triggers  # noqa: F401
    from magichour_provider.api import inputs, jobs, models, tools, watching, wire  # noqa: F401
    from magichour_provider.files import duration, signatures, storage  # noqa: F401
    from magichour_provider.task import (  # noqa: F401
        arguments,
        ask,
        delivery,
        errors,
        journal,
        lost_answer,
        record,
    )


def preload() -> None:
    """Import what a task needs after the paid call, so that an upgrade of the package cannot break it."""
    for name in ("delivery", "lineage", "triggers"):
        __getattr__(name)


def __getattr__(name: str) -> Any:
    for package in (__name__, "magichour_provider.files", "magichour_provider.api", "magichour_provider"):
        if find_spec(f"{package}.{name}"):
            module = globals()[name] = importlib.import_module(f"{package}.{name}")
            return module
    raise AttributeError(f"{__name__} has no {name}")
