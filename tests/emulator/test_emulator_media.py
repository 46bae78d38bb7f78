"""The decoding of recordings and photos: every format, every orientation, and damaged files."""

from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING, Any

import pytest

av = pytest.importorskip("av")
np = pytest.importorskip("numpy")

import pillow_heif  # noqa: E402 - it is imported after the skip
from PIL import Image  # noqa: E402

from magichour_provider.emulator import render, validation  # noqa: E402
from magichour_provider.emulator.exceptions import RenderError  # noqa: E402

pillow_heif.register_heif_opener()

if TYPE_CHECKING:
    from pathlib import Path

ID3_TAG = b"ID3\x04\x00\x00\x00\x00\x00\x0a" + bytes(10)


def recording(
    container: str, codec: str, seconds: float, *, rate: int = 48_000, layout: str = "stereo", **options: str
) -> bytes:
    """Encode a tone."""
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)
    file = io.BytesIO()
    with av.open(file, "w", format=container, options=options) as out:
        stream = out.add_stream(codec, rate=rate, layout=layout)
        encoder = stream.codec_context
        resampler = av.AudioResampler(format=encoder.format, layout=layout, rate=rate)
        samples = np.tile(tone.astype(np.float32), (stream.layout.nb_channels, 1))
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
        frame.rate = rate
        for part in [*resampler.resample(frame), *resampler.resample(None), None]:
            # The last packet of a FLAC stream is empty, and Ogg refuses empty packets.
            out.mux([packet for packet in stream.encode(part) if packet.size])
    return file.getvalue()


MP3 = recording("mp3", "libmp3lame", 3)
AAC = recording("adts", "aac", 2)
FLAC = recording("flac", "flac", 3)
WAV = recording("wav", "pcm_s16le", 2)
OPUS = recording("ogg", "libopus", 2)
HALF = len(MP3) // 2
DATA = WAV.index(b"data") + 4

