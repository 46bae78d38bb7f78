"""
The vendor's rules for requests.

This module does not share code with the provider, because no test would then find a mistake in the shared
code. Each ``check_*`` function takes parsed JSON. It raises :class:`ApiError` with the vendor's status and a
message that names the field.
"""

from __future__ import annotations

import functools
import json
import math
import posixpath
import re
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, TypeVar
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from .exceptions import ApiError

if TYPE_CHECKING:
    from collections.abc import Callable

    from .models import JobType

T = TypeVar("T")

EXTENSIONS = {
    "video": ["mp4", "m4v", "mov", "webm"],
    "audio": ["mp3", "wav", "aac", "flac", "webm", "weba", "m4a", "opus", "ogg", "oga", "aiff", "amr"],
    "image": ["png", "jpg", "jpeg", "jfif", "heic", "heif", "webp", "avif", "jp2", "tiff", "tif", "bmp"],
    "gif": ["gif", "webp", "webm"],
}
MODES = {
    "realistic": "realistic",
    "prompted": "prompted",
    "pro": "realistic",
    "stable": "realistic",
    "standard": "prompted",
    "expressive": "prompted",
}
MAX_CLIP_SECONDS = {"realistic": 300, "prompted": 45}
CREDITS_PER_SECOND = {"realistic": 48, "prompted": 20}
CREDITS_PER_CHARACTER = Decimal("0.1")
MAX_CHARACTERS = 1000
TIERS = ("free", "creator", "pro", "business")
MAX_UPLOAD_BYTES = {"free": 200 << 20, "creator": 2 << 30, "pro": 5 << 30, "business": 10 << 30}
PRESETS = {"480p": 480, "720p": 720}
MAX_UPLOAD_URLS = 100

# Calls of the vendor that are not emulated. They get a 501, because a 404 would be misleading.
NOT_EMULATED = [
    "/v1/face-detection",
    "/v1/face-detection/{id}",
    "/v1/saved-items",
]


def invalid(field: str, problem: str) -> NoReturn:
    raise ApiError(422, f"{field}: {problem}")


@dataclass(frozen=True)
class Asset:
    """
    An input of a request.

    :param source: ``upload``, ``url`` or ``library``.
    :param location: its path, URL or id.
    """

    source: str
    location: str


@dataclass(frozen=True)
class TalkingPhotoRequest:
    """An accepted request for a video. Times are in seconds, the price in credits, sides in pixels."""

    tool: ClassVar = "ai-talking-photo"
    title: ClassVar = "Talking Photo"
    job_type: ClassVar[JobType] = "video"

    name: str | None
    image: Asset
    audio: Asset
    start: float
    end: float
    price: Decimal
    short_side: int
    max_long_side: int | None

    @property
    def inputs(self) -> list[tuple[str, str, Asset]]:
        """The field, the media type and the asset of each input."""
        return [
            ("assets.image_file_path", "image", self.image),
            ("assets.audio_file_path", "audio", self.audio),
        ]


@dataclass(frozen=True)
class VoiceRequest:
    """An accepted request for a voice. The price is in credits."""

    tool: ClassVar = "ai-voice-generator"
    title: ClassVar = "Voice Generator"
    job_type: ClassVar[JobType] = "audio"
    inputs: ClassVar[list[tuple[str, str, Asset]]] = []

    name: str | None
    text: str
    voice: str
    price: Decimal


def parse(body: bytes) -> dict[str, Any]:
    """Parse a request's JSON. NaN and infinity pass here: the check of the field refuses them."""
    if not body.strip():
        raise ApiError(400, "Missing request body")
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"The request body is not valid JSON: {error}") from error
    if not isinstance(parsed, dict):
        invalid("body", f"expected an object, got {json_type_name(parsed)}")
    return parsed


