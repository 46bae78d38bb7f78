"""
Renders the MP4 of a talking photo and the WAV of a generated voice.

This module runs in render processes: a render must not delay the server, and the server must not load codecs.
A file that cannot be rendered raises :class:`RenderError` with the vendor's code.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import shutil
import subprocess
import wave
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import av
import numpy as np
import pillow_heif
from PIL import Image, ImageDraw, ImageFile, ImageFilter, ImageOps

from .exceptions import RenderError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Bytes = NDArray[np.uint8]

RATE = 48_000
FFT_WINDOW = 2048
BARS_EACH_SIDE = 14
ZOOM_LEVELS = 17
ZOOM_DEPTH = 0.022
# The longer side of a video is at most this many times the target of its shorter side.
MAX_ASPECT_RATIO = 3
MIN_SIDE = 16
ORIENTATION = 0x0112
# The largest phone cameras have 200 megapixels. A pixel takes up to 4 bytes of memory.
MAX_PIXELS = 220_000_000
# A photo with this shorter side is large enough for every video.
SUFFICIENT_SIDE = 2160

pillow_heif.register_heif_opener()


def render_video(spec: dict[str, Any]) -> dict[str, Any]:
    """Write an MP4. Return its size in pixels, its frame rate, and its duration in seconds."""
    photo = load_photo(spec["photo"])
    width, height = frame_size(photo.width, photo.height, spec["short_side"], spec["max_long_side"])
    start, end = float(spec["start"]), float(spec["end"])
    audio = load_audio(spec["audio"], start, end)
    fps = Fraction(str(spec["fps"]))
    frames = draw_frames(photo, (width, height), audio, fps)
    encode(spec["out"], frames, (width, height), audio, fps)
    seconds = audio.shape[1] / RATE
    return {"width": width, "height": height, "fps": float(fps), "seconds": seconds}


def frame_size(width: int, height: int, short_side: int, max_long_side: int | None) -> tuple[int, int]:
    """
    Return the size of a video, in pixels, for the size of its photo.

    :param short_side: the target for the shorter side.
    :param max_long_side: the limit of the longer side; None: three times the target of the shorter side.
    """
    if max_long_side is None:
        max_long_side = short_side * MAX_ASPECT_RATIO
    scale = min(short_side / min(width, height), max_long_side / max(width, height))

    def even(side: int) -> int:
        fitted = 2 * round(side * scale / 2)
        return max(MIN_SIDE, min(fitted, max_long_side - max_long_side % 2))

    return even(width), even(height)


def load_photo(path: str | None) -> Image.Image:
    """
    Open a photo upright and in RGB, or draw a stand-in if there is no path.

    A photo that is much larger than necessary is reduced: a JPEG during decoding, other formats after it.
    """
    if path is None:
        return draw_face()
    # Pillow's own limit refuses the photos of 200-megapixel phones. It is safe to remove it for the process,
    # because this process only renders.
    Image.MAX_IMAGE_PIXELS = None
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise RenderError("file_too_large", f"The image has more than {MAX_PIXELS:,} pixels")
            # Like FFmpeg, show the beginning of a truncated JPEG. Truncated files of other formats fail.
            ImageFile.LOAD_TRUNCATED_IMAGES = image.format in ("JPEG", "MPO")
            image.draft("RGB", (SUFFICIENT_SIDE, SUFFICIENT_SIDE))
            image.load()
            shorter, longer = sorted(image.size)
            factor = max(1, shorter // SUFFICIENT_SIDE, longer // (SUFFICIENT_SIDE * MAX_ASPECT_RATIO))
            size = (image.width // factor, image.height // factor)
            photo = image.resize(size, Image.Resampling.BOX)
            # Read the tag after load(): Pillow rotates a TIFF itself, and then removes its tag.
            orientation = image.getexif().get(ORIENTATION, 1)
            original = image.info.get("original_orientation")
            if original and not rotated_by_container(path):
                orientation = original
    except (OSError, ValueError, SyntaxError) as error:
        raise RenderError("invalid_file_format", f"The image could not be read: {reason(error)}") from error
    if photo.mode.startswith(("I", "F")):
        # convert() would clip the values of 16-bit grey, and of grey from 0.0 to 1.0, to black or white.
        white = 1 if photo.mode == "F" else 65_535
        photo = Image.fromarray((np.asarray(photo) * (255 / white)).clip(0, 255).astype(np.uint8))
    photo.getexif()[ORIENTATION] = orientation
    return ImageOps.exif_transpose(photo).convert("RGB")


def rotated_by_container(path: str) -> bool:
    """
    Whether the container of a HEIC file has a rotation, like the files of phones.

    The decoder applies it, and the EXIF tag is only a copy of it. A converted file may have only the tag.
    """
    with Path(path).open("rb") as file:
        while len(head := file.read(8)) == 8:
            size = int.from_bytes(head[:4], "big")
            if head[4:] == b"meta":
                properties = file.read(size - 8)
                return b"irot" in properties or b"imir" in properties
            if size < 8:
                break
            file.seek(size - 8, 1)
    return False


def draw_face() -> Image.Image:
    """Draw a face. It is the stand-in for a library photo, which only the vendor has."""
    size = 720
    warm = Image.linear_gradient("L").resize((size, size))
    image = ImageOps.colorize(warm, "#27406b", "#e79a6b").convert("RGB")
    draw = ImageDraw.Draw(image)
    draw.ellipse((130, 560, 590, 1000), fill="#2f3a55")
    draw.ellipse((200, 130, 520, 560), fill="#f1c9a5")
    draw.pieslice((190, 100, 530, 480), 180, 360, fill="#3d2b24")
    for x in (290, 430):
        draw.ellipse((x - 16, 318, x + 16, 350), fill="#2b2320")
    draw.arc((290, 390, 430, 480), 20, 160, fill="#8d4a3f", width=12)
    return image.filter(ImageFilter.GaussianBlur(1.2))


def load_audio(path: str | None, start: float, end: float) -> Floats:
    """Decode the clip from ``start`` to ``end`` as stereo. The clip is shorter if the audio ends earlier."""
    if path is None:
        return np.stack([babble(end - start, pitch=150.0)] * 2)
    first, last = round(start * RATE), round(end * RATE)
    chunks: list[Floats] = []
    position = 0
    try:
        for chunk in decode_audio(path):
            skip = max(0, first - position)
            if skip < chunk.shape[1]:
                chunks.append(chunk[:, skip : max(skip, last - position)])
            position += chunk.shape[1]
            if position >= last:
                break
    except (av.FFmpegError, OSError, ValueError) as error:
        raise RenderError("invalid_file_format", f"The audio could not be read: {reason(error)}") from error
    if position == 0:
        raise RenderError("invalid_file_format", "The audio file contains no samples")
    # A video needs at least a hundredth of a second.
    if position - first < RATE // 100:
        raise RenderError(
            "invalid_parameters",
            f"start_seconds is {start:g} but the audio ends at {position / RATE:.2f} seconds",
        )
    return np.concatenate(chunks, axis=1)


def decode_audio(path: str) -> Iterator[Floats]:
    """
    Yield the samples of the first audio stream, as stereo at ``RATE``.

    Like the ``ffmpeg`` program, skip packets that cannot be decoded, and stop at an error in the container.
    """
    # The rate and the channels of joined files may change in the middle.
    for (channels, *_), frames in itertools.groupby(audio_frames(path), key=sample_layout):
        # to_stereo() doubles a mono channel. FFmpeg's own upmix would reduce its level to 0.7.
        layout = "mono" if channels == 1 else "stereo"
        resampler = av.AudioResampler(format="fltp", layout=layout, rate=RATE)
        for frame in frames:
            # With timestamps, the resampler would fill the gaps between packets with silence.
            frame.pts = None
            yield from map(to_stereo, resampler.resample(frame))
        yield from map(to_stereo, resampler.resample(None))


def sample_layout(frame: av.AudioFrame) -> tuple[int, str, str, int]:
    return frame.layout.nb_channels, frame.layout.name, frame.format.name, frame.sample_rate


def audio_frames(path: str) -> Iterator[av.AudioFrame]:
    failure: av.FFmpegError | None = None
    found = False
    with av.open(path) as source:
        if not source.streams.audio:
            raise RenderError("invalid_file_format", "The audio file has no audio stream")
        try:
            for packet in source.demux(audio=0):
                try:
                    for frame in packet.decode():
                        found = True
                        yield frame
                except av.FFmpegError as error:
                    failure = error
        except av.FFmpegError as error:
            failure = error
    if failure and not found:
        raise failure


def to_stereo(frame: av.AudioFrame) -> Floats:
    samples = cast("Floats", frame.to_ndarray())
    return np.repeat(samples, 2, axis=0) if len(samples) == 1 else samples


def reason(error: BaseException) -> str:
    """Return the reason of an error. It has no path, because a response must not name a local file."""
    return getattr(error, "strerror", None) or type(error).__name__


def frame_count(audio: Floats, fps: Fraction) -> int:
    """Return the number of frames of a video that is as long as its audio."""
    return max(1, round(int(audio.shape[1]) * fps / RATE))


def encode(out: str, frames: Iterable[Bytes], size: tuple[int, int], audio: Floats, fps: Fraction) -> None:
    """
    Write an MP4.

    :param frames: ``frame_count`` frames, as the planes of YUV 4:2:0.
    """
    width, height = size
    samples = audio.shape[1]
    last = frame_count(audio, fps) - 1
    with av.open(out, "w", format="mp4", options={"movflags": "+faststart"}) as file:
        video = file.add_stream("libx264", rate=fps)
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        video.options = {"preset": "veryfast", "crf": "22", "g": str(round(fps * 2)), "bf": "0"}
        # On a small machine, more threads would delay the server.
        video.codec_context.thread_count = 2
        # The colours are those of HD video (BT.709), with limited range.
        video.codec_context.color_range = 1
        video.codec_context.colorspace = 1
        video.codec_context.color_primaries = 1
        video.codec_context.color_trc = 1
        sound = file.add_stream("aac", rate=RATE, layout="stereo")
        sound.bit_rate = 128_000

        start = 0
        for index, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="yuv420p")
            picture.pts, picture.time_base = index, 1 / fps
            file.mux(video.encode(picture))
            end = samples if index == last else min(samples, round((index + 1) * RATE / fps))
            if end > start:
                part = np.ascontiguousarray(audio[:, start:end])
                chunk = av.AudioFrame.from_ndarray(part, format="fltp", layout="stereo")
                chunk.sample_rate, chunk.pts, chunk.time_base = RATE, start, Fraction(1, RATE)
                file.mux(sound.encode(chunk))
                start = end
        file.mux(video.encode(None))
        file.mux(sound.encode(None))


def draw_frames(photo: Image.Image, size: tuple[int, int], audio: Floats, fps: Fraction) -> Iterator[Bytes]:
    """Yield the photo with a row of level bars. A loud voice zooms in a little."""
    zoomed = zoom_levels(photo, size)
    bars = LevelBars(*size)
    mono = np.pad(audio.mean(axis=0), FFT_WINDOW // 2)
    step = RATE / float(fps)
    zoom = 0.0
    heights: Floats = np.zeros(BARS_EACH_SIDE, np.float32)
    for index in range(frame_count(audio, fps)):
        start = min(int((index + 0.5) * step), audio.shape[1])
        level, bands = loudness(mono[start : start + FFT_WINDOW])
        # Like the bars of a level meter, they rise fast and fall slowly.
        speed = np.where(bands > heights, 0.65, 0.28).astype(np.float32)
        heights = heights + (bands - heights) * speed
        zoom += (level - zoom) * (0.35 if level > zoom else 0.15)
        frame = zoomed[round(zoom * (ZOOM_LEVELS - 1))].copy()
        bars.draw(frame, heights)
        yield frame


def loudness(window: Floats) -> tuple[float, Floats]:
    """Return the loudness of some samples (0 to 1), and of the frequency band of each bar."""
    rms = float(np.sqrt(np.mean(np.square(window)) + 1e-12))
    level = min(1.0, max(0.0, (20 * math.log10(rms) + 52) / 40))
    spectrum = np.abs(np.fft.rfft(window * np.hanning(FFT_WINDOW)))
    edges = np.geomspace(90, 6500, BARS_EACH_SIDE + 1) * FFT_WINDOW / RATE
    bins = np.ceil(edges).astype(int)
    bands = np.array([spectrum[low : max(low + 1, high)].max() for low, high in itertools.pairwise(bins)])
    shape = np.clip((20 * np.log10(bands + 1e-9) + 12) / 54, 0, 1)
    return level, (level**1.4 * (0.25 + 0.75 * shape)).astype(np.float32)


def zoom_levels(photo: Image.Image, size: tuple[int, int]) -> list[Bytes]:
    """Return the photo at each zoom level, as the planes of YUV 4:2:0."""
    width, height = size
    # Resize the photo once to the size of the largest zoom, so that each level is a fast resize.
    large = (math.ceil(width * (1 + ZOOM_DEPTH)), math.ceil(height * (1 + ZOOM_DEPTH)))
    close = photo.resize(large, Image.Resampling.LANCZOS)
    shadow = bottom_shadow(size)
    levels = []
    for level in range(ZOOM_LEVELS):
        factor = 1 + ZOOM_DEPTH * level / (ZOOM_LEVELS - 1)
        wide, high = large[0] / factor, large[1] / factor
        # Zoom in on the face, which is above the middle in a portrait.
        left, top = (large[0] - wide) * 0.5, (large[1] - high) * 0.42
        view = close.resize(size, Image.Resampling.BICUBIC, (left, top, left + wide, top + high))
        levels.append(yuv_planes((np.asarray(view, np.float32) * shadow).astype(np.uint8)))
    return levels


def yuv_planes(pixels: Bytes) -> Bytes:
    """Convert RGB pixels to the planes of YUV 4:2:0."""
    frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
    return cast("Bytes", frame.reformat(format="yuv420p", dst_colorspace="ITU709").to_ndarray())


def bottom_shadow(size: tuple[int, int]) -> Floats:
    """Return a soft shadow at the bottom, so that the white bars are visible on every photo."""
    width, height = size
    depth = np.clip((np.arange(height) / height - 0.74) / 0.26, 0, 1)
    column = 1 - 0.5 * depth * depth * (3 - 2 * depth)
    return np.broadcast_to(column[:, None, None], (height, width, 1)).astype(np.float32)


class LevelBars:
    """Draws white rounded bars, symmetric about the middle, into the planes of a YUV frame."""

    WHITE = 232.0
    OPACITY = 0.92

    def __init__(self, width: int, height: int) -> None:
        self.height = height
        count = 2 * BARS_EACH_SIDE - 1
        pitch = min(width * 0.62 / count, height * 0.03)
        self.radius = max(0.8, pitch * 0.27)
        self.reach = max(self.radius, height * 0.065)
        middle = height * 0.9
        self.top = max(0, int(middle - self.reach - 2) // 2 * 2)
        self.bottom = min(height, int(middle + self.reach + 3) // 2 * 2)
        left = int(width / 2 - pitch * count / 2 - 2)
        self.left = max(0, left // 2 * 2)
        self.right = min(width, int(width / 2 + pitch * count / 2 + 3) // 2 * 2)
        columns = np.arange(self.left, self.right) + 0.5
        nearest = np.clip(np.round((columns - width / 2) / pitch), 1 - BARS_EACH_SIDE, None)
        nearest = np.minimum(nearest, BARS_EACH_SIDE - 1)
        self.bar = np.abs(nearest).astype(int)
        self.across = np.abs(columns - width / 2 - nearest * pitch)[None, :]
        self.away = np.abs(np.arange(self.top, self.bottom) + 0.5 - middle)[:, None]
        # The outer bars are shorter, so that the row looks like one voice.
        self.taper = np.cos(np.linspace(0, 1.25, BARS_EACH_SIDE)).astype(np.float32)

    def draw(self, frame: Bytes, heights: Floats) -> None:
        stem = (heights * self.taper)[self.bar] * (self.reach - self.radius)
        distance = np.hypot(self.across, np.maximum(self.away - stem[None, :], 0))
        ink = np.clip(self.radius + 0.5 - distance, 0, 1) * self.OPACITY
        luma = frame[self.top : self.bottom, self.left : self.right]
        luma[:] = luma + (self.WHITE - luma) * ink
        half = ink.reshape(ink.shape[0] // 2, 2, ink.shape[1] // 2, 2).mean(axis=(1, 3))
        chroma = frame[self.height :].reshape(2, self.height // 2, -1)
        for plane in chroma:
            under = plane[self.top // 2 : self.bottom // 2, self.left // 2 : self.right // 2]
            under[:] = under + (128.0 - under) * half


def render_voice(spec: dict[str, Any]) -> dict[str, Any]:
    """Write a WAV of a spoken text. It is spoken by espeak-ng if possible, and otherwise made of tones."""
    text, name = str(spec["text"]), str(spec["voice"])
    # Each name always has the same voice.
    seed = hashlib.sha256(name.encode()).digest()
    program = shutil.which("espeak-ng") if spec["engine"] == "espeak-ng" else None
    if program:
        pitch, variant = 20 + seed[0] % 60, ("m" if seed[1] % 2 else "f") + str(1 + seed[2] % 4)
        command = [program, "-v", f"en+{variant}", "-p", str(pitch), "-w", str(spec["out"])]
        spoken = subprocess.run(  # noqa: S603 - the text is input, not an argument
            [*command, "--stdin"], input=text.encode(), capture_output=True, timeout=120, check=False
        )
        if spoken.returncode == 0 and Path(spec["out"]).stat().st_size > 44:
            return {"engine": "espeak-ng"}
    write_wav(spec["out"], babble(max(0.3, len(text) * 0.065), pitch=95.0 + seed[0] / 2))
    return {"engine": "tones"}


def write_wav(path: object, audio: Floats) -> None:
    """Write a WAV at half of ``RATE``, from samples at ``RATE``."""
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(RATE // 2)
        out.writeframes((audio[::2] * 32_000).astype("<i2").tobytes())


def babble(seconds: float, pitch: float) -> Floats:
    """Create tones with the rhythm of speech: four syllables a second, and short pauses."""
    time = np.arange(round(seconds * RATE)) / RATE
    phrase = pitch * (1 + 0.12 * np.sin(2 * np.pi * 0.7 * time) + 0.05 * np.sin(2 * np.pi * 2.3 * time))
    phase = 2 * np.pi * np.cumsum(phrase) / RATE
    voice = sum(np.sin(phase * harmonic) / harmonic**1.4 for harmonic in range(1, 7))
    syllables = np.clip(np.sin(2 * np.pi * 4 * time), 0, None) ** 0.6
    breath = np.clip(1.6 + 2 * np.sin(2 * np.pi * time / 3.1 + 0.6), 0, 1)
    return cast("Floats", (0.3 * voice * syllables * breath).astype(np.float32))
