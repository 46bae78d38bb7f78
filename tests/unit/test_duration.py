"""How long is audio, and is a file audio at all? FFmpeg makes files of every kind, and tests damage them."""

from __future__ import annotations

import io
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from magichour_provider.api.inputs import EXTENSIONS, TalkingPhotoInputs
from magichour_provider.exceptions import InvalidInput, StorageFailed
from magichour_provider.files import duration, signatures
from magichour_provider.files.storage import Source

NEVER: Any = None  # the client, which only a voice in the vendor's library needs


def encode(
    container: str,
    codec: str,
    seconds: float = 2.5,
    *,
    rate: int = 48_000,
    layout: str = "mono",
    begin: float = 0,
    muxer: dict[str, str] | None = None,
    pictures: int = 0,
    other_tracks: tuple[float, ...] = (),
    into: Any = None,
    **options: str,
) -> bytes:
    """
    A tone; of 0 seconds, none.

    :param begin: the timestamp of its first sample, in seconds.
    :param pictures: of a video track beside it, two a second.
    :param other_tracks: the lengths of more sounds in the file.
    """
    file = into or io.BytesIO()
    with av.open(file, "w", format=container, options=muxer or {}) as out:
        tracks: list[tuple[Any, float]] = []
        for length in filter(None, (seconds, *other_tracks)):
            stream: Any = out.add_stream(codec, rate=rate, options=options)
            stream.layout = layout
            tracks.append((stream, length))
        if pictures:
            video = out.add_stream("mpeg4", rate=2)
            video.width = video.height = 64
            for number in range(pictures):
                picture = av.VideoFrame(64, 64, "yuv420p")
                picture.pts = number
                out.mux(video.encode(picture))
            out.mux(video.encode(None))
        for stream, length in tracks:
            stream.codec_context.open(strict=False)
            resampler = av.AudioResampler(
                stream.format.name, layout, rate, frame_size=stream.codec_context.frame_size or 1024
            )
            tone = 0.4 * np.sin(2 * np.pi * 220 * np.arange(round(length * rate)) / rate)
            frame = av.AudioFrame.from_ndarray(tone.astype(np.float32)[None], format="flt", layout="mono")
            frame.sample_rate = rate
            frame.pts = round(begin * rate)
            for part in [*resampler.resample(frame), *resampler.resample(None), None]:
                out.mux(stream.encode(part))
    return bytes(file.getvalue())


class Pipe:
    """What cannot be rewound: the length in the header stays unknown."""

    def __init__(self) -> None:
        self._written = bytearray()

    def write(self, data: bytes) -> int:
        self._written += data
        return len(data)

    def getvalue(self) -> bytes:
        return bytes(self._written)


def wav(*chunks: bytes, size: int | None = None, seconds: float = 2.5, rate: int = 16_000) -> bytes:
    """
    Silence, 16-bit.

    :param chunks: before the audio, beside its format.
    :param size: what the headers say instead of the true size.
    """
    sound = bytes(2 * round(seconds * rate))
    form = chunk(b"fmt ", struct.pack("<HHIIHH", 1, 1, rate, 2 * rate, 2, 16))
    body = b"WAVE" + form + b"".join(chunks) + chunk(b"data", sound, size)
    return chunk(b"RIFF", body, size)


def chunk(name: bytes, content: bytes, size: int | None = None) -> bytes:
    length = len(content) if size is None else size
    return name + struct.pack("<I", length) + content + bytes(len(content) % 2)


def id3(size: int) -> bytes:
    """A tag with a picture."""
    picture = b"\0image/png\0\3\0\x89PNG\r\n\x1a\n".ljust(size - 20, b"\7")
    frame = b"APIC" + struct.pack(">I", len(picture)) + b"\0\0" + picture
    return b"ID3\3\0\0" + bytes(len(frame) >> shift & 127 for shift in (21, 14, 7, 0)) + frame


