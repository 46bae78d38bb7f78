"""
What a path is: local (``/data/me.jpg``), or an Airflow object-storage URI (``s3://conn_id@bucket/me.jpg``).

Checks the form of a path, opens its file system, and turns errors of that file system into ours.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Self, TypeVar
from urllib.parse import unquote

from airflow.providers.common.compat.sdk import AirflowNotFoundException, BaseHook
from airflow.sdk import ObjectStoragePath
from airflow.sdk.io import attach
from fsspec.implementations.local import LocalFileSystem

from magichour_provider.api.inputs import extension_of
from magichour_provider.api.jobs import JOBS
from magichour_provider.exceptions import InvalidInput, MagicHourError, StorageFailed
from magichour_provider.text import clean, shortened

ErrorT = TypeVar("ErrorT", bound=MagicHourError)

LOCAL_SCHEMES = ("file", "local")
S3_SCHEMES = ("s3", "s3a", "s3n")
GOOGLE_SCHEMES = ("gs", "gcs")
# Stores that show an object only when its upload is complete.
ATOMIC_OBJECT_SCHEMES = (*S3_SCHEMES, *GOOGLE_SCHEMES, "abfs", "abfss", "adl")

# The extensions of the files that jobs make.
RESULT_EXTENSIONS = frozenset(extension for spec in JOBS.values() for extension in spec.extensions)

_URI = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?:(?P<conn_id>[^/]*)@)?(?P<rest>.*)", re.IGNORECASE)
# Not a local file: a URI that lost a slash (pathlib turns s3://bucket into s3:/bucket), or a Windows path.
_BROKEN_URI = re.compile(
    rf"(?:{'|'.join((*LOCAL_SCHEMES, *ATOMIC_OBJECT_SCHEMES))}):|[a-z][a-z0-9+.-]*:[/\\]", re.IGNORECASE
)
_PASSWORD = re.compile(r"[^/@]*:(?!\d+/)[^@]*@")  # not a port that is followed by a path with an @
_WINDOWS_PATH = re.compile(r"/[a-z]:[/\\]", re.IGNORECASE)
_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f]")

# Errors that a retry would get again. Object stores raise some of them without an errno.
_BAD_PATHS = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, ValueError)
_BAD_PATH_NUMBERS = (errno.ENAMETOOLONG, errno.ELOOP, errno.EROFS)


def uri_of(output_path: object) -> str:
    """
    An ``output_path`` as text.

    A path object has lost its trailing slash, so its extension decides. With the extension of a file that a
    job makes, it is a file. Without an extension, it is a folder.

    :raises InvalidInput: it has another extension, or is not a path; nothing was sent.
    """
    if isinstance(output_path, str):
        return unescaped(output_path)
    if not isinstance(output_path, os.PathLike | ObjectStoragePath):
        raise InvalidInput.of("output_path", output_path, "is not a path; write it as text")
    uri = str(output_path)
    extension = extension_of(uri)
    if extension in RESULT_EXTENSIONS or uri.endswith("/"):
        return uri
    if extension:
        raise InvalidInput.of(
            "output_path",
            uri,
            "is a path object. Path objects lose a trailing slash, so this may be a file or a folder: write "
            "it as text, and end a folder with '/'",
        )
    return f"{uri}/"


def unescaped(uri: str) -> str:
    """
    A ``file://`` URI as Airflow reads it: without percent escapes.

    ``Path.as_uri()`` and RFC 8089 write a space as ``%20``. Airflow neither writes nor reads escapes, so a
    URI from Airflow may contain a real percent sign. In this case a file of that name exists.
    """
    if _has_local_scheme(uri) and (found := _URI.match(uri)) and not os.path.lexists(found["rest"]):
        return unquote(uri)
    return uri


def _has_local_scheme(uri: str) -> bool:
    found = _URI.match(uri)
    return not found or found["scheme"].lower() in LOCAL_SCHEMES


def error_at(error_cls: type[ErrorT], field: str, uri: str, text: str) -> ErrorT:
    """The error for a path. For a local path it names the machine, because others may have another disk."""
    if _has_local_scheme(uri):
        text += f" (on host {socket.gethostname()!r}; a local path must be on a disk that all workers share)"
    return error_cls(f"{field}={shortened(uri)}: {text}")


@contextmanager
def translate_errors(field: str, uri: str) -> Iterator[None]:
    """Turn an error of a file system into ours. It can be of any class, so this catches all."""
    try:
        yield
    except MagicHourError:
        raise
    except AirflowNotFoundException as error:
        problem = (
            f"{clean(str(error))}; the part before the @ is an Airflow connection id: create that connection"
        )
        raise InvalidInput.of(field, uri, problem) from error
    except Exception as error:
        text = clean(getattr(error, "strerror", None) or str(error))
        if is_refusal(error):
            whose = (
                "the file's or folder's permissions"
                if _has_local_scheme(uri)
                else "the key and its permissions"
            )
            raise error_at(InvalidInput, field, uri, f"not allowed ({text}); check {whose}") from error
        if isinstance(error, _BAD_PATHS) or getattr(error, "errno", None) in _BAD_PATH_NUMBERS:
            raise error_at(InvalidInput, field, uri, f"{text}; check the path") from error
        text = f"the storage failed ({type(error).__name__}: {text}); a retry may help"
        raise error_at(StorageFailed, field, uri, text) from error


def is_refusal(error: Exception) -> bool:
    """
    Does the error say "not allowed"?

    s3fs raises PermissionError, adlfs sets ``status_code``, gcsfs raises ``OSError("Forbidden: …")``.
    """
    return (
        isinstance(error, PermissionError)
        or getattr(error, "status_code", None) in (401, 403)
        or (isinstance(error, OSError) and str(error).startswith("Forbidden"))
    )


@dataclass(frozen=True)
class Place:
    """The place that a field names: the path ``path`` in the file system ``fs``."""

    field: str
    uri: str
    fs: Any
    path: str
    scheme: str = "file"
    conn_id: str | None = None

    @classmethod
    def of(cls, field: str, uri: str) -> Self:
        """
        The place that a path names.

        This does not use ``ObjectStoragePath``, which drops a last ``?`` or ``#``, and takes the host of
        ``file://host/x`` for a folder. In Airflow 3.0 and 3.1 it does not know ``~``, and resolves a relative
        path against ``/``.

        :raises InvalidInput: the form of the path is wrong, or Airflow cannot open this kind of storage.
        """
        if _CONTROL_CHARACTER.search(uri):
            raise InvalidInput.of(field, uri, "contains a line break or another control character; remove it")
        found = _URI.match(uri)
        if not found:
            if _BROKEN_URI.match(uri):
                problem = "is neither a URI (s3://bucket/me.mp4) nor a local path; write it as text"
                raise InvalidInput.of(field, uri, problem)
            fs = attach("file").fs
            return cls(field, uri, fs, fs._strip_protocol(uri))
        scheme, conn_id, rest = found["scheme"].lower(), found["conn_id"], found["rest"]
        if _PASSWORD.match(uri, len(scheme) + len("://")) and not rest.lower().startswith("arn:"):
            problem = f"contains a password; put it into a connection, and write {scheme}://conn_id@bucket/"
            raise InvalidInput.of(field, uri, problem)
        if scheme in LOCAL_SCHEMES and (not rest.startswith("/") or _WINDOWS_PATH.match(rest)):
            raise InvalidInput.of(field, uri, "is not a local file's URI; write it like file:///data/me.mp4")
        if scheme in ATOMIC_OBJECT_SCHEMES and rest[:1] in ("", "/"):
            raise InvalidInput.of(field, uri, f"names no bucket; write it like {scheme}://bucket/me.mp4")
        try:
            fs = attach(scheme, conn_id).fs
        except (ImportError, ValueError) as error:
            problem = (
                f"{clean(str(error))}; check the path, and install the Airflow provider for this storage: "
                "apache-airflow-providers-amazon[s3fs] for s3, apache-airflow-providers-google for gs, "
                "apache-airflow-providers-microsoft-azure for abfs"
            )
            raise InvalidInput.of(field, uri, problem) from error
        name = fs.protocol if isinstance(fs.protocol, str) else fs.protocol[0]  # s3fs knows s3n as s3
        return cls(field, uri, fs, fs._strip_protocol(f"{name}://{rest}"), scheme, conn_id)

    def error(self, error_cls: type[ErrorT], text: str) -> ErrorT:
        return error_at(error_cls, self.field, self.uri, text)

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
        """The name of a hidden file beside this one. It is short, even if the name of the file is long."""
        return f".mh-{digest(PurePosixPath(self.path).name, 12)}.{end}"

    def temporary_name(self, part: str | None = None) -> str:
        """A new name for the file while it is written. ``part="*"`` gives the pattern of all such names."""
        return self.hidden_name(f"{part or uuid.uuid4().hex[:8]}.part")

    def stat(self) -> dict[str, Any] | None:
        """
        What exists at the place, or None.

        This does not use ``fs.exists()``, which returns False at every failure of a store.
        """
        if self.conn_id:
            # If the connection does not exist, some providers continue with other credentials or with none.
            BaseHook.get_connection(self.conn_id)
        self.fs.invalidate_cache()  # others write to the same place
        try:
            found: dict[str, Any] = self.fs.info(self.path)
            return found
        except FileNotFoundError:
            pass
        if self.is_object_store:
            bucket, _ = self.bucket_and_key
            try:
                if self.scheme in GOOGLE_SCHEMES:
                    # Google's roles for objects allow listing them, but not reading the bucket itself.
                    self.fs.call("GET", "b/{}/o", bucket, maxResults=1)
                else:
                    self.fs.info(bucket)
            except FileNotFoundError as error:
                text = f"there is no bucket {shortened(bucket)}; create it, or check the path"
                raise self.error(InvalidInput, text) from error
        return None


def digest(text: str, length: int) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:length]
