"""What the vendor's paid calls cost, where the vendor says so. It has the last word."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from magichour_provider.api.inputs import CHARACTERS_PER_CREDIT, CREDITS_PER_SECOND, PROMPTED_MODES

# Vendor's OpenAPI, 2026-08. Credits for what one call makes. "1 frame" is one credit, by its older name.
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
# Vendor's OpenAPI, 2026-08: "from" so many credits an image, and more at higher resolutions.
FROM_PER_IMAGE = {
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
    :ivar credits: of the whole call; None if the vendor publishes no price that says so.
    :ivar words: the figure, and where the vendor publishes it; or why there is none.
    """

    credits: int | None
    words: str


def price_of(tool: str, body: Mapping[str, Any]) -> Price:
    """Of one paid call, by the dated tables above."""
    seconds = clip_seconds(body)
    style = body.get("style")
    style = style if isinstance(style, Mapping) else {}
    match tool:
        case _ if tool in PER_CALL:
            return _published(PER_CALL[tool], f"{PER_CALL[tool]} credits a call")
        case "ai-image-generator" | "ai-image-editor":
            if least := FROM_PER_IMAGE.get(str(body.get("model"))):
                return Price(None, f"its price is only known as from {least} credits an image ({_OPENAPI})")
            return Price(None, f"its price depends on model and resolution ({_OPENAPI})")
        case "body-swap":
            return Price(None, f"its price is only known as from 50 credits at 640px ({_OPENAPI})")
        case "ai-image-upscaler":
            each, factor = UPSCALE.get(str(style.get("mode", "balanced"))), body.get("scale_factor")
            if each is not None and factor in (2, 4):
                return _published(each * factor**2 // 4, f"{each} credits for 2x, four times that for 4x")
        case "ai-voice-generator" | "ai-voice-cloner":
            characters = len(str(style.get("prompt", "")))
            each_character = f"{1 / CHARACTERS_PER_CREDIT:g} credit a character"
            return _published(math.ceil(characters / CHARACTERS_PER_CREDIT), each_character)
        case "ai-music-generator" if isinstance(duration := body.get("duration"), int):
            return Price(duration, "at 1 credit a second (vendor's SDK 0.90.0, 2026-10)")
        case "lip-sync" if seconds is not None:
            if each := LIP_SYNC_PER_FRAME.get(str(style.get("generation_mode", "lite"))):
                limit = body.get("max_fps_limit")
                fps = min(FRAMES_PER_SECOND, limit) if isinstance(limit, int | float) else FRAMES_PER_SECOND
                frames = math.ceil(round(seconds * fps, 6))
                return _published(each * frames, f"{each} credits a frame, at {fps:g} frames a second")
        case "ai-talking-photo" if seconds is not None:
            mode = "prompted" if style.get("generation_mode") in PROMPTED_MODES else "realistic"
            each = CREDITS_PER_SECOND[mode]
            credits_ = math.ceil(round(seconds * each, 6))
            return Price(credits_, f"at {each} credits a second (vendor's models page, 2026-07)")
    return Price(None, f"the vendor publishes no price of it ({_OPENAPI})")


def clip_seconds(body: Mapping[str, Any]) -> float | None:
    """How long the result will be, if the body says so."""
    start, end = body.get("start_seconds", 0.0), body.get("end_seconds", body.get("duration"))
    if not isinstance(start, int | float) or not isinstance(end, int | float):
        return None
    return round(end - start, 6)


_OPENAPI = "vendor's OpenAPI, 2026-08"


def _published(credits: int, figure: str) -> Price:  # noqa: A002 (the vendor's word)
    return Price(credits, f"at {figure} ({_OPENAPI})")
