"""
How long is a sound, and is a file a sound or a photo at all? Both are asked before anything is paid.

FFmpeg's library decodes the sound, and the samples are counted. What a header says about the length is not
believed: in files that were joined, cut or streamed it is wrong. The library comes with PyAV (the extra
``media``), which a worker may lack, so it is imported when a sound is measured.
"""

from __future__ import annotations

import codecs
import math
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from typing import TYPE_CHECKING, BinaryIO

from magichour_provider.api.client import MagicHourClient
from magichour_provider.api.inputs import MediaType, TalkingPhotoInputs, is_remote, library_audio
from magichour_provider.exceptions import DownloadFailed, InvalidInput
from magichour_provider.files.storage import Source

if TYPE_CHECKING:
    from av.audio import AudioStream
    from av.container import InputContainer
    from av.packet import Packet

MAX_JOB_BYTES = 64 << 20  # of a job's sound, held in memory; five minutes of uncompressed stereo
MAX_MEASURE_SECONDS = 300  # a machine of 2026 decodes a day of sound in that time
TOLERANCE_SECONDS = 0.5  # by which a clip may be longer than its sound without a warning
HEAD_BYTES = 4096

# A hostile file must not reach FFmpeg's rarely used readers, nor, as a playlist, other files or the network.
CONTAINER_OPTIONS = {
    "format_whitelist": "aac,aiff,amr,amrnb,amrwb,flac,loas,matroska,mov,mp3,ogg,w64,wav",
    "protocol_whitelist": "none",
}

