"""The prices of the vendor's paid calls, if it publishes them. The vendor decides the real price."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# Vendor's models page, 2026-07. Credits for a second of a talking photo, at 30 frames a second.
CREDITS_PER_SECOND = {"realistic": 48, "prompted": 20}
PROMPTED_MODES = ("prompted", "standard", "expressive")  # generation modes with the lower price
# Vendor's OpenAPI, 2026-08, and SDK 0.90.0, 2026-10: a tenth of a credit a character of a text.
CHARACTERS_PER_CREDIT = 10
# Vendor's OpenAPI, 2026-08. Credits for the result of one call. "1 frame" is an older name of one credit.
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
# Vendor's OpenAPI, 2026-08: the minimum of credits for an image. Higher resolutions cost more.
MIN_PER_IMAGE = {
    "flux-2-klein": 5,
    "flux-schnell": 5,
    "gpt-image-2": 50,
    "nano-banana": 50,
    "nano-banana-2": 100,
    "nano-banana-2-lite": 50,
    "nano-banana-pro": 150,
    "qwen-edit": 10,
    "seedream-v4": 40,
    "seedream-v5-pro": 75,
    "z-image-turbo": 5,
}
# Vendor's OpenAPI, 2026-08. Credits for a frame.
LIP_SYNC_PER_FRAME = {"lite": 1, "standard": 1, "pro": 2}
FRAMES_PER_SECOND = 30  # of the vendor's own estimates
# Vendor's OpenAPI, 2026-08. Credits for a 2x upscale; a 4x one costs four times as much.
UPSCALE = {"preserve": 25, "pro": 25, "balanced": 50, "creative": 50}


@dataclass(frozen=True)
class Price:
    """
    :ivar credits: the price of the whole call; None if the vendor publishes no exact price.
    :ivar text: the price in words, and where the vendor publishes it; or why there is no price.
    """

    credits: int | None
    text: str


def price_of(tool: str, body: Mapping[str, Any]) -> Price:
    """The price of one paid call, by the tables above."""
    seconds = clip_seconds(body)
    style = body.get("style")
    style = style if isinstance(style, Mapping) else {}
    match tool:
        case _ if tool in PER_CALL:
            return _published(PER_CALL[tool], f"{PER_CALL[tool]} credits a call")
        case "ai-image-generator" | "ai-image-editor":
            if least := MIN_PER_IMAGE.get(str(body.get("model"))):
                return Price(
                    None, f"the vendor publishes only a minimum price: {least} credits an image ({_OPENAPI})"
                )
            return Price(None, f"the price depends on model and resolution ({_OPENAPI})")
        case "body-swap":
            return Price(None, f"the vendor publishes only a minimum price: 50 credits at 640px ({_OPENAPI})")
        case "ai-image-upscaler":
            each, factor = UPSCALE.get(str(style.get("mode", "balanced"))), body.get("scale_factor")
            if each is not None and factor in (2, 4):
                return _published(each * factor**2 // 4, f"{each} credits for 2x, four times that for 4x")
        case "ai-voice-generator" | "ai-voice-cloner":
            return speech(str(style.get("prompt", "")))
        case "ai-music-generator" if isinstance(duration := body.get("duration"), int):
            return Price(duration, "at 1 credit a second (vendor's SDK 0.90.0, 2026-10)")
        case "lip-sync" if seconds is not None:
            if each := LIP_SYNC_PER_FRAME.get(str(style.get("generation_mode", "lite"))):
                limit = body.get("max_fps_limit")
                fps = min(FRAMES_PER_SECOND, limit) if isinstance(limit, int | float) else FRAMES_PER_SECOND
                frames = math.ceil(round(seconds * fps, 6))
                return _published(each * frames, f"{each} credits a frame, at {fps:g} frames a second")
        case "ai-talking-photo" if seconds is not None:
            return talking_photo(style.get("generation_mode"), seconds)
    return Price(None, f"the vendor publishes no price of it ({_OPENAPI})")


def price_class(generation_mode: object) -> str:
    """The mode by which a talking photo is priced, and how long its render takes."""
    return "prompted" if generation_mode in PROMPTED_MODES else "realistic"


def talking_photo(generation_mode: object, seconds: float) -> Price:
    each = CREDITS_PER_SECOND[price_class(generation_mode)]
    credits_ = math.ceil(round(seconds * each, 6))
    return Price(credits_, f"at {each} credits a second (vendor's models page, 2026-07)")


def speech(text: str) -> Price:
    return Price(
        math.ceil(len(text) / CHARACTERS_PER_CREDIT),
        f"at {1 / CHARACTERS_PER_CREDIT:g} credit a character ({_OPENAPI}; the models page says 0.05)",
    )


def clip_seconds(body: Mapping[str, Any]) -> float | None:
    """The length of the result, if the body has it."""
    start, end = body.get("start_seconds", 0.0), body.get("end_seconds", body.get("duration"))
    if not isinstance(start, int | float) or not isinstance(end, int | float):
        return None
    return round(end - start, 6)


_OPENAPI = "vendor's OpenAPI, 2026-08"


def _published(credits: int, figure: str) -> Price:  # noqa: A002 (the vendor's word)
    return Price(credits, f"at {figure} ({_OPENAPI})")