def flac_with_picture() -> bytes:
    flac = encode("flac", "flac")
    png = b"\x89PNG\r\n\x1a\n" + bytes(9000)
    picture = struct.pack(">II9sI20xI", 3, 9, b"image/png", 0, len(png)) + png
    head = 4 + 4 + 34  # the marker, and the block with the format
    return flac[:head] + b"\6" + len(picture).to_bytes(3, "big") + picture + flac[head:]


def amr(seconds: float) -> bytes:
    return b"#!AMR\n" + (b"\x04" + bytes(12)) * round(seconds * 50)


def edited(m4a: bytes, seconds: float) -> bytes:
    """The track's edit list says that it is shorter: players stop there."""
    at = m4a.index(b"elst") + 12
    return m4a[:at] + struct.pack(">I", round(seconds * 1000)) + m4a[at + 4 :]


def spoilt(content: bytes, at: int, length: int) -> bytes:
    return content[:at] + b"\x55" * length + content[at + length :]


def mp3(seconds: float = 2.5, **options: Any) -> bytes:
    return encode("mp3", "libmp3lame", seconds, **options)


def vorbis(seconds: float = 2.5, **options: Any) -> bytes:
    return encode("ogg", "vorbis", seconds, layout="stereo", strict="-2", **options)


def opus(seconds: float = 2.5, **options: Any) -> bytes:
    return encode("ogg", "libopus", seconds, **options)


def aac(container: str = "ipod", seconds: float = 2.5, **options: Any) -> bytes:
    return encode(container, "aac", seconds, **options)


NO_TAGS = {"id3v2_version": "0", "write_xing": "0"}

