"""
Text for messages and logs: one line of limited length, without control characters and without secrets.

The vendor's words and the errors of libraries go through ``clean``; a value of the user goes through
``shortened``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import urlsplit

Redact = Callable[[str], str]

MAX_TEXT = 500  # characters of a text from outside in a message
MAX_VALUE = 200  # characters of a value in a message

ESCAPE_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.)?", re.DOTALL)
UNPRINTABLE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]+"
)

# An address begins at its colon, so that a long text is read once. The groups: slashes (pathlib drops one),
# user, host and path, query. A password may contain a slash: AWS secret keys do. Text after a port number is
# a path, not a password.
_ADDRESS = re.compile(
    r":(/+)([^\s/?#\"'<>]*@|[^\s/@:\"'<>]*:(?!\d+[/?#])[^\s@\"'<>]*@)?([^\s?#\"'<>]*)([?#][^\s\"'<>]+)?"
)
# In a value that is an address as a whole, a password may contain any character.
_PASSWORD = re.compile(r"^(\w[\w+.-]*:/+)[^/@:]*:(?!\d+(?:/|$)).*@", re.DOTALL)
# An address without a scheme, such as a redirect may have.
_USER_WITHOUT_SCHEME = re.compile(r"//(?<![^\s\"'(]//)[^\s/?#\"'<>]*@")
_SIGNATURE = re.compile(
    r"([?&;](?:[\w-]*(?:signature|credential|token|secret|password|(?:access|secret|account|private)[\w-]{0,30}key|api[_-]?key)|sig|sas)=)[^&]*",
    re.IGNORECASE,
)


def clean(text: str, redact: Redact = str) -> str:
    """
    Prepare a text from outside for a log: one line of at most ``MAX_TEXT`` characters, masked.

    :param redact: removes other secrets. It runs after control characters are removed and before the text is
        shortened, so that neither hides a part of a secret.
    """
    text = masked(redact(UNPRINTABLE.sub(" ", ESCAPE_SEQUENCE.sub("", text)).strip()))
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…"


def masked(text: str) -> str:
    """The text without the users, passwords and signatures that people write into addresses."""
    return _ADDRESS.sub(_masked_address, _USER_WITHOUT_SCHEME.sub("//***@", text))


def _masked_address(found: re.Match[str]) -> str:
    slashes, user, rest, query = found.groups("")
    is_http = found.string[max(0, found.start() - 5) : found.start()].lower().endswith(("http", "https"))
    if is_http or ":" in user:  # s3://connection@bucket has no secret
        user = user and "***@"
    query = query and "?…" if is_http and not is_library_path(rest) else _SIGNATURE.sub(r"\1***", query)
    return f":{slashes}{user}{rest}{query}"


def shortened(value: object) -> str:
    """A value for a message: masked, and truncated if it is long, such as a photo in a ``data:`` URI."""
    text = masked(repr(_PASSWORD.sub(r"\1***@", value) if isinstance(value, str) else value))
    return text if len(text) <= MAX_VALUE else f"{text[:MAX_VALUE]}… ({len(text)} characters)"


def host_of(url: str) -> str:
    """The host and port of a URL, for a message. The rest may be secret: a user, a password, a signature."""
    try:
        return urlsplit(url).netloc.rpartition("@")[2] or "nowhere"
    except ValueError:
        return "nowhere"


def is_library_path(path: str) -> bool:
    """Is this the path of the vendor's library? The query of such a URL names an asset, and is no secret."""
    return path.rstrip("/").endswith("/my-library")
