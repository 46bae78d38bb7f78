"""
What goes wrong ends the same, waiting here or in the triggerer: charges, errors, what is on disk.

Each row is run once in each mode, with one retry. There is one for each kind of ending of each step; which
answer is of which kind is for ``test_wire_answers.py``, and what a client makes of it for ``tests/contract``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import magichour_provider

if TYPE_CHECKING:
    from harness import Airflow

    from magichour_provider.emulator import Emulator

Faults = dict[str, list[dict[str, Any]]]
STUBS = Path(magichour_provider.__file__).parent / "emulator"
MP4, WAV = (STUBS / "stub.mp4").read_bytes(), (STUBS / "stub.wav").read_bytes()


@dataclass(frozen=True)
class Ending:
    """
    What became of a task.

    :ivar errors: of each try that failed, its error and what the last line says of money.
    :ivar videos: the files on disk.
    """

    state: str
    errors: tuple[str, ...] = ()
    charges: int = 0
    refunds: int = 0
    videos: int = 0


FINE = Ending("success", charges=1, videos=1)


FREE = "Not charged"
FREE_IF_BELIEVED = "Not charged, as Magic Hour says"
PAID = "Paid 48 credits"
REFUNDED = "Refunded 48 credits"
UNKNOWN = "It is not known whether this was charged; about 48 credits are at stake"


def refused(error: str, money: str = FREE) -> Ending:
    return Ending("failed", (f"{error}: {money}",))


def mended(error: str, money: str = FREE) -> Ending:
    return Ending("success", (f"{error}: {money}",), charges=1, videos=1)


def row(row_id: str, ending: Ending, *, arguments: dict[str, Any] | None = None, **faults: Any) -> Any:
    """``faults`` are the emulator's, one or several, by the call that goes wrong."""
    listed = {call: rules if isinstance(rules, list) else [rules] for call, rules in faults.items()}
    return pytest.param(listed, arguments or {}, ending, id=row_id)


ALWAYS: dict[str, Any] = {"times": None}
FOUR: dict[str, Any] = {"times": 4}  # as often as the client tries within one task try
FOUR_OF_TWO: dict[str, Any] = {"times": 8}  # the photo and the voice go up side by side

SUBMITTING = [
    row("a refusal", refused("InvalidRequest"), create={"status": 422} | ALWAYS),
    row("too few credits", refused("InsufficientCredits"), create={"status": 402} | ALWAYS),
    row("a redirect", mended("Unavailable"), create={"status": 307}),
    row("too many requests", FINE, create={"status": 429, "headers": {"Retry-After": "0.1"}}),
    row(
        "too many requests for hours",
        mended("RateLimited"),
        create={"status": 429, "headers": {"Retry-After": "7200"}},
    ),
    row("503 in the vendor's words", mended("Unavailable", FREE_IF_BELIEVED), create={"status": 503}),
    row(
        "a gateway's 503",
        refused("SubmissionUncertain", UNKNOWN),
        create={"status": 503, "html": True} | ALWAYS,
    ),
    row(
        "an answer lost after the charge",
        Ending("failed", (f"SubmissionUncertain: {UNKNOWN}",), charges=1),
        create={"reset": "after"},
    ),
]
UPLOADING = [
    row("upload URLs refused", refused("Unauthorized"), upload_urls={"status": 401} | ALWAYS),
    row("an upload reset", FINE, put={"reset": "before"}),
    row("storage refuses for long", mended("UploadFailed"), put={"status": 403} | FOUR_OF_TWO),
]
WAITING = [
    row(
        "polls that fail in each way",
        FINE,
        get_video=[
            {"status": 500},
            {"status": 503, "html": True},
            {"status": 200, "html": True},
            {"truncate": 20},
            {"reset": "before"},
            {"status": 401},
            {"status": 404},
            {"status": 429, "headers": {"Retry-After": "0.1"}},
            {"status": 200, "body": {"id": "cm1", "status": "polishing"}},
        ],
    ),
    row("one poll at delivery", FINE, get_video={"status": 401, "skip": 1}),
    row(
        "polls at delivery for long",
        mended("DownloadFailed", PAID),
        get_video={"status": 404, "skip": 1} | FOUR,
    ),
    row(
        "polls that fail each time",
        Ending("failed", (f"WaitTimeout: {PAID}",) * 2, charges=1),
        arguments={"timeout": 0.5},
        get_video={"status": 500} | ALWAYS,
    ),
]
ENDING = [
    row(
        "a permanent error",
        Ending("failed", (f"JobFailed: {REFUNDED}",), charges=1, refunds=1),
        create={"ends": "error:no_source_face"} | ALWAYS,
    ),
    row(
        "a transient error is paid again",
        Ending("success", (f"JobFailed: {REFUNDED}",), charges=2, refunds=1, videos=1),
        create={"ends": "error:unknown_error"},
    ),
    row(
        "a transient error each time",
        Ending("failed", (f"JobFailed: {REFUNDED}",) * 2, charges=2, refunds=2),
        create={"ends": "error:unknown_error"} | ALWAYS,
    ),
    row(
        "canceled",
        Ending("failed", (f"JobCanceled: {REFUNDED}",), charges=1, refunds=1),
        create={"ends": "canceled"} | ALWAYS,
    ),
    row(
        "deleted",
        Ending("failed", (f"JobDeleted: {PAID}",), charges=1),
        create={"ends": "deleted"} | ALWAYS,
    ),
]
DOWNLOADING = [
    row("half a file", FINE, download={"cut": 100}),
    row("half a file for long", mended("DownloadFailed", PAID), download={"cut": 100} | FOUR),
    row(
        "half a file each time",
        Ending("failed", (f"DownloadFailed: {PAID}",) * 2, charges=1),
        download={"cut": 100} | ALWAYS,
    ),
]
REFUSED_HERE = [
    row("too many credits", refused("CreditLimitExceeded"), arguments={"max_credits": 47}),
    row("no such photo", refused("InvalidInput"), arguments={"image_file_path": "/no/such.jpg"}),
    row("a text named as a photo", refused("InvalidInput"), arguments={"image_file_path": "text.jpg"}),
    row(
        "a clip after its voice",
        refused("InvalidInput"),
        arguments={"start_seconds": 4, "end_seconds": 5},
    ),
    row("no such connection", refused("InvalidConnection"), arguments={"magichour_conn_id": "nowhere"}),
    row("a target that exists", refused("TargetExists"), arguments={"output_path": "there.mp4"}),
]

