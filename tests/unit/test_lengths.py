"""How long is a voice? Measured against files that are made here, whose length is known."""

from __future__ import annotations

import io
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from magichour_provider.api.inputs import MEASURABLE
from magichour_provider.exceptions import InvalidInput, StorageFailed
from magichour_provider.files import media
from magichour_provider.files.storage import Source

SECONDS = 2.5
# Extension: container and codec as FFmpeg names them. Lossy ones pad the sound with up to a few frames.
CODECS = {
    "mp3": ("mp3", "libmp3lame"),
    "wav": ("wav", "pcm_s16le"),
    "flac": ("flac", "flac"),
    "m4a": ("ipod", "aac"),
    "opus": ("ogg", "libopus"),
    "ogg": ("ogg", "libopus"),
    "oga": ("ogg", "libopus"),
    "aiff": ("aiff", "pcm_s16be"),
}


def write(path: Path, container: str, codec: str) -> Path:
    rate = 48_000
    tone = 0.4 * np.sin(2 * np.pi * 220 * np.arange(round(SECONDS * rate)) / rate)
    with av.open(str(path), "w", format=container) as out:
        stream = out.add_stream(codec, rate=rate)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(tone.astype(np.float32)[None], format="flt", layout="mono")
        frame.sample_rate = rate
        resampler = av.AudioResampler(
            stream.format.name, "mono", rate, frame_size=stream.codec_context.frame_size or 1024
        )
        for part in [*resampler.resample(frame), *resampler.resample(None), None]:
            out.mux(stream.encode(part))
    return path


def measured(path: str | Path) -> float:
    return media.of_file(Source.find("audio_file_path", "audio", str(path)))


@pytest.mark.parametrize("extension", MEASURABLE)
def test_every_kind_that_is_said_to_be_measured_is(tmp_path: Path, extension: str) -> None:
    path = write(tmp_path / f"voice.{extension}", *CODECS[extension])
    assert measured(path) == pytest.approx(SECONDS, abs=0.06)


def test_it_never_says_more_than_there_is(tmp_path: Path) -> None:
    rate, frames = 44_100, 110_249  # 2.499977… s
    with wave.open(str(tmp_path / "voice.wav"), "wb") as out:
        out.setparams((1, 2, rate, 0, "NONE", ""))
        out.writeframes(bytes(2 * frames))
    assert measured(tmp_path / "voice.wav") == 2.499


@pytest.fixture
def store(tmp_path: Path, bucket: Any) -> MemoryFileSystem:
    """``memory://`` with an MP3 in it, and nothing else."""
    store = MemoryFileSystem()
    store.pipe("/voices/hello.mp3", write(tmp_path / "hello.mp3", *CODECS["mp3"]).read_bytes())
    bucket(lambda _: store)
    return store


@pytest.mark.usefixtures("store")
def test_a_file_in_an_object_store_is_measured_where_it_lies() -> None:
    assert measured("memory://voices/hello.mp3") == pytest.approx(SECONDS, abs=0.06)


def spoilt_wav(change: Callable[[bytearray], Any]) -> bytes:
    """A second of silence, and a mistake."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setparams((1, 2, 8000, 0, "NONE", ""))
        out.writeframes(bytes(16_000))
    content = bytearray(file.getvalue())
    change(content)
    return bytes(content)


def of_unknown_length(content: bytearray) -> None:
    """As they are written while the sound is made."""
    content[4:8] = content[40:44] = b"\xff\xff\xff\xff"


@pytest.mark.parametrize(
    "content",
    [
        b"a voice",
        b"RIFF",
        spoilt_wav(of_unknown_length),
        spoilt_wav(lambda content: content.__delitem__(slice(30, None))),
        spoilt_wav(lambda content: content.__setitem__(slice(24, 28), bytes(4))),
        spoilt_wav(lambda content: content.__setitem__(slice(40, 44), bytes(4))),
        b"\xff\xf1\x50\x80\x02\x1f\xfc" + bytes(2000),  # AAC without a container
        b"\xff\xfb" + bytes(3),
        b"OggS" + bytes(40),
        b"\0\0\0\x18ftypM4A " + bytes(40),
    ],
    ids=["text", "4 bytes", "length unknown", "cut", "no rate", "no sound", "AAC", "MP3", "Ogg", "M4A"],
)
def test_what_cannot_be_measured_asks_for_the_end(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "voice.wav"
    path.write_bytes(content)
    with pytest.raises(InvalidInput, match=r"^end_seconds=None: is needed, .*voice\.wav cannot be measured"):
        measured(path)


class Fails(io.BytesIO):
    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() > 0:
            raise ConnectionResetError("the store is gone")
        return super().read(size)


def test_a_store_that_fails_is_not_taken_for_a_broken_file(
    store: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = store.cat("/voices/hello.mp3")
    monkeypatch.setattr(store, "open", lambda *_, **__: Fails(content))
    with pytest.raises(StorageFailed, match="the store is gone") as failed:
        measured("memory://voices/hello.mp3")
    assert failed.value.retryable
