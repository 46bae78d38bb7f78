"""
The length of audio: measured before anything is paid, and for the result of a voice.

FFmpeg's library decodes the audio, and the samples are counted. The length in a header is not used: it is
wrong in files that were joined, truncated or streamed. The library is part of PyAV (the extra ``media``),
which a worker may not have. So it is imported only when audio is measured.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from typing import TYPE_CHECKING, BinaryIO

from magichour_provider.api.client import MagicHourClient
from magichour_provider.api.inputs import TalkingPhotoInputs, is_remote, library_audio
from magichour_provider.exceptions import DownloadFailed, InvalidInput
from magichour_provider.files.storage import Source

if TYPE_CHECKING:
    from av.audio import AudioStream
    from av.container import InputContainer
    from av.packet import Packet

MAX_JOB_BYTES = 64 << 20  # of the audio of a job, in memory; five minutes of uncompressed stereo
MAX_MEASURE_SECONDS = 300  # a machine of 2026 decodes a day of audio in this time
TOLERANCE_SECONDS = 0.5  # a clip that is longer than its audio by more than this gets a warning

# A hostile file must not reach FFmpeg's rarely used readers. A playlist must not open files or the network.
CONTAINER_OPTIONS = {
    "format_whitelist": "aac,aiff,amr,amrnb,amrwb,flac,loas,matroska,mov,mp3,ogg,w64,wav",
    "protocol_whitelist": "none",
}


def fill_end_seconds(inputs: TalkingPhotoInputs, client: MagicHourClient) -> TalkingPhotoInputs:
    """
    The inputs with an ``end_seconds``. If it was left out, it becomes the end of the audio. Free.

    :raises InvalidInput: the audio cannot be measured, or it ends before the clip begins; nothing was sent.
    :raises TransferFailed: the audio could not be read or downloaded; retryable; nothing was charged.
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
            f"is needed, because {error}; give the second of the audio at which the clip ends",
        ) from error
    _check_start(inputs, seconds)
    return TalkingPhotoInputs.checked(inputs.model_dump() | {"end_seconds": seconds})


def check_clip(inputs: TalkingPhotoInputs) -> str | None:
    """
    Compare a clip that has an ``end_seconds`` with its audio, if the audio is a file. Free.

    If the audio cannot be measured, the vendor decides.

    :returns: a warning if the clip ends after its audio, or None.
    :raises InvalidInput: the audio ends before the clip begins; nothing was sent.
    :raises StorageFailed: the audio could not be read; retryable; nothing was charged.
    """
    audio = str(inputs.audio_file_path)
    if inputs.end_seconds is None or is_remote(audio):
        return None
    source = Source.find("audio_file_path", "audio", audio)
    try:
        seconds = of_file(source, until=inputs.end_seconds)
    except InvalidInput:
        return None
    _check_start(inputs, seconds)
    if inputs.end_seconds <= seconds + TOLERANCE_SECONDS:
        return None
    estimate = inputs.estimated_credits
    needed = inputs.model_copy(update={"end_seconds": seconds}).estimated_credits
    assert estimate is not None
    assert needed is not None
    return (
        f"end_seconds={inputs.end_seconds:g} is after the end of {audio}, which is {seconds:g} s long: the "
        f"clip is estimated at {estimate} credits, and at {needed} "
        f"({estimate - needed} fewer) if it ends with the audio"
    )


def _check_start(inputs: TalkingPhotoInputs, seconds: float) -> None:
    if inputs.start >= seconds:
        raise InvalidInput.of(
            "start_seconds",
            inputs.start_seconds,
            f"must be less than {seconds:g}, the length of {inputs.audio_file_path} in seconds",
        )


def of_file(source: Source, until: float = math.inf) -> float:
    """
    The length of the audio of a file in seconds, rounded down to a millisecond.

    :param until: seconds; the audio after this is not decoded.
    :raises InvalidInput: the audio cannot be measured within ``MAX_MEASURE_SECONDS``, or PyAV is not
        installed; nothing was sent.
    :raises StorageFailed: the file could not be read; retryable.
    """
    with source.opened() as file:
        return _measure(file, source.uri, until)


