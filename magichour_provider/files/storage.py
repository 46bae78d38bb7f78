"""
Finds, checks, reads and writes files, local or in any object store that Airflow can open.

Files are read and written in blocks, so large files need little memory.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from magichour_provider.api.inputs import MediaType, extension_of
from magichour_provider.exceptions import InvalidInput, MagicHourError, StorageFailed, TargetExists
from magichour_provider.files.places import (
    RESULT_EXTENSIONS,
    S3_SCHEMES,
    Place,
    digest,
    error_at,
    is_refusal,
    translate_errors,
    unescaped,
)
from magichour_provider.text import clean, shortened

CHUNK_BYTES = 1 << 20
BLOCK_BYTES = 8 << 20  # the size of one request to an object store; S3 accepts 10,000 blocks for a file
MAX_KEY_BYTES = 1024  # the longest name of an object that every known store accepts

# An id that is a valid file name on every system. Windows reserves a few names, also on network drives.
_SAFE_ID = re.compile(r"(?!(?:con|prn|aux|nul|com\d|lpt\d)$)[a-z0-9][a-z0-9_-]{0,63}", re.IGNORECASE)


@dataclass(frozen=True)
class Source:
    """A file to upload; ``size`` in bytes."""

    field: str
    media_type: MediaType
    uri: str
    size: int

    @classmethod
    def find(cls, field: str, media_type: MediaType, uri: str) -> Source:
        """
        Find a file, and its size.

        :raises InvalidInput: there is no such file or connection, or it is an empty file or a folder; nothing
            was charged.
        :raises StorageFailed: the store failed; retryable; nothing was charged.
        """
        uri = unescaped(uri)
        with translate_errors(field, uri):
            place = Place.of(field, uri)
            found = place.stat()
            if found is None:
                raise place.error(InvalidInput, "there is no such file; check the path")
            if found["type"] == "directory":
                raise place.error(InvalidInput, "is a folder; name a file in it")
            if found["type"] == "other":
                raise place.error(InvalidInput, "is not a regular file; name a regular file")
            size = int(found["size"])
            if size == 0:
                raise place.error(InvalidInput, "is an empty file; write it again")
        return cls(field, media_type, uri, size)

    @property
    def extension(self) -> str:
        return extension_of(self.uri)

    @contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        """
        The file, opened for reading and seeking.

        :raises StorageFailed: the file cannot be read; retryable.
        """
        with translate_errors(self.field, self.uri), self._open(CHUNK_BYTES) as file:
            yield file

    def chunks(self) -> Iterator[bytes]:
        with translate_errors(self.field, self.uri):
            left = self.size
            with self._open(BLOCK_BYTES) as file:
                while left and (chunk := file.read(min(CHUNK_BYTES, left))):
                    left -= len(chunk)
                    yield chunk
            if left:
                raise error_at(StorageFailed, self.field, self.uri, "became shorter while it was uploaded")

    def _open(self, block_size: int) -> Any:
        """This does not use ``ObjectStoragePath.open()``, which reports each chunk to Airflow's lineage."""
        place = Place.of(self.field, self.uri)
        return place.fs.open(place.path, "rb", block_size=block_size)


