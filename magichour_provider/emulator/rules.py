"""
The vendor's rules for requests, stated a second time on purpose: this must not import ``wire.py``.

Each ``check_*`` takes parsed JSON and raises :class:`ApiError` with the vendor's status and a
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
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

EXTENSIONS = {
    "video": ["mp4", "m4v", "mov", "webm"],
    "audio": ["mp3", "wav", "aac", "flac", "webm", "weba", "m4a", "opus", "ogg", "oga", "aiff", "amr"],
    "image": ["png", "jpg", "jpeg", "jfif", "heic", "heif", "webp", "avif", "jp2", "tiff", "tif", "bmp"],
}
MODES = {
    "realistic": "realistic",
    "prompted": "prompted",
    "pro": "realistic",
    "stable": "realistic",
    "standard": "prompted",
    "expressive": "prompted",
}
LONGEST_CLIP = {"realistic": 300, "prompted": 45}
CREDITS_PER_SECOND = {"realistic": 48, "prompted": 20}
CREDITS_PER_CHARACTER = Decimal("0.1")
LONGEST_TEXT = 1000
TIERS = ("free", "creator", "pro", "business")
UPLOAD_LIMIT = {"free": 200 << 20, "creator": 2 << 30, "pro": 5 << 30, "business": 10 << 30}
PRESETS = {"480p": 480, "720p": 720}
MOST_UPLOADS = 100

# What the vendor offers and this does not: an honest 501 instead of a puzzling 404.
NOT_BUILT = [
    "/v1/ai-clothes-changer",
    "/v1/ai-face-editor",
    "/v1/ai-gif-generator",
    "/v1/ai-headshot-generator",
    "/v1/ai-image-editor",
    "/v1/ai-image-generator",
    "/v1/ai-image-upscaler",
    "/v1/ai-meme-generator",
    "/v1/ai-music-generator",
    "/v1/ai-qr-code-generator",
    "/v1/ai-ugc-ad",
    "/v1/ai-video-editor",
    "/v1/ai-video-translator",
    "/v1/ai-video-upscaler",
    "/v1/ai-voice-cloner",
    "/v1/animation",
    "/v1/audio-to-video",
    "/v1/auto-subtitle-generator",
    "/v1/body-swap",
    "/v1/character-replace",
    "/v1/face-detection",
    "/v1/face-detection/{id}",
    "/v1/face-swap",
    "/v1/face-swap-photo",
    "/v1/head-swap",
    "/v1/image-background-remover",
    "/v1/image-projects/{id}",
    "/v1/image-to-video",
    "/v1/lip-sync",
    "/v1/photo-colorizer",
    "/v1/saved-items",
    "/v1/text-to-video",
    "/v1/video-to-video",
]


class ApiError(Exception):
    """An answer other than 200: the vendor's status and message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def invalid(field: str, problem: str) -> NoReturn:
    raise ApiError(422, f"{field}: {problem}")


@dataclass(frozen=True)
class Asset:
    """Where an input comes from: ``upload``, ``url`` or ``library``, and its path, URL or id."""

    source: str
    where: str


@dataclass(frozen=True)
class TalkingPhoto:
    """An accepted request, in the emulator's own terms."""

    name: str | None
    image: Asset
    audio: Asset
    start: float
    end: float
    price: Decimal
    short: int
    long: int | None


@dataclass(frozen=True)
class Speech:
    """An accepted request for a voice."""

    name: str | None
    text: str
    voice: str
    price: Decimal


def parse(body: bytes) -> dict[str, Any]:
    """Read a request's JSON. NaN and infinity, which are not JSON, are left for the field's rule."""
    if not body.strip():
        raise ApiError(400, "Missing request body")
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"The request body is not valid JSON: {error}") from error
    if not isinstance(parsed, dict):
        invalid("body", f"expected an object, got {kind(parsed)}")
    return parsed


def check_talking_photo(body: dict[str, Any], tier: str) -> TalkingPhoto:
    """Judge ``POST /v1/ai-talking-photo``; whether uploads exist is for the store to say."""
    known(body, "", "name start_seconds end_seconds assets style max_resolution resolution")
    assets = require(body, "", "assets", mapping)
    known(assets, "assets.", "image_file_path audio_file_path")
    image = asset(require(assets, "assets.", "image_file_path", text), "image")
    audio = asset(require(assets, "assets.", "audio_file_path", text), "audio")
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
    # Decimals of what was written: 1.1 - 0.1 is one second, and not a little more.
    clip = Decimal(str(end)) - Decimal(str(start))
    if clip > LONGEST_CLIP[mode]:
        invalid(
            "end_seconds",
            f"the clip is {clip:f} seconds long; the maximum in {mode} mode is {LONGEST_CLIP[mode]}",
        )
    short, long = check_resolution(body, mode, tier)
    return TalkingPhoto(name, image, audio, start, end, clip * CREDITS_PER_SECOND[mode], short, long)


