"""Is a video whole? An MP4 is a row of boxes, each of which says how long it is."""

from __future__ import annotations

import math


class Boxes:
    """
    Follows the outer boxes while their bytes come in.

    Source: ISO/IEC 14496-12, 4.2: size (4 bytes), kind (4), and if the size is 1, the size in 8 bytes more; a
    size of 0 means "to the end of the file".
    """

    def __init__(self) -> None:
        self._kinds: set[bytes] = set()
        self._header = bytearray()
        self._left: float = 0  # bytes of the current box

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
        self._kinds.add(bytes(self._header[4:8]))
        self._left = size - length
        self._header.clear()

    @property
    def whole(self) -> bool:
        """Would the file be whole if it ended here?"""
        return not self._header and self._left in (0, math.inf) and self._kinds >= {b"moov", b"mdat"}
