"""
Stand-ins for the files of the vendor's other tools. They show the inputs and the text of the request.

An image is the input image or a drawn one, with the text on it. A video is the input video or image, with the
text at the bottom and the audio of the inputs. This module runs in render processes.
"""

from __future__ import annotations

import hashlib
import itertools
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
    draw_face,
    encode,
    frame_count,
    frame_size,
    load_audio,
    load_photo,
    reason,
    render_voice,
    write_wav,
    yuv_planes,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from av.video.stream import VideoStream

    from .render import Floats

SHORT_SIDE = 480
MAX_SIDE = 640
ANIMATION_FRAMES = 12
ANIMATION_FPS = 6
MAX_LINES = 6
PERSON = re.compile(r"\b(portrait|face|person|woman|man|girl|boy)\b", re.IGNORECASE)


def render_image(spec: dict[str, Any]) -> dict[str, Any]:
    """Write one of the requested images. Return its size in pixels."""
    photo = load_photo(spec["image"]) if "image" in spec else None
    if photo is None:
        picture = draw_image(spec)
    else:
        photo.thumbnail((MAX_SIDE, MAX_SIDE))
        picture = add_caption(photo, draw_caption(photo.size, caption_text(spec)))
    out = str(spec["out"])
    if out.endswith(".png"):
        picture.save(out)
    else:
        save_animation(out, picture)
    return {"width": picture.width, "height": picture.height}


def render_clip(spec: dict[str, Any]) -> dict[str, Any]:
    """Write a video of the inputs. Return its size in pixels, its frame rate, and its duration in seconds."""
    fps = Fraction(str(spec["fps"]))
    start, end = float(spec["start"]), float(spec["end"])
    audio = clip_audio(spec, start, end)
    count = frame_count(audio, fps)
    if spec.get("video"):
        images = video_images(spec["video"], start, fps, count)
    else:
        still = load_photo(spec["image"]) if "image" in spec else draw_image(spec)
        images = (still for _ in range(count))
    first = next(images)
    size = frame_size(*first.size, min(SHORT_SIDE, *first.size), None)
    caption = draw_caption(size, caption_text(spec))
    frames = (
        yuv_planes(np.asarray(add_caption(image.resize(size, Image.Resampling.BILINEAR), caption)))
        for image in itertools.chain([first], images)
    )
    encode(spec["out"], frames, size, audio, fps)
    return {"width": size[0], "height": size[1], "fps": float(fps), "seconds": audio.shape[1] / RATE}


def render_audio(spec: dict[str, Any]) -> dict[str, Any]:
    """Write a WAV of the spoken text, or of tones with the requested duration."""
    if spec["spoken"] and spec["tool"] != "ai-music-generator":
        return render_voice(spec | {"text": spec["spoken"], "voice": spec["tool"]})
    write_wav(spec["out"], babble(spec["end"], pitch=150.0))
    return {"engine": "tones"}


def caption_text(spec: dict[str, Any]) -> str:
    number = f" ({spec['number']} of {spec['count']})" if spec["count"] > 1 else ""
    return f"{spec['title']}{number}: {spec['text']}".rstrip(": ")


def draw_image(spec: dict[str, Any]) -> Image.Image:
    """Draw a face or a colour gradient, with the text of the request."""
    text = caption_text(spec)
    size = (spec["size"][0], spec["size"][1])
    if PERSON.search(spec["text"]):
        picture = ImageOps.fit(draw_face(), size)
    else:
        digest = hashlib.sha256(text.encode()).digest()
        light = "#" + "".join(f"{128 + byte // 2:02x}" for byte in digest[:3])
        dark = "#" + "".join(f"{byte // 3:02x}" for byte in digest[3:6])
        picture = ImageOps.colorize(Image.linear_gradient("L").resize(size), light, dark)
    return add_caption(picture, draw_caption(size, text, at_top=True))


