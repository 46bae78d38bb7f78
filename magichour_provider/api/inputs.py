"""
What a talking photo, or a voice, is made from, checked before anything is paid. Any other body: ``tools``.

The vendor's limits change: its clip limit rose from 30 s to 300 s within two years. And its refusal is free.
So a value above a known limit is a warning here, and only a value that can never work is an error. There is
one exception: a text that is too long is an error, since all the vendor's descriptions have the same limit.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
from collections.abc import Collection, Mapping
from functools import cache
from importlib.resources import files
from typing import Annotated, Any, Literal, NamedTuple, Self
from urllib.parse import parse_qs, urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from magichour_provider.api.prices import Price, price_class, speech, talking_photo
from magichour_provider.exceptions import InvalidInput
from magichour_provider.text import is_library_path

GenerationMode = Literal["realistic", "prompted", "pro", "standard", "stable", "expressive"]
Resolution = Literal["480p", "720p"]
MediaType = Literal["image", "audio", "video", "gif"]

# POST /v1/files/upload-urls, 2026-08.
# fmt: off
EXTENSIONS: dict[MediaType, tuple[str, ...]] = {
    "image": (
        "png", "jpg", "jpeg", "jfif", "heic", "heif", "webp", "avif", "jp2", "tiff", "tif", "bmp",
    ),
    "audio": (
        "mp3", "wav", "aac", "flac", "webm", "weba", "m4a", "opus", "ogg", "oga", "aiff", "amr",
    ),
    "video": ("mp4", "m4v", "mov", "webm"),
    "gif": ("gif",),  # for some inputs that are videos
}
# fmt: on
MAX_SECONDS = 1e6  # far above what the vendor takes, and safe in arithmetic
# Vendor's SDK 0.90.0, 2026-10. Longest clip in seconds.
MAX_CLIP_SECONDS = {"realistic": 300, "prompted": 45}
MAX_TEXT_CHARACTERS = 1000

# Files that the vendor has already: uploads of the last 7 days, and saved items of the account.
VENDOR_PATHS = ("api-assets/", "saved-items/")

ASSET_FIELDS: dict[str, MediaType] = {"image_file_path": "image", "audio_file_path": "audio"}


def _plain_number(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("is not a number; give a number")  # noqa: TRY004 (pydantic reads ValueError)
    return value


def _as_text(value: object) -> object:
    """Turn a number into text: a user's CSV or YAML file may have a number where text is expected."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _not_blank(value: object) -> object:
    if isinstance(value, os.PathLike) or hasattr(value, "fs"):  # also an ObjectStoragePath
        value = str(value)
    if isinstance(value, str) and value.strip() in ("", "None"):
        raise ValueError("is empty; if it is a template, it rendered to nothing")
    return value.strip() if isinstance(value, str) else value


def _within_limit(value: float) -> float:
    if value > MAX_SECONDS:
        raise ValueError(f"is too large; give {MAX_SECONDS:.0f} or less")
    return value


Text = Annotated[str, BeforeValidator(_as_text), BeforeValidator(_not_blank)]
Seconds = Annotated[
    float,
    BeforeValidator(_plain_number),
    BeforeValidator(_not_blank),
    Field(allow_inf_nan=False),
    AfterValidator(_within_limit),
]


class Asset(NamedTuple):
    """A file of ours that must first be uploaded, and the field of the request that names it."""

    field: str
    media_type: MediaType
    uri: str


