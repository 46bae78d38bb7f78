"""
Stand-ins for the files of the vendor's other tools: made from the inputs, with the request written on them.

An image is the input picture, or a drawn one, with the text of the request on it. A video is the input video
or picture, with that text below it and the sound of the inputs. This runs in render processes.
"""

from __future__ import annotations

import hashlib
import re
import textwrap
from fractions import Fraction
from typing import TYPE_CHECKING, Any, cast

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from .exceptions import RenderError
from .render import (
    RATE,
    babble,
    encode,
    frame_count,
    frame_size,
    load_photo,
    load_sound,
    plain,
    render_voice,
    stand_in_photo,
    write_wav,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from av.video.stream import VideoStream

    from .render import Bytes, Floats

SHORT_SIDE = 480
LONGEST_SIDE = 640
MOVING_FRAMES = 12
MOVING_FPS = 6
LINES = 6
PERSON = re.compile(r"\b(portrait|face|person|woman|man|girl|boy)\b", re.IGNORECASE)


def render_image(spec: dict[str, Any]) -> dict[str, Any]:
    """Write one of the requested images; return its size in pixels."""
    photo = load_photo(spec["image"]) if "image" in spec else None
    if photo is None:
        picture = drawn(spec)
    else:
        photo.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
        picture = captioned(photo, overlay(photo.size, words(spec)))
    out = str(spec["out"])
    if out.endswith(".png"):
        picture.save(out)
    else:
        save_moving(out, picture)
    return {"width": picture.width, "height": picture.height}


def render_clip(spec: dict[str, Any]) -> dict[str, Any]:
    """Write a video of its inputs; return its size in pixels, frame rate and length in seconds."""
    fps = Fraction(str(spec["fps"]))
    start, end = float(spec["start"]), float(spec["end"])
    sound = clip_sound(spec, start, end)
    count = frame_count(sound, fps)
    if spec.get("video"):
        images = video_images(spec["video"], start, fps, count)
    else:
        still = load_photo(spec["image"]) if "image" in spec else drawn(spec)
        images = (still for _ in range(count))
    first = next(images)
    size = frame_size(*first.size, min(SHORT_SIDE, *first.size), None)
    shown = overlay(size, words(spec))

    def pictures() -> Iterator[Bytes]:
        yield planes(first, size, shown)
        for image in images:
            yield planes(image, size, shown)

    encode(spec["out"], pictures(), size, sound, fps)
    return {"width": size[0], "height": size[1], "fps": float(fps), "seconds": sound.shape[1] / RATE}


def render_sound(spec: dict[str, Any]) -> dict[str, Any]:
    """Write a WAV: the spoken text, or tones of the requested length."""
    if spec["spoken"] and spec["tool"] != "ai-music-generator":
        return render_voice(spec | {"text": spec["spoken"], "voice": spec["tool"]})
    write_wav(spec["out"], babble(spec["end"], pitch=150.0))
    return {"engine": "tones"}


def words(spec: dict[str, Any]) -> str:
    """The text of the request."""
    number = f" ({spec['number']} of {spec['count']})" if spec["count"] > 1 else ""
    return f"{spec['title']}{number}: {spec['text']}".rstrip(": ")


def drawn(spec: dict[str, Any]) -> Image.Image:
    """A drawn picture with only the text of the request."""
    text = words(spec)
    colour = hashlib.sha256(text.encode()).digest()
    size = (spec["size"][0], spec["size"][1])
    if PERSON.search(spec["text"]):
        return captioned(ImageOps.fit(stand_in_photo(), size), overlay(size, text, at_top=True))
    grey = Image.linear_gradient("L").resize(size)
    light = "#" + "".join(f"{128 + part // 2:02x}" for part in colour[:3])
    dark = "#" + "".join(f"{part // 3:02x}" for part in colour[3:6])
    picture = ImageOps.colorize(grey, light, dark).convert("RGB")
    return captioned(picture, overlay(size, text, at_top=True))


def overlay(size: tuple[int, int], text: str, *, at_top: bool = False) -> Image.Image:
    """The text on a dark strip along the bottom, or along the top, where no video has its own; the rest is
    transparent."""
    width, height = size
    points = max(10, min(width, height) // 22)
    font = ImageFont.load_default(points)
    lines = textwrap.wrap(text, max(8, int(width / points * 1.7)), max_lines=LINES, placeholder=" …")
    tall = min(height, int(points * 1.3) * len(lines) + points)
    picture = Image.new("RGBA", size, (0, 0, 0, 0))
    draw = ImageDraw.Draw(picture)
    top = 0 if at_top else height - tall
    draw.rectangle((0, top, width, top + tall), fill=(0, 0, 0, 150))
    draw.multiline_text((points // 2, top + points // 3), "\n".join(lines), font=font, fill="white")
    return picture


def captioned(picture: Image.Image, caption: Image.Image) -> Image.Image:
    picture = picture.convert("RGB")
    picture.paste(caption, (0, 0), caption)
    return picture


def planes(image: Image.Image, size: tuple[int, int], caption: Image.Image) -> Bytes:
    """The picture with its caption, as an encoder takes it."""
    picture = captioned(image.resize(size, Image.Resampling.BILINEAR), caption)
    frame = av.VideoFrame.from_ndarray(np.asarray(picture), format="rgb24")
    return cast("Bytes", frame.reformat(format="yuv420p", dst_colorspace="ITU709").to_ndarray())


def clip_sound(spec: dict[str, Any], start: float, end: float) -> Floats:
    """The sound of the input audio or video, as long as the clip; silence if there is none."""
    silence = np.zeros((2, max(1, round((end - start) * RATE))), np.float32)
    path = spec.get("audio") or (has_sound(spec.get("video")) and spec["video"])
    if not path:
        return silence
    sound = load_sound(path, start, end)
    return np.concatenate([sound, silence[:, sound.shape[1] :]], axis=1)


def has_sound(path: str | None) -> bool:
    if path is None:
        return False
    with opened(path) as source:
        return bool(source.streams.audio)


def opened(path: str) -> Any:
    try:
        return av.open(path)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise RenderError("invalid_video_file", f"The video could not be read: {plain(error)}") from error


def video_images(path: str, start: float, fps: Fraction, count: int) -> Iterator[Image.Image]:
    """Pictures of a video, from a second on. If the video ends too early, its last picture is repeated."""
    with opened(path) as source:
        if not source.streams.video:
            raise RenderError("invalid_video_file", "The video file has no video stream")
        made = 0
        shown: Any = None
        try:
            for frame in source.decode(video=0):
                while shown is not None and made < count and start + made / fps < (frame.time or 0.0):
                    yield shown.to_image()
                    made += 1
                shown = frame
                if made == count:
                    return
        except av.FFmpegError as error:
            if shown is None:
                raise RenderError(
                    "invalid_video_file", f"The video could not be read: {plain(error)}"
                ) from error
    if shown is None:
        raise RenderError("invalid_video_file", "The video file holds no picture")
    last = shown.to_image()
    for _ in range(count - made):
        yield last


def save_moving(out: str | Path, picture: Image.Image) -> None:
    """A GIF, MP4 or WebM in which a dot wanders over the picture."""
    pictures = []
    for step in range(MOVING_FRAMES):
        moved = picture.copy()
        at = moved.width * step // MOVING_FRAMES
        ImageDraw.Draw(moved).ellipse((at, 8, at + 16, 24), fill="white")
        pictures.append(moved)
    if str(out).endswith(".gif"):
        pictures[0].save(out, save_all=True, append_images=pictures[1:], duration=1000 // MOVING_FPS, loop=0)
        return
    codec = "libvpx-vp9" if str(out).endswith(".webm") else "libx264"
    with av.open(str(out), "w") as file:
        video = cast("VideoStream", file.add_stream(codec, rate=MOVING_FPS))
        video.width, video.height, video.pix_fmt = picture.width, picture.height, "yuv420p"
        for moved in pictures:
            file.mux(video.encode(av.VideoFrame.from_ndarray(np.asarray(moved), format="rgb24")))
        file.mux(video.encode(None))
