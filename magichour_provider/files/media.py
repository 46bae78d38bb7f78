"""
How long is a voice? ``end_seconds`` may be left out: then the clip ends with the audio, measured here.

A file of ours is read where it lies, and only where its length is written. What a job at Magic Hour has made
is brought into memory, not onto a disk.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import BinaryIO

from tinytag import TinyTag, TinyTagException

from magichour_provider.api.client import MagicHourClient
from magichour_provider.api.inputs import TalkingPhotoInputs, library_audio
from magichour_provider.exceptions import DownloadFailed, InvalidInput
from magichour_provider.files.storage import Source

MOST_BYTES = 64 << 20  # of a job's sound; five minutes of uncompressed stereo
SHORTEST_SECONDS = 0.1  # that a clip may be

# What a file that is not what it says makes its reader trip over; anything else is the storage's own failure.
_BROKEN = (TinyTagException, struct.error, ValueError, LookupError, TypeError, ArithmeticError, EOFError)


def fill_end_seconds(inputs: TalkingPhotoInputs, client: MagicHourClient) -> TalkingPhotoInputs:
    """
    The inputs with the second at which the clip ends. Free.

    :raises InvalidInput: it cannot be measured, or the audio ends before the clip begins; nothing was sent.
    :raises TransferFailed: the file, or the vendor, could not be asked; retryable; nothing was charged.
    """
    if inputs.end_seconds is not None:
        return inputs
    audio = str(inputs.audio_file_path)
    job_id = library_audio(audio)
    seconds = of_job(job_id, client) if job_id else of_file(Source.find("audio_file_path", "audio", audio))
    return TalkingPhotoInputs.checked(inputs.model_dump() | {"end_seconds": seconds})


def of_file(source: Source) -> float:
    """
    Its length in seconds, to the millisecond below.

    :raises InvalidInput: it cannot be measured.
    :raises StorageFailed: it could not be read; retryable.
    """
    with source.opened() as file:
        return _seconds(file, source.uri)


def of_job(job_id: str, client: MagicHourClient) -> float:
    """
    The same, of what a job has made.

    :raises InvalidInput: it cannot be measured; the account does not know the job.
    :raises DownloadFailed: it could not be brought; retryable.
    """
    place = _Memory(job_id)
    try:
        client.download(job_id, place, "audio")
    except DownloadFailed as failed:
        if failed.status_code == 404:
            raise _not_measurable(f"the audio of job {job_id}", str(failed)) from failed
        raise
    place.file.seek(0)
    return _seconds(place.file, f"the audio of job {job_id}")


class _Memory:
    """Where a sound goes to be measured."""

    def __init__(self, job_id: str) -> None:
        self._job_id = job_id
        self.file = BytesIO()

    @contextmanager
    def open_atomic(self) -> Iterator[Callable[[bytes], object]]:
        self.file = BytesIO()
        yield self._write

    def _write(self, chunk: bytes) -> None:
        if self.file.tell() + len(chunk) > MOST_BYTES:
            raise _not_measurable(f"the audio of job {self._job_id}", f"it is larger than {MOST_BYTES} bytes")
        self.file.write(chunk)


def _seconds(file: BinaryIO, what: str) -> float:
    try:
        sound = TinyTag.get(file_obj=file, tags=False)
    except TinyTagException as error:
        if error.__cause__ is not None and not isinstance(error.__cause__, _BROKEN):
            raise error.__cause__ from None
        raise _not_measurable(what, str(error)) from error
    seconds = math.floor((sound.duration or 0.0) * 1000) / 1000
    # Whoever writes a WAV while it is made does not know its length yet, and writes the largest there is.
    bytes_of_sound = seconds * (sound.bitrate or 0.0) * 1000 / 8
    if seconds < SHORTEST_SECONDS or bytes_of_sound > 1.05 * sound.filesize:
        raise _not_measurable(what, f"it says {seconds:g} s in {sound.filesize} bytes")
    return seconds


def _not_measurable(what: str, why: str) -> InvalidInput:
    return InvalidInput.of(
        "end_seconds",
        None,
        f"is needed, since the length of {what} cannot be measured ({why}); give the second at which the "
        "clip ends in the audio",
    )
