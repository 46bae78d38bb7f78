"""
Our end's files, local or in any object store that Airflow can open: finds, checks, reads and writes them.

A path is local (``/data/me.jpg``), or an Airflow object-storage URI (``s3://conn_id@bucket/me.jpg``). Files
are read and written in blocks, so their size does not matter to memory.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Self, TypeVar
from urllib.parse import unquote

from airflow.providers.common.compat.sdk import AirflowNotFoundException, BaseHook
from airflow.sdk import ObjectStoragePath
from airflow.sdk.io import attach
from fsspec.implementations.local import LocalFileSystem

from magichour_provider.api.inputs import MediaType, extension_of
from magichour_provider.api.jobs import JOBS
from magichour_provider.api.wire import clean
from magichour_provider.exceptions import (
    InvalidInput,
    MagicHourError,
    StorageFailed,
    TargetExists,
    shortened,
)

ErrorT = TypeVar("ErrorT", bound=MagicHourError)

CHUNK_BYTES = 1 << 20
BLOCK_BYTES = 8 << 20  # of one request to an object store; S3 takes 10,000 blocks for a file
LONGEST_KEY = 1024  # bytes; of an object's name, on every store that is known here

LOCAL_SCHEMES = ("file", "local")
S3_SCHEMES = ("s3", "s3a", "s3n")
GOOGLE_SCHEMES = ("gs", "gcs")
# Stores that show an object only once its upload is complete.
ATOMIC_OBJECT_SCHEMES = (*S3_SCHEMES, *GOOGLE_SCHEMES, "abfs", "abfss", "adl")

# Of the files that jobs make.
EXTENSIONS = frozenset(extension for spec in JOBS.values() for extension in spec.extensions)
# An id that is a file name everywhere. Windows reserves a few names, on its network drives too.
_SAFE_ID = re.compile(r"(?!(?:con|prn|aux|nul|com\d|lpt\d)$)[a-z0-9][a-z0-9_-]{0,63}", re.IGNORECASE)

_URI = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?:(?P<conn_id>[^/]*)@)?(?P<rest>.*)", re.IGNORECASE)
# A URI that lost slashes (pathlib makes s3:/bucket of s3://bucket), or a Windows path: not a local file.
_BROKEN_URI = re.compile(
    rf"(?:{'|'.join((*LOCAL_SCHEMES, *ATOMIC_OBJECT_SCHEMES))}):|[a-z][a-z0-9+.-]*:[/\\]", re.IGNORECASE
)
_WINDOWS_PATH = re.compile(r"/[a-z]:[/\\]", re.IGNORECASE)
_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f]")
_PASSWORD = re.compile(r"(?<=://)[^/@]*:[^/@]*(?=@)")
_SIGNATURE = re.compile(r"(?<=[?&])([\w-]*(?:signature|credential|token)|sig)=[^&]*", re.IGNORECASE)

# Errors that a retry meets again. Object stores raise some of them without a number.
_BAD_PATHS = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, ValueError)
_BAD_PATH_NUMBERS = (errno.ENAMETOOLONG, errno.ELOOP, errno.EROFS)


def uri_of(output_path: object) -> str:
    """
    An ``output_path`` as text.

    A path object has lost its trailing slash, so its extension decides: with that of a video or a voice it is
    a file, without one it is a folder.

    :raises InvalidInput: it has another extension, or is not a path; nothing was sent.
    """
    if isinstance(output_path, str):
        return _unescaped(output_path)
    if not isinstance(output_path, os.PathLike | ObjectStoragePath):
        raise InvalidInput.of("output_path", output_path, "is not a path; write it as text")
    uri = str(output_path)
    extension = extension_of(uri)
    if extension in EXTENSIONS or uri.endswith("/"):
        return uri
    if extension:
        raise InvalidInput.of(
            "output_path",
            uri,
            "is a path object, which loses a trailing slash, and may be a file or a folder: write it as "
            "text, and end a folder with '/'",
        )
    return f"{uri}/"


def _unescaped(uri: str) -> str:
    """
    A ``file://`` URI as Airflow reads it: without percent escapes.

    ``Path.as_uri()`` and RFC 8089 write a space as ``%20``. Airflow neither writes nor reads escapes, so a
    URI that it gave may have a real percent sign in it: then a file of that name exists.
    """
    if _is_local(uri) and (found := _URI.match(uri)) and not os.path.lexists(found["rest"]):
        return unquote(uri)
    return uri


def _is_local(uri: str) -> bool:
    found = _URI.match(uri)
    return not found or found["scheme"].lower() in LOCAL_SCHEMES


def _masked(uri: str) -> str:
    """A URI without the secrets that people put into one."""
    return _SIGNATURE.sub(r"\1=***", _PASSWORD.sub("***", uri))


def _unusable(field: str, uri: str, remedy: str) -> InvalidInput:
    """The path is wrong as it is written."""
    return InvalidInput.of(field, _masked(uri), remedy)


def _error(error_cls: type[ErrorT], field: str, uri: str, text: str) -> ErrorT:
    """Something is wrong at this path. Of a local one it matters which machine has found that."""
    if _is_local(uri):
        text += f" (on host {socket.gethostname()!r}; a local path must be on a disk that all workers share)"
    return error_cls(f"{field}={shortened(_masked(uri))}: {text}")


@contextmanager
def _translate_errors(field: str, uri: str) -> Iterator[None]:
    """An error of a file system becomes one of ours. File systems raise any class, so all are caught."""
    try:
        yield
    except MagicHourError:
        raise
    except AirflowNotFoundException as error:
        remedy = (
            f"{clean(str(error))}; the part before the @ is an Airflow connection id: create that connection"
        )
        raise _unusable(field, uri, remedy) from error
    except Exception as error:
        text = clean(getattr(error, "strerror", None) or str(error))
        if _is_refusal(error):
            whose = "the file's or folder's permissions" if _is_local(uri) else "the key and its permissions"
            raise _error(InvalidInput, field, uri, f"not allowed ({text}); check {whose}") from error
        if isinstance(error, _BAD_PATHS) or getattr(error, "errno", None) in _BAD_PATH_NUMBERS:
            raise _error(InvalidInput, field, uri, f"{text}; check the path") from error
        text = f"the storage failed ({type(error).__name__}: {text}); a retry may help"
        raise _error(StorageFailed, field, uri, text) from error


def _is_refusal(error: Exception) -> bool:
    """s3fs raises PermissionError, adlfs sets ``status_code``, gcsfs raises ``OSError("Forbidden: …")``."""
    return (
        isinstance(error, PermissionError)
        or getattr(error, "status_code", None) in (401, 403)
        or (isinstance(error, OSError) and str(error).startswith("Forbidden"))
    )


@dataclass(frozen=True)
class _Place:
    """Where the path in a field leads: ``path``, in the file system ``fs``."""

    field: str
    uri: str
    fs: Any
    path: str
    scheme: str = "file"
    conn_id: str | None = None

    @classmethod
    def of(cls, field: str, uri: str) -> Self:
        """
        Not by ``ObjectStoragePath``: it drops a last ``?`` or ``#``, takes the host of ``file://host/x`` for
        a folder, and in Airflow 3.0 and 3.1 does not know ``~`` and resolves a relative path against ``/``.

        :raises InvalidInput: the path is wrong as it is written, or Airflow cannot open this kind of storage.
        """
        if _CONTROL_CHARACTER.search(uri):
            raise _unusable(field, uri, "has a line break or another control character in it; remove it")
        found = _URI.match(uri)
        if not found:
            if _BROKEN_URI.match(uri):
                remedy = "is neither a URI (s3://bucket/me.mp4) nor a local path; write it as text"
                raise _unusable(field, uri, remedy)
            fs = attach("file").fs
            return cls(field, uri, fs, fs._strip_protocol(uri))
        scheme, conn_id, rest = found["scheme"].lower(), found["conn_id"], found["rest"]
        if conn_id and ":" in conn_id:
            remedy = f"has a password in it; keep it in a connection, and write {scheme}://conn_id@bucket/"
            raise _unusable(field, uri, remedy)
        if scheme in LOCAL_SCHEMES and (not rest.startswith("/") or _WINDOWS_PATH.match(rest)):
            raise _unusable(field, uri, "is not a local file's URI; write it like file:///data/me.mp4")
        if scheme in ATOMIC_OBJECT_SCHEMES and rest[:1] in ("", "/"):
            raise _unusable(field, uri, f"names no bucket; write it like {scheme}://bucket/me.mp4")
        try:
            fs = attach(scheme, conn_id).fs
        except (ImportError, ValueError) as error:
            remedy = (
                f"{clean(str(error))}; check the path, and install the Airflow provider for this storage: "
                "apache-airflow-providers-amazon[s3fs] for s3, apache-airflow-providers-google for gs, "
                "apache-airflow-providers-microsoft-azure for abfs"
            )
            raise _unusable(field, uri, remedy) from error
        name = fs.protocol if isinstance(fs.protocol, str) else fs.protocol[0]  # s3n is s3 to s3fs
        return cls(field, uri, fs, fs._strip_protocol(f"{name}://{rest}"), scheme, conn_id)

    def error(self, error_cls: type[ErrorT], text: str) -> ErrorT:
        return _error(error_cls, self.field, self.uri, text)

    @property
    def is_local(self) -> bool:
        return isinstance(self.fs, LocalFileSystem)

    @property
    def is_object_store(self) -> bool:
        return self.scheme in ATOMIC_OBJECT_SCHEMES

    @property
    def bucket_and_key(self) -> tuple[str, str]:
        bucket, key, _ = self.fs.split_path(self.path)
        return bucket, key

    @property
    def folder(self) -> PurePosixPath:
        return PurePosixPath(self.path).parent

    def hidden_name(self, end: str) -> str:
        """For what stands beside this file for a while. It is short, whatever the file's own name is."""
        return f".mh-{_digest(PurePosixPath(self.path).name, 12)}.{end}"

    def temporary_name(self) -> str:
        return self.hidden_name(f"{uuid.uuid4().hex[:8]}.part")

    def stat(self) -> dict[str, Any] | None:
        """What is there, or None. Not ``fs.exists()``, to which every failure of a store is "not there"."""
        if self.conn_id:
            # Some providers go on without a connection that is missing, as somebody else or as nobody.
            BaseHook.get_connection(self.conn_id)
        self.fs.invalidate_cache()  # others write there too
        try:
            found: dict[str, Any] = self.fs.info(self.path)
            return found
        except FileNotFoundError:
            pass
        if self.is_object_store:
            bucket, _ = self.bucket_and_key
            try:
                if self.scheme in GOOGLE_SCHEMES:
                    # Google's roles for objects allow to list them, but not to see the bucket itself.
                    self.fs.call("GET", "b/{}/o", bucket, maxResults=1)
                else:
                    self.fs.info(bucket)
            except FileNotFoundError as error:
                text = f"there is no bucket {shortened(bucket)}; create it, or check the path"
                raise self.error(InvalidInput, text) from error
        return None

    def try_upload(self) -> None:
        """Only S3 can be tried without a trace: an upload is begun there, and given up."""
        bucket, key = self.bucket_and_key
        if len(key.encode()) > LONGEST_KEY:
            raise self.error(InvalidInput, f"an object's name has at most {LONGEST_KEY} bytes; shorten it")
        if self.scheme in S3_SCHEMES:
            try:
                begun = self.fs.call_s3("create_multipart_upload", Bucket=bucket, Key=key)
            except Exception as error:
                if _is_refusal(error):
                    raise
                return  # some stores that speak S3's language have no such uploads
            with suppress(Exception):
                self.fs.abort_mpu(bucket, key, begun["UploadId"])

    def try_temporary_file(self) -> None:
        """Missing folders are made only later, so this goes into the nearest one that exists."""
        if self.path.endswith(("/.", "/..")):
            raise self.error(InvalidInput, "is a folder; let it end in '/'")
        folders = (self.folder, *self.folder.parents)
        nearest = next((folder for folder in folders if self.fs.lexists(str(folder))), folders[-1])
        if not self.fs.isdir(str(nearest)):
            raise self.error(InvalidInput, f"{shortened(str(nearest))} is not a folder; choose another path")
        if self.is_local:
            longest = os.pathconf(nearest, "PC_NAME_MAX")
            names = PurePosixPath(self.path).relative_to(nearest).parts
            if 0 < longest < max(len(os.fsencode(name)) for name in names):
                raise self.error(InvalidInput, f"a file's name has at most {longest} bytes here; shorten it")
        temporary = str(nearest / self.temporary_name())
        try:
            with self.fs.open(temporary, "wb") as file:
                file.write(bytes(CHUNK_BYTES))
        finally:
            with suppress(FileNotFoundError):
                self.fs.rm_file(temporary)