# Kind of file: name, content, seconds of sound that FFmpeg decodes, credits for a realistic clip of it.
SOUNDS: dict[str, tuple[str, Callable[[], bytes], float, int]] = {
    # WAV
    "WAV": ("a.wav", wav, 2.5, 120),
    "WAV of 8 bits": ("a.wav", lambda: encode("wav", "pcm_u8"), 2.5, 120),
    "WAV of 24 bits": ("a.wav", lambda: encode("wav", "pcm_s24le", layout="stereo"), 2.5, 120),
    "WAV, floating point": ("a.wav", lambda: encode("wav", "pcm_f32le"), 2.5, 120),
    "WAV, µ-law": ("a.wav", lambda: encode("wav", "pcm_mulaw", rate=8000), 2.5, 120),
    "WAV, ADPCM": ("a.wav", lambda: encode("wav", "adpcm_ms"), 2.502, 120),
    "WAV, MP3 inside": ("a.wav", lambda: encode("wav", "libmp3lame"), 2.544, 123),
    "WAV from a pipe": ("a.wav", lambda: encode("wav", "pcm_s16le", into=Pipe()), 2.5, 120),
    "WAV of size 0": ("a.wav", lambda: wav(size=0), 2.5, 120),
    "WAV of size 7FFFF000": ("a.wav", lambda: wav(size=0x7FFFF000), 2.5, 120),
    "WAV of size FFFFFFFF": ("a.wav", lambda: wav(size=0xFFFFFFFF), 2.5, 120),
    "WAV, RF64": ("a.wav", lambda: encode("wav", "pcm_s16le", muxer={"rf64": "always"}), 2.5, 120),
    "WAV with more chunks": (
        "a.wav",
        lambda: wav(chunk(b"JUNK", b"odd")) + chunk(b"LIST", b"INFO"),
        2.5,
        120,
    ),
    "WAV, cut": ("a.wav", lambda: wav()[:-48_000], 1.0, 48),
    "WAVs, joined: FFmpeg reads the first": ("a.wav", lambda: wav() + wav(), 2.5, 120),
    # MP3
    "MP3": ("a.mp3", mp3, 2.5, 120),
    "MP3 of 8 kHz": ("a.mp3", lambda: mp3(rate=8000), 2.5, 120),
    "MP3 of 24 kHz": ("a.mp3", lambda: mp3(rate=24_000), 2.5, 120),
    "MP3 without a header": ("a.mp3", lambda: mp3(muxer=NO_TAGS), 2.544, 123),
    "MP3 of a variable bit rate": ("a.mp3", lambda: mp3(muxer=NO_TAGS, flags="+qscale"), 2.544, 123),
    "MP3 with a picture": ("a.mp3", lambda: id3(300_000) + mp3(muxer={"id3v2_version": "0"}), 2.5, 120),
    "MP3s, joined": ("a.mp3", lambda: mp3(3) + mp3(5), 8.041, 386),
    "MP3s, joined, without headers": ("a.mp3", lambda: mp3(muxer=NO_TAGS) * 3, 7.632, 367),
    "MP3s of two sample rates, joined": ("a.mp3", lambda: mp3(rate=24_000) + mp3(rate=48_000), 5.09, 245),
    "MP3 after garbage": ("a.mp3", lambda: bytes(range(1, 200)) * 9 + mp3(), 2.544, 123),
    "MP3 with a hole": ("a.mp3", lambda: spoilt(mp3(5), 9000, 1000), 4.872, 234),
    "MP2 named .mp3": ("a.mp3", lambda: encode("mp2", "mp2"), 2.52, 121),
    # AAC and MP4
    "M4A": ("a.m4a", aac, 2.5, 120),
    "M4A, cut by its edit list": ("a.m4a", lambda: edited(aac(), 1.5), 1.5, 72),
    "M4A, fragmented": (
        "a.m4a",
        lambda: aac("mp4", muxer={"movflags": "frag_keyframe+empty_moov"}),
        2.539,
        122,
    ),
    "M4A with a longer picture track": ("a.m4a", lambda: aac("mp4", pictures=40), 2.5, 120),
    "M4A with two sounds: the first counts": ("a.m4a", lambda: aac("mp4", other_tracks=(9.0,)), 2.5, 120),
    "M4A that begins late": ("a.m4a", lambda: aac("mp4", begin=3), 2.538, 122),
    "M4A, ALAC": ("a.m4a", lambda: encode("ipod", "alac"), 2.5, 120),
    "M4A, MP3 inside": ("a.m4a", lambda: encode("mp4", "libmp3lame"), 2.52, 121),
    "AAC": ("a.aac", lambda: aac("adts"), 2.539, 122),
    "AAC named .m4a": ("a.m4a", lambda: aac("adts"), 2.539, 122),
    "AACs, joined": ("a.aac", lambda: aac("adts") * 3, 7.616, 366),
    # FLAC
    "FLAC": ("a.flac", lambda: encode("flac", "flac"), 2.5, 120),
    "FLAC from a pipe": ("a.flac", lambda: encode("flac", "flac", into=Pipe()), 2.5, 120),
    "FLAC with a picture": ("a.flac", flac_with_picture, 2.5, 120),
    # Ogg
    "Ogg Vorbis": ("a.ogg", vorbis, 2.5, 120),
    "Ogg Opus": ("a.opus", opus, 2.5, 120),
    "Ogg FLAC": ("a.oga", lambda: encode("ogg", "flac"), 2.5, 120),
    "Ogg Opus cut from a stream": ("a.opus", lambda: opus(begin=60), 2.5, 120),
    "Ogg Opus, chained": ("a.opus", lambda: opus(2) + opus(3, muxer={"serial_offset": "7"}), 5.0, 240),
    # WebM
    "WebM Opus": ("a.webm", lambda: encode("webm", "libopus"), 2.5, 120),
    "WebM Vorbis": ("a.weba", lambda: encode("webm", "vorbis", layout="stereo", strict="-2"), 2.5, 120),
    "WebM from a recorder": ("a.webm", lambda: encode("webm", "libopus", into=Pipe()), 2.5, 120),
    # AIFF and AMR
    "AIFF": ("a.aiff", lambda: encode("aiff", "pcm_s16be"), 2.5, 120),
    "AIFF of 24 bits": ("a.aiff", lambda: encode("aiff", "pcm_s24be"), 2.5, 120),
    "AIFF, compressed": ("a.aiff", lambda: encode("aiff", "adpcm_ima_qt"), 2.5, 120),
    "AMR": ("a.amr", lambda: amr(2.5), 2.5, 120),
}


