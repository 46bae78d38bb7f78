"""The API key is taken out of a text, however the text spells it."""

from __future__ import annotations

import base64
import html
import json
from urllib.parse import quote

import pytest

from magichour_provider.api import wire
from magichour_provider.api.client import Settings
from magichour_provider.exceptions import Unauthorized, Unavailable

KEY = "mhk_live_4f8A9b-2c3D=e5/F60718293a4+b5"


def escaped(template: str) -> str:
    return "".join(template.format(ord(character)) for character in KEY)


SPELLINGS = {
    "plain": KEY,
    "JSON": escaped("\\u{:04x}"),
    "JSON, upper case": escaped("\\u{:04X}"),
    "JSON in JSON": json.dumps(escaped("\\u{:04x}"))[1:-1],
    "JSON in part": KEY.replace("m", "\\u006d").replace("8", "\\u0038"),
    "JSON, escaped slash": KEY.replace("/", "\\/"),
    "Python": escaped("\\x{:02x}"),
    "URL": quote(KEY, safe=""),
    "URL, all of it": escaped("%{:02X}"),
    "URL twice": quote(quote(KEY, safe=""), safe=""),
    "HTML": escaped("&#{};"),
    "HTML, hexadecimal": escaped("&#x{:X};"),
    "HTML in part": html.escape(KEY).replace("_", "&#95;"),
}


def test_the_key_is_redacted_where_colours_of_a_terminal_split_it() -> None:
    body = json.dumps({"message": f"wrong key {KEY[:9]}\x1b[0m{KEY[9:]}"}).encode()
    with pytest.raises(Unauthorized) as error:
        wire.get_account().answer(401, {}, body, Settings(api_key=KEY).redact)
    assert "wrong key ***" in str(error.value)


def test_the_key_is_redacted_before_a_long_text_is_cut() -> None:
    location = f"https://api.example/{'x' * 490}{KEY}"
    with pytest.raises(Unavailable) as error:
        wire.get_account().answer(307, {"location": location}, b"", Settings(api_key=KEY).redact)
    assert KEY[:6] not in str(error.value)


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)
def test_the_key_is_redacted_in_every_spelling(spelling: str) -> None:
    assert Settings(api_key=KEY).redact(f"key: {spelling}, that is it") == "key: ***, that is it"


@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
@pytest.mark.parametrize("before", ["", "x", "user:", "Bearer ", "x" * 8])
@pytest.mark.parametrize("after", ["", ":", " and more"])
def test_the_key_is_redacted_in_base64(encode: type, before: str, after: str) -> None:
    encoded = encode(f"{before}{KEY}{after}".encode()).decode()
    redacted = Settings(api_key=KEY).redact(f"Basic {encoded}")
    assert "***" in redacted
    # A few bits at its ends are left, since its neighbours share their characters.
    assert len(redacted) < len("Basic ***") + 4 + len(base64.b64encode(before.encode() + after.encode()))


@pytest.mark.parametrize(
    "text", ["", "rendering", "https://s.example/a%20b.mp4?X-Amz-Signature=0f%2F1", "50 % of \\u006d &#109;"]
)
def test_everything_else_stays_as_it_is(text: str) -> None:
    assert Settings(api_key=KEY).redact(text) == text


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "hostile",
    ["\\" * 100_000, "".join(f"\\\\u{ord(character):04x}" for character in KEY[:-1]) * 100],
    ids=["backslashes", "the key without its end, escaped"],
)
def test_a_hostile_answer_takes_no_time(hostile: str) -> None:
    assert Settings(api_key=KEY).redact(hostile) == hostile