RECORDINGS: dict[str, tuple[str, bytes, float]] = {
    "an MP3": ("mp3", MP3, 3),
    "an MP3 with junk in the middle": ("mp3", MP3[:HALF] + bytes(range(256)) * 3 + MP3[HALF:], 3),
    "an MP3 with junk before it": ("mp3", bytes(range(256)) * 8 + MP3, 3),
    "an MP3 padded with zeros": ("mp3", MP3 + bytes(5000), 3),
    "a truncated MP3": ("mp3", MP3[:HALF], 1.5),
    "two MP3s joined": ("mp3", MP3 + MP3, 6),
    "two MP3s joined, with a tag between them": ("mp3", MP3 + ID3_TAG + MP3, 6),
    "two MP3s joined, of different rates and channels": (
        "mp3",
        MP3 + recording("mp3", "libmp3lame", 2, rate=22_050, layout="mono"),
        5,
    ),
    "two AACs joined": ("aac", AAC + AAC, 4),
    "an AAC named m4a": ("m4a", AAC, 2),
    "a chained Ogg": ("opus", OPUS + recording("ogg", "libopus", 3, serial_offset="7"), 5),
    "a chained Ogg with one serial number": ("ogg", OPUS + OPUS, 4),
    "a truncated FLAC": ("flac", FLAC[: len(FLAC) * 2 // 3], 1.7),
    "a FLAC with zeros in the middle": (
        "flac",
        FLAC[: len(FLAC) // 2] + bytes(300) + FLAC[len(FLAC) // 2 + 300 :],
        2.8,
    ),
    "a WAV of unknown length": ("wav", WAV[:DATA] + b"\xff\xff\xff\xff" + WAV[DATA + 4 :], 2),
    "a truncated WAV": ("wav", WAV[: DATA + 4 + 48_000 * 4], 1),
}


@pytest.mark.parametrize("name", RECORDINGS)
def test_a_recording_that_ffmpeg_plays_is_heard_to_its_end(tmp_path: Path, name: str) -> None:
    extension, content, seconds = RECORDINGS[name]
    path = tmp_path / f"voice.{extension}"
    path.write_bytes(content)
    audio = render.load_audio(str(path), 0, 60)
    assert audio.shape[1] / render.RATE == pytest.approx(seconds, abs=0.15)
    # The last half second is the tone, with its level and pitch.
    ending = audio[0, -render.RATE * 2 // 3 : -render.RATE // 6]
    assert np.sqrt(np.mean(ending**2)) == pytest.approx(0.5 / 2**0.5, rel=0.1)
    frequency = np.abs(np.fft.rfft(ending)).argmax() * render.RATE / len(ending)
    assert frequency == pytest.approx(440, abs=3)


FORMATS = {
    "mp3": ("mp3", "libmp3lame"),
    "wav": ("wav", "pcm_s16le"),
    "aac": ("adts", "aac"),
    "flac": ("flac", "flac"),
    "webm": ("webm", "libopus"),
    "weba": ("webm", "libopus"),
    "m4a": ("mp4", "aac"),
    "opus": ("ogg", "libopus"),
    "ogg": ("ogg", "libopus"),
    "oga": ("ogg", "flac"),
    "aiff": ("aiff", "pcm_s16be"),
}


@pytest.mark.parametrize("extension", sorted({*validation.EXTENSIONS["audio"]} - {"amr"}))
def test_every_audio_format_of_the_vendor_is_decoded(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"voice.{extension}"
    path.write_bytes(recording(*FORMATS[extension], 1))
    audio = render.load_audio(str(path), 0.25, 0.75)
    assert audio.shape == (2, render.RATE // 2)
    assert np.abs(audio).max() == pytest.approx(0.5, abs=0.1)


def test_amr_is_decoded(tmp_path: Path) -> None:
    # These frames have 4.75 kbit/s and 20 ms. They are written by hand, because no wheel can encode AMR.
    path = tmp_path / "voice.amr"
    path.write_bytes(b"#!AMR\n" + (b"\x04" + bytes(12)) * 50)
    assert render.load_audio(str(path), 0, 60).shape == (2, render.RATE)


@pytest.mark.parametrize("content", [b"hello\n" * 500, bytes(9000)], ids=["text", "zeros"])
def test_a_recording_without_sound_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "voice.mp3").write_bytes(content)
    with pytest.raises(RenderError) as refused:
        render.load_audio(str(tmp_path / "voice.mp3"), 0, 1)
    assert refused.value.code == "invalid_file_format"


def png(width: int, height: int, *, depth: int = 8, rows: bytes = b"") -> bytes:
    """Create a grey PNG. Without ``rows``, it has no image data."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    chunks = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("extension", validation.EXTENSIONS["image"])
def test_every_image_format_of_the_vendor_is_decoded(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"photo.{extension}"
    names = {"jfif": "JPEG", "heif": "HEIF", "heic": "HEIF", "jp2": "JPEG2000"}
    Image.new("RGB", (64, 48), (220, 40, 40)).save(path, names.get(extension))
    photo = render.load_photo(str(path))
    assert photo.size == (64, 48)
    assert photo.getpixel((32, 24)) == pytest.approx((220, 40, 40), abs=8)


@pytest.mark.parametrize("extension", ["jpg", "heic", "both.heic", "png", "webp", "tiff"])
def test_a_phone_photo_stands_upright(tmp_path: Path, extension: str) -> None:
    # The left half is red. With the orientation of the tag, the top half is red.
    image = Image.new("RGB", (400, 300), "blue")
    image.paste("red", (0, 0, 200, 300))
    exif = Image.Exif()
    exif[render.ORIENTATION] = 6
    path = tmp_path / f"phone.{extension}"
    # If the EXIF data are bytes, Pillow also writes the orientation into the HEIC container, as phones do.
    image.save(path, exif=exif.tobytes() if extension == "both.heic" else exif)
    photo = render.load_photo(str(path))
    assert photo.size == (300, 400)
    top, bottom = (photo.convert("RGB").getpixel((150, y)) for y in (60, 340))
    assert isinstance(top, tuple)
    assert isinstance(bottom, tuple)
    assert top[0] > 150 > top[2]
    assert bottom[2] > 150 > bottom[0]


@pytest.mark.parametrize(
    ("options", "photo", "video"),
    [
        ({"resolution": "480p"}, (640, 480), (640, 480)),
        ({"resolution": "720p"}, (640, 480), (960, 720)),
        ({"resolution": "480p", "max_resolution": 200}, (640, 480), (640, 480)),
        ({"max_resolution": 320}, (640, 480), (320, 240)),
        ({"max_resolution": 321}, (640, 480), (320, 240)),
        ({"max_resolution": 100_000}, (640, 480), (960, 720)),
        ({"style": {"generation_mode": "prompted"}}, (640, 480), (640, 480)),
        ({}, (640, 480), (960, 720)),
        ({"resolution": "480p"}, (30, 40), (480, 640)),
        ({"resolution": "480p"}, (333, 1001), (480, 1440)),
        ({"resolution": "480p"}, (2, 900), (16, 1440)),
    ],
)
def test_the_size_of_a_video_follows_the_photo_and_the_resolution(
    options: dict[str, Any], photo: tuple[int, int], video: tuple[int, int]
) -> None:
    url = "https://magichour.ai/my-library"
    assets = {"image_file_path": f"{url}?imageId=a", "audio_file_path": f"{url}?audioId=a"}
    body = {"start_seconds": 0, "end_seconds": 1, "assets": assets}
    request = validation.check_talking_photo(body | options, "business")
    assert render.frame_size(*photo, request.short_side, request.max_long_side) == video


GREYS = np.arange(256)


@pytest.mark.parametrize("name", ["16-bit PNG", "16-bit TIFF", "32-bit TIFF", "floating-point TIFF"])
def test_a_deep_grey_photo_looks_as_in_eight_bits(tmp_path: Path, name: str) -> None:
    path = tmp_path / "photo.png"
    if name == "16-bit PNG":
        rows = b"".join(b"\0" + (GREYS * 257).astype(">u2").tobytes() for _ in range(4))
        path.write_bytes(png(256, 4, depth=16, rows=rows))
    else:
        numbers: dict[str, Any] = {
            "16-bit TIFF": (GREYS * 257).astype(np.uint16),
            "32-bit TIFF": (GREYS * 257).astype(np.int32),
            "floating-point TIFF": (GREYS / 255).astype(np.float32),
        }
        Image.fromarray(np.tile(numbers[name], (4, 1))).save(path, "TIFF")
    shown = np.asarray(render.load_photo(str(path)))
    assert np.abs(shown[2, :, 1].astype(int) - GREYS).max() <= 1


def test_a_jpeg_of_200_megapixels_is_reduced(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    Image.new("L", (16_320, 12_240), 200).save(path, quality=40)
    photo = render.load_photo(str(path))
    assert photo.size == (4080, 3060)
    assert photo.getpixel((5, 5)) == pytest.approx((200, 200, 200), abs=2)


def test_a_large_png_is_reduced_and_keeps_its_colours_and_its_orientation(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    image = Image.new("P", (4400, 6600), 1)
    image.putpalette([0, 0, 0, 250, 100, 0])
    exif = Image.Exif()
    exif[render.ORIENTATION] = 6
    image.save(path, exif=exif)
    photo = render.load_photo(str(path))
    assert photo.size == (3300, 2200)
    assert photo.getpixel((5, 5)) == (250, 100, 0)


def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(png(20_000, 20_000))
    with pytest.raises(RenderError) as refused:
        render.load_photo(str(path))
    assert refused.value.code == "file_too_large"


def test_a_truncated_jpeg_shows_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    Image.effect_noise((640, 640), 50).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    shown = np.asarray(render.load_photo(str(path)))
    assert shown[:200].std() > 20


def test_a_truncated_png_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    Image.effect_noise((640, 640), 50).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(RenderError) as refused:
        render.load_photo(str(path))
    assert refused.value.code == "invalid_file_format"
