"""Has a file arrived whole, and is it the file that was asked for? Checked while its bytes arrive."""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar, Literal

from magichour_provider.exceptions import DownloadFailed

PIECE_BYTES = 1 << 20  # decoded at once: a small body can decode to a huge one


class NotWhole(ValueError):
    """A part of the file is missing, or the file is not what was asked for; the message says which."""


class WrongMedia(NotWhole):
    """The file is of another type of media."""


class BadDownload(DownloadFailed):
    """The URL does not lead to the file that was asked for. Another of the job's URLs may."""


class ContentDecoder:
    """
    Undoes a ``Content-Encoding``: gzip or deflate. Our requests ask for none, but some gateways add one.

    :raises NotWhole: it is another encoding, or the body does not fit the encoding.
    """

    def __init__(self, headers: Mapping[str, str]) -> None:
        # Some stores keep the name "aws-chunked" from the upload; the body that they send is plain.
        self._encoding = re.sub(r"[^\w, -]", "", headers.get("content-encoding", "")).strip().lower()[:40]
        self.is_plain = self._encoding in ("", "identity", "aws-chunked")
        if not self.is_plain and self._encoding not in ("gzip", "x-gzip", "deflate"):
            raise NotWhole(f"it has the Content-Encoding {self._encoding!r}, which cannot be decoded here")
        self._inflater: zlib._Decompress | None = None

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The decoded bytes, in pieces of limited size."""
        if self.is_plain:
            yield chunk
            return
        while True:
            if (
                self._inflater is None or self._inflater.eof
            ):  # a gzip file can have several members, and padding
                chunk = chunk.lstrip(b"\0")
                if not chunk:
                    return
                self._inflater = zlib.decompressobj(self._window_bits(chunk))
            try:
                piece = self._inflater.decompress(chunk, PIECE_BYTES)
            except zlib.error:
                raise NotWhole(f"it is damaged, or not in its Content-Encoding {self._encoding!r}") from None
            yield piece
            chunk = self._inflater.unconsumed_tail or self._inflater.unused_data
            if not chunk and len(piece) < PIECE_BYTES:
                return

    def close(self) -> None:
        """Call it after the last bytes: is the encoded body complete?"""
        if not (self.is_plain or (self._inflater and self._inflater.eof)):
            raise NotWhole(f"it is cut: its Content-Encoding {self._encoding!r} has no end")

    def _window_bits(self, start: bytes) -> int:
        """How zlib calls the format. Some servers send a raw stream as deflate, without zlib's header."""
        if self._encoding != "deflate":
            return 16 + zlib.MAX_WBITS
        return zlib.MAX_WBITS if start[0] & 0x8F == zlib.DEFLATED else -zlib.MAX_WBITS


class IntegrityCheck:
    """
    Reads a file as it arrives. A subclass knows one type of media.

    :raises WrongMedia: the file is of another type.
    :raises NotWhole: a part of the file is missing.
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
        """Call it after the last bytes: is the file complete?"""
        if not self.size:
            raise NotWhole("it is empty")
        if self.size < self.HEAD_BYTES:
            self.check_head()
        if self._announced and self.size < self._announced:
            raise NotWhole(f"it is cut: it has {self.size} bytes, and its header says {self._announced}")

    def check_head(self) -> None:
        if self.head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"<", b"{"):
            raise WrongMedia(f"it is a page, not {self.noun}")

    @property
    def ends_itself(self) -> bool:
        """Does the file itself say that it ends here?"""
        return self.size == self._announced

    @property
    def _announced(self) -> int | None:
        """The size in the header of a WAV, WebP or AIFF. A writer to a pipe puts 0 or the maximum there."""
        order = _BYTE_ORDER.get(self.head[:4])
        size = int.from_bytes(self.head[4:8], order) if order else 0
        return 8 + size if 0 < size < 0x7FFFFF00 else None


_BYTE_ORDER: dict[bytes, Literal["little", "big"]] = {b"RIFF": "little", b"FORM": "big"}
_PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8")


class SoundCheck(IntegrityCheck):
    """A voice, of any format: the vendor promises none (its example is a WAV). But no page and no picture."""

    noun = "a sound"

    def check_head(self) -> None:
        super().check_head()
        if self.head.startswith(_PICTURES) or self.head[8:12] == b"WEBP":
            raise WrongMedia("it is a picture, not a sound")


class Mp4Check(IntegrityCheck):
    """
    A video: an MP4 with its index (``moov``) and its content (``mdat``), neither of them cut.

    The boxes count even if the length is the announced one: a proxy may cut a file and announce the rest.

    Source: ISO/IEC 14496-12, 4.2: a box begins with its size (4 bytes) and its type (4). If the size is 1, it
    follows in 8 more bytes. A size of 0 means "to the end of the file".
    """

    noun = "an MP4"
    REQUIRED = (b"ftyp", b"moov", b"mdat")
    # Trust the size of boxes of these types only: another "box" may be random bytes after the last one.
    KNOWN = frozenset({*REQUIRED, b"moof", b"free"})

    def __init__(self) -> None:
        super().__init__()
        self._types: list[bytes] = []
        self._header = bytearray()
        self._left: float = 0  # bytes of the current box
        self._is_junk = False  # what follows the last box

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
            raise NotWhole(f"it is cut: its box {self._types[-1].decode()} has no end")
        for box_type in self.REQUIRED:
            if box_type not in self._types:
                raise NotWhole(f"it is cut: it has no box {box_type.decode()}")
        if self._types[-1] == b"moof":
            raise NotWhole("it is cut: its last fragment has no content")

    @property
    def ends_itself(self) -> bool:
        return not (self._is_junk or self._header or self._left)


class ImageCheck(IntegrityCheck):
    """
    A picture: PNG, JPEG, GIF, WebP, and a GIF that was asked for as MP4, must have their end. Of another
    format, it must not be a page.
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
            raise NotWhole("it is cut: it has no end")
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
    :param host: of the URL, for messages.
    :raises DownloadFailed: from every method; the job is paid for; retryable.
    :raises BadDownload: likewise, and this URL will not lead to the file later either.
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
                why += ": the signed URL has expired, or something on the way does not allow it"
            raise self._failed(why, status, for_good=status in _FINAL)
        length = headers.get("content-length", "")
        self._expected = int(length) if length.isdigit() else None
        self._size = 0
        self._has_end = self._expected is not None or "chunked" in headers.get("transfer-encoding", "")
        self._check = check()
        with self._translated():
            self._decoder = ContentDecoder(headers)

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The bytes of the file that are in these bytes of the response."""
        self._size += len(chunk)
        with self._translated():
            for piece in self._decoder.feed(chunk):
                self._check.feed(piece)
                yield piece

    def close(self) -> None:
        """Call it after the last bytes, before the file gets its name: is it complete?"""
        with self._translated():
            if self._expected not in (None, self._size):
                raise NotWhole(f"only {self._size} of {self._expected} bytes arrived")
            self._decoder.close()
            self._check.close()
            if not (self._has_end or self._check.ends_itself):
                raise NotWhole("nothing says how long it is, so it may be cut")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except NotWhole as error:
            raise self._failed(str(error), for_good=isinstance(error, WrongMedia)) from None

    def _failed(self, why: str, status_code: int | None = None, *, for_good: bool) -> DownloadFailed:
        error_cls = BadDownload if for_good else DownloadFailed
        return download_failed(self._job_id, why, status_code, self._job_type, error_cls)


_FINAL = frozenset(range(400, 500)) - {408, 425, 429}  # statuses that the same URL gives again


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