def check_talking_photo(body: dict[str, Any], tier: str) -> TalkingPhotoRequest:
    """Check the body of ``POST /v1/ai-talking-photo``, but not that its uploads exist."""
    reject_unknown(body, "", "name start_seconds end_seconds assets style max_resolution resolution")
    assets = require(body, "", "assets", mapping)
    reject_unknown(assets, "assets.", "image_file_path audio_file_path")
    image = parse_asset(require(assets, "assets.", "image_file_path", text), "image")
    audio = parse_asset(require(assets, "assets.", "audio_file_path", text), "audio")
    start = require(body, "", "start_seconds", number)
    end = require(body, "", "end_seconds", number)
    name = optional(body, "", "name", text)
    style = optional(body, "", "style", mapping) or {}
    mode = check_style(style)
    if start < 0:
        invalid("start_seconds", f"must be greater than or equal to 0, got {start:g}")
    if end < 0.1:
        invalid("end_seconds", f"must be greater than or equal to 0.1, got {end:g}")
    if end <= start:
        invalid("end_seconds", f"must be greater than start_seconds ({start:g}), got {end:g}")
    # Decimal, because 1.1 - 0.1 is slightly more than 1 in binary.
    clip = Decimal(str(end)) - Decimal(str(start))
    if clip > MAX_CLIP_SECONDS[mode]:
        invalid(
            "end_seconds",
            f"the clip is {clip:f} seconds long; the maximum in {mode} mode is {MAX_CLIP_SECONDS[mode]}",
        )
    price = clip * CREDITS_PER_SECOND[mode]
    return TalkingPhotoRequest(name, image, audio, start, end, price, *check_resolution(body, mode, tier))


def check_style(style: dict[str, Any]) -> str:
    reject_unknown(style, "style.", "generation_mode intensity prompt")
    mode = optional(style, "style.", "generation_mode", text)
    if mode is not None and mode not in MODES:
        invalid("style.generation_mode", f"{mode!r} is not one of {', '.join(MODES)}")
    optional(style, "style.", "prompt", text)
    intensity = optional(style, "style.", "intensity", number)
    if intensity is not None:
        if mode != "expressive":
            invalid("style.intensity", "only applicable when generation_mode is expressive")
        if Decimal(str(intensity)).normalize().as_tuple().exponent < -2:  # type: ignore[operator]
            invalid("style.intensity", f"at most 2 decimal places, got {intensity!r}")
    return MODES[mode or "realistic"]


def check_resolution(body: dict[str, Any], mode: str, tier: str) -> tuple[int, int | None]:
    """Return the target of the shorter side and the limit of the longer side, in pixels."""
    resolution = optional(body, "", "resolution", text)
    max_resolution = optional(body, "", "max_resolution", integer)
    plan_limit = 480 if tier == "free" else 720
    if resolution is not None and resolution not in PRESETS:
        invalid("resolution", f"{resolution!r} is not one of {', '.join(PRESETS)}")
    if max_resolution is not None and max_resolution < 1:
        invalid("max_resolution", f"must be greater than 0, got {max_resolution}")
    if resolution is not None:
        if PRESETS[resolution] > plan_limit:
            raise ApiError(403, f"resolution: {resolution} is not included in the {tier} plan")
        return PRESETS[resolution], None
    if max_resolution is not None:
        return plan_limit, max_resolution
    return (480 if mode == "prompted" else plan_limit), None


def parse_asset(value: str, media_type: str, field: str = "") -> Asset:
    """Distinguish the three forms of an asset: upload, URL and library URL."""
    field = field or f"assets.{media_type}_file_path"
    if not value.strip():
        invalid(field, "must not be empty")
    url = split_url(value)
    if url is None and not value.startswith("api-assets/"):
        invalid(
            field,
            f"{value!r} is neither an http(s) URL nor a file_path from the upload urls API (api-assets/…)",
        )
    if url is not None and (url.hostname or "") in ("magichour.ai", "www.magichour.ai"):
        query = parse_qs(url.query)
        if url.path.rstrip("/") == "/my-library":
            if not (found := query.get(f"{media_type}Id")):
                invalid(field, f"a library URL in this field needs ?{media_type}Id=…")
            return Asset("library", found[0])
    extension = extension_of(value)
    if not accepts_extension(media_type, extension):
        invalid(field, extension_problem(extension, media_type))
    return Asset("upload" if url is None else "url", value)


def split_url(value: str) -> SplitResult | None:
    try:
        url = urlsplit(value)
        _ = url.port
    except ValueError:
        return None
    return url if url.scheme in ("http", "https") and url.hostname else None