@dataclass(frozen=True)
class Target:
    """
    The file or folder to which the result of a job is written.

    :param uri: a file, or a folder if it ends in ``/``. ``uri_of`` turns a path object into such a URI.
    :param replace: may an existing file be overwritten?
    """

    uri: str
    replace: bool = False

    @property
    def is_folder(self) -> bool:
        return self.uri.endswith("/")

    @property
    def _place(self) -> Place:
        return Place.of("output_path", self.uri)

    def for_job(self, job_id: str, extension: str = "mp4") -> Target:
        """
        The exact file for this job. In a folder, a file with the job's id in its name belongs to the job, so
        it may be replaced.

        The id and the extension come from a server. So characters that are unsafe in a file name are
        replaced, and a digest makes the new name unique. The file stays in the folder, and its name is short.
        """
        if not self.is_folder:
            return self
        if not _SAFE_ID.fullmatch(job_id):
            readable = re.sub("[^A-Za-z0-9_-]+", "_", job_id[:40])
            job_id = f"job-{readable}.{digest(job_id, 16)}"  # no safe id has a dot
        return Target(
            f"{self.uri}{job_id}.{extension if extension in RESULT_EXTENSIONS else 'bin'}", replace=True
        )

    def check(self) -> None:
        """
        Test before the payment that the file can be written later. The test leaves no file.

        On a file system this writes and deletes a temporary file. On S3 it starts and aborts an upload. On
        other object stores it only looks for the bucket and the file.

        :raises TargetExists: the file exists, and ``replace`` is False.
        :raises InvalidInput: the file cannot be written.
        :raises StorageFailed: the store failed, or is full; retryable.
        """
        with translate_errors("output_path", self.uri):
            self._check_existing()
            file = Place.of("output_path", self.for_job("magichour-check").uri)
            if file.is_object_store:
                _try_upload(file)
            else:
                _try_temporary_file(file)

    def _check_existing(self) -> None:
        place = self._place
        found = place.stat()  # also for a folder: this shows whether the store answers
        if found is None:
            return
        if self.is_folder:
            if found["type"] != "directory" and not place.is_object_store:
                raise place.error(InvalidInput, "is a file, not a folder; choose another path")
        elif found["type"] == "directory":
            raise place.error(InvalidInput, "is a folder; let it end in '/'")
        elif found["type"] == "other":
            raise place.error(InvalidInput, "is not a regular file; choose another path")
        elif not self.replace:
            raise place.error(TargetExists, "exists already; choose another path, or set replace=True")

    def reserve(self, owner: str, seconds: float) -> bool:
        """
        Reserve the file just before the paid call. Only one of several tasks can deliver the file, so the
        other tasks must not pay for it.

        A hidden file beside the target names the owner, until the target is written or ``release`` is called.
        This is only done on a local disk, and only for an exact file that must not be overwritten. In a
        folder each job has its own file. In a bucket the hidden file would be an object that other programs
        react to.

        :param owner: the task instance as text: DAG, run, task and map index. Its tries share a reservation.
        :param seconds: how long the reservation is valid for other owners.
        :returns: False if nothing needs to be reserved.
        :raises TargetExists: another task makes this file, or has just made it; nothing was charged.
        """
        with translate_errors("output_path", self.uri):
            place = self._place
            if self.is_folder or self.replace or not place.is_local:
                return False
            reservation = _reservation(place)
            reservation.parent.mkdir(parents=True, exist_ok=True)
            while not _create(reservation, f"{owner}\n{time.time() + seconds:.0f}"):
                with suppress(FileNotFoundError):  # its owner has just released it
                    holder, until = _holder(reservation)
                    if holder != owner and time.time() < until:
                        raise place.error(
                            TargetExists,
                            f"{clean(holder) or 'another task'} makes this file, and has reserved it until "
                            f"{datetime.fromtimestamp(until, UTC):%F %T} UTC; choose another path, or delete "
                            f"{reservation.name} beside it if that task does not run any more",
                        )
                    reservation.unlink()
            try:
                self._check_existing()
            except BaseException:
                self.release(owner)
                raise
            return True

    def release(self, owner: str) -> None:
        """Delete the owner's reservation, because no job makes this file."""
        with suppress(OSError, MagicHourError):
            place = self._place
            if place.is_local and _holder(reservation := _reservation(place))[0] == owner:
                reservation.unlink()

    @contextmanager
    def open_atomic(self) -> Iterator[Callable[[bytes], object]]:
        """
        Write the complete file. If the block raises, nothing is written.

        :raises TargetExists: the file exists now, and ``replace`` is False.
        :raises InvalidInput: the target is a folder now.
        :raises StorageFailed: the store did not accept the file; retryable.
        """
        with translate_errors("output_path", self.uri):
            place = self._place
            draft = _ObjectWriter(place) if place.is_object_store else _TempFileWriter(place)

        def write(chunk: bytes) -> None:
            try:
                draft.file.write(chunk)
            except Exception:
                # Enter translate_errors only after an error: to enter it for every chunk would be slow.
                with translate_errors("output_path", self.uri):
                    raise

        try:
            yield write
            with translate_errors("output_path", self.uri):
                self._check_existing()
                draft.finish()
        except BaseException:
            with suppress(Exception):
                draft.discard()
            raise