def draw_caption(size: tuple[int, int], text: str, *, at_top: bool = False) -> Image.Image:
    """
    Draw the text on a dark strip at the bottom of a transparent image.

    :param at_top: draw the strip at the top. It then does not cover the caption of a video that is made from
        this image.
    """
    width, height = size
    points = max(10, min(width, height) // 22)
    font = ImageFont.load_default(points)
    lines = textwrap.wrap(text, max(8, int(width / points * 1.7)), max_lines=MAX_LINES, placeholder=" …")
    strip_height = min(height, int(points * 1.3) * len(lines) + points)
    caption = Image.new("RGBA", size, (0, 0, 0, 0))
    draw = ImageDraw.Draw(caption)
    top = 0 if at_top else height - strip_height
    draw.rectangle((0, top, width, top + strip_height), fill=(0, 0, 0, 150))
    draw.multiline_text((points // 2, top + points // 3), "\n".join(lines), font=font, fill="white")
    return caption


def add_caption(picture: Image.Image, caption: Image.Image) -> Image.Image:
    picture = picture.convert("RGB")
    picture.paste(caption, (0, 0), caption)
    return picture


def clip_audio(spec: dict[str, Any], start: float, end: float) -> Floats:
    """Return the audio of the inputs, followed by silence until the end of the clip."""
    silence = np.zeros((2, max(1, round((end - start) * RATE))), np.float32)
    path = spec.get("audio") or (has_audio(spec.get("video")) and spec["video"])
    if not path:
        return silence
    audio = load_audio(path, start, end)
    return np.concatenate([audio, silence[:, audio.shape[1] :]], axis=1)


def has_audio(path: str | None) -> bool:
    if path is None:
        return False
    with open_video(path) as source:
        return bool(source.streams.audio)


def open_video(path: str) -> Any:
    try:
        return av.open(path)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise RenderError("invalid_video_file", f"The video could not be read: {reason(error)}") from error


def video_images(path: str, start: float, fps: Fraction, count: int) -> Iterator[Image.Image]:
    """Yield ``count`` images of a video, from ``start``. If the video is too short, repeat its last image."""
    with open_video(path) as source:
        if not source.streams.video:
            raise RenderError("invalid_video_file", "The video file has no video stream")
        done = 0
        latest: Any = None
        try:
            for frame in source.decode(video=0):
                while latest is not None and done < count and start + done / fps < (frame.time or 0.0):
                    yield latest.to_image()
                    done += 1
                latest = frame
                if done == count:
                    return
        except av.FFmpegError as error:
            if latest is None:
                raise RenderError(
                    "invalid_video_file", f"The video could not be read: {reason(error)}"
                ) from error
    if latest is None:
        raise RenderError("invalid_video_file", "The video file contains no frames")
    image = latest.to_image()
    for _ in range(count - done):
        yield image


def save_animation(out: str, picture: Image.Image) -> None:
    """Write a GIF, MP4 or WebM in which a dot moves across the picture."""
    frames = []
    for index in range(ANIMATION_FRAMES):
        frame = picture.copy()
        left = frame.width * index // ANIMATION_FRAMES
        ImageDraw.Draw(frame).ellipse((left, 8, left + 16, 24), fill="white")
        frames.append(frame)
    if out.endswith(".gif"):
        duration = 1000 // ANIMATION_FPS
        frames[0].save(out, save_all=True, append_images=frames[1:], duration=duration, loop=0)
        return
    codec = "libvpx-vp9" if out.endswith(".webm") else "libx264"
    with av.open(out, "w") as file:
        video = cast("VideoStream", file.add_stream(codec, rate=ANIMATION_FPS))
        video.width, video.height, video.pix_fmt = picture.width, picture.height, "yuv420p"
        for frame in frames:
            file.mux(video.encode(av.VideoFrame.from_ndarray(np.asarray(frame), format="rgb24")))
        file.mux(video.encode(None))