def _digest(text: str, length: int) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:length]


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
        :raises InvalidInput: no such file, an empty one, a folder, no such connection; nothing charged.
        :raises StorageFailed: the store could not be asked; retryable; nothing charged.
        """
        uri = _unescaped(uri)
        with _translate_errors(field, uri):
            place = _Place.of(field, uri)
            found = place.stat()
            if found is None:
                raise place.error(InvalidInput, "there is no such file; check the path")
            if found["type"] == "directory":
                raise place.error(InvalidInput, "is a folder; name a file in it")
            if found["type"] == "other":
                raise place.error(InvalidInput, "is not a regular file; name one that is")
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
        The file, open for reading and seeking.

        :raises StorageFailed: it cannot be read; retryable.
        """
        with _translate_errors(self.field, self.uri), self._open(CHUNK_BYTES) as file:
            yield file

    def chunks(self) -> Iterator[bytes]:
        with _translate_errors(self.field, self.uri):
            left = self.size
            with self._open(BLOCK_BYTES) as file:
                while left and (chunk := file.read(min(CHUNK_BYTES, left))):
                    left -= len(chunk)
                    yield chunk
            if left:
                raise _error(StorageFailed, self.field, self.uri, "became shorter while it was uploaded")

    def _open(self, block_size: int) -> Any:
        """Not ``ObjectStoragePath.open()``, which reports each chunk to Airflow's lineage."""
        place = _Place.of(self.field, self.uri)
        return place.fs.open(place.path, "rb", block_size=block_size)