def _try_upload(place: Place) -> None:
    """Test an upload. This is possible only on S3, where an upload can be started and aborted."""
    bucket, key = place.bucket_and_key
    if len(key.encode()) > MAX_KEY_BYTES:
        raise place.error(InvalidInput, f"an object's name has at most {MAX_KEY_BYTES} bytes; shorten it")
    if place.scheme not in S3_SCHEMES:
        return
    try:
        begun = place.fs.call_s3("create_multipart_upload", Bucket=bucket, Key=key)
    except Exception as error:
        if is_refusal(error):
            raise
        return  # some stores with S3's API have no such uploads
    with suppress(Exception):
        place.fs.abort_mpu(bucket, key, begun["UploadId"])


def _try_temporary_file(place: Place) -> None:
    """Write a file to the nearest folder that exists, because missing folders are only made later."""
    if place.path.endswith(("/.", "/..")):
        raise place.error(InvalidInput, "is a folder; let it end in '/'")
    folders = (place.folder, *place.folder.parents)
    nearest = next((folder for folder in folders if place.fs.lexists(str(folder))), folders[-1])
    if not place.fs.isdir(str(nearest)):
        raise place.error(InvalidInput, f"{shortened(str(nearest))} is not a folder; choose another path")
    if place.is_local:
        longest = os.pathconf(nearest, "PC_NAME_MAX")
        names = PurePosixPath(place.path).relative_to(nearest).parts
        if 0 < longest < max(len(os.fsencode(name)) for name in names):
            raise place.error(InvalidInput, f"a file's name has at most {longest} bytes here; shorten it")
    temporary = str(nearest / place.temporary_name())
    try:
        with place.fs.open(temporary, "wb") as file:
            file.write(bytes(CHUNK_BYTES))
    finally:
        with suppress(FileNotFoundError):
            place.fs.rm_file(temporary)


def _reservation(place: Place) -> Path:
    return Path(place.folder / place.hidden_name("reserved"))


def _holder(reservation: Path) -> tuple[str, float]:
    """
    The owner of a reservation and its expiry, in seconds since the epoch. An unreadable reservation expires
    after a day.
    """
    holder, _, until = reservation.read_text(errors="replace").partition("\n")
    return holder, float(until) if until.isdecimal() else reservation.stat().st_mtime + 86_400


def _create(path: Path, text: str) -> bool:
    """
    Create a file. Only one of several processes creates it, also if they are on several machines.

    :returns: False if the file exists already.
    """
    try:
        with path.open("x") as file:
            file.write(text)
    except FileExistsError:
        return False
    except OSError:
        path.unlink(missing_ok=True)  # a full disk may have created the file, but not the text in it
        raise
    return True


class _ObjectWriter:
    """
    An object that its store shows only when the upload is complete. So it needs no temporary name and no
    copy.

    If the process is killed, the store keeps the blocks that were sent, but does not show them. S3 keeps them
    until a lifecycle rule for incomplete uploads deletes them. Azure keeps them for a week, also after a
    failed upload.
    """

    def __init__(self, place: Place) -> None:
        self.file = place.fs.open(place.path, "wb", block_size=BLOCK_BYTES)

    def finish(self) -> None:
        self.file.close()

    def discard(self) -> None:
        try:
            self.file.discard()
        finally:
            self.file.closed = True  # otherwise fsspec completes an open upload when it is garbage-collected


class _TempFileWriter:
    """A file with a temporary name beside its place. It is moved to its place when it is complete."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._temporary = str(place.folder / place.temporary_name())
        place.fs.makedirs(str(place.folder), exist_ok=True)
        if place.is_local:
            # Delete the incomplete file of an earlier try that was killed.
            for left in Path(place.folder).glob(place.temporary_name("*")):
                left.unlink(missing_ok=True)
            # With a buffer, because a system call for each piece from a socket makes a download a tenth
            # slower.
            self.file: Any = Path(self._temporary).open("wb", buffering=CHUNK_BYTES)  # noqa: SIM115
        else:
            self.file = place.fs.open(self._temporary, "wb")

    def finish(self) -> None:
        self.file.close()
        try:
            self._place.fs.mv(self._temporary, self._place.path)
        except FileNotFoundError as error:
            raise self._place.error(
                StorageFailed,
                "the temporary file was deleted by another try of this task that downloads the same file, or "
                "with its folder; a retry may help",
            ) from error
        if self._place.is_local:
            _reservation(self._place).unlink(missing_ok=True)

    def discard(self) -> None:
        with suppress(Exception):
            self.file.close()
        self._place.fs.rm_file(self._temporary)
