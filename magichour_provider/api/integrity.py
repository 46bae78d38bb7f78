"""Is a downloaded file complete, and is it the requested file? This is checked while its bytes arrive."""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar, Literal

from magichour_provider.exceptions import DownloadFailed

PIECE_BYTES = 1 << 20  # decoded in one step: a small body can decode to a huge file


class IntegrityFailed(ValueError):
    """A part of the file is missing, or it is not the requested file; the message says which."""


class WrongMedia(IntegrityFailed):
    """The file has another media type."""


class BadDownload(DownloadFailed):
    """This URL does not lead to the requested file. Another URL of the job may."""


class ContentDecoder:
    """
    Decodes a ``Content-Encoding``: gzip or deflate. Our requests ask for none, but some gateways add one.

    :raises IntegrityFailed: the encoding is not known, or the body does not have this encoding.
    """

    def __init__(self, headers: Mapping[str, str]) -> None:
        # Some stores keep the name "aws-chunked" of the upload, although the body that they send is plain.
        self._encoding = re.sub(r"[^\w, -]", "", headers.get("content-encoding", "")).strip().lower()[:40]
        self.is_plain = self._encoding in ("", "identity", "aws-chunked")
        if not self.is_plain and self._encoding not in ("gzip", "x-gzip", "deflate"):
            raise IntegrityFailed(
                f"it has the Content-Encoding {self._encoding!r}, which cannot be decoded here"
            )
        self._inflater: zlib._Decompress | None = None

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The decoded bytes, in pieces of limited size."""
        if self.is_plain:
            yield chunk
            return
        while True:
            if self._inflater is None or self._inflater.eof:
                # A gzip file can have several members, and padding between them.
                chunk = chunk.lstrip(b"\0")
                if not chunk:
                    return
                self._inflater = zlib.decompressobj(self._window_bits(chunk))
            try:
                piece = self._inflater.decompress(chunk, PIECE_BYTES)
            except zlib.error:
                raise IntegrityFailed(
                    f"it is damaged, or does not have its Content-Encoding {self._encoding!r}"
                ) from None
            yield piece
            chunk = self._inflater.unconsumed_tail or self._inflater.unused_data
            if not chunk and len(piece) < PIECE_BYTES:
                return

    def close(self) -> None:
        """Check that the encoded body is complete. Call this after the last bytes."""
        if not (self.is_plain or (self._inflater and self._inflater.eof)):
            raise IntegrityFailed(f"it is truncated: its Content-Encoding {self._encoding!r} has no end")

    def _window_bits(self, start: bytes) -> int:
        """The format as ``wbits`` of zlib. Some servers send deflate as a raw stream, without a header."""
        if self._encoding != "deflate":
            return 16 + zlib.MAX_WBITS
        return zlib.MAX_WBITS if start[0] & 0x8F == zlib.DEFLATED else -zlib.MAX_WBITS


class IntegrityCheck:
    """
    Reads a file while it arrives. A subclass knows one media type.

    :raises WrongMedia: the file has another media type.
    :raises IntegrityFailed: a part of the file is missing.
    """

    noun: ClassVar[str] = "a file"
    HEAD_BYTES: ClassVar[int] = 16
    TAIL_BYTES: ClassVar[int] = 64

    def __init__(self) -> None:
        self.size = 0
        self.head = b""
        self.tail = b""

    def feed(self, chunk: bytes) -> None:
        self.size += len(chunk)
        self.tail = (self.tail + chunk[-self.TAIL_BYTES :])[-self.TAIL_BYTES :]
        if len(self.head) < self.HEAD_BYTES:
            self.head += chunk[: self.HEAD_BYTES - len(self.head)]
            if len(self.head) == self.HEAD_BYTES:
                self.check_head()

    def close(self) -> None:
        """Check that the file is complete. Call this after the last bytes."""
        if not self.size:
            raise IntegrityFailed("it is empty")
        if self.size < self.HEAD_BYTES:
            self.check_head()
        if self._declared_size and self.size < self._declared_size:
            raise IntegrityFailed(
                f"it is truncated: it has {self.size} bytes, and its header says {self._declared_size}"
            )

    def check_head(self) -> None:
        if self.head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"<", b"{"):
            raise WrongMedia(f"it is a page, not {self.noun}")

    @property
    def ends_itself(self) -> bool:
        """Does the content of the file show that it ends here?"""
        return self.size == self._declared_size

    @property
    def _declared_size(self) -> int | None:
        """
        The size in the header of a WAV, WebP or AIFF; None if there is none.

        A program that writes to a pipe does not know the size: it writes 0 or the maximum.
        """
        order = _BYTE_ORDER.get(self.head[:4])
        size = int.from_bytes(self.head[4:8], order) if order else 0
        return 8 + size if 0 < size < 0x7FFFFF00 else None


_BYTE_ORDER: dict[bytes, Literal["little", "big"]] = {b"RIFF": "little", b"FORM": "big"}
_PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8")


class AudioCheck(IntegrityCheck):
    """Audio of any format, because the vendor promises none. It must not be a page or a picture."""

    noun = "audio"

    def check_head(self) -> None:
        super().check_head()
        if self.head.startswith(_PICTURES) or self.head[8:12] == b"WEBP":
            raise WrongMedia("it is a picture, not audio")


class Mp4Check(IntegrityCheck):
    """
    A video: an MP4 with its complete index (``moov``) and its complete content (``mdat``).

    The boxes are checked even if the length is the declared one: a proxy may truncate a file and declare the
    shorter length.

    Source: ISO/IEC 14496-12, 4.2: a box begins with its size (4 bytes) and its type (4). If the size is 1,
    the real size follows in 8 more bytes. A size of 0 means "to the end of the file".
    """

    noun = "an MP4"
    REQUIRED = (b"ftyp", b"moov", b"mdat")
    # Only the size of these boxes is trusted: another "box" may be random bytes after the last box.
    KNOWN = frozenset({*REQUIRED, b"moof", b"free"})

    def __init__(self) -> None:
        super().__init__()
        self._types: list[bytes] = []
        self._header = bytearray()
        self._left: float = 0  # bytes of the current box that have not arrived
        self._is_junk = False  # are the last bytes no box?

    def feed(self, chunk: bytes) -> None:
        super().feed(chunk)
        while chunk and not self._is_junk:
            if self._left:
                taken = int(min(self._left, len(chunk)))
                self._left -= taken
            else:
                taken = min(self._header_length - len(self._header), len(chunk))
                self._header += chunk[:taken]
                if len(self._header) == self._header_length:
                    self._begin_box()
            chunk = chunk[taken:]

    @property
    def _header_length(self) -> int:
        return 16 if self._header[:4] == b"\0\0\0\1" else 8

    def _begin_box(self) -> None:
        length = self._header_length
        size = int.from_bytes(self._header[:4] if length == 8 else self._header[8:])
        self._left = size - length if size else math.inf
        box_type = bytes(self._header[4:8])
        self._header.clear()
        if not self._types and box_type != b"ftyp":
            raise WrongMedia(f"it is not {self.noun}")
        if self._left < 0:
            self._is_junk = True
        else:
            self._types.append(box_type)

    def close(self) -> None:
        super().close()
        if self._types and self._types[-1] in self.KNOWN and 0 < self._left < math.inf:
            raise IntegrityFailed(f"it is truncated: its box {self._types[-1].decode()} has no end")
        for box_type in self.REQUIRED:
            if box_type not in self._types:
                raise IntegrityFailed(f"it is truncated: it has no box {box_type.decode()}")
        if self._types[-1] == b"moof":
            raise IntegrityFailed("it is truncated: its last fragment has no content")

    @property
    def ends_itself(self) -> bool:
        return not (self._is_junk or self._header or self._left)


class ImageCheck(IntegrityCheck):
    """
    A picture. The end of a PNG, JPEG, GIF or WebP, and of a GIF as MP4, must be there. A file of another
    format must not be a page.
    """

    noun = "a picture"
    ENDS: ClassVar[dict[bytes, bytes]] = dict(
        zip(_PICTURES, (b"\0\0\0\0IEND\xaeB`\x82", b"\xff\xd9", b"\x3b"), strict=True)
    )
    STILL_BRANDS: ClassVar[tuple[bytes, ...]] = (b"avi", b"hei", b"hev", b"mif", b"msf")  # AVIF and HEIF

    def __init__(self) -> None:
        super().__init__()
        self._moving: Mp4Check | None = Mp4Check()

    def feed(self, chunk: bytes) -> None:
        super().feed(chunk)
        if self._moving is not None:
            try:
                self._moving.feed(chunk)
            except WrongMedia:
                self._moving = None

    def close(self) -> None:
        super().close()
        end = self.ENDS.get(self.head[:4]) or self.ENDS.get(self.head[:3])
        if end and not self.tail.rstrip(b"\0\r\n ").endswith(end):
            raise IntegrityFailed("it is truncated: it has no end")
        if self._moving is not None and not self.head[8:].startswith(self.STILL_BRANDS):
            self._moving.close()

    @property
    def ends_itself(self) -> bool:
        return (
            self.head.startswith(_PICTURES)
            or (self._moving is not None and self._moving.ends_itself)
            or super().ends_itself
        )


class DownloadValidator:
    """
    Checks the response to a download while it arrives: status, encoding, length, and the file in it.

    :param check: what the file must be.
    :param host: the host of the URL, for messages.
    :raises DownloadFailed: from every method; the job is paid for; retryable.
    :raises BadDownload: from every method; this URL does not lead to the file, and a retry does not change
        that.
    """

    def __init__(
        self,
        job_id: str,
        status: int,
        headers: Mapping[str, str],
        check: type[IntegrityCheck],
        *,
        host: str,
        job_type: str = "video",
    ) -> None:
        self._job_id = job_id
        self._job_type = job_type
        if status != 200:
            why = f"the storage host {host} answered HTTP {status}"
            if status == 403:
                why += ": the signed URL has expired, or a proxy does not allow the download"
            raise self._failed(why, status, permanent=status in _FINAL)
        length = headers.get("content-length", "")
        self._expected = int(length) if length.isdigit() else None
        self._size = 0
        self._has_end = self._expected is not None or "chunked" in headers.get("transfer-encoding", "")
        self._check = check()
        with self._translate_errors():
            self._decoder = ContentDecoder(headers)

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Decode bytes of the response, and return the bytes of the file."""
        self._size += len(chunk)
        with self._translate_errors():
            for piece in self._decoder.feed(chunk):
                self._check.feed(piece)
                yield piece

    def close(self) -> None:
        """Check that the file is complete. Call this after the last bytes, before the file gets its name."""
        with self._translate_errors():
            if self._expected not in (None, self._size):
                raise IntegrityFailed(f"only {self._size} of {self._expected} bytes arrived")
            self._decoder.close()
            self._check.close()
            if not (self._has_end or self._check.ends_itself):
                raise IntegrityFailed("nothing says how long it is, so it may be truncated")

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except IntegrityFailed as error:
            raise self._failed(str(error), permanent=isinstance(error, WrongMedia)) from None

    def _failed(self, why: str, status_code: int | None = None, *, permanent: bool) -> DownloadFailed:
        error_cls = BadDownload if permanent else DownloadFailed
        return download_failed(self._job_id, why, status_code, self._job_type, error_cls)


_FINAL = frozenset(range(400, 500)) - {408, 425, 429}  # statuses that the same URL would return again


def download_failed(
    job_id: str,
    why: str,
    status_code: int | None = None,
    job_type: str = "video",
    error_cls: type[DownloadFailed] = DownloadFailed,
) -> DownloadFailed:
    return error_cls(
        f"the {job_type} of job {job_id} did not arrive: {why}. It is paid for and stays at Magic Hour; "
        "trying again is free",
        status_code=status_code,
        job_id=job_id,
    )
