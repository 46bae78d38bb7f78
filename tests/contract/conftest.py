"""An emulator, certificates and pauses for the contract tests."""

from __future__ import annotations

import datetime as dt
import ipaddress
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from magichour_provider.api import retries
from magichour_provider.emulator import Emulator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OPENAPI = Path(__file__).parents[3] / "shared" / "api"


@pytest.fixture
def stub() -> Iterator[Emulator]:
    """An emulator that renders nothing: for all that is not about the picture."""
    with Emulator(render="stub") as emulator:
        yield emulator


@pytest.fixture
def openapi() -> Path:
    """The folder of the vendor's OpenAPI, which a clone of this repository does not hold."""
    if not OPENAPI.exists():
        pytest.skip("the vendor's OpenAPI is not part of this repository")
    return OPENAPI


class Pauses(list[float]):
    """The pauses that a client would have made between two attempts, in seconds."""

    on_pause: Callable[[], None] | None = None


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> Pauses:
    """Makes the clients repeat without a wait, and collects the pauses that the server has asked for."""
    made = Pauses()
    retry_429, retry_submit = retries.retry_429, retries.retry_submit

    def pause(seconds: float) -> None:
        made.append(seconds)
        if made.on_pause:
            made.on_pause()

    def at_once(state: Any) -> float:
        pause(retries.pause(state))
        return 0.0

    monkeypatch.setattr(retries, "backoff", lambda _: 0.0)
    for policy in (retries.RETRY_SAFE, retries.RETRY_TRANSFER):
        monkeypatch.setitem(policy, "wait", at_once)
    monkeypatch.setattr(retries, "retry_submit", lambda *given: retry_submit(*given) | {"wait": at_once})
    # Its pauses count against its time, so they keep their length, and only the sleep is left out.
    monkeypatch.setattr(retries, "retry_429", lambda *given: retry_429(*given) | {"sleep": pause})
    return made


def self_signed(folder: Path) -> Path:
    """A certificate for 127.0.0.1 and its key, in one file."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    pem = folder / "server.pem"
    pem.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return pem


@pytest.fixture(scope="session")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return self_signed(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="session")
def tls(pem: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context
