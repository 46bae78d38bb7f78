"""
The vendor's other paid calls: checked against its own description of them, and priced.

The description (``data/tools.json``) is data that the provider reads too. All that is made of it here is the
emulator's own.
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

from .validation import CREDITS_PER_CHARACTER, MAX_CHARACTERS, Asset, asset, invalid

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jsonschema import ValidationError

    from .models import JobType

DATA = Path(__file__).parents[1] / "data" / "tools.json"
# These have a check and a render of their own.
SEPARATE = ("ai-talking-photo", "ai-voice-generator")

# Source: OpenAPI of 2026-08. Credits for a call.
PER_CALL = {
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
# Source: OpenAPI of 2026-08: the least that an image costs. Others are the emulator's guess.
LEAST_PER_IMAGE = {
    "gpt-image-2": 50,
    "nano-banana": 50,
    "nano-banana-2": 100,
    "nano-banana-2-lite": 50,
    "nano-banana-pro": 150,
    "qwen-edit": 10,
    "seedream-v4": 40,
    "seedream-v5-pro": 75,
}
GUESS_PER_IMAGE = 5
LEAST_BODY_SWAP = 50
# Source: OpenAPI of 2026-08, lip sync. Credits for a frame.
PER_FRAME = {"lite": 1, "standard": 1, "pro": 2}
GUESS_PER_SECOND = 30  # of a video whose price is not published
# Where they differ from the call's own name. Source: OpenAPI of 2026-08.
TYPES = {
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
SHAPES = {"16:9": (640, 360), "9:16": (360, 640), "4:3": (640, 480), "3:2": (600, 400), "4:5": (480, 600)}
SQUARE = (512, 512)
ASSET_FIELD = re.compile(r"\w+_file_paths?|new_face|original_face")
LONGEST_TEXT = 400


@dataclass(frozen=True)
class ToolRequest:
    """
    An accepted request for any tool.

    :param inputs: its files, by field and by the media type that the field asks for.
    :param text: what was asked for, in words.
    :param price: in credits.
    :param count: the number of files to make.
    :param extension: of what is made.
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

    def first(self, media_type: str) -> Asset | None:
        return next((one for _, wanted, one in self.inputs if wanted == media_type), None)


@functools.cache
def described() -> dict[str, dict[str, Any]]:
    """What the vendor says of each tool."""
    tools: dict[str, dict[str, Any]] = json.loads(DATA.read_text("utf-8"))["tools"]
    return {name: tool for name, tool in tools.items() if name not in SEPARATE}


@functools.cache
def validator(tool: str) -> Any:
    from jsonschema import Draft202012Validator

    return Draft202012Validator(described()[tool]["schema"])


def type_of(tool: str) -> str:
    """As the vendor's ``type`` of a project."""
    return TYPES.get(tool, tool.removeprefix("ai-").replace("-", "_").upper())


def check_tool(tool: str, body: dict[str, Any]) -> ToolRequest:
    """Check the body of ``POST /v1/<tool>``, except that its uploads exist."""
    for error in sorted(
        validator(tool).iter_errors(body), key=lambda error: [str(part) for part in error.path]
    ):
        invalid(*problem(error))
    for at, value in numbers(body, ""):
        if not math.isfinite(value):
            invalid(at, "expected a finite number")
    start, end = body.get("start_seconds", 0), body.get("end_seconds", body.get("duration", 0))
    if "end_seconds" in body and end <= start:
        invalid("end_seconds", f"must be greater than start_seconds ({start:g}), got {end:g}")
    style = body.get("style", {})
    if tool == "auto-subtitle-generator" and not style:
        invalid("style", "at least one of template and custom_config must be provided")
    prompt = str(style.get("prompt", ""))
    if tool == "ai-voice-cloner" and len(prompt) > MAX_CHARACTERS:
        invalid("style.prompt", f"at most {MAX_CHARACTERS} characters, got {len(prompt)}")
    words = {name: value for name, value in body.items() if name not in ("name", "assets")}
    return ToolRequest(
        tool=tool,
        title=described()[tool]["title"],
        job_type=described()[tool]["job_type"],
        name=body.get("name"),
        inputs=list(assets(body, "", "")),
        text=prompt or ", ".join(text for text in texts(words))[:LONGEST_TEXT],
        start=float(start),
        end=float(end),
        price=price(tool, body),
        count=int(body.get("image_count", 1)),
        extension=body.get("output_format", ""),
        size=SHAPES.get(body.get("aspect_ratio", ""), SQUARE),
        spoken=prompt or str(body.get("script", "")),
    )


def problem(error: ValidationError) -> tuple[str, str]:
    """The field and what is wrong with it."""
    path = list(error.absolute_path)
    if error.validator == "required":
        path.append(next(name for name in error.validator_value if name not in error.instance))
        return place(path), "required"
    if error.validator == "additionalProperties":
        path.append(next(name for name in error.instance if name not in error.schema["properties"]))
        return place(path), "unknown field"
    return place(path), error.message


def place(path: list[Any]) -> str:
    steps = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return steps.lstrip(".") or "body"


def price(tool: str, body: dict[str, Any]) -> Decimal:
    style = body.get("style", {})
    seconds = Decimal(str(body.get("end_seconds", 0))) - Decimal(str(body.get("start_seconds", 0)))
    if tool in PER_CALL:
        return Decimal(PER_CALL[tool])
    if tool == "body-swap":
        return Decimal(LEAST_BODY_SWAP)
    if tool == "ai-image-upscaler":
        each = 25 if style.get("mode") in ("preserve", "pro") else 50
        return each * Decimal(str(body["scale_factor"])) ** 2 / 4
    if tool == "ai-voice-cloner":
        return len(style["prompt"]) * CREDITS_PER_CHARACTER
    if tool == "ai-music-generator":
        return Decimal(body["duration"])
    if described()[tool]["job_type"] == "image":
        each = LEAST_PER_IMAGE.get(body.get("model", ""), GUESS_PER_IMAGE)
        return each * Decimal(str(body.get("image_count", 1)))
    if tool == "lip-sync":
        fps = min(Decimal(30), Decimal(str(body.get("max_fps_limit", 30))))
        return seconds * fps * PER_FRAME[style.get("generation_mode", "lite")]
    return seconds * GUESS_PER_SECOND


def assets(value: Any, at: str, key: str) -> Iterator[tuple[str, str, Asset]]:
    """The files in a body: the field, the media type that its name asks for, and the asset."""
    if isinstance(value, dict):
        for name, one in value.items():
            yield from assets(one, f"{at}.{name}".lstrip("."), name)
    elif isinstance(value, list):
        for index, one in enumerate(value):
            yield from assets(one, f"{at}[{index}]", key)
    elif isinstance(value, str) and ASSET_FIELD.fullmatch(key):
        media_type = "video" if "video" in key else "audio" if "audio" in key else "image"
        yield at, media_type, asset(value, media_type, at)


def texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for one in value.values():
            yield from texts(one)
    elif isinstance(value, str):
        yield value


def numbers(value: Any, at: str) -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for name, one in value.items():
            yield from numbers(one, f"{at}.{name}".lstrip("."))
    elif isinstance(value, list):
        for index, one in enumerate(value):
            yield from numbers(one, f"{at}[{index}]")
    elif isinstance(value, float):
        yield at, value
