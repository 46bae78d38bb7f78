"""
The arguments of operators and sensors, checked by one mechanism before anything is paid.

Text is stripped. A flag or a number may be written as text. None stands for the default. So nothing after the
paid call can fail because of an argument.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from datetime import timedelta
from typing import Any

from magichour_provider.exceptions import InvalidInput

MAX_SECONDS = 10 * 365 * 86_400.0  # ten years: safe in Airflow's dates

Check = Callable[[str, Any], Any]
Notifier = Callable[[Any], object]  # called with the task's context, as Airflow's notifiers are


def text(field: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidInput.of(field, value, f"is a {type(value).__name__}; give text")
    if value.strip() in ("", "None"):
        raise InvalidInput.of(field, value, "is empty; if it is a template, it rendered to nothing")
    return value.strip()


def path(field: str, value: Any) -> str:
    """Text, or an object that stands for a path."""
    from magichour_provider.files.places import uri_of  # not for a DAG file without output_path

    return uri_of(text(field, value) if isinstance(value, str) else value)


def job_id(field: str, value: Any) -> str:
    from magichour_provider.api.wire import checked_job_id

    return checked_job_id(value)


def job_type(field: str, value: Any) -> str:
    from magichour_provider.api.jobs import job_spec

    job_spec(value)
    return str(value)


def flag(field: str, value: Any) -> bool:
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return value.strip().lower() == "true"
    if not isinstance(value, bool):
        raise InvalidInput.of(field, value, "is not a flag; give True or False")
    return value


def number(field: str, value: Any) -> float:
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not 0 < found < math.inf:
        raise InvalidInput.of(field, value, "is not usable; give a number above 0")
    return found


def seconds(field: str, value: Any) -> float:
    found = number(field, value.total_seconds() if isinstance(value, timedelta) else value)
    if found > MAX_SECONDS:
        raise InvalidInput.of(field, value, "is longer than ten years; give fewer seconds")
    return found


def seconds_or_off(field: str, value: Any) -> float:
    """0 switches it off."""
    is_off = not isinstance(value, bool) and value in (0, "0", timedelta(0))
    return 0.0 if is_off else seconds(field, value)


def notifiers(field: str, value: Any) -> list[Notifier]:
    """One notifier or a list of them, as for Airflow's callbacks."""
    found = list(value) if isinstance(value, list | tuple) else [value]
    for one in found:
        if not callable(one):
            raise InvalidInput.of(field, one, "cannot be called; give a notifier, or a list of them")
    return found


def users(field: str, value: Any) -> list[dict[str, str]]:
    """One user of Airflow or a list of them."""
    found = value if isinstance(value, list) else [value]
    for one in found:
        if not isinstance(one, dict) or not all(isinstance(one.get(key), str) for key in ("id", "name")):
            raise InvalidInput.of(field, one, 'is not a user; write {"id": "1", "name": "ada"}')
    return [{"id": one["id"], "name": one["name"]} for one in found]


def checked(
    arguments: Mapping[str, tuple[Check, Any]], values: Mapping[str, Any], *, unknown: Collection[str] = ()
) -> dict[str, Any]:
    """
    The values as they are used, by name.

    :param arguments: for each name, how to check its value, and what None stands for.
    :param unknown: names whose values are only known at run time; they are left out.
    :raises InvalidInput: names field, value and remedy; nothing was sent.
    """
    return {
        name: default if values[name] is None else check(name, values[name])
        for name, (check, default) in arguments.items()
        if name not in unknown
    }