def of_job(job_id: str, client: MagicHourClient) -> float:
    """
    The length of the audio that a job made, like ``of_file``. The audio is downloaded into memory.

    :raises InvalidInput: the audio cannot be measured, or does not exist, or PyAV is not installed; nothing
        was sent.
    :raises DownloadFailed: the audio could not be downloaded; retryable.
    """
    what = f"the audio of job {job_id}"
    target = _Memory(what)
    try:
        client.download(job_id, target, "audio")
    except DownloadFailed as error:
        if error.status_code == 404:
            raise _not_measured(what, str(error)) from error
        raise
    target.file.seek(0)
    return _measure(target.file, what)


class _Memory:
    """A target in memory, for audio that is only measured."""

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


def _measure(file: BinaryIO, what: str, until: float = math.inf) -> float:
    """
    Decode the first audio track of a file.

    :param what: the file, for an error.
    """
    try:
        import av
    except ImportError as error:
        raise _not_measured(
            what, "PyAV is not installed here: pip install 'airflow-provider-magichour[media]'"
        ) from error
    reader = _Reader(file, what)
    try:
        # Not options=, with which some versions of PyAV crash the process if a track begins late.
        with av.open(
            reader, "r", container_options=CONTAINER_OPTIONS, metadata_errors="replace"
        ) as container:
            seconds = _decode(container, until)
    except Exception as error:
        if reader.failure is None:
            why = (
                f"FFmpeg cannot open it as audio: {error.strerror}"
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
        raise ValueError("it contains no audio")
    stream = container.streams.audio[0]
    if stream.codec_context is None:  # some versions of PyAV crash the process when they decode this
        raise ValueError("FFmpeg has no decoder for it")
    samples: Counter[int] = Counter()  # by sample rate, which changes in joined files
    seconds = 0.0
    for packet in _packets(container):
        with suppress(av.FFmpegError):  # like the ffmpeg program, skip a packet that cannot be decoded
            for frame in stream.decode(packet):
                samples[frame.sample_rate] += frame.samples
        seconds = sum(count / rate for rate, count in samples.items())
        if seconds >= until:
            break
    milliseconds = math.floor(seconds * 1000)
    if not milliseconds:
        raise ValueError("none of its audio can be decoded")
    return milliseconds / 1000


def _packets(container: InputContainer) -> Iterator[Packet[AudioStream] | None]:
    """The packets of the first audio track, then None, for which the decoder returns its last frames."""
    import av

    try:
        for packet in container.demux(audio=0):
            if packet.size:
                yield packet
    except av.error.PatchWelcomeError as error:
        raise ValueError("parts of it differ in sample rate or channels, as in a chained Ogg file") from error
    except av.FFmpegError:
        pass  # like the ffmpeg program, treat this as the end of the file
    yield None


class _Reader:
    """
    The file as FFmpeg reads it. FFmpeg treats a failed read as the end of the file, and PyAV may lose the
    exception. So ``failure`` keeps the exception: an error of the storage, or the timeout of a task.
    """

    def __init__(self, file: BinaryIO, what: str) -> None:
        self._file = file
        self._what = what
        self._deadline = time.monotonic() + MAX_MEASURE_SECONDS
        self.failure: BaseException | None = None

    def read(self, size: int) -> bytes:
        if self.failure is None and time.monotonic() > self._deadline:
            self.failure = _not_measured(self._what, f"this takes more than {MAX_MEASURE_SECONDS} s")
        if self.failure is not None:
            return b""
        try:
            return self._file.read(size)
        except BaseException as error:  # noqa: BLE001 (raised by _measure)
            self.failure = error
            return b""

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return self._file.seek(offset, whence)
        except (OSError, ValueError):  # a damaged file may point to before its beginning
            return -1
        except BaseException as error:  # noqa: BLE001 (raised by _measure)
            self.failure = error
            return -1

    def tell(self) -> int:
        return self._file.tell()


def _not_measured(what: str, why: str) -> InvalidInput:
    return InvalidInput(f"the length of {what} cannot be measured ({why})")
