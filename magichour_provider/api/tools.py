"""
The vendor's paid calls, by its own description, and the check of a body for them.

What can never work is an error here: a value of another JSON type, or a required field that is missing.
Anything else that the description does not allow is a warning: the server may be newer than the description,
and its refusal is free.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from magichour_provider.api.inputs import (
    EXTENSIONS,
    Asset,
    Inputs,
    MediaType,
    check_asset,
    extension_of,
    is_remote,
    unsigned,
)
from magichour_provider.api.jobs import JobType
from magichour_provider.api.prices import Price, clip_seconds, price_of
from magichour_provider.exceptions import InvalidInput
from magichour_provider.text import shortened

if TYPE_CHECKING:
    from jsonschema import ValidationError

DATA = Path(__file__).parent.parent / "data" / "tools.json"
MAX_NUMBER = 1e15  # of a number in a body
SHOWN_VALUES = 12  # values of a list that a message shows

# Fields that name a file. Their names also have its media type.
_ASSET_FIELD = re.compile(r"(\w+_)?file_paths?|new_face|original_face")


@dataclass(frozen=True)
class Tool:
    """
    One paid call.

    :ivar name: the name in its path, ``/v1/<name>``.
    :ivar job_type: the type of the jobs that it makes.
    :ivar title: the vendor's title.
    :ivar schema: the JSON Schema of its body.
    :ivar example: a body with the vendor's example values.
    """

    name: str
    job_type: JobType
    title: str
    schema: Mapping[str, Any]
    example: Mapping[str, Any]

    @property
    def takes_name(self) -> bool:
        return "name" in self.schema["properties"]

    @cached_property
    def validator(self) -> Any:
        from jsonschema import Draft202012Validator  # the other operators do not need it

        return Draft202012Validator(self.schema)


@cache
def _described() -> dict[str, Any]:
    described: dict[str, Any] = json.loads(DATA.read_text("utf-8"))
    return described


@cache
def all_tools() -> dict[str, Tool]:
    """All tools by name. Source: the vendor's OpenAPI and SDK; ``data/tools.json`` has their dates."""
    return {name: Tool(name=name, **tool) for name, tool in _described()["tools"].items()}


def tool_named(name: object) -> Tool:
    """
    :raises InvalidInput: there is no such tool; nothing was sent.
    """
    found = all_tools().get(name) if isinstance(name, str) else None
    if found is None:
        raise InvalidInput.of("tool", name, f"is not known; use one of {', '.join(all_tools())}")
    return found