def source(path: str | Path, field: str = "audio_file_path") -> Source:
    return Source.find(field, "image" if field == "image_file_path" else "audio", str(path))


def clip(sound: Path | str, **given: Any) -> TalkingPhotoInputs:
    return TalkingPhotoInputs.checked({"image_file_path": "a.jpg", "audio_file_path": str(sound)} | given)


@pytest.mark.parametrize(("name", "content", "seconds", "credit"), SOUNDS.values(), ids=SOUNDS)
def test_a_sound_is_as_long_and_costs_as_much_as_what_is_decoded(
    tmp_path: Path, name: str, content: Callable[[], bytes], seconds: float, credit: int
) -> None:
    (tmp_path / name).write_bytes(content())
    filled = duration.fill_end_seconds(clip(tmp_path / name), NEVER)
    assert filled.end_seconds == pytest.approx(seconds, abs=0.02)
    assert filled.estimated_credits == pytest.approx(credit, abs=1)
    signatures.check_media_type(source(tmp_path / name))


def test_every_extension_that_the_vendor_takes_is_in_the_table() -> None:
    assert {name.rpartition(".")[2] for name, *_ in SOUNDS.values()} == set(EXTENSIONS["audio"])


def test_a_length_is_never_more_than_there_is(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(wav(seconds=110_249 / 44_100, rate=44_100))  # 2.499977… s
    assert duration.of_file(source(tmp_path / "a.wav")) == 2.499


REFUSED: dict[str, Callable[[], bytes]] = {
    "text": lambda: b"a voice",
    "four bytes": lambda: b"RIFF",
    "noise": lambda: bytes(range(256)) * 100,
    "WAV without a sound": lambda: wav(seconds=0),
    "WAV without a sample rate": lambda: wav(rate=0),
    "WAV of an unknown codec": lambda: wav().replace(b"fmt \x10\0\0\0\1\0", b"fmt \x10\0\0\0\x34\x12"),
    "MP4 without a sound": lambda: encode("mp4", "aac", 0, pictures=4),
    "M4A without its index": lambda: aac()[:8000],
    "Ogg, only its first page": lambda: vorbis()[:60],
}


@pytest.mark.parametrize("content", REFUSED.values(), ids=REFUSED)
def test_audio_that_cannot_be_measured_needs_an_end_and_says_why(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], content: Callable[[], bytes]
) -> None:
    (tmp_path / "a.wav").write_bytes(content())
    with pytest.raises(
        InvalidInput,
        match=r"^end_seconds=None: is needed, because the length of .*a\.wav cannot be measured \(.+\)",
    ):
        duration.fill_end_seconds(clip(tmp_path / "a.wav"), NEVER)
    assert capfd.readouterr().err == "", "FFmpeg is silent"


def test_a_chained_ogg_file_of_two_sample_rates_is_never_measured_in_part(tmp_path: Path) -> None:
    """FFmpeg decodes both parts until version 7, and only the first one from version 8 on."""
    chained = vorbis(2, rate=22_050) + vorbis(3, rate=44_100, muxer={"serial_offset": "7"})
    (tmp_path / "a.ogg").write_bytes(chained)
    try:
        assert duration.of_file(source(tmp_path / "a.ogg")) == pytest.approx(5, abs=0.05)
    except InvalidInput as error:
        assert "chained Ogg" in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    "playlist", ["ffconcat version 1.0\nfile {}", "#EXTM3U\n#EXTINF:3,\n{}\n#EXT-X-ENDLIST"]
)
def test_a_playlist_does_not_reach_other_files(tmp_path: Path, playlist: str) -> None:
    (tmp_path / "secret.wav").write_bytes(wav())
    (tmp_path / "a.mp3").write_text(playlist.format(tmp_path / "secret.wav"))
    with pytest.raises(InvalidInput, match="cannot be measured"):
        duration.of_file(source(tmp_path / "a.mp3"))