def check_voice(body: dict[str, Any]) -> VoiceRequest:
    """Check the body of ``POST /v1/ai-voice-generator``."""
    reject_unknown(body, "", "name style")
    name = optional(body, "", "name", text)
    style = require(body, "", "style", mapping)
    reject_unknown(style, "style.", "prompt voice_name")
    prompt = require(style, "style.", "prompt", text)
    if not prompt:
        invalid("style.prompt", "must have at least 1 character")
    if len(prompt) > MAX_CHARACTERS:
        invalid("style.prompt", f"at most {MAX_CHARACTERS} characters, got {len(prompt)}")
    voice = require(style, "style.", "voice_name", text)
    if voice not in voices():
        invalid("style.voice_name", f"{voice!r} is not one of the {len(voices())} available voices")
    return VoiceRequest(name, prompt, voice, len(prompt) * CREDITS_PER_CHARACTER)


@functools.cache
def voices() -> frozenset[str]:
    """Return the names of the voices. Source: OpenAPI of 2026-08 and Python SDK 0.90.0."""
    return frozenset((Path(__file__).parents[1] / "data" / "voices.txt").read_text("utf-8").splitlines())


def check_upload_urls(body: dict[str, Any]) -> list[tuple[str, str]]:
    """Check the body of ``POST /v1/files/upload-urls``. Return the type and extension of each item."""
    reject_unknown(body, "", "items")
    items = require(body, "", "items", sequence)
    if not 1 <= len(items) <= MAX_UPLOAD_URLS:
        invalid("items", f"must contain 1 to {MAX_UPLOAD_URLS} items, got {len(items)}")
    files = []
    for index, item in enumerate(items):
        path = f"items[{index}]"
        if not isinstance(item, dict):
            invalid(path, f"expected an object, got {json_type_name(item)}")
        reject_unknown(item, f"{path}.", "type extension")
        media_type = require(item, f"{path}.", "type", text)
        extension = require(item, f"{path}.", "extension", text)
        if media_type not in EXTENSIONS:
            invalid(f"{path}.type", f"{media_type!r} is not one of {', '.join(EXTENSIONS)}")
        if not re.fullmatch(r"[a-z0-9]+", extension) or not accepts_extension(media_type, extension):
            invalid(f"{path}.extension", extension_problem(extension, media_type))
        files.append((media_type, extension))
    return files


def extension_of(asset: str) -> str:
    """The lower-case extension of an asset without its dot, or an empty string."""
    url = split_url(asset)
    return posixpath.splitext(asset if url is None else unquote(url.path))[1][1:].lower()


def accepts_extension(media_type: str, extension: str) -> bool:
    """Whether a file of this media type can have this extension. A GIF counts as a video too."""
    return extension in EXTENSIONS[media_type] or (media_type, extension) == ("video", "gif")


def extension_problem(extension: str, media_type: str) -> str:
    possible = ", ".join(EXTENSIONS[media_type])
    return f"'{extension}' is an invalid {media_type} extension. Possible extensions are '{possible}'"


def reject_unknown(body: dict[str, Any], prefix: str, fields: str) -> None:
    for field in body:
        if field not in fields.split():
            invalid(f"{prefix}{field}", "unknown field")


def require(body: dict[str, Any], prefix: str, field: str, read: Callable[[object, str], T]) -> T:
    if field not in body:
        invalid(f"{prefix}{field}", "required")
    return read(body[field], f"{prefix}{field}")


def optional(body: dict[str, Any], prefix: str, field: str, read: Callable[[object, str], T]) -> T | None:
    return require(body, prefix, field, read) if field in body else None


def json_type_name(value: object) -> str:
    if isinstance(value, bool):
        return "boolean"
    names = {dict: "object", list: "array", str: "string", int: "number", float: "number"}
    return names.get(type(value), "null")


def text(value: object, field: str) -> str:
    if not isinstance(value, str):
        invalid(field, f"expected a string, got {json_type_name(value)}")
    return value


def mapping(value: object, field: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        invalid(field, f"expected an object, got {json_type_name(value)}")
    return value


def sequence(value: object, field: str) -> list[Any]:
    if not isinstance(value, list):
        invalid(field, f"expected an array, got {json_type_name(value)}")
    return value


def number(value: object, field: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        invalid(field, f"expected a number, got {json_type_name(value)}")
    try:
        finite = float(value)
    except OverflowError:
        finite = math.inf
    if not math.isfinite(finite):
        invalid(field, "expected a finite number")
    return finite


def integer(value: object, field: str) -> int:
    whole = number(value, field)
    if whole != int(whole):
        invalid(field, f"expected an integer, got {value}")
    return int(whole)