class ToolInputs(Inputs):
    """
    A tool and its body, in the vendor's own JSON.

    :ivar body: the body to send, without the name; files that are not uploaded yet have our paths in it.
    :ivar own_estimate: the user's estimate, in credits.
    """

    tool: str
    body: dict[str, Any]
    own_estimate: float | None = None
    assets: tuple[Asset, ...] = ()
    doubts: tuple[str, ...] = ()

    @classmethod
    def checked(cls, values: Mapping[str, object], *, unknown: Collection[str] = ()) -> Self:
        """
        The inputs, or one clear error.

        :param values: ``tool``, ``body`` and ``estimated_credits``.
        :raises InvalidInput: names field, value and remedy; nothing was sent.
        """
        tool = tool_named(values["tool"])
        if "body" in unknown:
            return cls(tool=tool.name, body={})
        body: dict[str, Any] = _transformed(_as_dict(values["body"]), tool.schema, _coerced)
        for field, value in _leaves(body):
            _check_serializable(field, value)
        doubts = _check(tool, body)
        assets = [asset for field, value in _leaves(body) if (asset := _asset(field, value))]
        return super().checked(
            {
                "tool": tool.name,
                "name": body.pop("name", None) if tool.takes_name else None,
                "body": body,
                "own_estimate": values.get("estimated_credits"),
                "assets": tuple(assets),
                "doubts": tuple(doubts),
            }
        )

    def _check_together(self, unknown: Collection[str]) -> None:
        """Nothing: ``checked`` has checked the body."""

    @property
    def takes_name(self) -> bool:
        return tool_named(self.tool).takes_name

    @property
    def file_count(self) -> int:
        """How many files the job makes, if the body says it; otherwise 1."""
        count = self.body.get("image_count", 1)
        return int(count) if isinstance(count, int | float) else 1

    @property
    def price(self) -> Price:
        if self.own_estimate is not None:
            return Price(math.ceil(self.own_estimate), "by estimated_credits")
        return price_of(self.tool, self.body)

    @property
    def description(self) -> str:
        seconds = clip_seconds(self.body)
        return self.tool if seconds is None else f"{self.tool} of {seconds:g} s"

    @property
    def render_profile(self) -> tuple[str | None, float | None]:
        return self.tool, clip_seconds(self.body)

    def warnings(self) -> list[str]:
        return list(self.doubts)

    def uploads(self) -> list[Asset]:
        return [asset for asset in self.assets if not is_remote(asset.uri)]

    @property
    def path(self) -> str:
        return f"/v1/{self.tool}"

    def request(self, uploaded: Mapping[str, str], name: str | None) -> dict[str, Any]:
        schema = tool_named(self.tool).schema
        body = _transformed(self.body, schema, lambda field, value, _: uploaded.get(field, value))
        return body if name is None else {"name": name, **body}

    def _fingerprint_fields(self) -> dict[str, Any]:
        files = {asset.field for asset in self.assets}
        given = {field: value for field, value in _leaves(self.body) if value is not None}
        return {"tool": self.tool, **{f: unsigned(v) if f in files else v for f, v in given.items()}}


def _as_dict(body: object) -> Mapping[str, Any]:
    """The body as a dict. A template may have rendered the whole body as JSON text."""
    if isinstance(body, str):
        try:
            body = json.loads(body)
        except ValueError:
            raise InvalidInput.of("body", body, "is text, and not JSON; give a dict") from None
    if not isinstance(body, Mapping):
        raise InvalidInput.of("body", body, f"is a {type(body).__name__}; give a dict")
    return body


def _transformed(
    value: Any, schema: Mapping[str, Any], new: Callable[[str, Any, Mapping[str, Any]], Any], field: str = ""
) -> Any:
    """
    The same structure with new values. A field that is None is left out, unless it may be null.

    :param new: returns the new value of a leaf. It takes the leaf's place in the body
        (``assets.face_mappings[0].new_face``), its value, and its schema.
    """
    if isinstance(value, Mapping):
        properties = schema.get("properties", {})
        return {
            str(name): _transformed(
                one, properties.get(name, {}), new, f"{field}.{name}" if field else str(name)
            )
            for name, one in value.items()
            if one is not None or "null" in properties.get(name, {}).get("type", ())
        }
    if isinstance(value, list | tuple):
        items = schema.get("items", {})
        return [_transformed(one, items, new, f"{field}[{index}]") for index, one in enumerate(value)]
    return new(field, value, schema)


def _leaves(value: Any, field: str = "") -> Iterator[tuple[str, Any]]:
    """Each value that is neither an object nor a list, with its place in the body."""
    if isinstance(value, dict):
        for name, one in value.items():
            yield from _leaves(one, f"{field}.{name}" if field else name)
    elif isinstance(value, list):
        for index, one in enumerate(value):
            yield from _leaves(one, f"{field}[{index}]")
    else:
        yield field, value


def _coerced(field: str, value: Any, schema: Mapping[str, Any]) -> Any:
    """
    Correct the type of a value. A template turns a number into text; a user's CSV or YAML file may have a
    number where text is expected.
    """
    wanted = schema.get("type", ())
    if isinstance(value, os.PathLike) or hasattr(value, "fs"):  # also an ObjectStoragePath
        value = str(value)
    if isinstance(value, str):
        value = value.strip()
        if "boolean" in wanted and value.lower() in ("true", "false"):
            return value.lower() == "true"
        if "number" in wanted or "integer" in wanted:
            return _number(value)
    elif "string" in wanted and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return value


