"""What Airflow discovers."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import fields
from importlib.metadata import entry_points
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
from airflow import __version__ as airflow_version
from airflow.sdk import BaseOperator, BaseOperatorLink, BaseSensorOperator
from airflow.triggers.base import BaseTrigger
from jsonschema import validate

from magichour_provider import __version__, get_provider_info
from magichour_provider.api.client import Settings

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


def test_the_logo_and_the_guides_in_it_are_there() -> None:
    (integration,) = INFO["integrations"]
    package = files("magichour_provider")
    assert (package / "plugin" / integration["logo"].removeprefix("/magichour/")).is_file()
    root = Path(str(package)).parent
    if not (root / "docs").is_dir():
        pytest.skip("docs/ is not here")
    assert [guide for guide in integration["how-to-guide"] if not (root / guide.lstrip("/")).is_file()] == []


FORM = """
from airflow.api_fastapi.core_api.services.ui.connections import HookMetaService
[form] = [meta for meta in HookMetaService.hook_meta_data() if meta.connection_type == "magichour"]
print("FORM", form.model_dump_json(include={"hook_name", "standard_fields", "extra_fields"}))
"""


def test_the_connection_form_in_the_ui_has_our_names() -> None:
    if airflow_version.startswith("3.0.") and not find_spec("flask_appbuilder"):
        pytest.skip("Airflow 3.0 shows no provider's field names unless its FAB provider is installed")
    # In a process of its own: Airflow 3.0 and 3.1 put stand-ins for wtforms into this one.
    done = subprocess.run([sys.executable, "-c", FORM], capture_output=True, text=True, check=True)
    form = json.loads(re.findall("^FORM (.+)", done.stdout, re.MULTILINE)[0])
    standard, extras = form["standard_fields"], form["extra_fields"]
    assert form["hook_name"] == "Magic Hour"
    assert (standard["password"]["title"], standard["host"]["title"]) == ("API key", "Base URL")
    assert all(standard[name]["hidden"] for name in ("login", "port", "url_schema"))
    assert {name: (field["schema"]["title"], field["description"]) for name, field in extras.items()} == {
        name: (field["label"], field["description"]) for name, field in CONNECTION["conn-fields"].items()
    }


def test_each_setting_has_a_field_in_the_form() -> None:
    elsewhere = {"api_key", "base_url", "webhooks"}  # the last one: is there a webhook_secret?
    in_form = {field.name for field in fields(Settings)} - elsewhere | {"webhook_secret"}
    assert in_form == set(CONNECTION["conn-fields"])