def check_style(style: dict[str, Any]) -> str:
    known(style, "style.", "generation_mode intensity prompt")
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
    """The smaller side to reach, and the larger one not to exceed."""
    resolution = optional(body, "", "resolution", text)
    larger = optional(body, "", "max_resolution", integer)
    best = 480 if tier == "free" else 720
    if resolution is not None and resolution not in PRESETS:
        invalid("resolution", f"{resolution!r} is not one of {', '.join(PRESETS)}")
    if larger is not None and larger < 1:
        invalid("max_resolution", f"must be greater than 0, got {larger}")
    if resolution is not None:
        if PRESETS[resolution] > best:
            raise ApiError(403, f"resolution: {resolution} is not included in the {tier} plan")
        return PRESETS[resolution], None
    if larger is not None:
        return best, larger
    return (480 if mode == "prompted" else best), None


def asset(value: str, of: str) -> Asset:
    """Recognise the three forms of an asset."""
    field = f"assets.{of}_file_path"
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
            if not (found := query.get(f"{of}Id")):
                invalid(field, f"a library URL of {of} needs ?{of}Id=…")
            return Asset("library", found[0])
    path = value if url is None else unquote(url.path)
    extension = posixpath.splitext(path)[1][1:].lower()
    if extension not in EXTENSIONS[of]:
        invalid(field, invalid_extension(extension, of))
    return Asset("upload" if url is None else "url", value)


def split_url(value: str) -> SplitResult | None:
    try:
        url = urlsplit(value)
        _ = url.port
    except ValueError:
        return None
    return url if url.scheme in ("http", "https") and url.hostname else None


def check_voice(body: dict[str, Any]) -> Speech:
    """Judge ``POST /v1/ai-voice-generator``."""
    known(body, "", "name style")
    name = optional(body, "", "name", text)
    style = require(body, "", "style", mapping)
    known(style, "style.", "prompt voice_name")
    prompt = require(style, "style.", "prompt", text)
    if not prompt:
        invalid("style.prompt", "must have at least 1 character")
    if len(prompt) > LONGEST_TEXT:
        invalid("style.prompt", f"at most {LONGEST_TEXT} characters, got {len(prompt)}")
    voice = require(style, "style.", "voice_name", text)
    if voice not in voices():
        invalid("style.voice_name", f"{voice!r} is not one of the {len(voices())} available voices")
    return Speech(name, prompt, voice, len(prompt) * CREDITS_PER_CHARACTER)


@functools.cache
def voices() -> frozenset[str]:
    """The names in the OpenAPI of 2026-08 and in the Python SDK 0.90.0."""
    return frozenset(Path(__file__).with_name("voices.txt").read_text("utf-8").splitlines())


def check_upload_urls(body: dict[str, Any]) -> list[tuple[str, str]]:
    """Judge ``POST /v1/files/upload-urls``: the type and extension of each item, in order."""
    known(body, "", "items")
    items = require(body, "", "items", sequence)
    if not 1 <= len(items) <= MOST_UPLOADS:
        invalid("items", f"must hold 1 to {MOST_UPLOADS} items, got {len(items)}")
    wanted = []
    for index, item in enumerate(items):
        at = f"items[{index}]"
        if not isinstance(item, dict):
            invalid(at, f"expected an object, got {kind(item)}")
        known(item, f"{at}.", "type extension")
        of = require(item, f"{at}.", "type", text)
        extension = require(item, f"{at}.", "extension", text)
        if of not in EXTENSIONS:
            invalid(f"{at}.type", f"{of!r} is not one of {', '.join(EXTENSIONS)}")
        if not re.fullmatch(r"[a-z0-9]+", extension) or extension not in EXTENSIONS[of]:
            invalid(f"{at}.extension", invalid_extension(extension, of))
        wanted.append((of, extension))
    return wanted


def invalid_extension(extension: str, of: str) -> str:
    possible = ", ".join(EXTENSIONS[of])
    return f"'{extension}' is an invalid {of} extension. Possible extensions are '{possible}'"


def known(of: dict[str, Any], at: str, fields: str) -> None:
    for field in of:
        if field not in fields.split():
            invalid(f"{at}{field}", "unknown field")


def require(of: dict[str, Any], at: str, field: str, read: Callable[[object, str], T]) -> T:
    if field not in of:
        invalid(f"{at}{field}", "required")
    return read(of[field], f"{at}{field}")


def optional(of: dict[str, Any], at: str, field: str, read: Callable[[object, str], T]) -> T | None:
    return require(of, at, field, read) if field in of else None


def kind(value: object) -> str:
    """A value's type, in JSON's words."""
    if isinstance(value, bool):
        return "boolean"
    names = {dict: "object", list: "array", str: "string", int: "number", float: "number"}
    return names.get(type(value), "null")


def text(value: object, field: str) -> str:
    if not isinstance(value, str):
        invalid(field, f"expected a string, got {kind(value)}")
    return value


def mapping(value: object, field: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        invalid(field, f"expected an object, got {kind(value)}")
    return value


def sequence(value: object, field: str) -> list[Any]:
    if not isinstance(value, list):
        invalid(field, f"expected an array, got {kind(value)}")
    return value


def number(value: object, field: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        invalid(field, f"expected a number, got {kind(value)}")
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