# How files begin, and as what they may be sent. Some containers hold a sound or a video.
SIGNATURES: tuple[tuple[tuple[MediaType, ...], str, bytes], ...] = (
    ((), "a web page or another XML file", rb"(?i)\s*<[!?a-z]"),
    ((), "a PDF file", rb"%PDF-"),
    ((), "a ZIP archive", rb"PK(\x03\x04|\x05\x06)"),
    ((), "a gzip file", rb"\x1f\x8b\x08"),
    (("image",), "a JPEG file", rb"\xff\xd8\xff"),
    (("image",), "a PNG file", rb"\x89PNG\r\n\x1a\n"),
    (("image", "gif"), "a GIF file", rb"GIF8[79]a"),
    (("image", "gif"), "a WebP file", rb"RIFF.{4}WEBP"),
    (("image",), "a TIFF file", rb"II\*\0|MM\0\*"),
    (("image",), "a BMP file", rb"BM.{4}\0{4}"),
    (("image",), "a HEIF or AVIF file", rb".{4}ftyp(hei|hev|mif|msf|avi[fs])"),
    (("image",), "a JPEG 2000 file", rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51"),
    (("audio",), "an MP3 or AAC file", rb"ID3|\xff[\xe2-\xfd]"),
    (("audio",), "a WAV file", rb"(RIFF|RF64).{4}WAVE"),
    (("audio",), "a FLAC file", rb"fLaC"),
    (("audio",), "an Ogg file", rb"OggS"),
    (("audio", "video"), "an MP4 or M4A file", rb".{4}ftyp(M4|mp4|iso|qt|3g|dash|avc1)"),
    (("audio", "video"), "a WebM or Matroska file", rb"\x1a\x45\xdf\xa3"),
    (("audio",), "an AIFF file", rb"FORM.{4}AIF[FC]"),
    (("audio",), "an AMR file", rb"#!AMR"),
)


def check_media_type(source: Source) -> None:
    """
    Refuse what is plainly of another media type, by its first bytes. What begins in a way that is not known
    here is left to the vendor, and so is a file that is damaged.

    :raises InvalidInput: it is something else; nothing was sent.
    :raises StorageFailed: it could not be read; retryable; nothing was sent.
    """
    with source.opened() as file:
        head = file.read(HEAD_BYTES)
    media_types, what = _begins_like(head)
    if what and source.media_type not in media_types:
        name = {"image": "photo", "audio": "sound", "video": "video", "gif": "GIF"}[source.media_type]
        raise InvalidInput.of(
            source.field, source.uri, f"begins like {what}, so it is no {name}; check the path and the file"
        )


def _begins_like(head: bytes) -> tuple[tuple[MediaType, ...], str | None]:
    for media_types, what, pattern in SIGNATURES:
        if re.match(pattern, head, re.DOTALL):
            return media_types, what
    return (), "a text file" if _is_text(head) else None


def _is_text(head: bytes) -> bool:
    """Characters without the control characters that no text has."""
    encoding = "utf-16" if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8"
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(head)
    except UnicodeDecodeError:
        return False
    return not re.search(r"[\0-\x08\x0e-\x1a\x1c-\x1f\x7f]", text)


def fill_end_seconds(inputs: TalkingPhotoInputs, client: MagicHourClient) -> TalkingPhotoInputs:
    """
    The inputs with the second at which the clip ends: if it was left out, the end of the sound. Free.

    :raises InvalidInput: the sound cannot be measured, or it ends before the clip begins; nothing was sent.
    :raises TransferFailed: the sound could not be read or downloaded; retryable; nothing was charged.
    """
    if inputs.end_seconds is not None:
        return inputs
    audio = str(inputs.audio_file_path)
    job_id = library_audio(audio)
    source = None if job_id else Source.find("audio_file_path", "audio", audio)
    try:
        seconds = of_file(source) if source else of_job(str(job_id), client)
    except InvalidInput as error:
        raise InvalidInput.of(
            "end_seconds",
            None,
            f"is needed, since {error}; give the second at which the clip ends in the sound",
        ) from error
    _check_start(inputs, seconds)
    return TalkingPhotoInputs.checked(inputs.model_dump() | {"end_seconds": seconds})


def check_clip(inputs: TalkingPhotoInputs) -> str | None:
    """
    Hold a clip whose end was given against its sound, if that is a file. Free.

    A sound that cannot be measured is left to the vendor.

    :returns: a warning: the clip ends after its sound.
    :raises InvalidInput: the sound ends before the clip begins; nothing was sent.
    :raises StorageFailed: the sound could not be read; retryable; nothing was charged.
    """
    audio = str(inputs.audio_file_path)
    if inputs.end_seconds is None or is_remote(audio):
        return None
    source = Source.find("audio_file_path", "audio", audio)
    try:
        seconds = _of_file(source, until=inputs.end_seconds)
    except InvalidInput:
        return None
    _check_start(inputs, seconds)
    if inputs.end_seconds <= seconds + TOLERANCE_SECONDS:
        return None
    needed = inputs.model_copy(update={"end_seconds": seconds}).estimated_credits
    return (
        f"end_seconds={inputs.end_seconds:g} is after the end of {audio}, which is {seconds:g} s long: the "
        f"clip is estimated at {inputs.estimated_credits} credits, and at {needed} "
        f"({inputs.estimated_credits - needed} fewer) if it ends with the sound"
    )


def _check_start(inputs: TalkingPhotoInputs, seconds: float) -> None:
    if inputs.start >= seconds:
        raise InvalidInput.of(
            "start_seconds",
            inputs.start_seconds,
            f"must be less than {seconds:g}, the length of {inputs.audio_file_path} in seconds",
        )


def of_file(source: Source) -> float:
    """
    The length of a sound in seconds, to the millisecond below. Up to ``MAX_MEASURE_SECONDS`` are spent on it.

    :raises InvalidInput: it cannot be measured, or PyAV is not installed; nothing was sent.
    :raises StorageFailed: it could not be read; retryable.
    """
    return _of_file(source)


def _of_file(source: Source, until: float = math.inf) -> float:
    with source.opened() as file:
        return _seconds(file, source.uri, until)


def of_job(job_id: str, client: MagicHourClient) -> float:
    """
    The length of the sound that a job has made, likewise. It is downloaded into memory.

    :raises InvalidInput: it cannot be measured, or is not there, or PyAV is not installed; nothing was sent.
    :raises DownloadFailed: it could not be downloaded; retryable.
    """
    what = f"the sound of job {job_id}"
    target = _Memory(what)
    try:
        client.download(job_id, target, "audio")
    except DownloadFailed as error:
        if error.status_code == 404:
            raise _not_measured(what, str(error)) from error
        raise
    target.file.seek(0)
    return _seconds(target.file, what)


class _Memory:
    """A target that a sound is downloaded to in order to be measured."""

    def __init__(self, what: str) -> None:
        self._what = what
        self.file = BytesIO()

    @contextmanager
    def open_atomic(self) -> Iterator[Callable[[bytes], object]]:
        self.file = BytesIO()
        yield self._write

    def _write(self, chunk: bytes) -> None:
        if self.file.tell() + len(chunk) > MAX_JOB_BYTES:
            raise _not_measured(self._what, f"it is larger than {MAX_JOB_BYTES} bytes")
        self.file.write(chunk)


def _seconds(file: BinaryIO, what: str, until: float = math.inf) -> float:
    """
    Decode the first sound in a file.

    :param until: seconds after which the rest does not matter.
    """
    try:
        import av
    except ImportError as error:
        raise _not_measured(
            what, "PyAV is not installed here: pip install 'airflow-provider-magichour[media]'"
        ) from error
    reader = _Reader(file, what)
    try:
        # Not options=, with which some versions of PyAV crash the process over a track that begins late.
        with av.open(
            reader, "r", container_options=CONTAINER_OPTIONS, metadata_errors="replace"
        ) as container:
            seconds = _decode(container, until)
    except Exception as error:
        if reader.failure is None:
            why = (
                f"FFmpeg cannot open it as a sound: {error.strerror}"
                if isinstance(error, av.FFmpegError)
                else str(error)
            )
            raise _not_measured(what, why) from error
    if reader.failure is not None:
        raise reader.failure
    return seconds


def _decode(container: InputContainer, until: float) -> float:
    import av

    if not container.streams.audio:
        raise ValueError("there is no sound in it")
    stream = container.streams.audio[0]
    if stream.codec_context is None:  # some versions of PyAV crash the process if they are to decode it
        raise ValueError("FFmpeg has no decoder for it")
    samples: Counter[int] = Counter()  # by sample rate, which changes in files that were joined
    seconds = 0.0
    for packet in _packets(container):
        with suppress(av.FFmpegError):  # the ffmpeg program too skips a packet that cannot be decoded
            for frame in stream.decode(packet):
                samples[frame.sample_rate] += frame.samples
        seconds = sum(count / rate for rate, count in samples.items())
        if seconds >= until:
            break
    milliseconds = math.floor(seconds * 1000)
    if not milliseconds:
        raise ValueError("nothing in it can be decoded")
    return milliseconds / 1000


def _packets(container: InputContainer) -> Iterator[Packet[AudioStream] | None]:
    """The packets of the first sound; at last None, for which the decoder gives what it has held back."""
    import av

    try:
        for packet in container.demux(audio=0):
            if packet.size:
                yield packet
    except av.error.PatchWelcomeError as error:
        raise ValueError("parts of it differ in sample rate or channels, as in a chained Ogg file") from error
    except av.FFmpegError:
        pass  # to the ffmpeg program too, this is the end of the file
    yield None


class _Reader:
    """
    The file as FFmpeg reads it. FFmpeg takes a read that fails for the end of the file, and PyAV may lose
    what is raised in it, so ``failure`` keeps that: an error of the storage, or the timeout of a task.
    """

    def __init__(self, file: BinaryIO, what: str) -> None:
        self._file = file
        self._what = what
        self._deadline = time.monotonic() + MAX_MEASURE_SECONDS
        self.failure: BaseException | None = None

    def read(self, size: int) -> bytes:
        if self.failure is None and time.monotonic() > self._deadline:
            self.failure = _not_measured(self._what, f"that takes more than {MAX_MEASURE_SECONDS} s")
        if self.failure is not None:
            return b""
        try:
            return self._file.read(size)
        except BaseException as error:  # noqa: BLE001 (raised by _seconds)
            self.failure = error
            return b""

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return self._file.seek(offset, whence)
        except (OSError, ValueError):  # a damaged file points to before its beginning
            return -1
        except BaseException as error:  # noqa: BLE001 (likewise)
            self.failure = error
            return -1

    def tell(self) -> int:
        return self._file.tell()


def _not_measured(what: str, why: str) -> InvalidInput:
    return InvalidInput(f"the length of {what} cannot be measured ({why})")