# A voice takes the same way; its own are the routes, and what counts as a whole file.
VOICES = [SUBMITTING[0], SUBMITTING[-1], WAITING[0], ENDING[0], ENDING[1], *DOWNLOADING[:2]]
PRICES = {"video": "48", "voice": "2"}  # credits
ROUTES_OF_VOICES = {"create": "create_voice", "get_video": "get_audio", "download": "download"}


@pytest.mark.parametrize(
    ("faults", "arguments", "ending"),
    SUBMITTING + UPLOADING + WAITING + ENDING + DOWNLOADING + REFUSED_HERE,
)
def test_same_in_both_modes(
    airflow: Airflow,
    emulator: Emulator,
    monkeypatch: pytest.MonkeyPatch,
    faults: Faults,
    arguments: dict[str, Any],
    ending: Ending,
) -> None:
    monkeypatch.chdir(airflow.folder)
    (airflow.folder / "there.mp4").touch()
    (airflow.folder / "text.jpg").write_text("hello")
    for mode in ("sync", "deferrable"):
        assert (mode, outcome(airflow, emulator, "video", mode, faults, arguments)) == (mode, ending)
    if not faults:
        assert emulator.requests() == [], "what we refuse by ourselves is refused before anything is sent"


@pytest.mark.parametrize(("faults", "arguments", "ending"), VOICES)
def test_a_voice_ends_the_same_in_both_modes_and_as_a_video_does(
    airflow: Airflow,
    emulator: Emulator,
    faults: Faults,
    arguments: dict[str, Any],
    ending: Ending,
) -> None:
    of_voices = {ROUTES_OF_VOICES[call]: rules for call, rules in faults.items()}
    for mode in ("sync", "deferrable"):
        assert (mode, outcome(airflow, emulator, "voice", mode, of_voices, arguments)) == (mode, ending)


def outcome(
    airflow: Airflow,
    emulator: Emulator,
    task: str,
    mode: str,
    faults: Faults,
    arguments: dict[str, Any],
) -> Ending:
    """What becomes of a task with one retry."""
    emulator.clear_faults()
    set_up = [emulator.fault(call, **rule) for call, rules in faults.items() for rule in rules]
    folder = airflow.folder / mode
    where = {"output_path": f"{folder}/", "deferrable": mode == "deferrable", "retries": 1}
    run = (airflow.video if task == "video" else airflow.speak)(**(where | arguments))
    kinds = [entry["entry_type"] for entry in emulator.ledger(run.dag.dag_id)]
    on_disk = list(folder.iterdir()) if folder.exists() else []
    whole = {"video": MP4, "voice": WAV}[task]
    assert all(path.read_bytes() == whole for path in on_disk)
    assert all(fault.hits for fault in set_up)
    return Ending(
        state=run.state(task),
        errors=tuple(in_short(error).replace(PRICES[task], PRICES["video"]) for error in run.raised(task)),
        charges=kinds.count("charge"),
        refunds=kinds.count("refund"),
        videos=len(on_disk),
    )


def in_short(error: BaseException) -> str:
    """Its type, and the first sentence of its last line."""
    return f"{type(error).__name__}: {str(error).splitlines()[-1].partition('. ')[0].rstrip('.')}"
