"""
The vendor's other paid calls: the check of their requests, and their prices.

The requests are checked against the vendor's schemas in ``data/tools.json``. The provider reads the same
file, but with its own code.
"""

from __future__ import annotations

import functools
import json
import math
import re
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .validation import (
    CREDITS_PER_CHARACTER,
    EXTENSIONS,
    MAX_CHARACTERS,
    Asset,
    extension_of,
    invalid,
    parse_asset,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jsonschema import ValidationError

    from .models import JobType

DATA = Path(__file__).parents[1] / "data" / "tools.json"
# Other functions check and render these tools.
SEPARATE_TOOLS = ("ai-talking-photo", "ai-voice-generator")

# Source: OpenAPI of 2026-08.
CREDITS_PER_CALL = {
    "ai-clothes-changer": 25,
    "ai-face-editor": 1,
    "ai-gif-generator": 50,
    "ai-headshot-generator": 50,
    "ai-meme-generator": 10,
    "ai-qr-code-generator": 0,
    "face-swap-photo": 10,
    "head-swap": 10,
    "image-background-remover": 5,
    "photo-colorizer": 10,
}
# The minimum price of an image, by model. Source: OpenAPI of 2026-08.
MIN_CREDITS_PER_IMAGE = {
    "gpt-image-2": 50,
    "nano-banana": 50,
    "nano-banana-2": 100,
    "nano-banana-2-lite": 50,
    "nano-banana-pro": 150,
    "qwen-edit": 10,
    "seedream-v4": 40,
    "seedream-v5-pro": 75,
}
MIN_CREDITS_FOR_BODY_SWAP = 50
# For lip sync. Source: OpenAPI of 2026-08.
CREDITS_PER_FRAME = {"lite": 1, "standard": 1, "pro": 2}
# Guesses for an image and for a second of video, where the vendor does not publish a price.
GUESSED_CREDITS_PER_IMAGE = 5
GUESSED_CREDITS_PER_SECOND = 30
# The project types that differ from the name of their tool. Source: OpenAPI of 2026-08.
PROJECT_TYPES = {
    "ai-image-generator": "AI_IMAGE",
    "ai-gif-generator": "AI_GIF",
    "ai-headshot-generator": "AI_HEADSHOT",
    "ai-meme-generator": "AI_MEME",
    "ai-image-editor": "AI_IMAGE_EDITOR",
    "ai-qr-code-generator": "QR_CODE",
    "auto-subtitle-generator": "AUTO_SUBTITLE",
    "face-swap-photo": "FACE_SWAP",
    "image-background-remover": "BACKGROUND_REMOVER",
}
SIZES = {"16:9": (640, 360), "9:16": (360, 640), "4:3": (640, 480), "3:2": (600, 400), "4:5": (480, 600)}
SQUARE = (512, 512)
# Matches the path of an asset in a body. The group is the name of its field.
ASSET_PATH = re.compile(r"(?:.*\.)?((?:\w+_)?file_paths?|new_face|original_face)(?:\[\d+\])*")
MAX_TEXT = 400


@dataclass(frozen=True)
class ToolRequest:
    """
    An accepted request for one of these tools.

    :param inputs: the field, the media type and the asset of each input.
    :param text: the text to draw on the results.
    :param price: the price in credits.
    :param count: the number of files to make.
    :param extension: the extension of the files; empty: the default of the job type.
    :param spoken: the text to speak.
    """

    tool: str
    title: str
    job_type: JobType
    name: str | None
    inputs: list[tuple[str, str, Asset]]
    text: str
    start: float
    end: float
    price: Decimal
    count: int = 1
    extension: str = ""
    size: tuple[int, int] = SQUARE
    spoken: str = ""

    def first_input(self, media_type: str) -> Asset | None:
        return next((asset for _, of_type, asset in self.inputs if of_type == media_type), None)


@functools.cache
def descriptions() -> dict[str, dict[str, Any]]:
    """Return the vendor's description of each tool."""
    tools: dict[str, dict[str, Any]] = json.loads(DATA.read_text("utf-8"))["tools"]
    return {name: tool for name, tool in tools.items() if name not in SEPARATE_TOOLS}


@functools.cache
def validator(tool: str) -> Any:
    from jsonschema import Draft202012Validator  # it is slow to load, and many tests do not need it

    return Draft202012Validator(descriptions()[tool]["schema"])


def project_type(tool: str) -> str:
    """Return the vendor's ``type`` for the projects of a tool."""
    return PROJECT_TYPES.get(tool, tool.removeprefix("ai-").replace("-", "_").upper())


def check_tool(tool: str, body: dict[str, Any]) -> ToolRequest:
    """Check the body of ``POST /v1/<tool>``, but not that its uploads exist."""
    for error in sorted(
        validator(tool).iter_errors(body), key=lambda error: [str(part) for part in error.path]
    ):
        invalid(*field_and_problem(error))
    for path, value in leaves(body):
        if isinstance(value, float) and not math.isfinite(value):
            invalid(path, "expected a finite number")
    start, end = body.get("start_seconds", 0), body.get("end_seconds", body.get("duration", 0))
    if "end_seconds" in body and end <= start:
        invalid("end_seconds", f"must be greater than start_seconds ({start:g}), got {end:g}")
    style = body.get("style", {})
    if tool == "auto-subtitle-generator" and not style:
        invalid("style", "at least one of template and custom_config must be provided")
    prompt = str(style.get("prompt", ""))
    if tool == "ai-voice-cloner" and len(prompt) > MAX_CHARACTERS:
        invalid("style.prompt", f"at most {MAX_CHARACTERS} characters, got {len(prompt)}")
    options = {name: value for name, value in body.items() if name not in ("name", "assets")}
    # A list in these options describes files, so its texts do not count.
    texts = [value for path, value in leaves(options) if isinstance(value, str) and "[" not in path]
    return ToolRequest(
        tool=tool,
        title=descriptions()[tool]["title"],
        job_type=descriptions()[tool]["job_type"],
        name=body.get("name"),
        inputs=list(assets(body)),
        text=prompt or ", ".join(texts)[:MAX_TEXT],
        start=float(start),
        end=float(end),
        price=price(tool, body),
        count=int(body.get("image_count", 1)),
        extension=body.get("output_format", ""),
        size=SIZES.get(body.get("aspect_ratio", ""), SQUARE),
        spoken=prompt or str(body.get("script", "")),
    )


def field_and_problem(error: ValidationError) -> tuple[str, str]:
    path = list(error.absolute_path)
    if error.validator == "required":
        path.append(next(name for name in error.validator_value if name not in error.instance))
        return json_path(path), "required"
    if error.validator == "additionalProperties":
        path.append(next(name for name in error.instance if name not in error.schema["properties"]))
        return json_path(path), "unknown field"
    return json_path(path), error.message


def json_path(steps: list[str | int]) -> str:
    path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
    return path.lstrip(".") or "body"


def price(tool: str, body: dict[str, Any]) -> Decimal:
    """Return the price in credits."""
    style = body.get("style", {})
    seconds = Decimal(str(body.get("end_seconds", 0))) - Decimal(str(body.get("start_seconds", 0)))
    if tool in CREDITS_PER_CALL:
        return Decimal(CREDITS_PER_CALL[tool])
    if tool == "body-swap":
        return Decimal(MIN_CREDITS_FOR_BODY_SWAP)
    if tool == "ai-image-upscaler":
        each = 25 if style.get("mode") in ("preserve", "pro") else 50
        return each * Decimal(str(body["scale_factor"])) ** 2 / 4
    if tool == "ai-voice-cloner":
        return len(style["prompt"]) * CREDITS_PER_CHARACTER
    if tool == "ai-music-generator":
        return Decimal(body["duration"])
    if descriptions()[tool]["job_type"] == "image":
        each = MIN_CREDITS_PER_IMAGE.get(body.get("model", ""), GUESSED_CREDITS_PER_IMAGE)
        return each * Decimal(str(body.get("image_count", 1)))
    if tool == "lip-sync":
        fps = min(Decimal(30), Decimal(str(body.get("max_fps_limit", 30))))
        return seconds * fps * CREDITS_PER_FRAME[style.get("generation_mode", "lite")]
    return seconds * GUESSED_CREDITS_PER_SECOND


def assets(body: dict[str, Any]) -> Iterator[tuple[str, str, Asset]]:
    """Yield the field, the media type and the asset of each input."""
    for path, value in leaves(body):
        if isinstance(value, str) and (found := ASSET_PATH.fullmatch(path)):
            media_type = media_type_of(found[1], value)
            yield path, media_type, parse_asset(value, media_type, path)


def media_type_of(field: str, asset: str) -> str:
    """The media type by the field's name. A field that is only called ``file_path`` takes any asset."""
    if field in ("file_path", "file_paths"):
        for media_type, extensions in EXTENSIONS.items():
            if extension_of(asset) in extensions or f"/my-library?{media_type}Id=" in asset:
                return media_type
    return "video" if "video" in field else "audio" if "audio" in field else "image"


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the path and the value of every text, number, boolean and null in JSON."""
    if isinstance(value, dict):
        for name, member in value.items():
            yield from leaves(member, f"{path}.{name}".lstrip("."))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from leaves(item, f"{path}[{index}]")
    else:
        yield path, value