@dataclass(frozen=True)
class Target:
    """
    Where a video, or a voice, goes.

    :param uri: a file, or, ending in ``/``, a folder. ``uri_of`` makes it of a path object.
    :param replace: a file that is there already may be overwritten.
    """

    uri: str
    replace: bool = False

    @property
    def is_folder(self) -> bool:
        return self.uri.endswith("/")

    @property
    def _place(self) -> _Place:
        return _Place.of("output_path", self.uri)

    def for_job(self, job_id: str, extension: str = "mp4") -> Target:
        """
        The exact file for this job. A file in the folder that bears its id is its own, and is replaced.

        A server says what the id and the extension are. Characters that are unsafe in a file name are
        replaced, and a digest then tells two such ids apart: the file is in the folder, its name is short.
        """
        if not self.is_folder:
            return self
        if not _SAFE_ID.fullmatch(job_id):
            readable = re.sub("[^A-Za-z0-9_-]+", "_", job_id[:40])
            job_id = f"job-{readable}.{_digest(job_id, 16)}"  # no safe id has a dot
        return Target(f"{self.uri}{job_id}.{extension if extension in EXTENSIONS else 'bin'}", replace=True)

    def check(self) -> None:
        """
        Before anything is paid: try what will be done later, and leave nothing behind.

        On a file system a temporary file is written and deleted. On S3 an upload is begun and given up. Other
        object stores are only asked for the bucket and the file.

        :raises TargetExists: a file is there, and ``replace`` is False.
        :raises InvalidInput: no file can be written there.
        :raises StorageFailed: the store failed, or is full; retryable.
        """
        with _translate_errors("output_path", self.uri):
            self._refuse_what_is_there()
            file = _Place.of("output_path", self.for_job("magichour-check").uri)
            if file.is_object_store:
                file.try_upload()
            else:
                file.try_temporary_file()

    def _refuse_what_is_there(self) -> None:
        place = self._place
        found = place.stat()  # of a folder too: to know whether the store answers
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
            raise place.error(TargetExists, "is there already; choose another path, or set replace=True")

    def reserve(self, owner: str, seconds: float) -> None:
        """
        Just before paying: keep other tasks from paying for a file that only one of them can deliver.

        A hidden file beside the target names the owner, until the target is written or ``release`` is called.
        It is made only on a local disk, and only for an exact file that may not be overwritten. In a folder
        each job has a file of its own. In a bucket it would be an object that others see and react to.

        :param owner: the task instance in words: DAG, run, task and map index. Its tries share a reservation.
        :param seconds: after which the reservation of another owner counts as abandoned.
        :raises TargetExists: another task makes this file, or has just made it; nothing charged.
        """
        with _translate_errors("output_path", self.uri):
            place = self._place
            if self.is_folder or self.replace or not place.is_local:
                return
            reservation = _reservation(place)
            reservation.parent.mkdir(parents=True, exist_ok=True)
            while not _create(reservation, owner):
                with suppress(FileNotFoundError):  # it was released meanwhile
                    holder, since = reservation.read_text(), reservation.stat().st_mtime
                    if holder != owner and time.time() - since < seconds:
                        text = (
                            f"{clean(holder) or 'another task'} has been making this file since "
                            f"{datetime.fromtimestamp(since, UTC):%F %T} UTC; choose another path, or delete "
                            f"{reservation.name} beside it if that task is gone"
                        )
                        raise place.error(TargetExists, text)
                    reservation.unlink()
            try:
                self._refuse_what_is_there()
            except BaseException:
                self.release(owner)
                raise

    def release(self, owner: str) -> None:
        """Give the owner's reservation up: no job makes this file."""
        with suppress(OSError, MagicHourError):
            place = self._place
            if place.is_local and (reservation := _reservation(place)).read_text() == owner:
                reservation.unlink()

    @contextmanager
    def open_atomic(self) -> Iterator[Callable[[bytes], object]]:
        """
        Write the file: whole, or, when the block raises, not at all, and nothing is left of it.

        :raises TargetExists: a file has come there meanwhile, and ``replace`` is False.
        :raises InvalidInput: the target has become a folder meanwhile.
        :raises StorageFailed: the store did not take it; retryable.
        """
        with _translate_errors("output_path", self.uri):
            place = self._place
            draft = _ObjectWriter(place) if place.is_object_store else _TempFileWriter(place)

        def write(chunk: bytes) -> None:
            try:
                draft.file.write(chunk)
            except Exception:
                # Entered only now: that costs time, and chunks are many.
                with _translate_errors("output_path", self.uri):
                    raise

        try:
            yield write
            with _translate_errors("output_path", self.uri):
                self._refuse_what_is_there()
                draft.finish()
        except BaseException:
            with suppress(Exception):
                draft.discard()
            raise


