"""
The moving picture of the README: a photo and a voice become a video.

    make demo && python tools/moving_picture.py demo_output/*.mp4

Everything in it is real: the photo and the voice that ``make demo`` takes, and the video that it has made.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parent.parent
MEDIA = ROOT / "example_dags" / "media"
PICTURE = ROOT / "docs" / "images" / "demo.webp"

WIDTH, HEIGHT = 840, 380
TILE = (240, 300)  # of the photo, and of the video
TOP, LEFT, RIGHT = 24, 24, WIDTH - 24 - TILE[0]
WAVE = (LEFT + TILE[0] + 40, RIGHT - 40)  # from, to
FRAMES_PER_SECOND = 12
BARS = 40
PAPER, INK, QUIET, LOUD = "#faf8ff", "#3f3f46", "#cfc6e6", "#7c4dbe"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("video", type=Path, nargs="+", help="what the demo has made; the newest counts")
    video = max(parser.parse_args().video, key=lambda path: path.stat().st_mtime)
    stills, seconds = frames_of(video)
    loudness = loudness_of(MEDIA / "ada.mp3", seconds)
    photo = Image.open(MEDIA / "ada.jpg").convert("RGB").resize(TILE, Image.Resampling.LANCZOS)
    pictures = [
        drawn(photo, still, loudness, done=number / len(stills)) for number, still in enumerate(stills)
    ]
    data = io.BytesIO()
    pictures[0].save(
        data,
        "WEBP",
        save_all=True,
        append_images=pictures[1:],
        duration=round(1000 / FRAMES_PER_SECOND),
        loop=0,
        quality=70,
        method=6,
        minimize_size=True,
    )
    PICTURE.write_bytes(data.getvalue())
    print(f"{PICTURE.relative_to(ROOT)}: {len(pictures)} frames, {len(data.getvalue()) / 1000:.0f} kB")


def frames_of(video: Path) -> tuple[list[Image.Image], float]:
    """The frames to be shown, and the length in seconds."""
    stills: list[Image.Image] = []
    with av.open(str(video)) as media:
        decoded: Iterator[Any] = media.decode(media.streams.video[0])
        for frame in decoded:
            if float(frame.time or 0) * FRAMES_PER_SECOND >= len(stills):
                stills.append(frame.to_image().resize(TILE, Image.Resampling.LANCZOS))
    return stills, len(stills) / FRAMES_PER_SECOND


def loudness_of(voice: Path, seconds: float) -> list[float]:
    """Of each bar, 0 to 1."""
    with av.open(str(voice)) as media:
        sounds = [frame.to_ndarray().astype(float).ravel() for frame in media.decode(media.streams.audio[0])]
        rate = media.streams.audio[0].rate or 44_100
    samples = np.concatenate(sounds)[: int(seconds * rate)]
    levels = [float(np.sqrt(np.mean(part**2))) for part in np.array_split(samples, BARS)]
    return [level / max(levels) for level in levels]


def drawn(photo: Image.Image, still: Image.Image, loudness: list[float], *, done: float) -> Image.Image:
    """One frame: photo, voice (as far as it has been heard), video."""
    picture = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    picture.paste(photo, (LEFT, TOP))
    picture.paste(still, (RIGHT, TOP))
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=17)
    middle = TOP + TILE[1] / 2
    step = (WAVE[1] - WAVE[0]) / BARS
    for bar, level in enumerate(loudness):
        x, half = WAVE[0] + bar * step, 4 + 60 * level
        colour = LOUD if bar < done * BARS else QUIET
        draw.rounded_rectangle((x, middle - half, x + step - 2, middle + half), 1, fill=colour)
    labels = {
        LEFT + TILE[0] / 2: "ada.jpg",
        sum(WAVE) / 2: "ada.mp3",
        RIGHT + TILE[0] / 2: "a video, paid for once",
    }
    for x, text in labels.items():
        draw.text((x, TOP + TILE[1] + 14), text, INK, font, anchor="ma")
    for x, sign in {WAVE[0] - 20: "+", WAVE[1] + 20: "="}.items():
        draw.text((x, middle), sign, INK, ImageFont.load_default(size=30), anchor="mm")
    return picture


if __name__ == "__main__":
    main()