class Inputs(BaseModel):
    """The fields of the vendor's request, without its nesting. None is "not given", and is not sent."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    name: Text | None = None

    @property
    def path(self) -> str:
        """The path of the paid call."""
        raise NotImplementedError

    def request(self, uploaded: Mapping[str, str], name: str | None) -> dict[str, Any]:
        """
        The body of the paid call, in the vendor's JSON.

        :param uploaded: for each field of ``uploads``, the path that the vendor has for the file.
        :param name: of the job, or None if such a job takes no name.
        """
        raise NotImplementedError

    @classmethod
    def checked(cls, values: Mapping[str, object], *, unknown: Collection[str] = ()) -> Self:
        """
        The inputs, or one clear error.

        :param values: what is known, by field name.
        :param unknown: fields whose values are only known at run time (templates, XComs). A rule that needs
            one of them is checked then.
        :raises InvalidInput: names field, value and remedy; nothing was sent.
        """
        try:
            inputs = cls.model_validate({k: v for k, v in values.items() if k not in unknown})
        except ValidationError as error:
            raise _as_invalid_input(values, error, cls) from None
        inputs._check_together(unknown)
        return inputs

    def _check_together(self, unknown: Collection[str]) -> None:
        raise NotImplementedError

    @property
    def takes_name(self) -> bool:
        """Can the job have a name? With it, the job can be found if the answer to the paid call is lost."""
        return True

    @property
    def price(self) -> Price:
        """The published price. The vendor decides the real price."""
        raise NotImplementedError

    @property
    def estimated_credits(self) -> int | None:
        return self.price.credits

    @property
    def description(self) -> str:
        """What is paid for."""
        raise NotImplementedError

    @property
    def render_profile(self) -> tuple[str | None, float | None]:
        """Mode and clip length in seconds, or None. Render times are learned separately for them."""
        return None, None

    def warnings(self) -> list[str]:
        """Values that probably do not do what was meant. The vendor decides, free of charge."""
        return []

    def hint(self) -> str:
        """What may be wrong if the vendor refuses this; empty if nothing is known."""
        return ""

    def uploads(self) -> list[Asset]:
        """The files that must be uploaded first."""
        return []

    def fingerprint(self) -> dict[str, str]:
        """
        A short digest of each field that was given, without the name. Equal fingerprints are the same input.
        """
        return {
            field: hashlib.sha256(json.dumps(value).encode()).hexdigest()[:12]
            for field, value in sorted(self._fingerprint_fields().items())
        }

    def _fingerprint_fields(self) -> dict[str, Any]:
        return self.model_dump(exclude_none=True, exclude={"name"})


class TalkingPhotoInputs(Inputs):
    """
    A photo and a voice. Without ``end_seconds`` the clip ends with the audio: see ``fill_end_seconds``.

    Source: POST /v1/ai-talking-photo, OpenAPI 2026-08 to SDK 0.90.0.
    """

    image_file_path: Text | None = None
    audio_file_path: Text | None = None
    start_seconds: Annotated[Seconds, Field(ge=0)] | None = None
    end_seconds: Annotated[Seconds, Field(ge=0.1)] | None = None
    generation_mode: Annotated[GenerationMode, BeforeValidator(_not_blank)] | None = None
    intensity: Seconds | None = None
    prompt: Text | None = None
    resolution: Annotated[Resolution, BeforeValidator(_not_blank)] | None = None
    max_resolution: (
        Annotated[int, BeforeValidator(_plain_number), BeforeValidator(_not_blank), Field(gt=0)] | None
    ) = None

    def _check_together(self, unknown: Collection[str]) -> None:
        for field, media_type in ASSET_FIELDS.items():
            if field not in unknown:
                check_asset(field, media_type, getattr(self, field))
        if not {"end_seconds", "audio_file_path"} & set(unknown) and self.end_seconds is None:
            _check_measurable(str(self.audio_file_path))
        if (
            not {"start_seconds", "end_seconds"} & set(unknown)
            and self.end_seconds is not None
            and self.end_seconds <= self.start
        ):
            raise InvalidInput.of(
                "end_seconds", self.end_seconds, f"must be greater than start_seconds={self.start}"
            )
        if self.intensity is not None:
            if "generation_mode" not in unknown and self.generation_mode != "expressive":
                raise InvalidInput.of(
                    "intensity",
                    self.intensity,
                    "works only with generation_mode='expressive'; leave it out or change the mode",
                )
            if round(self.intensity, 2) != self.intensity:
                raise InvalidInput.of(
                    "intensity",
                    self.intensity,
                    f"has more than 2 decimals; use {round(self.intensity, 2)}",
                )

    @property
    def path(self) -> str:
        return "/v1/ai-talking-photo"

    def request(self, uploaded: Mapping[str, str], name: str | None) -> dict[str, Any]:
        """A field without a value is left out: the vendor refuses null with a 422."""
        style = {
            "generation_mode": self.generation_mode,
            "intensity": self.intensity,
            "prompt": self.prompt,
        }
        return _given(
            {
                "name": name,
                "assets": {field: uploaded.get(field, getattr(self, field)) for field in ASSET_FIELDS},
                "start_seconds": self.start,
                "end_seconds": self.end_seconds,
                "style": _given(style) or None,
                "resolution": self.resolution,
                "max_resolution": self.max_resolution,
            }
        )

    @property
    def start(self) -> float:
        """Where the clip starts in the audio, in seconds."""
        return self.start_seconds or 0.0

    @property
    def clip_seconds(self) -> float:
        """
        :raises InvalidInput: the end was left out, and is not measured yet.
        """
        if self.end_seconds is None:
            raise InvalidInput.of(
                "end_seconds", None, "is needed for an estimate; give the second at which the clip ends"
            )
        return self.end_seconds - self.start

    @property
    def price(self) -> Price:
        return talking_photo(self.generation_mode, self.clip_seconds)

    @property
    def description(self) -> str:
        return f"the clip of {self.clip_seconds:g} s"

    @property
    def render_profile(self) -> tuple[str | None, float | None]:
        return price_class(self.generation_mode), self.clip_seconds

    def warnings(self) -> list[str]:
        found = []
        mode = price_class(self.generation_mode)
        longest = MAX_CLIP_SECONDS[mode]
        if self.clip_seconds > longest:
            found.append(
                f"end_seconds - start_seconds = {self.clip_seconds:g} s is above {longest} s, the longest "
                f"{mode} clip as of 2026-10; Magic Hour may refuse it (free of charge)"
            )
        if self.prompt is not None and mode != "prompted":
            found.append(f"prompt={self.prompt!r} is ignored by Magic Hour unless generation_mode='prompted'")
        if self.resolution is not None and self.max_resolution is not None:
            found.append(
                f"max_resolution={self.max_resolution} is ignored by Magic Hour "
                f"since resolution={self.resolution!r} is given"
            )
        return found

    def uploads(self) -> list[Asset]:
        return [
            Asset(field, media_type, getattr(self, field))
            for field, media_type in ASSET_FIELDS.items()
            if not is_remote(getattr(self, field) or "")
        ]

    def _fingerprint_fields(self) -> dict[str, Any]:
        """
        A file counts with its path, and not with its content. A URL counts without its query, because
        signatures change. The query of a library URL counts: it names the asset.
        """
        values = super()._fingerprint_fields()
        values["start_seconds"] = self.start
        for field in ASSET_FIELDS:
            if field in values:
                values[field] = unsigned(values[field])
        return values


class VoiceInputs(Inputs):
    """
    A text and who speaks it. The vendor's list of voices grows, so only the vendor refuses a name.

    Source: POST /v1/ai-voice-generator, OpenAPI 2026-08 to SDK 0.90.0.
    """

    prompt: Text | None = None
    voice_name: Text | None = None

    def _check_together(self, unknown: Collection[str]) -> None:
        for field, what in (("prompt", "the text"), ("voice_name", "the name of one of the vendor's voices")):
            if field not in unknown and getattr(self, field) is None:
                raise InvalidInput.of(field, None, f"is needed: {what}")
        if self.prompt is not None and len(self.prompt) > MAX_TEXT_CHARACTERS:
            raise InvalidInput.of(
                "prompt",
                f"{self.prompt[:30]}…",
                f"has {len(self.prompt)} characters, and Magic Hour takes {MAX_TEXT_CHARACTERS} (2026-10); "
                "shorten it, or make several voices of it",
            )

    @property
    def path(self) -> str:
        return "/v1/ai-voice-generator"

    def request(self, uploaded: Mapping[str, str], name: str | None) -> dict[str, Any]:
        return {"name": name, "style": {"prompt": self.prompt, "voice_name": self.voice_name}}

    def hint(self) -> str:
        if self.voice_name in voices().values():
            return ""
        near = difflib.get_close_matches(str(self.voice_name).casefold(), voices(), n=1)
        nearest = f"; the nearest one is {voices()[near[0]]!r}" if near else ""
        return f"{self.voice_name!r} is none of the {len(voices())} voices of 2026-10{nearest}"

    @property
    def price(self) -> Price:
        return speech(self.prompt or "")

    @property
    def description(self) -> str:
        return f"the text of {len(self.prompt or '')} characters"


@cache
def voices() -> dict[str, str]:
    """
    The vendor's voices of 2026-10, by their names in lower case. The vendor may have added others since.

    They are in a file of data that the emulator uses too.
    """
    names = (files("magichour_provider") / "data" / "voices.txt").read_text("utf-8").splitlines()
    return {name.casefold(): name for name in names}


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {field: value for field, value in values.items() if value is not None}


def is_remote(asset: str) -> bool:
    """Can Magic Hour read this by itself: a URL, or a file that it has already?"""
    return _is_url(asset) or asset.startswith(VENDOR_PATHS)


def unsigned(asset: str) -> str:
    """The part that stays when the signature of a URL changes. The query of a library URL is the asset."""
    is_signed = _is_url(asset) and not _is_library_url(asset)
    return re.split("[?#]", asset, maxsplit=1)[0] if is_signed else asset


def extension_of(path: str) -> str:
    """The lower-case extension of a path or URL without its dot. Empty if it has none, or is no valid URL."""
    try:
        return os.path.splitext(urlsplit(path).path if _is_url(path) else path)[1].lstrip(".").lower()  # noqa: PTH122
    except ValueError:
        return ""


def _is_url(asset: str) -> bool:
    return asset.lower().startswith(("http://", "https://"))


def _is_library_url(asset: str) -> bool:
    parts = urlsplit(asset)
    return is_library_path(parts.path) and bool(
        {"imageId", "audioId", "videoId"} & set(parse_qs(parts.query))
    )


def library_audio(asset: str) -> str | None:
    """The id of the job in a library URL of a sound, or None."""
    if not (_is_url(asset) and _is_library_url(asset)):
        return None
    return parse_qs(urlsplit(asset).query).get("audioId", [None])[0]


def check_asset(field: str, media_type: MediaType, asset: str | None) -> None:
    """
    :raises InvalidInput: it is none, or of another media type; nothing was sent.
    """
    if asset is None:
        raise InvalidInput.of(field, asset, "is needed: a URL, an api-assets/ path, or a file")
    if asset.lower().startswith("data:"):
        raise InvalidInput.of(field, asset, "is a data: URI, which is not supported; save it as a file")
    try:
        known = extension_of(asset) in EXTENSIONS[media_type] or (_is_url(asset) and _is_library_url(asset))
    except ValueError:  # its text may have the password
        raise InvalidInput.of(field, asset, "is not a URL") from None
    if not known and not asset.startswith(VENDOR_PATHS):
        raise InvalidInput.of(
            field,
            asset,
            f"is not a known {media_type} file; use one that ends in .{', .'.join(EXTENSIONS[media_type])}",
        )


def _check_measurable(audio: str) -> None:
    """Can its length be measured here: is it a file of ours, or the sound of a job?"""
    if is_remote(audio) and not library_audio(audio):
        raise InvalidInput.of(
            "end_seconds",
            None,
            "is needed, since audio_file_path is not a file that can be measured here; give the second at "
            "which the clip ends in the audio",
        )


# Our message, with the remedy, for each of these error types. Other types keep pydantic's message.
_REMEDIES = {
    "finite_number": "must be a finite number",
    "float_parsing": "is not a number; give one, such as 0.5",
    "float_type": "is not a number; give one, such as 0.5",
    "int_type": "is not a whole number; give pixels, such as 1024",
    "int_parsing": "is not a whole number; give pixels, such as 1024",
    "int_from_float": "is not a whole number; give pixels, such as 1024",
    "literal_error": "is not known; use one of {expected}",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be {ge} or more",
    "string_type": "must be text",
}


def _as_invalid_input(
    values: Mapping[str, object], error: ValidationError, inputs: type[Inputs]
) -> InvalidInput:
    first: Any = error.errors()[0]
    field = str(first["loc"][0])
    if first["type"] == "extra_forbidden":
        return InvalidInput.of(
            field, values.get(field), f"is not an input; there are {', '.join(inputs.model_fields)}"
        )
    text = str(first["ctx"]["error"]) if first["type"] == "value_error" else first["msg"]
    remedy = _REMEDIES.get(first["type"], text).format(**first.get("ctx", {}))
    value = values.get(field)
    return InvalidInput.of(field, value, remedy)