def _reservation(place: _Place) -> Path:
    return Path(place.folder / place.hidden_name("reserved"))


def _create(path: Path, text: str) -> bool:
    """False if it exists already. Of several processes, also on several machines, one creates it."""
    try:
        with path.open("x") as file:
            file.write(text)
    except FileExistsError:
        return False
    except OSError:
        path.unlink(missing_ok=True)  # a full disk has taken the file, but not the text
        raise
    return True


class _ObjectWriter:
    """
    An object that its store shows once the upload is complete: no temporary name, no copy.

    Of a process that was killed, and on Azure of any upload that broke, the store keeps blocks that nobody
    sees: on S3 until a lifecycle rule for incomplete uploads deletes them, on Azure for a week.
    """

    def __init__(self, place: _Place) -> None:
        self.file = place.fs.open(place.path, "wb", block_size=BLOCK_BYTES)

    def finish(self) -> None:
        self.file.close()

    def discard(self) -> None:
        try:
            self.file.discard()
        finally:
            self.file.closed = True  # fsspec completes an upload that is garbage-collected open


class _TempFileWriter:
    """A file under a temporary name beside its place, moved there when it is whole."""

    def __init__(self, place: _Place) -> None:
        self._place = place
        self._temporary = str(place.folder / place.temporary_name())
        place.fs.makedirs(str(place.folder), exist_ok=True)
        if place.is_local:
            # An earlier try that was killed has left its part.
            for left in Path(place.folder).glob(place.hidden_name("*.part")):
                left.unlink(missing_ok=True)
            # A system call for each piece from a socket makes a download a tenth slower.
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
