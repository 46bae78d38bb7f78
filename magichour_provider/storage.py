"""
Files at our end, local or in any object store that Airflow can open: found, checked, read and written.

A path is local (``/data/me.jpg``), or an Airflow object-storage URI (``s3://conn_id@bucket/me.jpg``).
"""

from __future__ import annotations

import glob
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airflow.providers.common.compat.sdk import AirflowNotFoundException
from airflow.sdk import ObjectStoragePath
from fsspec.implementations.local import LocalFileSystem

from magichour_provider.exceptions import InvalidInput, MagicHourError, StorageFailed, TargetExists
from magichour_provider.inputs import MediaKind, extension_of

CHUNK_BYTES = 1 << 20


@contextmanager
def _answering(field: str, uri: str) -> Iterator[None]:
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
            field, uri, f"{error}; install the Airflow provider for this kind of storage"
        ) from error
    except PermissionError as error:
        raise InvalidInput.of(field, uri, f"not allowed ({error}); check the permissions") from error
    except Exception as error:
        raise StorageFailed(
            f"{field}={uri!r}: the storage did not answer as it should ({type(error).__name__}: {error}); "
            "a retry may help"
        ) from error


def _look(path: ObjectStoragePath) -> dict[str, Any] | None:
    """What is there, or None. Not ``path.exists()``, to which every failure of a store is "not there"."""
    try:
        found: dict[str, Any] = path.fs.info(path.path)
    except FileNotFoundError:
        return None
    return found


@dataclass(frozen=True)
class Source:
    """A file to upload; ``size`` in bytes."""

    field: str
    kind: MediaKind
    uri: str
    size: int

    @classmethod
    def find(cls, field: str, kind: MediaKind, uri: str) -> Source:
        """
        :raises InvalidInput: no such file, an empty one, a folder, no such connection.
        :raises StorageFailed: the store could not be asked; retryable.
        """
        with _answering(field, uri):
            found = _look(ObjectStoragePath(uri))
            if found is None:
                raise InvalidInput.of(field, uri, "there is no such file; check the path")
            if found["type"] == "directory":
                raise InvalidInput.of(field, uri, "is a folder; name a file in it")
            size = int(found["size"])
            if size == 0:
                raise InvalidInput.of(field, uri, "is an empty file; write it again")
        return cls(field, kind, uri, size)

    @property
    def extension(self) -> str:
        return extension_of(self.uri)

    def chunks(self) -> Iterator[bytes]:
        with _answering(self.field, self.uri):
            left = self.size
            with ObjectStoragePath(self.uri).open("rb") as file:
                while left and (chunk := file.read(min(CHUNK_BYTES, left))):
                    left -= len(chunk)
                    yield chunk
            if left:
                raise StorageFailed(f"{self.field}={self.uri!r}: became shorter while it was uploaded")


@dataclass(frozen=True)
class Target:
    """
    Where a video goes.

    :param uri: exact, or, ending in ``/``, a folder.
    :param replace: a file that is there already may be overwritten.
    """

    uri: str
    replace: bool = False

    def check(self) -> None:
        """
        Before anything is paid: can the video go there?

        :raises TargetExists: a file is there, and ``replace`` is False.
        :raises StorageFailed: the store could not be asked; retryable.
        """
        with _answering("output_path", self.uri):
            found = _look(ObjectStoragePath(self.uri))  # a folder too: to know whether the store answers
            if self.uri.endswith("/") or found is None:
                return
            if found["type"] == "directory":
                raise InvalidInput.of("output_path", self.uri, "is a folder; let it end in '/'")
            if not self.replace:
                raise TargetExists.of(
                    "output_path", self.uri, "is there already; choose another path, or set replace=True"
                )

    def of_job(self, job_id: str) -> Target:
        """The exact file for this job. A file in the folder that bears its id is its own, and is replaced."""
        return Target(f"{self.uri}{job_id}.mp4", replace=True) if self.uri.endswith("/") else self

    @contextmanager
    def writing(self) -> Iterator[Callable[[bytes], object]]:
        """Write under a temporary name beside the target; move it there when the block ends well."""
        with _answering("output_path", self.uri):
            path = ObjectStoragePath(self.uri)
            part = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.part"
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(path.fs, LocalFileSystem):
                # A process that was killed has left its part; an object store keeps no open ones.
                for left in Path(path.path).parent.glob(f".{glob.escape(path.name)}.*.part"):
                    left.unlink(missing_ok=True)
            file = part.open("wb")

        def write(chunk: bytes) -> None:
            with _answering("output_path", self.uri):
                file.write(chunk)

        try:
            yield write
            with _answering("output_path", self.uri):
                file.close()
                self.check()
                try:
                    part.fs.mv(part.path, path.path)
                except FileNotFoundError as error:
                    raise StorageFailed(
                        f"output_path={self.uri!r}: what was written is gone: another try of this task "
                        "brings the same video, and swept it away; a retry may help"
                    ) from error
        except BaseException:
            with suppress(Exception):
                file.close()
            with suppress(Exception):
                part.unlink(missing_ok=True)
            raise
