"""
Files at our end, local or in any object store that Airflow can open: found, checked, read and written.

A path is local (``/data/me.jpg``), or an Airflow object-storage URI (``s3://conn_id@bucket/me.jpg``). Files
are read and written in blocks, so their size does not matter to memory.
"""

from __future__ import annotations

import glob
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from airflow.providers.common.compat.sdk import AirflowNotFoundException, BaseHook
from airflow.sdk import ObjectStoragePath
from fsspec.implementations.local import LocalFileSystem, make_path_posix

from magichour_provider.api.inputs import MediaType, extension_of
from magichour_provider.exceptions import InvalidInput, MagicHourError, StorageFailed, TargetExists

CHUNK_BYTES = 1 << 20
BLOCK_BYTES = 8 << 20  # of one request to an object store; S3 takes 10,000 blocks for a file

# Stores that show an object only once its upload is complete.
ATOMIC_OBJECT_SCHEMES = ("s3", "s3a", "s3n", "gs", "gcs", "abfs", "abfss", "adl")
GOOGLE = ("gs", "gcs")


@contextmanager
def _translate_errors(field: str, uri: str) -> Iterator[None]:
    """What a file system throws, in our words. Back ends throw what they like, so everything is caught."""
    try:
        yield
    except MagicHourError:
        raise
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise InvalidInput.of(field, uri, f"{error.strerror or error}; check the path") from error
    except AirflowNotFoundException as error:
        raise InvalidInput.of(
            field, uri, f"{error}; the part before the @ is an Airflow connection id: create that connection"
        ) from error
    except (ImportError, ValueError) as error:
        raise InvalidInput.of(
            field,
            uri,
            f"{error}; check the path, and install the Airflow provider for this kind of storage: "
            "apache-airflow-providers-amazon[s3fs] for s3, apache-airflow-providers-google for gs, "
            "apache-airflow-providers-microsoft-azure for abfs",
        ) from error
    except Exception as error:
        if _is_refusal(error):
            raise InvalidInput.of(
                field, uri, f"not allowed ({error}); check the key and the permissions of whoever asks"
            ) from error
        raise StorageFailed(
            f"{field}={uri!r}: the storage did not answer as it should ({type(error).__name__}: {error}); "
            "a retry may help"
        ) from error


def _is_refusal(error: Exception) -> bool:
    """S3's library has an error for it, Azure's a status, Google's a word."""
    return (
        isinstance(error, PermissionError)
        or getattr(error, "status_code", None) in (401, 403)
        or (isinstance(error, OSError) and str(error).startswith("Forbidden"))
    )


def _path(uri: str) -> ObjectStoragePath:
    """To Airflow 3.0 and 3.1 a relative path begins at the root, and ``~`` is a name; so they get neither."""
    return ObjectStoragePath(uri if "://" in uri else make_path_posix(uri))