def _number(text: str) -> Any:
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return text


def _check_serializable(field: str, value: Any) -> None:
    """Refuse dates and NaN, which JSON does not have, and numbers beyond any use."""
    is_json = isinstance(value, str | int | float | None)
    if not is_json or (isinstance(value, int | float) and not abs(value) < MAX_NUMBER):
        raise InvalidInput.of(field, value, "cannot be sent as JSON; give text, a number or a flag")


def _check(tool: Tool, body: dict[str, Any]) -> list[str]:
    """
    :returns: warnings: what the vendor's description does not allow, and the vendor may refuse.
    :raises InvalidInput: the body can never work.
    """
    doubts: list[str] = []
    for error in sorted(tool.validator.iter_errors(body), key=lambda error: list(map(str, error.path))):
        place = _place(error.absolute_path)
        if error.validator == "required":
            missing = next(name for name in error.validator_value if name not in error.instance)
            raise InvalidInput.of(_place([*error.absolute_path, missing]), None, f"is needed by {tool.name}")
        if error.validator == "type":
            wanted = error.validator_value
            wanted = " or ".join(wanted) if isinstance(wanted, list) else wanted
            raise InvalidInput.of(place, error.instance, f"is of another type; {tool.name} takes: {wanted}")
        doubts += _doubts(error, place)
    seconds = clip_seconds(body)
    if seconds is not None and seconds <= 0 and "end_seconds" in body:
        raise InvalidInput.of("end_seconds", body["end_seconds"], "must be greater than start_seconds")
    source = _described()["source"]
    return [f"{doubt}, by {source}. Magic Hour may refuse it (free of charge)" for doubt in doubts]


def _doubts(error: ValidationError, place: str) -> Iterable[str]:
    match error.validator:
        case "additionalProperties":
            known = error.schema["properties"]
            for name in error.instance:
                if name not in known:
                    field = _place([*error.absolute_path, name])
                    yield f"{field} is not known; the known fields are {_listed(known)}"
        case "enum":
            yield f"{place}={shortened(error.instance)} is none of {_listed(error.validator_value)}"
        case limit:
            yield f"{place}={shortened(error.instance)} does not satisfy {limit}={error.validator_value}"


def _listed(values: Iterable[Any]) -> str:
    names = [str(value) for value in values]
    more = f" and {len(names) - SHOWN_VALUES} more" if len(names) > SHOWN_VALUES else ""
    return ", ".join(names[:SHOWN_VALUES]) + more


def _place(path: Iterable[str | int]) -> str:
    place = ""
    for step in path:
        place += f"[{step}]" if isinstance(step, int) else f".{step}" if place else step
    return place or "body"


def _asset(field: str, value: Any) -> Asset | None:
    """The file that a field names, or None if the field names no file. The last name in a place decides."""
    key = re.sub(r"\[\d+\]", "", field).rpartition(".")[2]
    if not _ASSET_FIELD.fullmatch(key) or not isinstance(value, str):
        return None
    if value in ("", "None"):
        raise InvalidInput.of(field, value, "is empty; if it is a template, it rendered to nothing")
    media_type = _media_type(key, value)
    if media_type == "video" and extension_of(value) in EXTENSIONS["gif"]:
        media_type = "gif"
    check_asset(field, media_type, value)
    return Asset(field, media_type, value)


def _media_type(key: str, asset: str) -> MediaType:
    """
    The media type by a field's name: ``video_file_path``, ``end_image_file_path``, ``new_face``. A field that
    is only called ``file_path`` takes any, so the file's extension decides.
    """
    if key in ("file_path", "file_paths"):
        return next((known for known, ends in EXTENSIONS.items() if extension_of(asset) in ends), "image")
    return "video" if "video" in key else "audio" if "audio" in key else "image"