def test_a_measurement_without_an_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.wav").write_bytes(wav())
    monkeypatch.setattr(duration, "MAX_MEASURE_SECONDS", -1)
    with pytest.raises(InvalidInput, match=r"cannot be measured \(this takes more than -1 s\)"):
        duration.of_file(source(tmp_path / "a.wav"))


# --- object storage ---


@pytest.fixture
def store(bucket: Any) -> MemoryFileSystem:
    """``memory://`` with a sound of 40 s in it, and nothing else."""
    store = MemoryFileSystem()
    store.pipe("/voices/hello.wav", wav(seconds=40))
    bucket(lambda _: store)
    return store


HELLO = "memory://voices/hello.wav"


@pytest.mark.usefixtures("store")
def test_a_sound_in_an_object_store_is_measured() -> None:
    assert duration.of_file(source(HELLO)) == 40


class Fails(io.BytesIO):
    """A file whose last part cannot be read."""

    def __init__(self, content: bytes, error: BaseException) -> None:
        super().__init__(content)
        self._error = error

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() > 500_000:
            raise self._error
        return super().read(size)


@pytest.fixture
def failing(store: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    content = store.cat("/voices/hello.wav")
    return lambda error: monkeypatch.setattr(store, "open", lambda *_, **__: Fails(content, error))


def test_a_store_that_fails_is_not_taken_for_the_end_of_the_sound(
    failing: Callable[[BaseException], None],
) -> None:
    failing(ConnectionResetError("the store is gone"))
    with pytest.raises(StorageFailed, match="the store is gone") as failed:
        duration.of_file(source(HELLO))
    assert failed.value.retryable


def test_the_timeout_of_a_task_is_not_lost_while_a_sound_is_read(
    failing: Callable[[BaseException], None],
) -> None:
    class TaskTimeout(BaseException):
        """As Airflow's: raised by a signal, wherever the code is."""

    failing(TaskTimeout())
    with pytest.raises(TaskTimeout):
        duration.of_file(source(HELLO))


# --- a clip whose end is given ---


def test_a_clip_within_its_sound_is_read_no_further_than_it_goes(
    failing: Callable[[BaseException], None],
) -> None:
    failing(ConnectionResetError("the store is gone"))
    assert duration.check_clip(clip(HELLO, start_seconds=1, end_seconds=5)) is None


@pytest.mark.parametrize("end", [2.0, 2.5, 3.0])
def test_a_clip_up_to_half_a_second_longer_than_its_sound_is_not_warned_of(
    tmp_path: Path, end: float
) -> None:
    (tmp_path / "a.wav").write_bytes(wav())
    assert duration.check_clip(clip(tmp_path / "a.wav", end_seconds=end)) is None


def test_a_clip_much_longer_than_its_sound_gives_both_lengths_and_what_they_cost(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(wav())
    warning = duration.check_clip(clip(tmp_path / "a.wav", start_seconds=0.5, end_seconds=60))
    assert warning == (
        f"end_seconds=60 is after the end of {tmp_path}/a.wav, which is 2.5 s long: the clip is estimated at "
        "2856 credits, and at 96 (2760 fewer) if it ends with the audio"
    )


@pytest.mark.parametrize("end", [None, 60])
@pytest.mark.parametrize("start", [2.5, 50])
def test_a_clip_that_begins_after_its_sound_is_refused(
    tmp_path: Path, start: float, end: float | None
) -> None:
    (tmp_path / "a.wav").write_bytes(wav())
    inputs = clip(tmp_path / "a.wav", start_seconds=start, end_seconds=end)
    with pytest.raises(
        InvalidInput, match=rf"^start_seconds={start}.*: must be less than 2.5, the length of "
    ):
        duration.check_clip(inputs) if end else duration.fill_end_seconds(inputs, NEVER)


def test_a_clip_of_a_sound_that_cannot_be_measured_is_left_to_the_vendor(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    assert duration.check_clip(clip(tmp_path / "a.wav", start_seconds=50, end_seconds=60)) is None


# --- without PyAV ---


def test_without_pyav_an_end_is_needed_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "av" not in vars(duration), "a worker without PyAV can import this"
    (tmp_path / "a.wav").write_bytes(wav())
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(InvalidInput, match=r"^end_seconds=None: .*airflow-provider-magichour\[media\]"):
        duration.fill_end_seconds(clip(tmp_path / "a.wav"), NEVER)
    assert duration.check_clip(clip(tmp_path / "a.wav", start_seconds=50, end_seconds=60)) is None
    signatures.check_media_type(source(tmp_path / "a.wav"))


# --- what is not audio, or not a photo ---

PHOTOS = {
    "JPEG": b"\xff\xd8\xff\xe0",
    "PNG": b"\x89PNG\r\n\x1a\n",
    "WebP": b"RIFF\x10\0\0\0WEBPVP8 ",
    "TIFF": b"II*\0\x08\0\0\0",
    "BMP": b"BM\x36\0\0\0\0\0\0\0",
    "HEIC": b"\0\0\0\x18ftypheic",
    "AVIF": b"\0\0\0\x1cftypavif",
    "JPEG 2000": b"\0\0\0\x0cjP  \r\n\x87\n",
}
VOICES = {
    "MP3": b"\xff\xfb\x90\x64\0",
    "MP3 with a tag": b"ID3\3\0\0",
    "AAC": b"\xff\xf1\x50\x80",
    "WAV": b"RIFF\x10\0\0\0WAVEfmt ",
    "Ogg": b"OggS\0\2",
    "FLAC": b"fLaC\0\0\0\x22",
    "M4A": b"\0\0\0\x1cftypM4A ",
    "MP4": b"\0\0\0\x1cftypisom",
    "WebM": b"\x1a\x45\xdf\xa3",
    "AIFF": b"FORM\0\0\0\0AIFF",
    "AMR": b"#!AMR\n||||||||",
}
NEITHER = {
    "text": b"hello",
    "text in UTF-8": "Grüße, ☺".encode() * 1000,
    "text in UTF-16": "Grüße, ☺".encode("utf-16"),
    "HTML": b"<html><body>404</body></html>",
    "HTML in Latin-1": "\n<!DOCTYPE html><p>Grüße".encode("latin-1"),
    "XML": b"\xef\xbb\xbf<?xml version='1.0'?><Error/>",
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "JSON": b'{"message": "not found"}',
    "PDF": b"%PDF-1.7\n%\xe2\xe3",
    "ZIP": b"PK\3\4\x14\0",
    "gzip": b"\x1f\x8b\x08\0",
}
UNKNOWN = {"zeros": bytes(100), "noise": bytes(range(128, 256)) * 3, "a null": b"a photo\0"}


@pytest.mark.parametrize(
    ("name", "field", "content"),
    [
        *(("a.mp3", "audio_file_path", content) for content in (VOICES | UNKNOWN).values()),
        *(("a.jpg", "image_file_path", content) for content in (PHOTOS | UNKNOWN).values()),
    ],
    ids=[*(f"voice: {what}" for what in VOICES | UNKNOWN), *(f"photo: {what}" for what in PHOTOS | UNKNOWN)],
)
def test_what_may_be_one_is_left_to_the_vendor(tmp_path: Path, name: str, field: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    signatures.check_media_type(source(tmp_path / name, field))


@pytest.mark.parametrize(
    ("name", "field", "content"),
    [
        *(("a.mp3", "audio_file_path", content) for content in (PHOTOS | NEITHER).values()),
        *(("a.jpg", "image_file_path", content) for content in (VOICES | NEITHER).values()),
    ],
    ids=[*(f"voice: {what}" for what in PHOTOS | NEITHER), *(f"photo: {what}" for what in VOICES | NEITHER)],
)
def test_what_is_plainly_something_else_is_refused(
    tmp_path: Path, name: str, field: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    what = "audio" if field == "audio_file_path" else "a photo"
    with pytest.raises(
        InvalidInput, match=rf"^{field}='.*{name}': begins like an? .+, so it is not {what}; check"
    ):
        signatures.check_media_type(source(tmp_path / name, field))