def _stat(field: str, uri: str) -> dict[str, Any] | None:
    """What is there, or None. Not ``path.exists()``, to which every failure of a store is "not there"."""
    path = _path(uri)
    # Airflow 3.0 and 3.1 keep it among the options.
    conn_id = getattr(path, "conn_id", None) or path.storage_options.get("conn_id")
    if conn_id:
        # Some providers go on without a connection that is missing, as somebody else or as nobody.
        BaseHook.get_connection(conn_id)
    path.fs.invalidate_cache()  # others write there too
    try:
        found: dict[str, Any] = path.fs.info(path.path)
        return found
    except FileNotFoundError:
        pass
    if path.protocol in ATOMIC_OBJECT_SCHEMES:
        bucket = path.path.partition("/")[0]
        try:
            if path.protocol in GOOGLE:
                # Its roles for objects may list them, but not look at the bucket itself.
                path.fs.call("GET", "b/{}/o", bucket, maxResults=1)
            else:
                path.fs.info(bucket)
        except FileNotFoundError as error:
            raise InvalidInput.of(
                field, uri, f"there is no bucket {bucket!r}; create it, or check the path"
            ) from error
    return None


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
        :raises InvalidInput: no such file, an empty one, a folder, no such connection.
        :raises StorageFailed: the store could not be asked; retryable.
        """
        with _translate_errors(field, uri):
            found = _stat(field, uri)
            if found is None:
                raise InvalidInput.of(field, uri, "there is no such file; check the path")
            if found["type"] == "directory":
                raise InvalidInput.of(field, uri, "is a folder; name a file in it")
            size = int(found["size"])
            if size == 0:
                raise InvalidInput.of(field, uri, "is an empty file; write it again")
        return cls(field, media_type, uri, size)

    @property
    def extension(self) -> str:
        return extension_of(self.uri)

    @contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        """
        The file, to look around in it.

        :raises StorageFailed: it cannot be read; retryable.
        """
        with _translate_errors(self.field, self.uri):
            path = _path(self.uri)
            with path.fs.open(path.path, "rb", block_size=CHUNK_BYTES) as file:
                yield file

    def chunks(self) -> Iterator[bytes]:
        with _translate_errors(self.field, self.uri):
            left = self.size
            # Not path.open(), which tells Airflow's lineage of each chunk; the operator tells of the file.
            path = _path(self.uri)
            with path.fs.open(path.path, "rb", block_size=BLOCK_BYTES) as file:
                while left and (chunk := file.read(min(CHUNK_BYTES, left))):
                    left -= len(chunk)
                    yield chunk
            if left:
                raise StorageFailed(f"{self.field}={self.uri!r}: became shorter while it was uploaded")


@dataclass(frozen=True)
class Target:
    """
    Where a video, or a voice, goes.

    :param uri: exact, or, ending in ``/``, a folder.
    :param replace: a file that is there already may be overwritten.
    """

    uri: str
    replace: bool = False

    def check(self) -> None:
        """
        Before anything is paid: can the file go there?

        :raises TargetExists: a file is there, and ``replace`` is False.
        :raises StorageFailed: the store could not be asked; retryable.
        """
        with _translate_errors("output_path", self.uri):
            found = _stat("output_path", self.uri)  # a folder too: to know whether the store answers
            self._check_local_folder()
            if self.is_folder or found is None:
                return
            if found["type"] == "directory":
                raise InvalidInput.of("output_path", self.uri, "is a folder; let it end in '/'")
            if not self.replace:
                raise TargetExists.of(
                    "output_path", self.uri, "is there already; choose another path, or set replace=True"
                )

    def _check_local_folder(self) -> None:
        """Missing folders are made once the file is there; but may they be?"""
        path = _path(self.uri)
        if isinstance(path.fs, LocalFileSystem):
            place = Path(path.path).absolute()
            folder = place if self.is_folder else place.parent
            there = next(known for known in (folder, *folder.parents) if known.exists())
            if not os.access(there, os.W_OK | os.X_OK):
                raise InvalidInput.of(
                    "output_path", self.uri, f"the folder {there} may not be written to; choose another"
                )

    @property
    def is_folder(self) -> bool:
        return self.uri.endswith("/")

    def for_job(self, job_id: str, extension: str = "mp4") -> Target:
        """The exact file for this job. A file in the folder that bears its id is its own, and is replaced."""
        return Target(f"{self.uri}{job_id}.{extension}", replace=True) if self.is_folder else self

    @contextmanager
    def open_atomic(self) -> Iterator[Callable[[bytes], object]]:
        """
        Whole, or, when the block raises, not at all, and nothing is left of it.

        :raises TargetExists: a file has come there meanwhile, and ``replace`` is False.
        :raises StorageFailed: the store did not take it; retryable.
        """
        with _translate_errors("output_path", self.uri):
            path = _path(self.uri)
            draft = _ObjectWriter(path) if path.protocol in ATOMIC_OBJECT_SCHEMES else _TempFileWriter(path)

        def write(chunk: bytes) -> None:
            try:
                draft.file.write(chunk)
            except Exception:
                with _translate_errors(
                    "output_path", self.uri
                ):  # only now: to enter it costs, and chunks are many
                    raise

        try:
            yield write
            with _translate_errors("output_path", self.uri):
                self.check()
                draft.finish()
        except BaseException:
            with suppress(Exception):
                draft.discard()
            raise


class _ObjectWriter:
    """
    An object that its store shows once the upload is complete: no temporary name, no copy.

    Of a process that was killed, and on Azure of any upload that broke, the store keeps blocks that nobody
    sees: on S3 until a lifecycle rule for incomplete uploads sweeps them away, on Azure for a week.
    """

    def __init__(self, path: ObjectStoragePath) -> None:
        self.file = path.fs.open(path.path, "wb", block_size=BLOCK_BYTES)

    def finish(self) -> None:
        self.file.close()

    def discard(self) -> None:
        try:
            self.file.discard()
        finally:
            self.file.closed = True  # fsspec completes an upload that is garbage-collected open


class _TempFileWriter:
    """A file under a temporary name beside its place, moved there when it is whole."""

    def __init__(self, path: ObjectStoragePath) -> None:
        self._path = path
        self._part = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.part"
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(path.fs, LocalFileSystem):
            # A process that was killed has left its part.
            for left in Path(path.path).parent.glob(f".{glob.escape(path.name)}.*.part"):
                left.unlink(missing_ok=True)
            # A system call for each piece from a socket would make a download a tenth dearer.
            self.file: Any = Path(self._part.path).open("wb", buffering=CHUNK_BYTES)  # noqa: SIM115
        else:
            self.file = path.fs.open(self._part.path, "wb")

    def finish(self) -> None:
        self.file.close()
        try:
            self._path.fs.mv(self._part.path, self._path.path)
        except FileNotFoundError as error:
            raise StorageFailed(
                f"output_path={str(self._path)!r}: what was written is gone: another try of this task "
                "brings the same video, and swept it away; a retry may help"
            ) from error

    def discard(self) -> None:
        with suppress(Exception):
            self.file.close()
        self._part.unlink(missing_ok=True)
