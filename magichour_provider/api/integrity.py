"""Has a file arrived whole, and is it what was asked for? Told while its bytes come in."""

from __future__ import annotations

import math
from collections.abc import Mapping

from magichour_provider.api.jobs import JobType
from magichour_provider.exceptions import DownloadFailed

# That a box of another kind says it goes on may only mean that these bytes are no box.
_KNOWN = frozenset({b"moov", b"mdat", b"moof", b"free"})


class Mp4BoxScanner:
    """
    Follows the outer boxes while their bytes come in.

    Source: ISO/IEC 14496-12, 4.2: size (4 bytes), kind (4), and if the size is 1, the size in 8 bytes more; a
    size of 0 means "to the end of the file".
    """

    def __init__(self) -> None:
        self._kinds: set[bytes] = set()
        self._header = bytearray()
        self._job_type = b""  # of the current box
        self._left: float = 0  # bytes of it

    def feed(self, chunk: bytes) -> None:
        """
        :raises ValueError: no MP4.
        """
        while chunk:
            if self._left:
                taken = int(min(self._left, len(chunk)))
                self._left -= taken
            else:
                taken = min(self._header_length() - len(self._header), len(chunk))
                self._header += chunk[:taken]
                if len(self._header) == self._header_length():
                    self._begin()
            chunk = chunk[taken:]

    def _header_length(self) -> int:
        return 16 if self._header[:4] == b"\0\0\0\1" else 8

    def _begin(self) -> None:
        length = self._header_length()
        size: float = int.from_bytes(self._header[:4] if length == 8 else self._header[8:])
        if size == 0:
            size = math.inf
        if size < length or not (self._kinds or self._header[4:8] == b"ftyp"):
            raise ValueError("no MP4")
        self._job_type = bytes(self._header[4:8])
        self._kinds.add(self._job_type)
        self._left = size - length
        self._header.clear()

    @property
    def cut(self) -> bool:
        """Would something be missing for certain if the file ended here?"""
        return self._job_type in _KNOWN and 0 < self._left < math.inf

    @property
    def whole(self) -> bool:
        """Would the file be whole if it ended here?"""
        return not self._header and self._left in (0, math.inf) and self._kinds >= {b"moov", b"mdat"}


class DownloadValidator:
    """
    Checks a file while it comes in: the HTTP status, how it begins, and at the end that it is whole.

    A video is an MP4. A voice may be of any kind (the vendor's example is a WAV), but is no page.
    """

    def __init__(
        self, job_id: str, status: int, headers: Mapping[str, str], job_type: JobType = "video"
    ) -> None:
        self._job_id = job_id
        self._job_type: JobType = job_type
        if status == 403:
            raise self._failed("the signed URL has expired", status)
        if status != 200:
            raise self._failed(f"the storage host answered HTTP {status}", status)
        length = headers.get("content-length")
        self._expected = int(length) if length and length.isdigit() else None
        self._head = b""
        self._size = 0
        # Without a length, nothing but the file itself says whether it is whole. An MP4 does; and with one it
        # has a say too: what is in between may have cut it and counted what was left.
        self._endless = self._expected is None and "chunked" not in headers.get("transfer-encoding", "")
        if self._endless and job_type == "audio":
            raise self._failed("the storage host did not say how long it is")
        self._boxes = Mp4BoxScanner() if job_type == "video" else None

    def feed(self, chunk: bytes) -> bytes:
        self._size += len(chunk)
        if len(self._head) < 8:
            self._head += chunk[:8]
            if len(self._head) >= 8:
                self._check_head()
        if self._boxes:
            try:
                self._boxes.feed(chunk)
            except ValueError:
                if self._endless:
                    raise self._failed("what came is not an MP4") from None
        return chunk

    def _check_head(self) -> None:
        if self._job_type == "audio":
            if self._head.lstrip()[:1] in (b"<", b"{"):
                raise self._failed("what came is not a sound, but a page")
        elif self._head[4:8] != b"ftyp":
            raise self._failed("what came is not an MP4")

    def close(self) -> None:
        short = self._expected not in (None, self._size)
        cut = self._boxes and (self._boxes.cut or (self._endless and not self._boxes.whole))
        if len(self._head) < 8 or short or cut:
            of = self._expected if short else "its"
            raise self._failed(f"only {self._size} of {of} bytes came")

    def _failed(self, why: str, status_code: int | None = None) -> DownloadFailed:
        return download_failed(self._job_id, why, status_code, self._job_type)


def download_failed(
    job_id: str, why: str, status_code: int | None = None, job_type: JobType = "video"
) -> DownloadFailed:
    return DownloadFailed(
        f"the {job_type} of job {job_id} did not arrive: {why}. It is paid for and stays at Magic Hour; "
        "trying again is free",
        status_code=status_code,
        job_id=job_id,
    )
