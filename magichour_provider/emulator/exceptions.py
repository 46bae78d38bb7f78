"""Exceptions for a refused request and for a failed render."""

from __future__ import annotations


class ApiError(Exception):
    """The API refuses a request, with the vendor's HTTP status and message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class StorageError(Exception):
    """The storage host refuses a request, with an HTTP status, S3's error code and its message."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


class RenderError(Exception):
    """A render fails, with the error code that the vendor gives the job."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
