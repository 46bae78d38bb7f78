"""What Airflow discovers."""

from __future__ import annotations

import json
from importlib.metadata import entry_points
from importlib.resources import files
from pkgutil import resolve_name
from typing import Any

import pytest
from airflow.sdk import BaseOperator, BaseOperatorLink, BaseSensorOperator
from airflow.triggers.base import BaseTrigger
from jsonschema import validate

from magichour_provider import __version__, get_provider_info
from magichour_provider.hooks import MagicHourHook

INFO = get_provider_info()
[CONNECTION] = INFO["connection-types"]


def schema(name: str) -> Any:
    return json.loads((files("airflow") / name).read_text("utf-8"))


def test_it_passes_airflows_schema() -> None:
    validate(INFO, schema("provider_info.schema.json"))


def test_airflow_finds_it() -> None:
    [found] = [
        entry
        for entry in entry_points(group="apache_airflow_provider")
        if entry.value.startswith("magichour_provider:")
    ]
    assert found.load()() == INFO
    assert INFO["versions"] == [__version__]


@pytest.mark.parametrize("class_path", [*INFO["extra-links"], CONNECTION["hook-class-name"]])
def test_each_class_in_it_is_there(class_path: str) -> None:
    assert callable(resolve_name(class_path))


@pytest.mark.parametrize(
    ("kind", "base"),
    [("operators", BaseOperator), ("sensors", BaseSensorOperator), ("triggers", BaseTrigger)],
)
def test_each_module_in_it_holds_what_it_says(kind: str, base: type) -> None:
    for entry in INFO[kind]:
        for name in entry["python-modules"]:
            module = __import__(name, fromlist=["_"])
            ours = [value for value in vars(module).values() if getattr(value, "__module__", "") == name]
            assert any(isinstance(value, type) and issubclass(value, base) for value in ours)


def test_the_link_is_one() -> None:
    assert all(issubclass(resolve_name(path), BaseOperatorLink) for path in INFO["extra-links"])


def test_the_connection_form_of_old_airflow_says_the_same() -> None:
    assert MagicHourHook.conn_type == CONNECTION["connection-type"]
    assert MagicHourHook.get_ui_field_behaviour() == {
        name.replace("-", "_"): value for name, value in CONNECTION["ui-field-behaviour"].items()
    }
